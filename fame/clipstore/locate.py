"""Turn a path or an address into the storage it names."""

from contextlib import AbstractContextManager
from pathlib import Path

from fame.clipstore.objects import PACKAGES, Bucket
from fame.clipstore.schema import StoreError
from fame.clipstore.storage import Storage, StorePath
from fame.files import real


def locate(path: StorePath) -> Storage:
    """Return the storage of a store. Raise ``ValueError`` for an address of a kind that is not
    supported, or that lost a slash.
    """
    address = str(path)
    kind, mark, _ = address.partition("://")
    if mark and kind in PACKAGES:
        try:
            return Bucket(address)
        except ImportError as error:
            package = PACKAGES[kind]
            raise StoreError(
                f"{address}: needs {package}: pip install {package} ({error})"
            ) from error
    if mark or address.startswith(tuple(f"{kind}:/" for kind in PACKAGES)):
        raise StoreError(
            f"{address}: a store is a folder, or an address s3://bucket/path, gs://bucket/path or "
            "az://container/path given as a string"
        )
    from fame.clipstore.files import Folder

    return Folder(Path(path))


def absolute(path: StorePath) -> StorePath:
    """Return the same storage by a name that holds in any working directory."""
    storage = locate(path)
    return real(storage.path) if isinstance(storage.path, Path) else storage.path


def lock(path: StorePath) -> AbstractContextManager[None]:
    """Hold the store at ``path`` (which need not exist yet) against other runs; :class:`StoreError`
    if taken.

    A folder is locked by the kernel (:mod:`fame.lock`), an object store by a lease
    (:mod:`fame.clipstore.lease`). Neither outlives its process for long, however it dies.
    """
    return locate(path).lock()
