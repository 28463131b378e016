"""The seal of a finished store: checksums of every small file and of all records, which in turn have the shards'.

It is written last. Two stores with the same seal are the same bytes.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from fame.clipstore.files import read_whole, sha256_file
from fame.clipstore.layout import ROOT_KEY, SEAL_KEY, WHOLE_ARRAYS, Layout, record_key
from fame.clipstore.schema import StoreError, canonical_json, parse_json_object


def is_finished(path: Path | str) -> bool:
    """Whether the store at ``path`` is sealed."""
    return (Path(path) / SEAL_KEY).exists()


def sealed_keys(layout: Layout) -> Iterator[str]:
    """The small files of a store: all metadata and whole arrays."""
    yield ROOT_KEY
    for name in layout.array_metadata():
        yield f"{name}/zarr.json"
    for name in WHOLE_ARRAYS:
        yield layout.whole_key(name)


def make_seal(root: Path, layout: Layout) -> bytes:
    """The seal of the store as its files are now; raises :class:`StoreError` where one is missing."""
    records = hashlib.sha256()
    for shard in range(layout.num_shards):
        records.update(read_whole(root / record_key(shard)))
    files = {key: sha256_file(root / key) for key in sealed_keys(layout)}
    return canonical_json({"files": files, "records": records.hexdigest()})


def sealed_checksums(root: Path) -> dict[str, object]:
    """The checksums in the seal, by key; raises :class:`StoreError` where the store has no readable seal."""
    if not is_finished(root):
        raise StoreError(f"{root}: the store is not finished; run the command that began it again")
    files = parse_json_object(read_whole(root / SEAL_KEY), SEAL_KEY).get("files")
    if not isinstance(files, dict):
        raise StoreError(f"{root}: {SEAL_KEY} names no files")
    return cast("dict[str, object]", files)


def read_sealed_root(root: Path) -> bytes:
    """The root ``zarr.json`` of a finished store, held against the seal; raises :class:`StoreError`."""
    data = read_whole(root / ROOT_KEY)
    if sealed_checksums(root).get(ROOT_KEY) != hashlib.sha256(data).hexdigest():
        raise StoreError(f"{root}: {ROOT_KEY} does not match the seal of the store")
    return data
