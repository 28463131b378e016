"""HMDB51, by its official split files."""

from collections.abc import Iterator
from pathlib import Path

from preprocess.datasets.listing import Listing, make_listing, scan

_MARKS = {"train": "1", "test": "2"}


def hmdb51(root: Path, *, split: str, annotations: Path, fold: int) -> Listing:
    """List one split (train or test) of one fold (1, 2 or 3) of HMDB51.

    Args:
        root: ``root/CLASS/video.avi``, as the 51 archives in hmdb51_org.rar unpack.
        split: train or test.
        annotations: folder of ``CLASS_test_splitN.txt`` (test_train_splits.rar), each line
            ``video.avi MARK`` where the mark is 1 for train, 2 for test and 0 for neither. Classes
            are the sorted names of these files.
        fold: which of the three splits.

    Raises:
        ValueError: no split file is there, or a line is not of that form.
    """
    if split not in _MARKS or fold not in (1, 2, 3):
        raise ValueError(
            f"hmdb51 has the splits train and test in folds 1, 2 and 3, not {split!r} in {fold}"
        )
    ending = f"_test_split{fold}.txt"
    class_names = sorted(path.name.removesuffix(ending) for path in annotations.glob(f"*{ending}"))
    if not class_names:
        raise ValueError(f"{annotations} holds no file named CLASS{ending}")
    marked = [
        (f"{class_name}/{video}", label, mark)
        for label, class_name in enumerate(class_names)
        for video, mark in _rows(annotations / f"{class_name}{ending}")
    ]
    return make_listing(
        ((name, label) for name, label, mark in marked if mark == _MARKS[split]),
        files=scan(root),
        class_names=class_names,
        elsewhere=[name for name, _, mark in marked if mark != _MARKS[split]],
    )


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        video, _, mark = line.strip().rpartition(" ")
        if line.strip():
            if mark not in ("0", "1", "2"):
                raise ValueError(f"{path}: {line!r} should be a video and 0, 1 or 2")
            yield video.strip(), mark
