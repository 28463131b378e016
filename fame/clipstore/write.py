"""Making a store: create it, write its shards one task each, finalise it.

The bytes of a finished store depend on its header and its videos only. Anything may be killed at any moment: a shard is
done when its record is there, and the record is written last.

N clips, c clips of one video, T frames, H W height and width of a frame, h w size of a foreground map.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

import numpy as np

from fame.clipstore.chunk import crc32c, encode_chunk
from fame.clipstore.files import (
    read_whole,
    remove_partial,
    write_whole,
)
from fame.clipstore.layout import (
    NO_FRAME,
    RECORDS,
    ROOT_KEY,
    SEAL_KEY,
    WHOLE_ARRAYS,
    Layout,
    videos_digest,
)
from fame.clipstore.record import ShardRecord, StoredObject, VideoOutcome, load_record
from fame.clipstore.schema import StoreError, StoreHeader, VideoClips, VideoFailure, canonical_json
from fame.clipstore.shard import ShardDraft


def create(path: Path | str, header: StoreHeader, *, names: Sequence[str], labels: Sequence[int]) -> None:
    """Begin a store, or make sure that the one at ``path`` is this very store. Call it holding the lock.

    On a store that was begun before it drops what killed writers left and mends metadata; on a finished one it does
    nothing. Raises :class:`StoreError` naming what differs if another store is there, ``ValueError`` for bad input.
    """
    root = Path(path)
    _check_videos(header, names, labels)
    layout = Layout(header=header, num_videos=len(names), videos_sha256=videos_digest(names, labels))
    if (root / ROOT_KEY).exists():
        existing = read_layout(root)
        _refuse_other(root, existing, layout)
        layout = existing
    elif root.is_dir() and any(root.iterdir()) and not (root / RECORDS).is_dir():
        raise StoreError(f"{root}: the folder is not empty and holds no clip store")
    remove_partial(root)
    if is_finished(root):
        return
    (root / RECORDS).mkdir(parents=True, exist_ok=True)
    video_N = np.repeat(np.arange(layout.num_videos, dtype="<i4"), header.spec.clips_per_video)
    for name, metadata in layout.array_metadata().items():
        _write_if_other(root, f"{name}/zarr.json", canonical_json(metadata))
    _write_array(root, layout, "names", _vlen_utf8(names))
    _write_array(root, layout, "video", video_N.tobytes())
    _write_array(root, layout, "label", np.asarray(labels, "<i4")[video_N].tobytes())
    _write_if_other(root, ROOT_KEY, layout.root_json())


def read_layout(path: Path | str) -> Layout:
    """Header and sizes of the store at ``path``, finished or not; raises :class:`StoreError` where there is none."""
    root = Path(path)
    try:
        return Layout.from_root_json(read_whole(root / ROOT_KEY))
    except StoreError as error:
        raise StoreError(f"{root}: {error}") from error


def write_shard(path: Path | str, shard: int, videos: Iterable[VideoClips | VideoFailure]) -> ShardRecord:
    """Write one shard of every array from its videos in order, then commit its record.

    Clips are encoded and written as the videos arrive, so memory is that of one video. One task per shard at a time.
    Raises :class:`StoreError` where the disk fails or the videos are not exactly the shard's, ``ValueError`` for a
    video of wrong shapes; nothing is committed then.
    """
    root = Path(path)
    layout = read_layout(root)
    outcomes: list[VideoOutcome] = []
    with ExitStack() as stack:
        drafts = {
            array: stack.enter_context(
                ShardDraft(root, layout.shard_key(array, shard), chunks_per_shard=layout.header.spec.clips_per_shard)
            )
            for array in layout.sharded_arrays
        }
        for video, given in _paired(root, layout.videos_of(shard), videos):
            outcomes.append(_append(layout, drafts, video, given))
        for draft in drafts.values():
            draft.finish()
        for draft in drafts.values():
            draft.commit()
        record = ShardRecord(
            shard=shard,
            store=layout.identity,
            objects={name: StoredObject(size=draft.size, sha256=draft.sha256) for name, draft in drafts.items()},
            videos=tuple(outcomes),
        )
    write_whole(root, layout.record_key(shard), record.to_json())
    return record


def read_record(path: Path | str, shard: int) -> ShardRecord:
    """The record of a shard that is done; raises :class:`StoreError` where the shard is not."""
    return load_record(Path(path), read_layout(path), shard)


def missing_shards(path: Path | str) -> list[int]:
    """The shards without a valid record, in order."""
    root, layout = Path(path), read_layout(path)
    return [shard for shard in range(layout.num_shards) if not _is_done(root, layout, shard)]


def finalise(path: Path | str) -> None:
    """Write what only the whole knows (``start_frame``, ``valid``) and seal the store. Call it holding the lock.

    Raises :class:`StoreError` while shards are missing. On a finished store it does nothing.
    """
    root = Path(path)
    layout = read_layout(root)
    if is_finished(root):
        return
    missing = missing_shards(root)
    if missing:
        raise StoreError(f"{root}: {len(missing)} of {layout.num_shards} shards are missing, first {missing[0]}")
    digest, frames = hashlib.sha256(), np.empty(layout.num_clips, "<i4")
    clips = iter(range(0, layout.num_clips, layout.header.spec.clips_per_video))
    for shard in range(layout.num_shards):
        record = load_record(root, layout, shard)
        digest.update(record.to_json())
        for outcome, first in zip(record.videos, clips, strict=False):
            frames[first : first + len(outcome.start_frame)] = outcome.start_frame
    _write_array(root, layout, "start_frame", frames.tobytes())
    _write_array(root, layout, "valid", (frames != NO_FRAME).tobytes())
    seal = seal_of(root, layout, records_sha256=digest.hexdigest())
    write_whole(root, SEAL_KEY, seal)
    remove_partial(root)


def is_finished(path: Path | str) -> bool:
    """Whether the store at ``path`` is sealed."""
    return (Path(path) / SEAL_KEY).exists()


def seal_of(root: Path, layout: Layout, *, records_sha256: str) -> bytes:
    """The seal: SHA-256 of every small file, and of all records one after the other, which in turn have the shards'.

    Two stores with the same seal are the same bytes.
    """
    keys = [ROOT_KEY, *(f"{name}/zarr.json" for name in layout.array_metadata())]
    keys += [layout.whole_key(name) for name in WHOLE_ARRAYS]
    files = {key: hashlib.sha256(read_whole(root / key, limit=2**40)).hexdigest() for key in keys}
    return canonical_json({"files": files, "records": records_sha256})


def _is_done(root: Path, layout: Layout, shard: int) -> bool:
    try:
        load_record(root, layout, shard)
    except StoreError:
        return False
    return True


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
    count = layout.header.spec.clips_per_video
    if isinstance(given, VideoFailure):
        for draft, _ in itertools.product(drafts.values(), range(count)):
            draft.append(None)
        return VideoOutcome(video=video, status="failed", reason=given.reason, start_frame=(NO_FRAME,) * count)
    _check_clips(layout, given)
    arrays = {"clips": given.clips, "foreground": given.foreground}
    for array, draft in drafts.items():
        elements = arrays[array]
        assert elements is not None
        for element in elements:
            draft.append(encode_chunk(layout, array, element))
    return VideoOutcome(
        video=video,
        status="looped" if given.looped else "ok",
        reason="",
        start_frame=tuple(given.start_frame.tolist()),
    )


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


def _check_videos(header: StoreHeader, names: Sequence[str], labels: Sequence[int]) -> None:
    if not names or len(names) != len(labels):
        raise ValueError(f"a store needs one label per video and at least one video, not {len(names)}, {len(labels)}")
    if len(set(names)) != len(names):
        raise ValueError("video names must differ from each other")
    for name in names:
        check_name(name)
    highest = len(header.class_names) - 1
    for label in labels:
        if not -1 <= label <= highest:
            raise ValueError(f"label {label} is neither -1 nor one of {highest + 1} classes")


def check_name(name: str) -> None:
    """Raise ``ValueError`` for a video name that is not a plain path below the source root."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
        raise ValueError(f"video name {name!r} is not a path below the source root")


def _refuse_other(root: Path, existing: Layout, wanted: Layout) -> None:
    if existing.identity == wanted.identity:
        return
    old, new = existing.header.to_json(), wanted.header.to_json()
    old |= old.pop("spec")
    new |= new.pop("spec")
    differing = [
        f"{key} {old[key]!r:.80} (asked for: {new[key]!r:.80})"
        for key in new
        if old[key] != new[key] and key != "software"
    ]
    if existing.videos_sha256 != wanted.videos_sha256:
        differing.append(f"its {existing.num_videos} videos (asked for: {wanted.num_videos} videos)")
    raise StoreError(f"{root}: another store is there, with {'; '.join(differing)}")


def _write_array(root: Path, layout: Layout, array: str, data: bytes) -> None:
    _write_if_other(root, layout.whole_key(array), data + crc32c(data))


def _write_if_other(root: Path, key: str, data: bytes) -> None:
    try:
        if read_whole(root / key, limit=len(data)) == data:
            return
    except StoreError:
        pass
    write_whole(root, key, data)


def _vlen_utf8(names: Sequence[str]) -> bytes:
    """Zarr's ``vlen-utf8``: a count, then length and bytes of each string, all lengths uint32 little endian."""
    parts = [len(names).to_bytes(4, "little")]
    for name in names:
        data = name.encode()
        parts += [len(data).to_bytes(4, "little"), data]
    return b"".join(parts)
