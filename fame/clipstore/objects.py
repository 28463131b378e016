"""A store as objects below a prefix of a bucket: at ``s3://``, ``gs://`` or ``az://``.

An object store has no rename and needs none: an object is there whole or not at all, once the last
request that writes it is answered, and it is durable then. What differs between the services is in
:mod:`fame.clipstore.s3`, :mod:`fame.clipstore.gs` and :mod:`fame.clipstore.az`, each of which
stands on its provider's own library. So credentials are found as the provider's own tools find
them, and forked workers may read: these libraries have no threads that a fork would lose.

A name is the whole key of an object in its bucket; a key is, as everywhere, the part of it below
the store's prefix.
"""

import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from importlib import import_module
from typing import NamedTuple

from fame.clipstore.schema import StoreError, UnreachableError
from fame.clipstore.storage import Draft, In, Out, Source, Storage

PACKAGES = {
    "s3": "botocore",
    "gs": "google-cloud-storage",
    "az": "azure-storage-blob azure-identity",
}
"""What pip installs for each kind of address."""
PART_BYTES = 2**24  # S3 takes at most 10,000 parts: shards of up to 160 GB
CONNECT_SECONDS, ANSWER_SECONDS = 10, 60  # for one try of a request
TRIES = 5
_ROUND_TRIPS = 32  # at a time
_MISSING, _BEYOND_END = 404, 416
_REFUSED = (409, 412)


class Found(NamedTuple):
    """What a service says of an object: its size in bytes, a tag that each write changes, and the
    metadata it was written with.
    """

    size: int
    tag: str
    about: Mapping[str, str]


class Upload(ABC):
    """An object that is sent in parts, and is there once it is completed."""

    @abstractmethod
    def send(self, part: bytes) -> None: ...

    @abstractmethod
    def complete(self) -> None: ...

    @abstractmethod
    def abort(self) -> None: ...


class Service(ABC):
    """Requests to one bucket. Each is tried again where that may help, for a bounded time; then it
    raises one of ``errors``.
    """

    errors: tuple[type[Exception], ...]

    @abstractmethod
    def __init__(self, bucket: str) -> None: ...

    @staticmethod
    @abstractmethod
    def explain(error: BaseException) -> tuple[int | None, str]:
        """Return the HTTP status of an error, ``None`` where there was no answer, and its text."""

    @abstractmethod
    def head(self, name: str) -> Found: ...

    @abstractmethod
    def read_into(self, name: str, view: memoryview, offset: int) -> int:
        """Fill ``view``, which is not empty, from ``offset`` on. Return the number of bytes."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None: ...

    @abstractmethod
    def put_if(self, name: str, data: bytes, *, about: dict[str, str], tag: str | None) -> str:
        """Write an object only if there is none, or only if its tag is ``tag``. Return the new
        tag.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""

    @abstractmethod
    def names(self, prefix: str) -> Iterator[str]: ...

    @abstractmethod
    def begin(self, name: str) -> Upload: ...

    def sweep(self, prefix: str) -> None:  # noqa: B027 (not every service keeps them)
        """Abort the uploads below ``prefix`` that were never completed."""


class Bucket(Storage):
    """The files of a store as objects; ``path`` is, for instance, ``s3://bucket/prefix``."""

    max_open = 4096  # of each only its index is held
    remote = True

    def __init__(self, address: str) -> None:
        self._kind, _, place = address.partition("://")
        self._bucket, _, prefix = place.partition("/")
        self.prefix = prefix.strip("/")
        super().__init__(f"{self._kind}://{self._bucket}/{self.prefix}")
        if not self._bucket or not self.prefix or "//" in self.prefix:
            raise StoreError(f"{address}: the address of a store is {self._kind}://bucket/path")
        self._explain = _service(self._kind).explain

    def size(self, key: str) -> int | None:
        found = self._head(self._name(key))
        return found.size if found else None

    def open(self, key: str) -> "OpenObject":
        size = self.size(key)
        if size is None:
            raise StoreError(f"{self}/{key}: cannot read (no such object)")
        return OpenObject(self, key, size)

    def draft(self, key: str) -> "ObjectDraft":
        return ObjectDraft(self, self._name(key))

    def remove(self, key: str) -> None:
        self.delete(self._name(key))

    def list_keys(self) -> Iterator[str]:
        with self.requests("list") as service:
            for name in service.names(f"{self.prefix}/"):
                yield name.removeprefix(f"{self.prefix}/")

    def sweep(self) -> None:
        with self.requests("write") as service:
            service.sweep(f"{self.prefix}/")

    def write_beside(self, suffix: str, text: str) -> None:
        if text:
            with self.requests("write") as service:
                service.put(self.prefix + suffix, text.encode())
        elif self.has_beside(suffix):
            self.delete(self.prefix + suffix)

    def has_beside(self, suffix: str) -> bool:
        return self._head(self.prefix + suffix) is not None

    def lock(self) -> AbstractContextManager[None]:
        from fame.clipstore.lease import hold

        return hold(self)

    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        with ThreadPoolExecutor(_ROUND_TRIPS) as pool:
            yield from pool.map(function, items)

    def read_into(self, key: str, view: memoryview, offset: int) -> int:
        """Fill ``view`` from an object, from ``offset`` on. Return the number of bytes."""
        try:
            with self.requests("read") as service:
                return service.read_into(self._name(key), view, offset) if view else 0
        except UnreachableError as error:
            if self._status(error) == _BEYOND_END:  # it was replaced by a shorter one
                return 0
            raise

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        with self.requests("write") as service:
            service.delete(name)

    def tag(self, name: str) -> tuple[str, str] | None:
        """Return the tag of an object and who wrote it, or ``None`` if there is no such object."""
        found = self._head(name)
        return (found.tag, found.about.get("owner", "unknown")) if found else None

    def put_if(self, name: str, data: bytes, *, owner: str, tag: str | None) -> str | None:
        """Write an object only if there is none (``tag`` is ``None``) or its tag is ``tag``. Return
        the new tag, or ``None`` if the object is another.
        """
        about = {"owner": owner, "write": uuid.uuid4().hex}
        try:
            with self.requests("write") as service:
                return service.put_if(name, data, about=about, tag=tag)
        except StoreError as error:
            # Only where there was an object may a missing one be the reason; otherwise there is no
            # such bucket.
            if self._status(error) not in ((*_REFUSED, _MISSING) if tag else _REFUSED):
                raise
            # Where the answer to a first try was lost, it is our own object that is in the way.
            found = self._head(name)
            return found.tag if found and found.about.get("write") == about["write"] else None

    @contextmanager
    def requests(self, doing: str) -> Generator[Service]:
        """Give the service, and turn what it raises into one line; a read fails as the store only
        where there is no such object.
        """
        try:
            yield _client_of(self._kind, self._bucket, os.getpid())
        except _service(self._kind).errors as error:
            status, reason = self._explain(error)
            message = f"{self}: cannot {doing} ({' '.join(reason.split()) or type(error).__name__})"
            if doing == "write":
                raise StoreError(
                    f"{message}. What is done is kept: run the same command again to go on"
                ) from error
            raise (StoreError if status == _MISSING else UnreachableError)(message) from error

    def _name(self, key: str) -> str:
        return f"{self.prefix}/{key}"

    def _head(self, name: str) -> Found | None:
        try:
            with self.requests("read") as service:
                return service.head(name)
        except StoreError as error:
            if self._status(error) == _MISSING:
                return None
            raise

    def _status(self, error: Exception) -> int | None:
        return self._explain(error.__cause__)[0] if error.__cause__ else None


class OpenObject(Source):
    """An object for reading: a request for each range, nothing held."""

    def __init__(self, bucket: Bucket, key: str, size: int) -> None:
        self._bucket, self._key, self.size = bucket, key, size

    def read_into(self, view: memoryview, offset: int) -> int:
        return self._bucket.read_into(self._key, view, offset)


class ObjectDraft(Draft):
    """An object uploaded in parts as it grows, or in one request if it is small; it appears when it
    is committed.
    """

    def __init__(self, bucket: Bucket, name: str) -> None:
        super().__init__()
        self._bucket, self._name = bucket, name
        self._rest = bytearray()
        self._upload: Upload | None = None

    def _append(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= PART_BYTES:
            self._send(PART_BYTES)

    def commit(self) -> None:
        if self._upload is None:
            with self._bucket.requests("write") as service:
                service.put(self._name, bytes(self._rest))
            return
        if self._rest:
            self._send(len(self._rest))
        with self._bucket.requests("write"):
            self._upload.complete()
        self._upload = None

    def discard(self) -> None:
        if self._upload is not None:
            with suppress(StoreError), self._bucket.requests("write"):  # `sweep` does it, then
                self._upload.abort()
            self._upload = None

    def _send(self, size: int) -> None:
        with self._bucket.requests("write") as service:
            self._upload = self._upload or service.begin(self._name)
            self._upload.send(bytes(self._rest[:size]))
        del self._rest[:size]


def _service(kind: str) -> type[Service]:
    """Return the class of a kind of address. Raise ``ImportError`` where its package is not
    installed.
    """
    return import_module(f"fame.clipstore.{kind}").Client


@cache
def _client_of(kind: str, bucket: str, process: int) -> Service:
    """Return this process's client, which all its threads share; a forked worker makes its own."""
    return _service(kind)(bucket)
