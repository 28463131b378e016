"""Small tensors to a device in one copy that nobody waits for."""

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
_WORD = 8  # bytes: every tensor begins where any data type may begin


def send(value: T, device: torch.device) -> T:
    """Return tuples of CPU tensors, however nested, with their tensors on ``device``.

    All of them travel as one pinned buffer of bytes: a copy from pageable memory would block the
    host until the device has done all its work, once for each tensor.
    """
    if device.type == "cpu":
        return value
    tensors = list(_leaves(value))
    parts = [_padded(tensor.contiguous().flatten().view(torch.uint8)) for tensor in tensors]
    packed = torch.cat(parts)
    if device.type == "cuda":
        packed = packed.pin_memory()
    there = iter(packed.to(device, non_blocking=True).split([len(part) for part in parts]))
    return _rebuilt(value, iter([_like(tensor, next(there)) for tensor in tensors]))


def _padded(byte_N: Tensor) -> Tensor:
    """Append zeros up to whole words: 13 bytes become 16."""
    return torch.nn.functional.pad(byte_N, (0, -len(byte_N) % _WORD))


def _like(tensor: Tensor, byte_N: Tensor) -> Tensor:
    count = tensor.numel() * tensor.element_size()
    return byte_N[:count].view(tensor.dtype).view(tensor.shape)


def _leaves(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for part in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _leaves(part)  # pyright: ignore[reportUnknownArgumentType]


def _rebuilt(value: T, tensors: Iterator[Tensor]) -> T:
    """Return ``value`` with its tensors replaced in order; all else stays as it is."""
    if isinstance(value, Tensor):
        return next(tensors)  # pyright: ignore[reportReturnType]
    if not isinstance(value, tuple):
        return value
    parts = [_rebuilt(part, tensors) for part in value]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    # A named tuple takes its fields one by one, a plain tuple takes one sequence.
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
