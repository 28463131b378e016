"""The predictions of a classifier for each video or each of its views, as a CSV file.

Shapes: N rows (videos, or views: crops of clips), K classes.
"""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fame.clipstore import ClipStore
from fame.files import whole
from fame.metrics import classes_ahead


def write_predictions(
    path: Path,
    store: ClipStore,
    *,
    log_NK: Float[Tensor, "n k_classes"],
    video_N: Int[Tensor, " n"],
    crops: int | None = None,
) -> None:
    """Write a row for each video, or, where ``crops`` is the number of squares of a clip, for each
    view in the order shown.

    ``log_NK`` are (mean) log-probabilities, ``video_N`` the numbers of the videos in ``store``. The
    columns ``video_id``, ``acc_top1`` and ``acc_top5`` are those that the debiased test splits of
    UTD (Shvetsova et al. 2025) are scored by. ``acc_top5`` is left out where there are no more than
    5 classes.
    """
    videos, names = store.names, store.header.class_names
    tops = [k for k in (1, 5) if k < len(names)]
    label_N = torch.from_numpy(store.labels_V)[video_N]
    ahead_N = classes_ahead(log_NK, label_N).tolist()
    columns = ["video_id", "name"]
    columns += ["clip", "crop"] if crops else []
    columns += ["target", "target_class", "pred_top1", "pred_class"]
    columns += [f"acc_top{k}" for k in tops] + [f"log_prob {name}" for name in names]
    places = _places(video_N.tolist(), crops)
    with (
        whole(path) as partial,
        partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        # csv quotes what needs it but a lone carriage return (before Python 3.13).
        odd = "\r" in "".join((*videos, *names))
        quoting = csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL
        writer = csv.writer(file, lineterminator="\n", quoting=quoting)
        writer.writerow(columns)
        for row, place in enumerate(places):
            name, target = videos[int(video_N[row])], int(label_N[row])
            said = int(log_NK[row].argmax())
            writer.writerow(
                [video_id(name), name, *place, target, names[target], said, names[said]]
                + [int(ahead_N[row] < k) for k in tops]
                + [f"{value:.7g}" for value in log_NK[row].tolist()]
            )


def video_id(name: str) -> str:
    """Return the name of a file without its folders and all after its first dot, as UTD has it."""
    return PurePosixPath(name).name.split(".")[0]


def numbered(path: Path, count: int) -> list[Path]:
    """Return the names of ``count`` files: ``path`` itself, or ``path`` with a number each."""
    if count == 1:
        return [path]
    return [path.with_stem(f"{path.stem}-{number}") for number in range(1, count + 1)]


def _places(videos: list[int], crops: int | None) -> Iterator[tuple[int, ...]]:
    """Yield clip and crop of each view, counted from 0. With 3 crops, the fifth view of a video is
    crop 1 of its clip 1.
    """
    seen: Counter[int] = Counter()
    for video in videos:
        yield divmod(seen[video], crops) if crops else ()
        seen[video] += 1
