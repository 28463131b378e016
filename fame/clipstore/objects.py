"""A store as objects below a prefix of an S3 bucket, through s3fs.

An object store has no rename and needs none: an object is there whole or not at all, once its PUT
or the completion of its upload in parts is answered, and it is durable then. Credentials, region
and endpoint come from where AWS's own tools take them: environment variables, the files in
``~/.aws``, instance roles.

A name is the whole key of an object in its bucket; a key is, as everywhere, the part of it below
the store's prefix.
"""

import os
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from typing import Any, cast

from aiohttp import ClientError  # an answer that was cut
from botocore.exceptions import BotoCoreError
from s3fs import S3FileSystem

from fame.clipstore.schema import StoreError, UnreachableError
from fame.clipstore.storage import Draft, In, Out, Source, Storage

PART_BYTES = 2**24  # an upload has at most 10,000 parts: shards of up to 160 GB
_ROUND_TRIPS = 32  # at a time
_REFUSED = ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409")


class Bucket(Storage):
    """The files of a store as objects; ``path`` is ``s3://bucket/prefix``."""

    max_open = 4096  # of each only its index is held
    remote = True

    def __init__(self, address: str) -> None:
        self._bucket, _, prefix = address.removeprefix("s3://").partition("/")
        self.prefix = prefix.strip("/")
        super().__init__(f"s3://{self._bucket}/{self.prefix}")
        if not self._bucket or not self.prefix or "//" in self.prefix:
            raise StoreError(f"{address}: the address of a store is s3://bucket/path")

    def size(self, key: str) -> int | None:
        found = self._head(self._name(key))
        return int(found["ContentLength"]) if found else None

    def open(self, key: str) -> "OpenObject":
        size = self.size(key)
        if size is None:
            raise StoreError(f"{self}/{key}: cannot read (no such object)")
        return OpenObject(self, key, size)

    def draft(self, key: str) -> "ObjectDraft":
        return ObjectDraft(self, self._name(key))

    def remove(self, key: str) -> None:
        self.call("delete_object", self._name(key), doing="write")

    def list_keys(self) -> Iterator[str]:
        for entry in self._pages(
            "list_objects_v2", "Contents", {"ContinuationToken": "NextContinuationToken"}
        ):
            yield entry["Key"].removeprefix(f"{self.prefix}/")

    def sweep(self) -> None:
        markers = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
        for upload in list(self._pages("list_multipart_uploads", "Uploads", markers)):
            self.call(
                "abort_multipart_upload", upload["Key"], doing="write", UploadId=upload["UploadId"]
            )

    def write_beside(self, suffix: str, text: str) -> None:
        if text:
            self.call("put_object", self.prefix + suffix, doing="write", Body=text.encode())
        elif self.has_beside(suffix):
            self.call("delete_object", self.prefix + suffix, doing="write")

    def has_beside(self, suffix: str) -> bool:
        return self._head(self.prefix + suffix) is not None

    def lock(self) -> AbstractContextManager[None]:
        from fame.clipstore.lease import hold

        return hold(self)

    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        with ThreadPoolExecutor(_ROUND_TRIPS) as pool:
            yield from pool.map(function, items)

    def call(self, method: str, name: str, *, doing: str, **arguments: Any) -> dict[str, Any]:
        """Send a request about one object. Return its answer; raise an error of one line."""
        with self._one_line_errors(doing):
            return _client().call_s3(method, Bucket=self._bucket, Key=name, **arguments)

    def get(self, key: str, *, start: int, end: int) -> bytes:
        """Return the bytes of an object from ``start`` up to ``end``, which is above it."""
        try:
            with self._one_line_errors("read"):
                return _client().cat_file(f"{self._bucket}/{self._name(key)}", start=start, end=end)
        except UnreachableError as error:
            if _code(error) == "InvalidRange":  # it was replaced by a shorter one
                return b""
            raise

    def tag(self, name: str) -> tuple[str, str] | None:
        """Return the ETag of an object and who wrote it, or ``None`` if there is no such
        object.
        """
        found = self._head(name)
        return (found["ETag"], found["Metadata"].get("owner", "unknown")) if found else None

    def put_if(self, name: str, data: bytes, *, owner: str, tag: str | None) -> str | None:
        """Write an object only if there is none (``tag`` is ``None``) or its ETag is ``tag``.
        Return the new ETag, or ``None`` if the object is another.
        """
        condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
        about = {"owner": owner, "write": uuid.uuid4().hex}
        try:
            answer = self.call(
                "put_object", name, doing="write", Body=data, Metadata=about, **condition
            )
        except StoreError as error:
            if _code(error) not in _REFUSED:
                raise
            # Where the answer to a first try was lost, it is our own object that is in the way.
            found = self._head(name)
            ours = found and found["Metadata"].get("write") == about["write"]
            return str(found["ETag"]) if found and ours else None
        return answer["ETag"]

    def _name(self, key: str) -> str:
        return f"{self.prefix}/{key}"

    def _head(self, name: str) -> dict[str, Any] | None:
        try:
            return self.call("head_object", name, doing="read")
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def _pages(
        self, method: str, entries: str, markers: dict[str, str]
    ) -> Iterator[dict[str, Any]]:
        """Yield the entries of a list below the prefix; ``markers`` names what an answer gives for
        the next request.
        """
        more: dict[str, Any] = {}
        while True:
            with self._one_line_errors("list"):
                page = _client().call_s3(
                    method, Bucket=self._bucket, Prefix=f"{self.prefix}/", **more
                )
            yield from page.get(entries, [])
            if not page.get("IsTruncated"):
                return
            more = {asked: page[given] for asked, given in markers.items()}

    @contextmanager
    def _one_line_errors(self, doing: str) -> Generator[None]:
        """Turn what s3fs raises into one line; a read fails as the store only where there is no
        such object.
        """
        try:
            yield
        except (OSError, BotoCoreError, ClientError) as error:
            message = (
                f"{self}: cannot {doing} ({' '.join(str(error).split()) or type(error).__name__})"
            )
            if doing == "write":
                raise StoreError(
                    f"{message}. What is done is kept: run the same command again to go on"
                ) from error
            raise (StoreError if isinstance(error, FileNotFoundError) else UnreachableError)(
                message
            ) from error


class OpenObject(Source):
    """An object for reading: a request for each range, nothing held."""

    def __init__(self, bucket: Bucket, key: str, size: int) -> None:
        self._bucket, self._key, self.size = bucket, key, size

    def read_into(self, view: memoryview, offset: int) -> int:
        data = self._bucket.get(self._key, start=offset, end=offset + len(view)) if view else b""
        view[: len(data)] = data
        return len(data)


class ObjectDraft(Draft):
    """An object uploaded in parts as it grows, or in one request if it is small; it appears when it
    is committed.
    """

    def __init__(self, bucket: Bucket, name: str) -> None:
        super().__init__()
        self._bucket, self._name = bucket, name
        self._rest = bytearray()
        self._upload: str | None = None
        self._parts: list[dict[str, Any]] = []

    def _append(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= PART_BYTES:
            self._send_part(PART_BYTES)

    def commit(self) -> None:
        if self._upload is None:
            self._call("put_object", Body=bytes(self._rest))
            return
        if self._rest:
            self._send_part(len(self._rest))
        parts = {"Parts": self._parts}
        self._call("complete_multipart_upload", UploadId=self._upload, MultipartUpload=parts)
        self._upload = None

    def discard(self) -> None:
        if self._upload is not None:
            with suppress(StoreError):  # `sweep` does it, then
                self._call("abort_multipart_upload", UploadId=self._upload)
            self._upload = None

    def _send_part(self, size: int) -> None:
        if self._upload is None:
            self._upload = str(self._call("create_multipart_upload")["UploadId"])
        number, part = len(self._parts) + 1, bytes(self._rest[:size])
        answer = self._call("upload_part", UploadId=self._upload, PartNumber=number, Body=part)
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        del self._rest[:size]

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        return self._bucket.call(method, self._name, doing="write", **arguments)


def _client() -> Any:
    """Return this process's client, which all its threads share; a forked worker makes its own."""
    return _client_of(os.getpid())


@cache
def _client_of(process: int) -> Any:
    return S3FileSystem(use_listings_cache=False, skip_instance_cache=True)


def _code(error: Exception) -> str:
    """Return the server's code of an error, empty if the error came from elsewhere."""
    answer = getattr(getattr(error.__cause__, "__cause__", None), "response", None)
    return str(cast("dict[str, Any]", answer)["Error"].get("Code")) if answer else ""
