"""What a store holds, finished or not: the figures behind ``fame store info``."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fame.clipstore.arrays import read_labels, read_names
from fame.clipstore.record import VideoOutcome, is_done, load_record
from fame.clipstore.schema import StoreHeader
from fame.clipstore.seal import is_finished
from fame.clipstore.write import read_layout

UNLABELLED = "(no label)"


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """Counts over the shards that are done. ``failures`` is (name, reason) of each failed video in order.

    ``classes`` counts the usable videos by class, every class of the header included; ``array_bytes`` the bytes of the
    shards of each array.
    """

    path: Path
    header: StoreHeader
    finished: bool
    num_videos: int
    num_clips: int
    num_shards: int
    shards_done: int
    statuses: dict[str, int]
    failures: tuple[tuple[str, str], ...]
    classes: dict[str, int]
    array_bytes: dict[str, int]


def store_info(path: Path | str) -> StoreInfo:
    """Read the records and sum them up; raises :class:`~fame.clipstore.StoreError` where there is no store."""
    root = Path(path)
    layout = read_layout(root)
    names, labels_V, class_names = read_names(root, layout), read_labels(root, layout), layout.header.class_names
    records = [load_record(root, layout, k) for k in range(layout.num_shards) if is_done(root, layout, k)]
    outcomes: list[VideoOutcome] = [outcome for record in records for outcome in record.videos]
    usable = Counter(int(labels_V[outcome.video]) for outcome in outcomes if outcome.status != "failed")
    classes = {name: usable[label] for label, name in enumerate(class_names)}
    return StoreInfo(
        path=root,
        header=layout.header,
        finished=is_finished(root),
        num_videos=layout.num_videos,
        num_clips=layout.num_clips,
        num_shards=layout.num_shards,
        shards_done=len(records),
        statuses={status: sum(o.status == status for o in outcomes) for status in ("ok", "looped", "failed")},
        failures=tuple((names[o.video], o.reason) for o in outcomes if o.status == "failed"),
        classes=classes | ({UNLABELLED: usable[-1]} if usable[-1] else {}),
        array_bytes={array: sum(record.objects[array].size for record in records) for array in layout.sharded_arrays},
    )
