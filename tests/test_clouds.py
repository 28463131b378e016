"""Stores at ``gs://`` and ``az://``: what holds at ``s3://`` holds there.

The tests need the extras ``gs`` and ``az`` and the servers that Google and Microsoft make for
testing clients, as the commands ``storage-testbench`` (github.com/googleapis/storage-testbench, in an environment
of its own) and ``azurite-blob`` (npm's package azurite). A service that lacks one of them is left out.
"""
# ruff: noqa: F401 (tests and fixtures are imported)
# pyright: basic, reportArgumentType=false

import base64
import gc
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.forkserver import _forkserver

import pytest

from fame.clipstore import StoreError, UnreachableError, locate
from fame.clipstore import objects as object_store
from tests.faulty_proxy import FaultyProxy
from tests.test_s3 import (
    BUCKET,
    lively,
    local,
    quick,
    test_a_lease_that_was_lost_is_not_released,
    test_a_loader_with_workers_gives_what_a_local_store_gives,
    test_a_shard_cut_after_it_was_opened_is_found,
    test_a_store_is_the_same_bytes_in_a_bucket_as_in_a_folder,
    test_flipped_bits_are_found_and_mended,
    test_folders_and_buckets_keep_the_same_promises,
    test_forked_workers_read_while_the_parent_reads,
    test_resuming_makes_what_is_missing,
    test_the_lease_of_a_dead_run_is_taken_over_by_one,
    test_two_runs_exclude_each_other,
    test_what_is_not_this_store_is_left_alone,
    test_workers_that_share_a_cache_give_what_a_folder_gives_and_go_on_exactly,
)
from tests.test_s3_faults import test_every_request_fails_once_and_nobody_notices

pytestmark = [  # the libraries leave their sockets to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*unclosed:pytest.PytestUnraisableExceptionWarning"),
]
KEY = base64.b64encode(b"secret").decode()
SERVERS = {
    "gs": ("storage-testbench", "--port"),
    "az": (
        "azurite-blob",
        "--inMemoryPersistence",
        "--disableTelemetry",
        "--skipApiVersionCheck",  # its releases lag behind those of the library
        "--silent",
        "--blobPort",
    ),
}


def settings(kind: str, endpoint: str) -> dict[str, str]:
    """The environment that leads to a server."""
    if kind == "gs":
        return {"STORAGE_EMULATOR_HOST": endpoint}
    given = {"DefaultEndpointsProtocol": "http", "AccountName": "fame", "AccountKey": KEY}
    given["BlobEndpoint"] = f"{endpoint}/fame"
    words = ";".join(f"{name}={value}" for name, value in given.items())
    return {"AZURE_STORAGE_CONNECTION_STRING": words}


@pytest.fixture(scope="module", params=SERVERS)
def kind(request: pytest.FixtureRequest) -> str:
    """A service whose package and test server are installed."""
    for package in (
        ("google.cloud.storage",)
        if request.param == "gs"
        else ("azure.storage.blob", "azure.identity")
    ):
        pytest.importorskip(package)
    if not shutil.which(SERVERS[request.param][0]):
        pytest.skip(f"{SERVERS[request.param][0]} is not installed")
    return request.param


@pytest.fixture(scope="module")
def endpoint(kind: str) -> Iterator[str]:
    """A server with one bucket, which the environment leads to."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [*SERVERS[kind], str(port)],
        env=os.environ | {"AZURITE_ACCOUNTS": f"fame:{KEY}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings(kind, f"http://127.0.0.1:{port}").items():
                patch.setenv(name, value)
            while server.poll() is None:  # until it listens
                with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.1)
            _forkserver._stop()  # workers are forked from it, with the environment it began with
            object_store._client_of.cache_clear()
            client = object_store._client_of(kind, BUCKET, os.getpid())
            if kind == "gs":
                client._client.create_bucket(BUCKET)
            else:
                client._container.create_container()
            yield f"http://127.0.0.1:{port}"
    finally:
        object_store._client_of.cache_clear()
        _forkserver._stop()
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture
def address(
    kind: str, endpoint: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Where a test may put its store; it is written in small parts."""
    monkeypatch.setattr(object_store, "PART_BYTES", 2**20)
    state = random.getstate()  # clients draw their pauses from the generator that is guarded
    name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    yield f"{kind}://{BUCKET}/{name}/s.zarr"
    random.setstate(state)


@pytest.fixture
def proxy(kind: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """The way to the server, for all clients of the test."""
    with FaultyProxy(endpoint) as proxy:
        for name, value in settings(kind, proxy.address).items():
            monkeypatch.setenv(name, value)
        object_store._client_of.cache_clear()
        yield proxy
    object_store._client_of.cache_clear()


def test_a_draft_that_is_dropped_leaves_nothing(address: str):
    storage = locate(address)
    draft = storage.draft("large")
    draft.write(bytes(5 * 2**20 // 2))
    del draft
    gc.collect()
    assert storage.size("large") is None and list(storage.list_keys()) == []


def test_folders_of_an_account_that_has_them_are_no_objects(kind: str, address: str):
    if kind != "az":
        pytest.skip("only Azure lists folders as objects")
    bucket = object_store.Bucket(address)
    bucket.write("frames/a", b"a")
    with bucket.requests("write") as service:
        about = {"hdi_isfolder": "true"}  # as it marks them
        service.put_if(f"{bucket.prefix}/frames", b"", about=about, tag=None)
    assert list(bucket.list_keys()) == ["frames/a"]


def test_what_is_wrong_is_one_line(kind: str, address: str, monkeypatch: pytest.MonkeyPatch):
    def says(error: type[Exception], words: str) -> None:
        object_store._client_of.cache_clear()
        with pytest.raises(error, match=words) as raised:
            locate(f"{kind}://nobodys/s").list_keys().__next__()
        assert str(raised.value).isprintable() and str(raised.value).startswith(f"{kind}://nobodys")

    says(StoreError, "cannot list .*does not exist")
    if kind == "az":
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountKey")
        says(UnreachableError, "Connection string is either blank or malformed")
        monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
        says(UnreachableError, "set AZURE_STORAGE_ACCOUNT or AZURE_STORAGE_CONNECTION_STRING")
    else:
        monkeypatch.delenv("STORAGE_EMULATOR_HOST")
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        monkeypatch.setenv("CLOUDSDK_CONFIG", "/nowhere")
        says(UnreachableError, "default credentials were not found")
    object_store._client_of.cache_clear()
