"""The record of one shard: each video's fate, and size and checksum of each object. A shard is done
when it has one.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, get_args

from fame.clipstore.layout import Layout, record_key
from fame.clipstore.schema import Status, StoreError, canonical_json, expect_keys, parse_json_object
from fame.clipstore.storage import Storage

_KEYS = {"shard", "store", "objects", "videos", "sha256"}


@dataclass(frozen=True, kw_only=True)
class VideoOutcome:
    """The result of one video: how many frames are kept, in how many stretches, how many frames of
    the source are lost to damage, and how many of its maps are flat, because nothing moves. A
    failed one has a ``reason`` and 0 of all; ``reason`` is empty otherwise. ``flat_maps`` is
    ``None`` in stores made before they were counted.
    """

    video: int
    status: Status
    reason: str
    length: int
    stretches: int
    frames_lost: int
    flat_maps: int | None = None


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One shard of one array as written: size in bytes and SHA-256 in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """Proof that a shard is done. ``store`` is the identity of the store it was made for."""

    shard: int
    store: str
    objects: dict[str, StoredObject]
    videos: tuple[VideoOutcome, ...]

    def to_json(self) -> bytes:
        """Return the record as it is stored, with its own checksum."""
        body = asdict(self)
        return canonical_json(body | {"sha256": _sha256(body)})

    @classmethod
    def from_json(cls, data: bytes, layout: Layout, shard: int) -> "ShardRecord":
        """Read one record. Raise :class:`StoreError` unless it is whole and belongs to this shard
        of this store.
        """
        body = parse_json_object(data, f"record {shard}")
        expect_keys(body, _KEYS, f"record {shard}")
        checksum = body.pop("sha256")
        # One record has one spelling: other bytes with the same values are refused too.
        if checksum != _sha256(body) or canonical_json(body | {"sha256": checksum}) != data:
            raise StoreError(f"record {shard} does not match its checksum")
        if (body["shard"], body["store"]) != (shard, layout.identity):
            raise StoreError(f"record {shard} belongs to shard {body['shard']!r} of another store")
        try:
            record = cls(
                shard=shard,
                store=layout.identity,
                objects={name: StoredObject(**entry) for name, entry in body["objects"].items()},
                videos=tuple(VideoOutcome(**entry) for entry in body["videos"]),
            )
        except (TypeError, AttributeError, KeyError) as error:
            raise StoreError(f"record {shard} is not of this format: {error}") from error
        record._check(layout)
        return record

    def _check(self, layout: Layout) -> None:
        where = f"record {self.shard}"
        if tuple(sorted(self.objects)) != layout.sharded_arrays:
            raise StoreError(
                f"{where} lists objects {sorted(self.objects)}, not {layout.sharded_arrays}"
            )
        if any(type(entry.size) is not int for entry in self.objects.values()):
            raise StoreError(f"{where} gives a size that is no whole number")
        if [outcome.video for outcome in self.videos] != list(layout.videos_of(self.shard)):
            raise StoreError(f"{where} does not list exactly the videos of its shard")
        for outcome in self.videos:
            _check_outcome(outcome, layout, where)


def _sha256(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body)).hexdigest()


def _check_outcome(outcome: VideoOutcome, layout: Layout, where: str) -> None:
    if outcome.status not in get_args(Status) or type(outcome.reason) is not str:
        raise StoreError(f"{where}: video {outcome.video} has no known status")
    length, stretches, lost = outcome.length, outcome.stretches, outcome.frames_lost
    # Not isinstance: `true` in JSON is an int to Python.
    whole = type(length) is int and type(stretches) is int and type(lost) is int
    if outcome.status == "failed":
        possible = whole and length == stretches == lost == 0
    else:
        slots = layout.header.spec.slots
        possible = (
            # Stretches are of equal length: 96 frames can be 3 of 32, but not 5.
            whole and lost >= 0 and 1 <= stretches <= length <= slots and length % stretches == 0
        )
    if outcome.flat_maps is not None:
        # Only a possible length has a number of maps.
        maps = layout.num_maps(outcome.length) if possible else 0
        possible &= type(outcome.flat_maps) is int and 0 <= outcome.flat_maps <= maps
    if not possible:
        raise StoreError(
            f"{where}: video {outcome.video} ({outcome.status}) has {length!r:.40} frames in "
            f"{stretches!r:.40} stretches, {lost!r:.40} lost, {outcome.flat_maps!r:.40} flat maps"
        )


def load_record(storage: Storage, layout: Layout, shard: int) -> ShardRecord:
    """Return the record of a shard that is done. Raise :class:`StoreError` with the reason where it
    is not.

    Sizes of the objects are compared, their contents are not: an object is synced before its record
    is written, so only damage to the disk could part them, and
    :func:`~fame.clipstore.verify.verify` looks for that.
    """
    record = ShardRecord.from_json(storage.read(record_key(shard)), layout, shard)
    for array, entry in record.objects.items():
        found = storage.size(layout.shard_key(array, shard))
        if found != entry.size:
            raise StoreError(
                f"{storage}: shard {shard} of {array} has {found} bytes, "
                f"its record says {entry.size}"
            )
    return record


def find_record(storage: Storage, layout: Layout, shard: int) -> ShardRecord | None:
    """Return the record of a shard, or ``None`` if the shard is not done."""
    try:
        return load_record(storage, layout, shard)
    except StoreError:
        return None


def find_records(storage: Storage, layout: Layout) -> Iterator[ShardRecord | None]:
    """Return the record of every shard in order, ``None`` for those not done."""
    return storage.map(partial(find_record, storage, layout), range(layout.num_shards))
