"""Counts of a store, finished or not: the numbers of ``fame store info``."""

from collections import Counter
from dataclasses import dataclass, fields
from typing import Any, get_args

from fame.clipstore.arrays import read_labels, read_names
from fame.clipstore.locate import locate
from fame.clipstore.record import find_records
from fame.clipstore.schema import Status, StoreHeader
from fame.clipstore.seal import has_seal
from fame.clipstore.storage import StorePath
from fame.clipstore.write import layout_of

UNLABELLED = "(no label)"


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """Counts over the shards that are done: ``num_frames`` of the frames that are kept,
    ``num_maps`` of their foreground maps, ``flat_maps`` of those that are flat because nothing
    moves (``None`` where the store does not record it). ``failures`` is (name, reason) of each
    failed video in order, ``damaged`` (name, frames lost) of each video of which damage spoilt or
    took frames, and ``still`` the names of the videos all of whose maps are flat.

    ``classes`` counts the usable videos by class, every class of the header included;
    ``array_bytes`` the bytes of the shards of each array.
    """

    path: StorePath
    header: StoreHeader
    finished: bool
    num_videos: int
    num_frames: int
    num_maps: int
    flat_maps: int | None
    num_shards: int
    shards_done: int
    statuses: dict[str, int]
    failures: tuple[tuple[str, str], ...]
    damaged: tuple[tuple[str, int], ...]
    still: tuple[str, ...]
    classes: dict[str, int]
    array_bytes: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the plain values, for JSON."""
        failures = [{"video": name, "reason": reason} for name, reason in self.failures]
        return {
            **{field.name: getattr(self, field.name) for field in fields(self)},
            "path": str(self.path),
            "header": self.header.to_json(),
            "failures": failures,
            "damaged": [{"video": name, "frames_lost": lost} for name, lost in self.damaged],
        }


def store_info(path: StorePath) -> StoreInfo:
    """Read the records and sum them up. Raise :class:`~fame.clipstore.StoreError` where there is no
    store.
    """
    storage = locate(path)
    layout = layout_of(storage)
    names, labels_V = read_names(storage, layout), read_labels(storage, layout)
    statuses, usable, array_bytes = Counter[str](), Counter[int](), Counter[str]()
    failures, damaged, still = list[tuple[str, str]](), list[tuple[str, int]](), list[str]()
    done = frames = maps = flat = 0
    uncounted = False
    for record in find_records(storage, layout):
        if record is None:
            continue
        done += 1
        array_bytes.update({array: entry.size for array, entry in record.objects.items()})
        for outcome in record.videos:
            statuses[outcome.status] += 1
            frames += outcome.length
            maps += (own_maps := layout.num_maps(outcome.length))
            flat += outcome.flat_maps or 0
            # One video without the count leaves the sum of the store open.
            uncounted |= outcome.flat_maps is None
            if own_maps and outcome.flat_maps == own_maps:
                still.append(names[outcome.video])
            if outcome.frames_lost:
                damaged.append((names[outcome.video], outcome.frames_lost))
            if outcome.status == "failed":
                failures.append((names[outcome.video], outcome.reason))
            else:
                usable[int(labels_V[outcome.video])] += 1
    classes = {name: usable[label] for label, name in enumerate(layout.header.class_names)}
    return StoreInfo(
        path=storage.path,
        header=layout.header,
        finished=has_seal(storage),
        num_videos=layout.num_videos,
        num_frames=frames,
        num_maps=maps,
        flat_maps=None if uncounted else flat,
        num_shards=layout.num_shards,
        shards_done=done,
        statuses={status: statuses[status] for status in get_args(Status)},
        failures=tuple(failures),
        damaged=tuple(damaged),
        still=tuple(still),
        classes=classes | ({UNLABELLED: usable[-1]} if usable[-1] else {}),
        array_bytes={array: array_bytes[array] for array in layout.sharded_arrays},
    )
