"""Clips that reach the training process as the store's JPEGs and are decoded on its device
(``decode=device``).

A worker only reads and checks them, so that what it hands over, what is pinned and what is copied
is about a ninth of the pixels. On a GPU nvJPEG decodes all pictures of a batch at once, with
pixels that differ a little from those of the workers' decoder; on a CPU that same decoder does,
which is for tests: it is refused to runs.

Shapes: B pairs of a part, V clips of each, T frames, F pictures (a frame that a looped clip shows
twice is one), N bytes, H W height and width.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import import_module
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from fame.clipstore import ClipStore, CorruptChunk
from fame.clipstore.jpeg import decode_own_size
from fame.transfer import send

Clip = tuple[list[bytes], Int64[np.ndarray, " t"]]  # its pictures, and which of them a frame is
Decode = Callable[[list[Tensor]], Sequence[Tensor]]  # bytes of pictures to [3, H, W] each


class Jpegs(NamedTuple):
    """The pictures of a part of a batch one after the other, their sizes in bytes, and which of
    them each frame is.
    """

    byte_N: Tensor
    size_F: Tensor
    shown_BVT: Tensor


def packed(clips: Sequence[Clip], *, rows: int) -> Jpegs:
    """Return the clips of ``rows`` pairs, in order, as one part."""
    pictures = [picture for some, _ in clips for picture in some]
    # Clips of 3 and 2 pictures that show 0 1 2 and 0 1 0 are pictures 0 1 2 and 3 4 3 of the part.
    before = accumulate((len(some) for some, _ in clips), initial=0)
    shown = [shown_T + first for (_, shown_T), first in zip(clips, before, strict=False)]
    return Jpegs(
        torch.frombuffer(bytearray().join(pictures), dtype=torch.uint8),
        torch.tensor([len(picture) for picture in pictures]),
        torch.from_numpy(np.stack(shown)).unflatten(0, (rows, -1)),
    )


def decoded(parts: Sequence[Jpegs], device: torch.device) -> Tensor:
    """Return the clips of all parts, uint8 [B, V, T, H, W, 3], decoded on ``device``.

    Raise :class:`CorruptChunk` for a picture that cannot be decoded, although its checksum holds.
    """
    pictures = [one for part in parts for one in part.byte_N.split(part.size_F.tolist())]
    before = accumulate((len(part.size_F) for part in parts), initial=0)
    shown = [part.shown_BVT + first for part, first in zip(parts, before, strict=False)]
    shown_BVT = torch.cat(shown)
    if device.type == "cuda":
        # nvJPEG's hardware path writes when it is called, whatever the stream still has to do
        # (torchcodec, pull request 1634): the memory that it gets must be free by then. What this
        # stream allocates is used by nothing else, and it has only copies to end.
        torch.cuda.current_stream(device).synchronize()
    try:
        picture_F3HW = torch.stack(list(decoder(device)(pictures)))
    except (RuntimeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise CorruptChunk(
            f"a JPEG cannot be decoded on {device}, although its checksum holds ({error}); "
            "--decode workers names the video"
        ) from error
    frames = picture_F3HW[send(shown_BVT.flatten(), device)]
    return frames.view(*shown_BVT.shape, *frames.shape[1:]).movedim(3, -1)


@cache
def decoder(device: torch.device) -> Decode:
    """Return what decodes pictures on ``device``. Raise ``ValueError`` without the library for a
    GPU.
    """
    if device.type == "cpu":
        return lambda pictures: [_planes(picture) for picture in pictures]
    try:
        decode = import_module("torchcodec.decoders").decode_jpeg
    # One that was built for another torch or CUDA fails with whatever its loader raises.
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            "decode=device needs torchcodec 0.17 or later, built for this torch and CUDA "
            f"(pip install torchcodec); it cannot be loaded: {why}; or leave --decode workers"
        ) from error
    return partial(decode, mode="RGB", device=device)


def check_decoder(device: torch.device, stores: Sequence[ClipStore]) -> None:
    """Raise ``ValueError`` where clips of ``stores`` cannot be decoded on ``device``."""
    if device.type != "cuda":
        raise ValueError(f"decode=device needs a GPU, but this run is on {device}; leave it out")
    for store in stores:
        if store.spec.codec != "jpeg":
            raise ValueError(
                f"{store.path}: decode=device needs frames as jpeg, but they are "
                f"{store.spec.codec}; leave it out"
            )
    decoder(device)


def _planes(picture_N: Tensor) -> Tensor:
    return torch.from_numpy(decode_own_size(picture_N.numpy())).permute(2, 0, 1)
