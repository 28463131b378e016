"""Objects of a bucket at ``s3://``, through botocore, the core of AWS's own library.

Credentials, region and endpoint come from where AWS's own tools take them: environment variables,
the files in ``~/.aws``, single sign-on, instance roles.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.session import get_session
from urllib3.exceptions import HTTPError

from fame.clipstore.objects import ANSWER_SECONDS, CONNECT_SECONDS, TRIES, Found, Service, Upload


class Client(Service):
    """Requests to a bucket of S3 or of a server that speaks it."""

    errors = (BotoCoreError, ClientError, HTTPError, OSError)

    def __init__(self, bucket: str) -> None:
        settings = Config(connect_timeout=CONNECT_SECONDS, read_timeout=ANSWER_SECONDS)
        self._client: Any = get_session().create_client("s3", config=settings)
        self._bucket = bucket

    @staticmethod
    def explain(error: BaseException) -> tuple[int | None, str]:
        if not isinstance(error, ClientError):
            return None, str(error)
        answer: Any = error.response
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status, answer.get("Error", {}).get("Message") or str(error)

    def head(self, name: str) -> Found:
        answer = self._client.head_object(Bucket=self._bucket, Key=name)
        return Found(answer["ContentLength"], answer["ETag"], answer["Metadata"])

    def read_into(self, name: str, view: memoryview, offset: int) -> int:
        # botocore tries a request again until its answer begins; an answer may also be cut.
        for further in reversed(range(TRIES)):
            answer = self._client.get_object(
                Bucket=self._bucket, Key=name, Range=f"bytes={offset}-{offset + len(view) - 1}"
            )
            with closing(answer["Body"]) as body:
                try:
                    return _fill(view, body)
                except (HTTPClientError, IncompleteReadError, HTTPError):
                    if not further:
                        raise
        raise AssertionError

    def put(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=name, Body=data)

    def put_if(self, name: str, data: bytes, *, about: dict[str, str], tag: str | None) -> str:
        condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
        return self._client.put_object(
            Bucket=self._bucket, Key=name, Body=data, Metadata=about, **condition
        )["ETag"]

    def delete(self, name: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=name)

    def names(self, prefix: str) -> Iterator[str]:
        for entry in self._listed("list_objects_v2", "Contents", prefix):
            yield entry["Key"]

    def begin(self, name: str) -> "PartsOfS3":
        return PartsOfS3(self._client, Bucket=self._bucket, Key=name)

    def sweep(self, prefix: str) -> None:
        for entry in list(self._listed("list_multipart_uploads", "Uploads", prefix)):
            upload = {"Key": entry["Key"], "UploadId": entry["UploadId"]}
            self._client.abort_multipart_upload(Bucket=self._bucket, **upload)

    def _listed(self, method: str, entries: str, prefix: str) -> Iterator[dict[str, Any]]:
        pages = self._client.get_paginator(method).paginate(Bucket=self._bucket, Prefix=prefix)
        for page in pages:
            yield from page.get(entries, [])


class PartsOfS3(Upload):
    """A multipart upload, which S3 keeps until it is completed or aborted."""

    def __init__(self, client: Any, **place: str) -> None:
        self._client = client
        upload = client.create_multipart_upload(**place)["UploadId"]
        self._place = place | {"UploadId": str(upload)}
        self._parts: list[dict[str, Any]] = []

    def send(self, part: bytes) -> None:
        number = len(self._parts) + 1
        answer = self._client.upload_part(**self._place, PartNumber=number, Body=part)
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})

    def complete(self) -> None:
        self._client.complete_multipart_upload(
            **self._place, MultipartUpload={"Parts": self._parts}
        )

    def abort(self) -> None:
        self._client.abort_multipart_upload(**self._place)


def _fill(view: memoryview, body: Any) -> int:
    """Read into ``view`` until it is full or the answer ends. Return the number of bytes."""
    filled = 0
    while filled < len(view) and (count := body.readinto(view[filled:])):
        filled += count
    return filled
