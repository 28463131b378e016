"""Stores in an object store behind a network that fails: 503, resets, lost and truncated answers, an
expired lease. The store is the same in the end, and what is said on the way is one line.
"""
# ruff: noqa: F811 (fixtures are imported)
# pyright: basic, reportArgumentType=false

import itertools
import os
import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fame.clipstore import (
    ClipStore,
    StoreError,
    UnreachableError,
    is_finished,
    locate,
    lock,
    missing_shards,
    write_shard,
)
from fame.clipstore import lease as leasing
from fame.clipstore import objects as object_store
from tests.fame.clipstore import small
from tests.faulty_proxy import FAULTS, Fails, Fault, FaultyProxy, never
from tests.test_s3 import PAIR, address, contents, endpoint, local, lock_object, mend, sums  # noqa: F401

pytestmark = pytest.mark.filterwarnings(
    "ignore:datetime.datetime.utcnow:DeprecationWarning:botocore"
)


@pytest.fixture
def proxy(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """The way to the server, for all clients of the test."""
    state = random.getstate()  # the client draws its pauses from the generator that is guarded
    with FaultyProxy(endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        object_store._client_of.cache_clear()
        yield proxy
    object_store._client_of.cache_clear()
    random.setstate(state)


def make(address: str, count: int = 5) -> None:
    """What a run does with a store: hold it, begin it, make what is missing, seal it."""
    with lock(address):
        locate(address).sweep()
        if not is_finished(address):
            small.begin(address, small.SPEC, count)
            for shard in missing_shards(address):
                failed = [2] if count > 2 else []
                write_shard(
                    address, shard, small.shard_videos(small.SPEC, shard, count, failed=failed)
                )
            small.finalise(address)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_every_request_fails_once_and_nobody_notices(
    proxy: FaultyProxy,
    address: str,
    local: Path,
    fault: Fault,
):
    met: set[tuple[str, str]] = set()

    def at_first(number: int, method: str, path: str) -> bool:
        new = (method, path) not in met
        met.add((method, path))
        return new

    proxy.plan(fault, at_first)
    make(address)
    assert sums(ClipStore.open(address)) == sums(ClipStore.open(local))
    assert proxy.failed > 10
    proxy.plan(fault, never)
    assert contents(address) == small.contents(local)


@pytest.fixture
def impatient(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> FaultyProxy:
    """Each request is tried once: what fails is not made good by trying again."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("fame.clipstore.s3.TRIES", 1)
    object_store._client_of.cache_clear()
    for name, seconds in (("LEASE", 0.5), ("LOOK", 0.1)):
        monkeypatch.setattr(leasing, f"{name}_SECONDS", seconds)
    return proxy


def failing(first: int, lasting: bool) -> Fails:
    """Request number ``first`` fails, and those after it if it lasts."""
    return lambda number, *_: number == first or (lasting and number > first)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore:.*a run began to write this store")
def test_wherever_the_network_fails_the_same_call_goes_on(
    impatient: FaultyProxy, address: str, tmp_path: Path
):
    """The kinds of fault take turns, and so do those that come once and those that last. Each third
    request fails, or every one where the environment sets FAME_EVERY_FAULT.
    """
    expected = small.contents(small.make(tmp_path / "s.zarr", count=2, failed=[]))
    for turn in itertools.count():
        fails = 1 + turn * (1 if os.environ.get("FAME_EVERY_FAULT") else 3)
        store = address.replace("s.zarr", f"{fails}.zarr")
        fault, lasting = FAULTS[turn % len(FAULTS)], turn // len(FAULTS) % 2 == 0
        impatient.plan(fault, failing(fails, lasting))
        try:
            make(store, 2)
        except (StoreError, UnreachableError) as error:
            assert str(error).startswith(f"{store}") and str(error).isprintable(), error
        if not impatient.failed:
            break
        impatient.plan(fault, never)
        make(store, 2)
        assert is_finished(store) and contents(store) == expected, fails
    assert turn > 15


def mend_at_last(address: str) -> None:
    """Mend a store; begin again where the test server, asked by two writers at once, answers 500."""
    for _ in range(20):
        with suppress(StoreError, UnreachableError):
            mend(address)
            return
    mend(address)


@pytest.mark.filterwarnings("ignore:.*a run began to write this store")
def test_a_run_whose_lease_expired_and_the_next_leave_one_store(
    impatient: FaultyProxy,
    address: str,
    local: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """The first is cut off from its lock object only: it writes on while another takes over."""
    monkeypatch.setattr(leasing, "BEAT_SECONDS", 0.05)
    bucket, name = lock_object(address)
    with lock(address):
        small.begin(address, small.SPEC, 5)
        impatient.plan("503", lambda number, method, path: method == "PUT" and path.endswith(name))
        began, done = threading.Event(), threading.Event()

        def second() -> None:
            with lock(address):
                began.set()
                mend_at_last(address)
            done.set()

        before = impatient.requests
        while impatient.requests < before + 1 and not impatient.failed:  # a beat has failed
            pass
        monkeypatch.setattr(leasing, "BEAT_SECONDS", 3600.0)
        impatient.plan("503", never)
        other = threading.Thread(target=second)
        other.start()
        assert began.wait(240)
        mend_at_last(address)
        assert done.wait(240)
        other.join()
    assert contents(address) == small.contents(local)
    assert bucket.tag(name) is None
