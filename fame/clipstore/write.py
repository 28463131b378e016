"""Making a store: create it, write its shards one task each, finalise it.

The bytes of a finished store depend on its header and its videos only. Anything may be killed at
any moment: a shard is done when its record is there, and the record is written last.

V videos, H W height and width of a frame, h w size of a foreground map.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
from jaxtyping import Int32

from fame.clipstore.arrays import (
    check_labels,
    check_name,
    encode_names,
    encode_numbers,
    videos_digest,
)
from fame.clipstore.chunk import encode_chunk
from fame.clipstore.layout import NOTHING, ROOT_KEY, SEAL_KEY, Layout, record_key
from fame.clipstore.locate import locate
from fame.clipstore.record import ShardRecord, StoredObject, VideoOutcome, find_records, load_record
from fame.clipstore.schema import StoreError, StoreHeader, VideoFailure, VideoFrames, canonical_json
from fame.clipstore.seal import has_seal, make_seal, sealed_keys
from fame.clipstore.shard import ShardDraft
from fame.clipstore.storage import Storage, StorePath

MAX_REASON = 1000


def create(
    path: StorePath, header: StoreHeader, *, names: Sequence[str], labels: Sequence[int]
) -> None:
    """Begin a store, or make sure that the one at ``path`` is this very store. Call it holding the
    lock.

    On a store that was begun before it drops what killed writers left and mends metadata; on a
    finished one it does no more than that. Raise :class:`StoreError` naming what differs if another
    store is there, ``ValueError`` for names or labels that cannot be.
    """
    storage = locate(path)
    labels_V = _checked(header, names, labels)
    layout = Layout(
        header=header, num_videos=len(names), videos_sha256=videos_digest(names, labels_V.tolist())
    )
    begun = storage.size(ROOT_KEY) is not None
    if begun:
        layout = _same_store(storage, layout)
    else:
        _refuse_other_files(storage, layout)
    storage.sweep()
    if not (begun and has_seal(storage)):
        _write_skeleton(storage, layout, names, labels_V)


def read_layout(path: StorePath) -> Layout:
    """Return the header and sizes of the store at ``path``, finished or not. Raise
    :class:`StoreError` where there is none.
    """
    return layout_of(locate(path))


def layout_of(storage: Storage) -> Layout:
    """Return the layout of a storage, as :func:`read_layout` does for a path."""
    try:
        return Layout.from_root_json(storage.read(ROOT_KEY))
    except StoreError as error:
        raise StoreError(f"{storage}: {error}") from error


def write_shard(
    path: StorePath, shard: int, videos: Iterable[VideoFrames | VideoFailure]
) -> ShardRecord:
    """Write one shard of every array from its videos in order, then commit its record.

    Frames are encoded and written as the videos arrive, so memory is that of one video. Give a
    shard to one task at a time. Raise :class:`StoreError` where the disk fails or the videos are
    not exactly the shard's, ``ValueError`` for a video of wrong shapes; nothing is committed then.
    """
    storage = locate(path)
    layout = layout_of(storage)
    with ExitStack() as stack:
        drafts: dict[str, ShardDraft] = {}
        for array in layout.sharded_arrays:
            draft = storage.draft(layout.shard_key(array, shard))
            # On every way out of the block; it does nothing to a file that has its name.
            stack.callback(draft.discard)
            drafts[array] = ShardDraft(draft, chunks_per_shard=layout.chunks_per_shard(array))
        paired = _paired(storage, layout.videos_of(shard), videos)
        outcomes = tuple(_append(layout, drafts, video, given) for video, given in paired)
        # No file gets its name before all of them are complete.
        for draft in drafts.values():
            draft.finish()
        for draft in drafts.values():
            draft.file.commit()
    files = {name: draft.file for name, draft in drafts.items()}
    objects = {
        name: StoredObject(size=file.size, sha256=file.sha256) for name, file in files.items()
    }
    record = ShardRecord(shard=shard, store=layout.identity, objects=objects, videos=outcomes)
    storage.write(record_key(shard), record.to_json())
    return record


def read_record(path: StorePath, shard: int) -> ShardRecord:
    """Return the record of a finished shard. Raise :class:`StoreError` where it is not finished."""
    storage = locate(path)
    return load_record(storage, layout_of(storage), shard)


def missing_shards(path: StorePath) -> list[int]:
    """Return the shards without a valid record, in order."""
    storage = locate(path)
    return [
        shard
        for shard, record in enumerate(find_records(storage, layout_of(storage)))
        if record is None
    ]


def drop_failed(path: StorePath) -> int:
    """Make the shards that hold failed videos missing again, of a finished store too. Return how
    many. Call it holding the lock.
    """
    storage = locate(path)
    records = find_records(storage, layout_of(storage))
    failed = [
        record.shard
        for record in records
        if record and any(outcome.status == "failed" for outcome in record.videos)
    ]
    if failed:
        storage.remove(SEAL_KEY)  # first: killed from here on, the store is one to be continued
    for shard in failed:
        storage.remove(record_key(shard))
    return len(failed)


def finalise(path: StorePath) -> None:
    """Write what depends on all shards (``length``, ``stretches``) and seal the store. Call it
    holding the lock.

    Raise :class:`StoreError` while shards are missing. On a finished store it does nothing.
    """
    storage = locate(path)
    layout = layout_of(storage)
    if not has_seal(storage):
        missing = missing_shards(path)
        if missing:
            raise StoreError(
                f"{storage}: {len(missing)} of {layout.num_shards} shards are missing, "
                f"first {missing[0]}"
            )
        records = storage.map(partial(load_record, storage, layout), range(layout.num_shards))
        found = ((v.length, v.stretches) for record in records for v in record.videos)
        # A row (length, stretches) for each video, in the order of the shards.
        extent_V2 = np.fromiter(found, np.dtype((np.int32, 2)), layout.num_videos)
        for array, number_V in zip(("length", "stretches"), extent_V2.T, strict=True):
            storage.write(layout.whole_key(array), encode_numbers(number_V))
        storage.write(SEAL_KEY, make_seal(storage, layout))
    storage.sweep()


def _checked(
    header: StoreHeader, names: Sequence[str], labels: Sequence[int]
) -> Int32[np.ndarray, " v"]:
    """Return the labels as an array. Raise ``ValueError`` for names and labels that no store can
    have.
    """
    if not names or len(names) != len(labels):
        raise ValueError(
            f"{len(names)} names and {len(labels)} labels: a store needs videos, and "
            "one label for each"
        )
    if len(set(names)) != len(names):
        raise ValueError("two videos have the same name")
    for name in names:
        check_name(name)
    labels_V = np.asarray(labels, np.int32)
    check_labels(labels_V, len(header.class_names))
    return labels_V


def _refuse_other_files(storage: Storage, layout: Layout) -> None:
    """Raise :class:`StoreError` where there are files that no store of this layout has: they are
    somebody's.
    """
    shards = range(layout.num_shards)
    ours = {SEAL_KEY, *sealed_keys(layout), *(record_key(shard) for shard in shards)}
    ours |= {layout.shard_key(array, shard) for array in layout.sharded_arrays for shard in shards}
    other = next((key for key in storage.list_keys() if key not in ours), None)
    if other is not None:
        raise StoreError(
            f"{storage}: the folder is not empty and holds no clip store; it holds {other!r}"
        )


def _same_store(storage: Storage, wanted: Layout) -> Layout:
    """Return the layout found at ``storage``. Raise :class:`StoreError` naming what differs where
    it is another store's.
    """
    found = layout_of(storage)
    if found.identity == wanted.identity:
        return found
    old, new = found.header.to_json(), wanted.header.to_json()
    # The fields of the recipe beside those of the header.
    old, new = old | old.pop("spec"), new | new.pop("spec")
    differing = [
        f"{key} {old[key]!r:.80} (asked for: {new[key]!r:.80})"
        for key in new
        if key != "software" and old[key] != new[key]
    ]
    if found.videos_sha256 != wanted.videos_sha256:
        differing.append(
            f"other videos or labels ({found.num_videos} videos, asked for: {wanted.num_videos})"
        )
    raise StoreError(f"{storage}: another store is there, with {'; '.join(differing)}")


def _write_skeleton(
    storage: Storage, layout: Layout, names: Sequence[str], labels_V: Int32[np.ndarray, " v"]
) -> None:
    """Write all that does not depend on decoding; the root metadata comes last, and makes it a
    store.
    """
    files = {
        f"{name}/zarr.json": canonical_json(metadata)
        for name, metadata in layout.array_metadata().items()
    }
    files[layout.whole_key("names")] = encode_names(names)
    files[layout.whole_key("label")] = encode_numbers(labels_V)
    # Dicts keep their order: all other files are there when this one makes the folder a store.
    files[ROOT_KEY] = layout.root_json()
    storage.remove(SEAL_KEY)
    for key, data in files.items():
        if not _holds(storage, key, data):
            storage.write(key, data)


def _holds(storage: Storage, key: str, data: bytes) -> bool:
    return storage.size(key) == len(data) and storage.read(key, limit=len(data)) == data


def _paired(
    storage: Storage, expected: range, videos: Iterable[VideoFrames | VideoFailure]
) -> Iterator[tuple[int, VideoFrames | VideoFailure]]:
    for video, given in itertools.zip_longest(expected, videos):
        if video is None or given is None:
            raise StoreError(
                f"{storage}: the shard takes exactly videos {expected[0]} to {expected[-1]}"
            )
        yield video, given


def _append(
    layout: Layout, drafts: dict[str, ShardDraft], video: int, given: VideoFrames | VideoFailure
) -> VideoOutcome:
    """Encode one video into the drafts; chunks past its end are absent."""
    if isinstance(given, VideoFailure):
        # No array at all: each chunk of a failed video is absent.
        given_arrays: dict[str, Iterable[np.ndarray]] = {}
        outcome = VideoOutcome(
            video=video,
            status="failed",
            reason=_plain(given.reason),
            length=0,
            stretches=0,
            frames_lost=0,
            flat_maps=0,
        )
    else:
        _check_video(layout, given)
        length, stretches = len(given.frames), given.stretches
        source = np.full(layout.element_shape("source"), NOTHING, np.int32)
        source[:length] = given.source
        maps = () if given.foreground is None else given.foreground
        given_arrays = {"frames": given.frames, "foreground": maps, "source": source[None]}
        outcome = VideoOutcome(
            video=video,
            status="cut" if given.cut else "ok",
            reason="",
            length=length,
            stretches=stretches,
            frames_lost=given.lost,
            flat_maps=sum(bool(map_hw.min() == map_hw.max()) for map_hw in maps),
        )
    for array, draft in drafts.items():
        # A video of 3 frames in a store of 5 slots gives 3 chunks and 2 that are absent.
        chunks = (encode_chunk(layout, array, e) for e in given_arrays.get(array, ()))
        absent = itertools.repeat(None)
        for chunk in itertools.islice(
            itertools.chain(chunks, absent), layout.chunks_per_video(array)
        ):
            draft.append(chunk)
    return outcome


def _plain(reason: str) -> str:
    """Return a reason as it can be stored: names of files that are not UTF-8 get into error
    messages.
    """
    return reason.encode(errors="backslashreplace").decode()[:MAX_REASON]


def _check_video(layout: Layout, given: VideoFrames) -> None:
    """Raise ``ValueError`` for arrays of other shapes than the layout has for this many frames."""
    length, stretches = len(given.frames), given.stretches
    slots = layout.header.spec.slots
    if not 1 <= stretches <= length <= slots or length % stretches:
        raise ValueError(
            f"a video has from 1 to {slots} frames in stretches of equal length, not {length} in "
            f"{stretches}"
        )
    for array, found in (("frames", given.frames), ("foreground", given.foreground)):
        wanted = None
        if array in layout.sharded_arrays:
            wanted = (layout.chunks_of(array, length), *layout.element_shape(array))
        shape = None if found is None else found.shape
        if shape != wanted or (found is not None and found.dtype != np.uint8):
            raise ValueError(f"{array} must be uint8 of shape {wanted}, not {shape}")
    source = given.source
    if source.shape != (length, 2) or source.dtype != np.int32 or source.min() < 0:
        raise ValueError(f"source must be int32 [{length}, 2] of at least 0, not {source!r:.200}")
