"""Checking a finished store to the last byte, and having what is damaged made again."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from fame.clipstore.arrays import check_size
from fame.clipstore.chunk import decode_chunk, decode_source, max_chunk_bytes
from fame.clipstore.layout import RECORDS, ROOT_KEY, SEAL_KEY, WHOLE_ARRAYS, Layout, record_key
from fame.clipstore.locate import locate
from fame.clipstore.read import ClipStore
from fame.clipstore.record import ShardRecord, load_record
from fame.clipstore.schema import StoreError
from fame.clipstore.seal import make_seal, sealed_checksums, sealed_keys
from fame.clipstore.shard import OpenShard
from fame.clipstore.storage import Storage, StorePath
from fame.clipstore.write import layout_of

_MISSING = 1000  # records that a store may have lost

Mapper = Callable[[Callable[[int], "ShardReport"], Iterable[int]], Iterable["ShardReport"]]


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """The faults of one shard, if any, and how many of its maps have one value only."""

    shard: int
    problems: tuple[str, ...]
    flat_maps: int


@dataclass(frozen=True, kw_only=True)
class StoreReport:
    """The result of :func:`verify`: damaged small files by key, damaged shards, and maps of a
    single value.

    A flat map is no damage: a motionless video gives one. Many of them mean that the recipe failed.
    """

    files: dict[str, str]
    shards: tuple[ShardReport, ...]
    flat_maps: int

    @property
    def ok(self) -> bool:
        """Return whether nothing is damaged."""
        return not (self.files or self.shards)


def verify(path: StorePath, *, run: Mapper = map) -> StoreReport:
    """Check every checksum, decode every chunk and hold every record against its shard.

    ``run`` works like ``map``: give a process pool's ``imap`` to check shards in parallel. Damage
    is reported, not raised. Raise :class:`StoreError` where there is no store at all.
    """
    storage = locate(path)
    try:
        layout = layout_of(storage)
    except StoreError as error:
        if next(storage.list_keys(), None) is None:
            raise
        return StoreReport(files={ROOT_KEY: str(error)}, shards=(), flat_maps=0)
    records = sum(key.startswith(f"{RECORDS}/") for key in storage.list_keys())
    if layout.num_shards > 2 * records + _MISSING:  # nobody works through what was never there
        message = f"claims {layout.num_shards} shards, but {records} records are there"
        return StoreReport(files={ROOT_KEY: message}, shards=(), flat_maps=0)
    reports = list(run(partial(verify_shard, storage.path), range(layout.num_shards)))
    return StoreReport(
        files=_check_files(storage, layout),
        shards=tuple(report for report in reports if report.problems),
        flat_maps=sum(report.flat_maps for report in reports),
    )


def verify_shard(path: StorePath, shard: int) -> ShardReport:
    """Check one shard of every array against its record and decode all its chunks."""
    storage = locate(path)
    layout = layout_of(storage)
    try:
        record = load_record(storage, layout, shard)
    except StoreError as error:
        return ShardReport(shard=shard, problems=(str(error),), flat_maps=0)
    problems: list[str] = []
    flat_maps = 0
    for array, entry in record.objects.items():
        try:
            if storage.sha256(layout.shard_key(array, shard)) != entry.sha256:
                problems.append(f"{array}: the checksum of the shard does not match its record")
            flat_maps += _decode_all(storage, layout, array, record)
        except StoreError as error:
            problems.append(f"{array}: {error}")
    return ShardReport(shard=shard, problems=tuple(problems), flat_maps=flat_maps)


def repair(path: StorePath, report: StoreReport) -> None:
    """Drop what is damaged, so that the command that made the store makes just that again. Call it
    holding the lock.

    The seal goes, the records of damaged shards, and the root metadata if it is damaged; the other
    small files are compared and written again by that command anyway.
    """
    storage = locate(path)
    if report.ok:
        return
    storage.remove(SEAL_KEY)
    if ROOT_KEY in report.files:
        storage.remove(ROOT_KEY)
    for damaged in report.shards:
        storage.remove(record_key(damaged.shard))


def _decode_all(storage: Storage, layout: Layout, array: str, record: ShardRecord) -> int:
    """Decode every chunk of one shard. Return the number of flat maps. Raise :class:`StoreError`
    for damage.
    """
    shard = OpenShard(
        storage,
        layout.shard_key(array, record.shard),
        chunks_per_shard=layout.chunks_per_shard(array),
        max_chunk_bytes=max_chunk_bytes(layout, array),
    )
    room, lengths = layout.chunks_per_video(array), [v.length for v in record.videos]
    flat = [0] * len(lengths)
    for position in range(layout.chunks_per_shard(array)):
        # With room for 300 chunks, chunk 305 is the sixth of the shard's second video.
        place, chunk = position // room, shard.chunk(position)
        # The last shard may hold fewer videos than it has room for: the rest must be absent.
        length = lengths[place] if place < len(lengths) else 0
        stored = position % room < layout.chunks_of(array, length)
        if stored != (chunk is not None):
            wrong = "missing" if stored else "there though its video ends before"
            raise StoreError(f"chunk {position} is {wrong}")
        if chunk is not None:
            try:
                if array == "source":
                    decode_source(layout, chunk)
                    continue
                element = decode_chunk(layout, array, chunk)
            except ValueError as error:
                raise StoreError(f"chunk {position}: {error}") from error
            flat[place] += int(array == "foreground" and element.min() == element.max())
    counted = [v.flat_maps for v in record.videos]
    if array == "foreground" and counted != flat and None not in counted:
        raise StoreError("the record counts other maps as flat")
    return sum(flat)


def _check_files(storage: Storage, layout: Layout) -> dict[str, str]:
    """Return the damaged small files by key, and why."""
    try:
        sealed = sealed_checksums(storage)
    except StoreError as error:
        return {SEAL_KEY: str(error)}
    files: dict[str, str] = {}
    whole = {layout.whole_key(array): array for array in WHOLE_ARRAYS}
    for key in sealed_keys(layout):
        try:
            if key in whole:
                check_size(storage, layout, whole[key])
            if sealed.get(key) != storage.sha256(key):
                files[key] = "does not match the seal"
        except StoreError as error:
            files[key] = str(error)
    try:
        ClipStore.open(storage.path).names  # noqa: B018 - reads and checks every whole array
        if not files and storage.read(SEAL_KEY) != make_seal(storage, layout):
            files[SEAL_KEY] = "does not match the records"
    except StoreError as error:
        files.setdefault(SEAL_KEY, str(error))
    return files
