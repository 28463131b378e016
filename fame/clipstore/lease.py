"""One run at a time on one store in an object store: a lease.

No server drops a lock when its holder dies, so the holder has to show that it lives: it rewrites
the lock object every few seconds. A run that finds the object watches it. If it changes, its holder
lives and the store is taken; if it does not change for ``LEASE_SECONDS``, its holder is dead and
the lease is taken over. No clocks are compared. Every write is conditional on what was read before
(the tag of the object, or that there is none): of two that try at once one wins.

A holder that was asleep may find its lease gone. What it wrote does no harm: shards are the same
bytes whoever writes them.
"""

import os
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress

from fame.clipstore.objects import Bucket
from fame.clipstore.schema import StoreError, UnreachableError

LEASE_SECONDS = 60.0
BEAT_SECONDS = 15.0
LOOK_SECONDS = 1.0


@contextmanager
def hold(bucket: Bucket) -> Generator[None]:
    """Hold the store in ``bucket`` against other runs. Raise :class:`StoreError` if taken.

    If a server ignores conditions, warn and go on, as on a file system without locks.
    """
    lease = _Lease(bucket)
    lease.acquire()
    done = threading.Event()
    beat = threading.Thread(target=lease.beat, args=(done,), name="lease", daemon=True)
    beat.start()
    try:
        yield
    finally:
        done.set()
        beat.join()
        lease.release()


class _Lease:
    """The lock object, beside the store, and the tag under which this process wrote it."""

    def __init__(self, bucket: Bucket) -> None:
        folder, slash, name = bucket.prefix.rpartition("/")
        self._bucket, self._name = bucket, f"{folder}{slash}.{name}.lock"
        self._owner = f"{socket.gethostname()} process {os.getpid()}"
        self._tag: str | None = None  # of the object as we wrote it; None where we do not hold it

    def acquire(self) -> None:
        self._tag = self._put(None)
        if self._tag:
            if self._put(None):
                message = (
                    f"{self._bucket}: its server has no conditional writes; "
                    "run one command at a time"
                )
                warnings.warn(message, stacklevel=5)
            return
        self._tag = self._put(self._abandoned())
        if not self._tag:
            raise StoreError(
                f"{self._bucket}: another run took this store at the same moment; wait "
                "for it to end"
            )

    def beat(self, done: threading.Event) -> None:
        while self._tag and not done.wait(BEAT_SECONDS):
            with suppress(StoreError):  # the server may be back at the next beat
                self._tag = self._put(self._tag)

    def release(self) -> None:
        with suppress(StoreError, UnreachableError):  # the lease runs out by itself
            found = self._bucket.tag(self._name)
            if found and found[0] == self._tag:
                self._bucket.delete(self._name)

    def _abandoned(self) -> str | None:
        """Watch the object until it is gone (``None``) or must be that of a dead run (its tag).
        Raise :class:`StoreError` if it changes.
        """
        found = self._bucket.tag(self._name)
        if found:
            warnings.warn(
                f"{self._bucket}: a run began to write this store ({found[1]}); "
                f"waiting up to {LEASE_SECONDS:.0f} s to find out whether it still does",
                stacklevel=6,
            )
        watched = time.monotonic()
        while found and time.monotonic() - watched < LEASE_SECONDS:
            time.sleep(LOOK_SECONDS)
            now = self._bucket.tag(self._name)
            if now and now != found:
                raise StoreError(
                    f"{self._bucket}: another run is writing this store ({now[1]}); "
                    "wait for it to end"
                )
            found = now
        return found and found[0]

    def _put(self, tag: str | None) -> str | None:
        """Replace the lock object only while its tag is ``tag``; random bytes give every write a
        new tag.
        """
        return self._bucket.put_if(self._name, uuid.uuid4().bytes, owner=self._owner, tag=tag)
