"""The seal of a finished store: checksums of every small file and of all records, which in turn
have the shards'.

It is written last. Two stores with the same seal are the same bytes.
"""

import hashlib
from collections.abc import Iterator
from typing import cast

from fame.clipstore.layout import ROOT_KEY, SEAL_KEY, WHOLE_ARRAYS, Layout, record_key
from fame.clipstore.locate import locate
from fame.clipstore.schema import StoreError, canonical_json, parse_json_object
from fame.clipstore.storage import Storage, StorePath


def is_finished(path: StorePath) -> bool:
    """Return whether the store at ``path`` is sealed."""
    return has_seal(locate(path))


def has_seal(storage: Storage) -> bool:
    """Return whether the store is sealed."""
    return storage.size(SEAL_KEY) is not None


def sealed_keys(layout: Layout) -> Iterator[str]:
    """Yield the small files of a store: all metadata and whole arrays."""
    yield ROOT_KEY
    for name in layout.array_metadata():
        yield f"{name}/zarr.json"
    for name in WHOLE_ARRAYS:
        yield layout.whole_key(name)


def make_seal(storage: Storage, layout: Layout) -> bytes:
    """Return the seal of the store as its files are now. Raise :class:`StoreError` where one is
    missing.
    """
    records = hashlib.sha256()
    for data in storage.map(
        storage.read, (record_key(shard) for shard in range(layout.num_shards))
    ):
        records.update(data)
    files = {key: storage.sha256(key) for key in sealed_keys(layout)}
    return canonical_json({"files": files, "records": records.hexdigest()})


def sealed_checksums(storage: Storage) -> dict[str, object]:
    """Return the checksums in the seal, by key. Raise :class:`StoreError` where the store has no
    readable seal.
    """
    if not has_seal(storage):
        raise StoreError(
            f"{storage}: the store is not finished; run the command that began it again"
        )
    files = parse_json_object(storage.read(SEAL_KEY), SEAL_KEY).get("files")
    if not isinstance(files, dict):
        raise StoreError(f"{storage}: {SEAL_KEY} names no files")
    return cast("dict[str, object]", files)


def expect_sealed(storage: Storage, key: str) -> None:
    """Raise :class:`StoreError` unless a small file is the one that was sealed: that of another
    store has checksums that hold.
    """
    if sealed_checksums(storage).get(key) != storage.sha256(key):
        raise StoreError(f"{storage}: {key} does not match the seal of the store")


def read_sealed_root(storage: Storage) -> bytes:
    """Return the root ``zarr.json`` of a finished store, held against the seal. Raise
    :class:`StoreError`.
    """
    data = storage.read(ROOT_KEY)
    if sealed_checksums(storage).get(ROOT_KEY) != hashlib.sha256(data).hexdigest():
        raise StoreError(f"{storage}: {ROOT_KEY} does not match the seal of the store")
    return data
