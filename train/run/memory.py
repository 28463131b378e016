"""What does not fit the memory of its device: one line that names what needs less."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

# In the messages of torch's errors: that of a GPU, those of the CPU, and that of a size of more
# than 64 bits. Only the GPU's has a class of its own; all are RuntimeErrors.
_NO_ROOM = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "storage size calculation overflowed",
)


class DeviceFullError(ValueError):
    """More memory is needed than the device has; the message names what needs less."""


def no_room(error: BaseException) -> bool:
    """Return whether an error of torch says that memory is missing."""
    return isinstance(error, RuntimeError) and any(w in str(error).lower() for w in _NO_ROOM)


@contextmanager
def memory_errors(device: torch.device, *, ways: Callable[[], list[str]]) -> Generator[None]:
    """Raise :class:`DeviceFullError` in place of torch's errors of memory; ``ways`` gives the
    options that need less of it.
    """
    try:
        yield
    except RuntimeError as error:
        if not no_room(error):
            raise
        raise DeviceFullError(f"{device} is out of memory; try {' or '.join(ways())}") from error


def smaller_batch(batch: int) -> list[str]:
    """Return what needs less memory where clips only go through a network."""
    fewer = [f"--batch {batch // 2} (now {batch})"] if batch > 1 else []
    return fewer or ["fewer --frames or a smaller --crop"]
