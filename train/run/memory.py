"""A step that does not fit the memory of its device: one line that names what needs less."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

_NO_ROOM = ("out of memory", "can't allocate memory", "not enough memory")


class DeviceFullError(ValueError):
    """A step needs more memory than the device has; the message names what needs less."""


@contextmanager
def memory_errors(device: torch.device, *, ways: Callable[[], list[str]]) -> Generator[None]:
    """Raise :class:`DeviceFullError` in place of torch's errors of memory; ``ways`` gives the
    options that need less of it.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator has no own
        text = str(error).lower()
        if not isinstance(error, torch.OutOfMemoryError) and not any(w in text for w in _NO_ROOM):
            raise
        raise DeviceFullError(
            f"{device} is out of memory: a step does not fit; try {' or '.join(ways())}"
        ) from error
