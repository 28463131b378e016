"""The Ray executor: shards in parallel, on this machine or a cluster that shares the store's and
the videos' paths.

One task is one shard; its result is a small record, and frames stay in the worker that decoded
them.
"""

import logging
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from fame.sessions import secured
from preprocess.isolation import Decoder
from preprocess.task import ShardResult, ShardTask, Work, make_shard

RETRIES = 3  # of a shard whose worker or node died
_OBJECT_STORE_BYTES = 80 << 20  # nothing large travels: Ray's minimum, and a little
Reference = ray.ObjectRef[ShardResult]

_decoders: dict[Work, Decoder] = {}  # this worker's, kept from shard to shard


def execute(
    work: Work,
    tasks: Iterable[ShardTask],
    *,
    workers: int,
    address: str = "local",
    memory_per_worker: int = 0,
) -> Iterator[ShardResult]:
    """Make every shard, at most ``workers`` at a time, yielding results in the order they finish.

    Args:
        work: what all shards share.
        tasks: drawn one by one as workers come free, so a plan of any size takes no memory here.
        workers: shards in flight, each on one CPU.
        address: ``local`` for this machine, ``auto`` or a cluster's address; a session that runs
            already is used.
        memory_per_worker: bytes that Ray sets aside for each task; 0 asks for none.
    """
    with _session(workers, address) as ours:
        remote = ray.remote(num_cpus=1, memory=memory_per_worker, max_retries=RETRIES)(_make_shard)
        running: dict[Reference, ShardTask] = {}
        try:
            for task in tasks:
                if len(running) == workers:
                    yield _first_done(running)
                running[remote.remote(work, task)] = task
            while running:
                yield _first_done(running)
        finally:
            # A session of our own ends with its workers. Forced cancelling is not used: where a
            # task ends at that very moment, Ray 2.60 takes it for a fault of its own and kills the
            # driver.
            for reference in () if ours else running:
                ray.cancel(reference)


def _first_done(running: dict[Reference, ShardTask]) -> ShardResult:
    (reference,), _ = ray.wait(list(running), num_returns=1)
    task = running.pop(reference)
    try:
        return ray.get(reference)
    except RayTaskError as error:  # raised by make_shard itself: the whole run must stop
        raise error.cause from error
    except RayError as error:  # its worker or node died once too often
        reason = str(error).strip().splitlines()[0]
        message = f"its worker died {RETRIES + 1} times: {reason}"
        return ShardResult(shard=task.shard, videos=len(task.names), error=message)


def _make_shard(work: Work, task: ShardTask) -> ShardResult:
    if work not in _decoders:
        for decoder in _decoders.values():
            decoder.close()
        _decoders.clear()
        _decoders[work] = work.open_decoder()
    return make_shard(work, task, _decoders[work])


@contextmanager
def _session(workers: int, address: str) -> Generator[bool]:
    """Connect to Ray, if need be. Yield whether the session was begun here, where it then ends."""
    if ray.is_initialized():
        yield False
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    ours: dict[str, Any] = {
        "num_cpus": workers,
        "num_gpus": 0,
        "object_store_memory": _OBJECT_STORE_BYTES,
        "include_dashboard": False,
    }
    local = address == "local"
    with secured(local=local):
        ray.init(
            address=address,
            logging_level=logging.ERROR,
            log_to_driver=False,
            **(ours if local else {}),
        )
    if threading.current_thread() is threading.main_thread():
        signal.signal(
            signal.SIGTERM, on_sigterm
        )  # Ray put its own in place, which ends the process there and then
    try:
        yield True
    finally:
        ray.shutdown()
