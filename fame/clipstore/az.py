"""Objects of a container at ``az://``, through Azure's own library.

The account and its credentials come from where ``az storage`` takes them: a connection string, or
the name of an account with a key, a shared access signature or, without either, whoever is logged
in (environment variables, workload or managed identity, ``az login``).
"""
# The packages are an extra, so these imports need not resolve.
# pyright: reportMissingImports=false

import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from azure.core import MatchConditions
from azure.core.credentials import AzureSasCredential
from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential
from azure.storage.blob import BlobBlock, ContainerClient, ExponentialRetry

from fame.clipstore.objects import ANSWER_SECONDS, CONNECT_SECONDS, TRIES, Found, Service, Upload

_ONE_REQUEST = 2**40  # a range is never split into requests of a few megabytes


class Client(Service):
    """Requests to a container of Azure Blob Storage."""

    errors = (AzureError, OSError, ValueError)  # the last for what the environment holds

    def __init__(self, bucket: str) -> None:
        self._container = _container(bucket)

    @staticmethod
    def explain(error: BaseException) -> tuple[int | None, str]:
        # Below the first line are a number of the request and the time.
        text = str(getattr(error, "message", error)).strip().partition("\n")[0]
        return getattr(error, "status_code", None), text

    def head(self, name: str) -> Found:
        answer = self._container.get_blob_client(name).get_blob_properties()
        return Found(answer.size, answer.etag, answer.metadata)

    def read_into(self, name: str, view: memoryview, offset: int) -> int:
        data = self._container.download_blob(name, offset=offset, length=len(view)).readall()
        view[: len(data)] = data
        return len(data)

    def put(self, name: str, data: bytes) -> None:
        self._container.upload_blob(name, data, overwrite=True)

    def put_if(self, name: str, data: bytes, *, about: dict[str, str], tag: str | None) -> str:
        same = {"etag": tag, "match_condition": MatchConditions.IfNotModified} if tag else {}
        blob = self._container.get_blob_client(name)
        return blob.upload_blob(data, metadata=about, overwrite=bool(tag), **same)["etag"]

    def delete(self, name: str) -> None:
        with suppress(ResourceNotFoundError):
            self._container.delete_blob(name)

    def names(self, prefix: str) -> Iterator[str]:
        for blob in self._container.list_blobs(name_starts_with=prefix, include=["metadata"]):
            # Where an account has folders, they are listed as well.
            if (blob.metadata or {}).get("hdi_isfolder") != "true":
                yield blob.name

    def begin(self, name: str) -> "PartsOfAzure":
        return PartsOfAzure(self._container.get_blob_client(name))


class PartsOfAzure(Upload):
    """Blocks of a blob, which the service forgets after a week unless they are committed."""

    def __init__(self, blob: Any) -> None:
        # All who write a blob share its blocks, so their names are this upload's own.
        self._blob, self._name, self._blocks = blob, uuid.uuid4().hex, list[str]()

    def send(self, part: bytes) -> None:
        block = f"{self._name}{len(self._blocks):05}"
        self._blob.stage_block(block, part)
        self._blocks.append(block)

    def complete(self) -> None:
        self._blob.commit_block_list([BlobBlock(block_id=block) for block in self._blocks])

    def abort(self) -> None:
        """Do nothing: no request drops blocks, and they cost nothing after a week."""


def _container(name: str) -> Any:
    words = ("CONNECTION_STRING", "ACCOUNT", "KEY", "SAS_TOKEN", "SERVICE_ENDPOINT")
    given = {word: os.environ.get(f"AZURE_STORAGE_{word}", "") for word in words}
    patience = {"initial_backoff": 0, "increment_base": 2, "random_jitter_range": 1}
    settings: dict[str, Any] = {
        "connection_timeout": CONNECT_SECONDS,
        "read_timeout": ANSWER_SECONDS,
        "retry_policy": ExponentialRetry(retry_total=TRIES - 1, **patience),
        "max_single_get_size": _ONE_REQUEST,
    }
    if text := given["CONNECTION_STRING"]:
        return ContainerClient.from_connection_string(text, name, **settings)
    address = given["SERVICE_ENDPOINT"] or f"https://{given['ACCOUNT']}.blob.core.windows.net"
    if not (given["SERVICE_ENDPOINT"] or given["ACCOUNT"]):
        raise ValueError("set AZURE_STORAGE_ACCOUNT or AZURE_STORAGE_CONNECTION_STRING")
    sas = given["SAS_TOKEN"] and AzureSasCredential(given["SAS_TOKEN"])
    return ContainerClient(
        address, name, credential=given["KEY"] or sas or DefaultAzureCredential(), **settings
    )
