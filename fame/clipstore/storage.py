"""The storage of a store's bytes: a folder, or a prefix in an object store. All other modules use
only keys.

A key is a ``/``-separated name inside the store and comes from :mod:`fame.clipstore.layout`, never
from data. Every storage guarantees what a store relies on: a file has its name only when it is
whole, what was committed is durable, and writing the same bytes twice does no harm.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

from fame.clipstore.schema import StoreError
from fame.store_spec import StorePath

MAX_METADATA_BYTES = 2**28
_BLOCK_BYTES = 2**23

In = TypeVar("In")
Out = TypeVar("Out")


class Source(ABC):
    """A file open for reading at any offset. Safe to share between threads; closed with its last
    user.
    """

    size: int

    @abstractmethod
    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill ``view`` from ``offset`` on. Return the number of bytes read. Raise
        :class:`StoreError`.
        """


class Draft(ABC):
    """A file in the making: checksummed as it grows, named only when it is whole."""

    def __init__(self) -> None:
        self.size = 0
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        self._append(data)
        self._hash.update(data)
        self.size += len(data)

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of what was written so far, in hexadecimal."""
        return self._hash.hexdigest()

    @abstractmethod
    def _append(self, data: bytes) -> None: ...

    @abstractmethod
    def commit(self) -> None:
        """Move the file to its name, durably: after a crash it is complete there or absent."""

    @abstractmethod
    def discard(self) -> None:
        """Remove the file unless it was committed."""


class Storage(ABC):
    """The files of one store by key.

    Every method raises :class:`StoreError` where the storage fails, but
    :class:`~fame.clipstore.schema.UnreachableError` where a server gives no access, which is no
    sign of damage.
    """

    max_open: int
    """Shards that a reader keeps open; one that is not open costs reading its index again."""
    remote = False
    """Whether reading is a request to a server, so that a cache pays."""

    def __init__(self, path: StorePath) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Return the size of a file, ``None`` where there is no such file."""

    @abstractmethod
    def open(self, key: str) -> Source:
        """Open a file for reading. Raise where it is missing or no regular file."""

    @abstractmethod
    def draft(self, key: str) -> Draft:
        """Begin a file. Two drafts of one file never mix their bytes."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Remove a file durably, if it is there."""

    @abstractmethod
    def list_keys(self) -> Iterator[str]:
        """Return every file here, drafts left out."""

    @abstractmethod
    def sweep(self) -> None:
        """Drop the drafts that killed writers left behind."""

    @abstractmethod
    def write_beside(self, suffix: str, text: str) -> None:
        """Write a file that is no part of the store: its name is the store's, and ``suffix``.

        An empty text removes the file: an empty one would show nothing.
        """

    @abstractmethod
    def has_beside(self, suffix: str) -> bool:
        """Return whether there is such a file."""

    @abstractmethod
    def lock(self) -> AbstractContextManager[None]:
        """Hold the store, which need not exist yet, against other runs."""

    @abstractmethod
    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        """Yield ``function`` of each item, in order; in threads where reading a small file is
        mostly waiting.
        """

    def refuse_links(self, folders: Iterable[str]) -> None:  # noqa: B027 (most storages have no links)
        """Raise :class:`StoreError` where a folder of the store leads outside."""

    def read(self, key: str, *, limit: int = MAX_METADATA_BYTES) -> bytes:
        """Return the bytes of a small file. Raise where it is larger than ``limit``."""
        source = self.open(key)
        if source.size > limit:
            raise StoreError(f"{self}/{key}: {source.size} bytes where at most {limit} belong")
        return b"".join(bytes(block) for block in _blocks(source))

    def write(self, key: str, data: bytes) -> None:
        """Write or replace a small file durably and at once."""
        draft = self.draft(key)
        try:
            draft.write(data)
            draft.commit()
        finally:
            draft.discard()

    def sha256(self, key: str) -> str:
        """Return the SHA-256 of a file of any size, in hexadecimal."""
        digest = hashlib.sha256()
        for block in _blocks(self.open(key)):
            digest.update(block)
        return digest.hexdigest()


def _blocks(source: Source) -> Iterator[memoryview]:
    """Yield the bytes of a file in order; each block is overwritten by the next."""
    # One block of memory for files of any size.
    block = memoryview(bytearray(min(source.size, _BLOCK_BYTES)))
    for offset in range(0, source.size, _BLOCK_BYTES):
        yield block[: source.read_into(block[: source.size - offset], offset)]
