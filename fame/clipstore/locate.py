"""Turn a path or an address into the storage it names."""

from contextlib import AbstractContextManager
from pathlib import Path

from fame.clipstore.schema import StoreError
from fame.clipstore.storage import Storage, StorePath

_S3 = "s3://"


def locate(path: StorePath) -> Storage:
    """Return the storage of a store. Raise ``ValueError`` for an address of a kind that is not
    supported, or that lost a slash.
    """
    address = str(path)
    if address.startswith(_S3):
        try:
            from fame.clipstore.objects import Bucket  # here, because only these stores need s3fs
        except ImportError as error:
            raise StoreError(f"{address}: needs s3fs: pip install s3fs ({error})") from error
        return Bucket(address)
    if "://" in address or address.startswith("s3:/"):
        raise StoreError(
            f"{address}: a store is a folder, or an address s3://bucket/path given as a string"
        )
    from fame.clipstore.files import Folder

    return Folder(Path(path))


def absolute(path: StorePath) -> StorePath:
    """Return the same storage by a name that holds in any working directory."""
    storage = locate(path)
    return storage.path.resolve() if isinstance(storage.path, Path) else storage.path


def lock(path: StorePath) -> AbstractContextManager[None]:
    """Hold the store at ``path`` (which need not exist yet) against other runs; :class:`StoreError`
    if taken.

    A folder is locked by the kernel (:mod:`fame.lock`), an object store by a lease
    (:mod:`fame.clipstore.lease`). Neither outlives its process for long, however it dies.
    """
    return locate(path).lock()
