"""Making a store: create it, write its shards one task each, finalise it.

The bytes of a finished store depend on its header and its videos only. Anything may be killed at any moment: a shard is
done when its record is there, and the record is written last.

V videos, N clips, T frames, H W height and width of a frame, h w size of a foreground map.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from fame.clipstore.arrays import check_labels, check_name, encode_names, encode_numbers, videos_digest
from fame.clipstore.chunk import encode_chunk
from fame.clipstore.files import read_whole, regular_size, remove_file, remove_partial, write_errors, write_whole
from fame.clipstore.layout import NO_FRAME, RECORDS, ROOT_KEY, SEAL_KEY, Layout, record_key
from fame.clipstore.record import ShardRecord, StoredObject, VideoOutcome, find_record, load_record
from fame.clipstore.schema import StoreError, StoreHeader, VideoClips, VideoFailure, canonical_json
from fame.clipstore.seal import is_finished, make_seal
from fame.clipstore.shard import ShardDraft

MAX_REASON = 1000


def create(path: Path | str, header: StoreHeader, *, names: Sequence[str], labels: Sequence[int]) -> None:
    """Begin a store, or make sure that the one at ``path`` is this very store. Call it holding the lock.

    On a store that was begun before it drops what killed writers left and mends metadata; on a finished one it does
    no more than that. Raises :class:`StoreError` naming what differs if another store is there, ``ValueError`` for
    names or labels that cannot be.
    """
    root = Path(path)
    labels_V = _checked(header, names, labels)
    layout = Layout(header=header, num_videos=len(names), videos_sha256=videos_digest(names, labels_V.tolist()))
    begun = regular_size(root / ROOT_KEY) is not None
    if begun:
        layout = _same_store(root, layout)
    elif root.is_dir() and any(root.iterdir()) and not (root / RECORDS).is_dir():
        raise StoreError(f"{root}: the folder is not empty and holds no clip store")
    remove_partial(root)
    if not (begun and is_finished(root)):
        _write_skeleton(root, layout, names, labels_V)


def read_layout(path: Path | str) -> Layout:
    """Header and sizes of the store at ``path``, finished or not; raises :class:`StoreError` where there is none."""
    root = Path(path)
    try:
        return Layout.from_root_json(read_whole(root / ROOT_KEY))
    except StoreError as error:
        raise StoreError(f"{root}: {error}") from error


def write_shard(path: Path | str, shard: int, videos: Iterable[VideoClips | VideoFailure]) -> ShardRecord:
    """Write one shard of every array from its videos in order, then commit its record.

    Clips are encoded and written as the videos arrive, so memory is that of one video. Give a shard to one task at a
    time. Raises :class:`StoreError` where the disk fails or the videos are not exactly the shard's, ``ValueError`` for
    a video of wrong shapes; nothing is committed then.
    """
    root = Path(path)
    layout = read_layout(root)
    size = layout.header.spec.clips_per_shard
    with ExitStack() as stack:
        drafts: dict[str, ShardDraft] = {}
        for array in layout.sharded_arrays:
            drafts[array] = ShardDraft(root, layout.shard_key(array, shard), chunks_per_shard=size)
            stack.callback(drafts[array].discard)
        paired = _paired(root, layout.videos_of(shard), videos)
        outcomes = tuple(_append(layout, drafts, video, given) for video, given in paired)
        for draft in drafts.values():
            draft.finish()
        for draft in drafts.values():
            draft.commit()
    objects = {name: StoredObject(size=draft.size, sha256=draft.sha256) for name, draft in drafts.items()}
    record = ShardRecord(shard=shard, store=layout.identity, objects=objects, videos=outcomes)
    write_whole(root, record_key(shard), record.to_json())
    return record


def read_record(path: Path | str, shard: int) -> ShardRecord:
    """The record of a shard that is done; raises :class:`StoreError` where the shard is not."""
    return load_record(Path(path), read_layout(path), shard)


def missing_shards(path: Path | str) -> list[int]:
    """The shards without a valid record, in order."""
    root, layout = Path(path), read_layout(path)
    return [shard for shard in range(layout.num_shards) if find_record(root, layout, shard) is None]


def finalise(path: Path | str) -> None:
    """Write what only the whole knows (``start_frame``, ``valid``) and seal the store. Call it holding the lock.

    Raises :class:`StoreError` while shards are missing. On a finished store it does nothing.
    """
    root = Path(path)
    layout = read_layout(root)
    if not is_finished(root):
        missing = missing_shards(root)
        if missing:
            raise StoreError(f"{root}: {len(missing)} of {layout.num_shards} shards are missing, first {missing[0]}")
        records = (load_record(root, layout, shard) for shard in range(layout.num_shards))
        frames = (frame for record in records for outcome in record.videos for frame in outcome.start_frame)
        start_frame_N = np.fromiter(frames, np.int32, layout.num_clips)
        write_whole(root, layout.whole_key("start_frame"), encode_numbers(start_frame_N))
        write_whole(root, layout.whole_key("valid"), encode_numbers(start_frame_N != NO_FRAME))
        write_whole(root, SEAL_KEY, make_seal(root, layout))
    remove_partial(root)


def _checked(header: StoreHeader, names: Sequence[str], labels: Sequence[int]) -> Int32[np.ndarray, " v"]:
    """The labels as an array; raises ``ValueError`` for names and labels that no store can have."""
    if not names or len(names) != len(labels):
        raise ValueError(f"{len(names)} names and {len(labels)} labels: a store needs videos, and one label for each")
    if len(set(names)) != len(names):
        raise ValueError("two videos have the same name")
    for name in names:
        check_name(name)
    labels_V = np.asarray(labels, np.int32)
    check_labels(labels_V, len(header.class_names))
    return labels_V


def _same_store(root: Path, wanted: Layout) -> Layout:
    """The layout found at ``root``; raises :class:`StoreError` naming what differs where it is another store's."""
    found = read_layout(root)
    if found.identity == wanted.identity:
        return found
    old, new = found.header.to_json(), wanted.header.to_json()
    old, new = old | old.pop("spec"), new | new.pop("spec")
    differing = [
        f"{key} {old[key]!r:.80} (asked for: {new[key]!r:.80})"
        for key in new
        if key != "software" and old[key] != new[key]
    ]
    if found.videos_sha256 != wanted.videos_sha256:
        differing.append(f"other videos or labels ({found.num_videos} videos, asked for: {wanted.num_videos})")
    raise StoreError(f"{root}: another store is there, with {'; '.join(differing)}")


def _write_skeleton(root: Path, layout: Layout, names: Sequence[str], labels_V: Int32[np.ndarray, " v"]) -> None:
    """Everything that is known before anything is decoded; the root metadata comes last, and the store exists."""
    clips = layout.header.spec.clips_per_video
    video_V = np.arange(layout.num_videos, dtype=np.int32)
    files = {f"{name}/zarr.json": canonical_json(metadata) for name, metadata in layout.array_metadata().items()}
    files[layout.whole_key("names")] = encode_names(names)
    files[layout.whole_key("video")] = encode_numbers(np.repeat(video_V, clips))
    files[layout.whole_key("label")] = encode_numbers(np.repeat(labels_V, clips))
    files[ROOT_KEY] = layout.root_json()
    with write_errors(root):
        (root / RECORDS).mkdir(parents=True, exist_ok=True)
    remove_file(root, SEAL_KEY)
    for key, data in files.items():
        if not _holds(root / key, data):
            write_whole(root, key, data)


def _holds(path: Path, data: bytes) -> bool:
    return regular_size(path) == len(data) and read_whole(path, limit=len(data)) == data


def _paired(
    root: Path, expected: range, videos: Iterable[VideoClips | VideoFailure]
) -> Iterator[tuple[int, VideoClips | VideoFailure]]:
    for video, given in itertools.zip_longest(expected, videos):
        if video is None or given is None:
            raise StoreError(f"{root}: the shard takes exactly videos {expected[0]} to {expected[-1]}")
        yield video, given


def _append(
    layout: Layout, drafts: dict[str, ShardDraft], video: int, given: VideoClips | VideoFailure
) -> VideoOutcome:
    """Encode one video into the drafts."""
    clips = layout.header.spec.clips_per_video
    if isinstance(given, VideoFailure):
        for draft, _ in itertools.product(drafts.values(), range(clips)):
            draft.append(None)
        return VideoOutcome(video=video, status="failed", reason=_plain(given.reason), start_frame=(NO_FRAME,) * clips)
    _check_clips(layout, given)
    given_arrays = {"clips": given.clips, "foreground": given.foreground}
    for array, draft in drafts.items():
        elements = given_arrays[array]
        assert elements is not None, "checked above"
        for element in elements:
            draft.append(encode_chunk(layout, array, element))
    status, start_frame = "looped" if given.looped else "ok", tuple(given.start_frame.tolist())
    return VideoOutcome(video=video, status=status, reason="", start_frame=start_frame)


def _plain(reason: str) -> str:
    """A reason as it can be stored: names of files that are not UTF-8 get into error messages."""
    return reason.encode(errors="backslashreplace").decode()[:MAX_REASON]


def _check_clips(layout: Layout, given: VideoClips) -> None:
    count = layout.header.spec.clips_per_video
    for array, found in (("clips", given.clips), ("foreground", given.foreground)):
        wanted = (count, *layout.element_shape(array)) if array in layout.sharded_arrays else None
        shape = None if found is None else found.shape
        if shape != wanted or (found is not None and found.dtype != np.uint8):
            raise ValueError(f"{array} must be uint8 of shape {wanted}, not {shape}")
    frames = given.start_frame
    if frames.shape != (count,) or frames.dtype != np.int32 or frames.min() < 0:
        raise ValueError(f"start_frame must be {count} int32 of at least 0, not {frames!r}")
