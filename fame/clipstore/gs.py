"""Objects of a bucket at ``gs://``, through Google's own library.

Credentials come from where Google's own tools take them (application default credentials): a file
named by ``GOOGLE_APPLICATION_CREDENTIALS``, ``gcloud auth application-default login``, or the
machine's service account.
"""
# The package is an extra, so these imports need not resolve.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from google.api_core.exceptions import GoogleAPIError, NotFound
from google.auth.exceptions import GoogleAuthError
from google.cloud.storage import Client as StorageClient
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.fileio import BlobWriter
from google.cloud.storage.retry import DEFAULT_RETRY

from fame.clipstore import objects
from fame.clipstore.objects import ANSWER_SECONDS, CONNECT_SECONDS, Found, Service, Upload

_BYTES = "application/octet-stream"


class Client(Service):
    """Requests to a bucket of Google Cloud Storage."""

    errors = (GoogleAPIError, GoogleAuthError, DataCorruption, InvalidResponse, OSError)

    def __init__(self, bucket: str) -> None:
        self._client: Any = StorageClient(project=None)  # objects belong to a bucket, not to it
        self._bucket = self._client.bucket(bucket)

    @staticmethod
    def explain(error: BaseException) -> tuple[int | None, str]:
        answer = getattr(error, "response", None)
        code = getattr(error, "code", None) or getattr(answer, "status_code", None)
        try:
            text = answer.json()["error"]["errors"][0]["message"]  # type: ignore[union-attr]
        except (AttributeError, LookupError, TypeError, ValueError):  # no answer, or none of JSON
            text = getattr(error, "message", error)
        return code and int(code), str(text)

    def head(self, name: str) -> Found:
        blob = self._bucket.blob(name)
        blob.reload(**_patience())
        return Found(blob.size, str(blob.generation), blob.metadata or {})

    def read_into(self, name: str, view: memoryview, offset: int) -> int:
        # The last byte is given, not the one behind it. There is no checksum of a range.
        data = self._bucket.blob(name).download_as_bytes(
            start=offset,
            end=offset + len(view) - 1,
            raw_download=True,
            checksum=None,
            **_patience(),
        )
        view[: len(data)] = data
        return len(data)

    def put(self, name: str, data: bytes) -> None:
        self._bucket.blob(name).upload_from_string(data, content_type=_BYTES, **_patience())

    def put_if(self, name: str, data: bytes, *, about: dict[str, str], tag: str | None) -> str:
        blob = self._bucket.blob(name)
        blob.metadata = about
        # Generation 0 is that of an object that is not there.
        blob.upload_from_string(
            data, content_type=_BYTES, if_generation_match=int(tag or 0), **_patience()
        )
        return str(blob.generation)

    def delete(self, name: str) -> None:
        with suppress(NotFound):
            self._bucket.delete_blob(name, **_patience())

    def names(self, prefix: str) -> Iterator[str]:
        for blob in self._client.list_blobs(self._bucket, prefix=prefix, **_patience()):
            yield blob.name

    def begin(self, name: str) -> "PartsOfGoogle":
        return PartsOfGoogle(self._bucket.blob(name))


class PartsOfGoogle(Upload):
    """A resumable upload, which the service forgets after a week unless it is completed."""

    def __init__(self, blob: Any) -> None:
        size = objects.PART_BYTES
        self._writer = _Writer(blob, chunk_size=size, content_type=_BYTES, **_patience())

    def send(self, part: bytes) -> None:
        self._writer.write(part)

    def complete(self) -> None:
        self._writer.close()

    def abort(self) -> None:
        self._writer.terminate()


class _Writer(BlobWriter):
    """A writer that nobody closed leaves nothing."""

    def __del__(self) -> None:
        """Do not close: that would make an object of the parts that were sent."""


def _patience() -> dict[str, Any]:
    """Return how long a request is waited for, and for how long it is tried again."""
    seconds = (CONNECT_SECONDS, ANSWER_SECONDS)
    return {"timeout": seconds, "retry": DEFAULT_RETRY.with_timeout(2 * ANSWER_SECONDS)}
