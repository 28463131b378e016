"""The whole arrays of a store: one uncompressed chunk each, closed by a CRC-32C, small enough to be
held in memory.

V videos.
"""

import hashlib
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Int32

from fame.clipstore.chunk import CRC_BYTES, crc32c
from fame.clipstore.layout import Layout
from fame.clipstore.schema import StoreError, canonical_json
from fame.clipstore.storage import Storage

_LENGTH_BYTES = 4
MAX_NAME_BYTES = 4096  # as a path may be long


def videos_digest(names: Sequence[str], labels: Sequence[int]) -> str:
    """Return a hash of which videos a store holds, in which order and of which class."""
    return hashlib.sha256(canonical_json([list(names), list(labels)])).hexdigest()


def check_name(name: str) -> None:
    """Raise ``ValueError`` for a video name that is not a plain path below the source root, in
    UTF-8.
    """
    if len(name) > MAX_NAME_BYTES:
        raise ValueError(f"video name {name[:40]!r}... has {len(name)} letters: rename the file")
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
        raise ValueError(f"video name {name!r} is not a path below the source root")
    if not name.isascii() and name.encode(errors="replace").decode() != name:
        raise ValueError(f"video name {name!r} is not UTF-8: rename the file")


def check_labels(labels_V: Int32[np.ndarray, " v"], num_classes: int) -> None:
    """Raise ``ValueError`` for a label that is neither -1 (unknown) nor a class."""
    if labels_V.min() < -1 or labels_V.max() >= num_classes:
        raise ValueError(
            f"labels go from {labels_V.min()} to {labels_V.max()}, but there are "
            f"{num_classes} classes"
        )


def encode_numbers(number_V: Int32[np.ndarray, " v"]) -> bytes:
    """Return the chunk of ``label``, ``length`` or ``stretches``."""
    return _closed(number_V.astype("<i4").tobytes())


def encode_names(names: Sequence[str]) -> bytes:
    """Return the chunk of ``names`` in zarr's ``vlen-utf8``: a count, then length and UTF-8 of
    each, lengths as uint32.
    """
    # The names a and bc become 2, 1 "a", 2 "bc".
    parts = [_length(names)]
    for name in names:
        data = name.encode()
        parts += [_length(data), data]
    return _closed(b"".join(parts))


def read_lengths(
    storage: Storage, layout: Layout
) -> tuple[Int32[np.ndarray, " v"], Int32[np.ndarray, " v"]]:
    """Return the kept frames of each video (0 where it failed) and the stretches they come in.
    Raise :class:`StoreError` where the arrays are damaged or cannot be.
    """
    length_V = _read_integers(storage, layout, "length")
    stretches_V = _read_integers(storage, layout, "stretches")
    failed_V = length_V == 0
    possible_V = (length_V >= 0) & (length_V <= layout.header.spec.slots)
    possible_V &= np.where(
        failed_V, stretches_V == 0, (stretches_V >= 1) & (stretches_V <= length_V)
    )
    # Failed videos have no stretches to divide by. Others have stretches of equal length.
    if not possible_V.all() or (length_V[~failed_V] % stretches_V[~failed_V]).any():
        raise StoreError(f"{storage}: length and stretches of its videos do not go together")
    return length_V, stretches_V


def read_labels(storage: Storage, layout: Layout) -> Int32[np.ndarray, " v"]:
    """Return the class of each video. Raise :class:`StoreError` where the array is damaged."""
    label_V = _read_integers(storage, layout, "label")
    try:
        check_labels(label_V, len(layout.header.class_names))
    except ValueError as error:
        raise StoreError(f"{storage}: {error}") from error
    return label_V


def read_names(storage: Storage, layout: Layout) -> tuple[str, ...]:
    """Return the names of the videos. Raise :class:`StoreError` for a damaged array and for names
    that leave the source root.
    """
    data = _open(storage, layout, "names")
    names: list[str] = []
    position = _LENGTH_BYTES
    try:
        if _parse_length(data, 0) != layout.num_videos:
            raise ValueError(f"{_parse_length(data, 0)} names for {layout.num_videos} videos")
        for _ in range(layout.num_videos):
            end = position + _LENGTH_BYTES + _parse_length(data, position)
            names.append(data[position + _LENGTH_BYTES : end].decode())
            check_name(names[-1])
            position = end
        if position != len(data):
            raise ValueError("the names end elsewhere than their array")
    except ValueError as error:
        raise StoreError(f"{storage}: names: {error}") from error
    return tuple(names)


def _read_integers(storage: Storage, layout: Layout, array: str) -> Int32[np.ndarray, " v"]:
    data = _open(storage, layout, array)
    return np.frombuffer(data, "<i4").astype(np.int32, copy=False)


def check_size(storage: Storage, layout: Layout, array: str) -> int:
    """Return the bytes of a whole array. Raise :class:`StoreError` unless they are what so many
    videos take: asked before it is read, because anybody may have written it.
    """
    key, videos = layout.whole_key(array), layout.num_videos
    # 4 bytes a number. A name has its length before it, and at most 4 bytes of UTF-8 a letter.
    least = most = videos * 4 + CRC_BYTES
    if array == "names":
        least += _LENGTH_BYTES
        most = least + videos * 4 * MAX_NAME_BYTES
    if not least <= (size := storage.open(key).size) <= most:
        raise StoreError(f"{storage}/{key}: {size} bytes cannot be of {videos} videos")
    return size


def _open(storage: Storage, layout: Layout, array: str) -> bytes:
    key = layout.whole_key(array)
    data = storage.read(key, limit=check_size(storage, layout, array))
    if crc32c(data[:-CRC_BYTES]) != data[-CRC_BYTES:]:
        raise StoreError(f"{storage}/{key}: the checksum does not match")
    return data[:-CRC_BYTES]


def _closed(data: bytes) -> bytes:
    return data + crc32c(data)


def _length(item: Sequence[Any]) -> bytes:
    return len(item).to_bytes(_LENGTH_BYTES, "little")


def _parse_length(data: bytes, position: int) -> int:
    if position + _LENGTH_BYTES > len(data):
        raise ValueError("the names end in the middle of a length")
    return int.from_bytes(data[position : position + _LENGTH_BYTES], "little")
