"""The communication of training processes, by torch.distributed: started by torchrun or Ray, absent
otherwise.

Gradients are averaged after the backward: I3D has 51 MB of them, a few milliseconds on any
interconnect meant for training. Nothing hooks into autograd, so accumulation, compilation and
checkpointing need no exceptions, and nothing is lost by it: the backward of a compiled encoder is
one program, which gives all gradients at its end.

Shapes: B rows of this process, G rows of all processes.
"""

import math
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fame.moco import Collectives, SingleProcess
from fame.transfer import send

# Parts of the messages of gloo when a process is gone; it raises plain RuntimeErrors.
_GONE = ("onnection closed", "onnection reset", "onnection refused", "roken pipe", "imed out")


_BUCKET_BYTES = 2**23


class Peers(Collectives, Protocol):
    """The processes that train together."""

    rank: int
    world: int

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over processes."""
        ...

    def any(self, flag: bool) -> bool:
        """Return whether any process raised its flag."""
        ...

    def barrier(self) -> None:
        """Wait until all processes are here."""
        ...


class Alone(SingleProcess):
    """One process: every exchange is with itself."""

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Leave the tensors as they are."""

    def any(self, flag: bool) -> bool:
        """Return the flag itself."""
        return flag

    def barrier(self) -> None:
        """Wait for nobody."""


class PeerError(ValueError):
    """Another process of this run died or cannot be reached."""


@contextmanager
def _peer_errors() -> Generator[None]:
    """Raise :class:`PeerError` in place of what a backend raises when a process is gone."""
    try:
        yield
    except RuntimeError as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if not isinstance(error, dist.DistError) and not any(word in why for word in _GONE):
            raise
        raise PeerError(
            "another process of this run died or cannot be reached: see what it said; the same "
            f"command goes on from the last checkpoint ({why})"
        ) from error


class Group:
    """The processes of the default process group."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.device = device

    def gather(self, row_B: Tensor) -> Tensor:
        """Return the rows of all processes in order of rank."""
        row_B = row_B.contiguous()
        rows = row_B.new_empty((self.world * len(row_B), *row_B.shape[1:]))
        with _peer_errors():
            dist.all_gather(list(rows.chunk(self.world)), row_B)
        return rows

    def exchange(self, row_B: Tensor, wanted_G: Tensor) -> Tensor:
        """Send each process the rows it wants and no others: rank d wants the d-th share of
        ``wanted_G``.
        """
        # Two processes with 3 rows each, and wanted_G = [4 0 1 | 3 5 2]: process 0 wants 4, 0, 1.
        # It owns rows 0-2, so it sends 0 and 1 to itself and 2 to process 1, whose row 1 (number 4)
        # it gets. What arrives is in order of sender, 0 1 4, and is put in the order
        # of the wish, 4 0 1.
        size = len(row_B)
        owner_G = wanted_G // size
        if torch.equal(owner_G, torch.arange(len(wanted_G)) // size):  # nobody wants another's
            mine = wanted_G.view(self.world, size)[self.rank] % size
            return row_B[send(mine, row_B.device)]
        # Row d holds the numbers that rank d wants; modulo `size` they are rows of their owner.
        wanted_by = wanted_G.view(self.world, size)
        outgoing = [wanted[wanted // size == self.rank] % size for wanted in wanted_by]
        mine = owner_G.view(self.world, size)[self.rank]
        sent = row_B[send(torch.cat(outgoing), row_B.device)].contiguous()
        received = torch.empty_like(row_B, memory_format=torch.contiguous_format)
        incoming = torch.bincount(mine, minlength=self.world).tolist()
        with _peer_errors():
            dist.all_to_all_single(received, sent, incoming, [len(rows) for rows in outgoing])
        # Owners 1 0 0 of the wish 4 0 1 are sorted by 1 2 0: the first arrival answers the wish at
        # 1. Sorted again this is 2 0 1, the arrival that answers each wish.
        arrival_B = torch.argsort(mine, stable=True)
        return received[send(torch.argsort(arrival_B), row_B.device)]

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over processes, in buckets: one is packed while the one
        before travels.
        """
        under_way: list[tuple[list[Tensor], Tensor, Any]] = []
        for bucket in in_buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            under_way.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for bucket, flat, work in under_way:
            work.wait()
            flat /= self.world
            sizes = [tensor.numel() for tensor in bucket]
            for tensor, part in zip(bucket, flat.split(sizes), strict=True):
                tensor.copy_(part.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Return whether any process raised its flag."""
        flags = torch.tensor(int(flag), device=self.device)
        with _peer_errors():
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags.item())

    def barrier(self) -> None:
        """Wait until all processes are here."""
        with _peer_errors():
            dist.barrier()


def in_buckets(tensors: Sequence[Tensor], most: int = _BUCKET_BYTES) -> list[list[Tensor]]:
    """Return the tensors in order, in runs of one data type and at most ``most`` bytes; a larger
    tensor is a run of its own.
    """
    buckets: list[list[Tensor]] = []
    room = 0
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        # Tensors of 3, 4 and 6 MB with room for 8: [3, 4] and [6].
        if not buckets or size > room or tensor.dtype != buckets[-1][-1].dtype:
            buckets.append([])
            room = most
        buckets[-1].append(tensor)
        room -= size
    return buckets


def choose_device(wanted: str) -> torch.device:
    """Return the device of a setting; ``auto`` is this process's GPU where there is one. Raise
    ``ValueError`` for a device that is not there.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch sees no CUDA device; set device=cpu")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def process_group(device: torch.device) -> Generator[Peers]:
    """Join the group that torchrun's variables (RANK, WORLD_SIZE ...) or a launcher announce;
    without either this process trains alone.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if dist.is_initialized():  # a launcher did it and will undo it
        yield Group(device)
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Alone()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(device)
    finally:
        dist.destroy_process_group()


def share_of(batch: int, *, world: int, groups: dict[str, int | None], accumulate: int = 1) -> int:
    """Return the number of clips of each process. Raise ``ValueError`` where the batch cannot be
    divided into whole groups, or a clip that is merged (``merge_group`` is among them) is alone.

    A batch of 64 on 2 processes with ``accumulate=2`` gives each process 32 clips in 2 parts of 16,
    so that ``bn_group=8`` fits (16 = 2 groups) and ``bn_group=32`` does not.
    """
    if batch % world:
        raise ValueError(f"batch {batch} cannot be dealt to {world} processes: choose a multiple")
    share = batch // world
    if share % accumulate:
        raise ValueError(
            f"accumulate {accumulate} does not divide a process's share of {share} clips"
        )
    # Batch norm sees a part at a time; backgrounds are drawn for the whole share.
    whole = {name: share // accumulate if name == "bn_group" else share for name in groups}
    wrong = {name: group for name, group in groups.items() if group and whole[name] % group}
    if wrong and share == 1:  # no smaller groups fit: one clip has none to take a background from
        least = _least_batch(world=world, groups=groups, accumulate=accumulate)
        asks = " and ".join(f"{name} {group}" for name, group in wrong.items())
        raise ValueError(
            f"batch {batch} is one clip for each process, too few for {asks}; give --batch {least}"
        )
    for name, group in wrong.items():
        fits = (_option(name, _divisor(whole[name], most)) for name, most in wrong.items())
        raise ValueError(
            f"{name} {group} does not divide the {whole[name]} clips that a process sees at once; "
            f"give {' '.join(fits)}"
        )
    if "merge_group" in groups and (groups["merge_group"] or share) == 1:
        raise ValueError(
            "merging takes the background of another clip, and merge_group 1 leaves each alone: "
            "give --merge-group 2 or more"
            if groups["merge_group"]
            else f"batch {batch} is one clip for each process, and merging takes the background of "
            f"another: give --batch {2 * world}"
        )
    return share


def fitting_batch(
    samples: int, *, world: int, groups: dict[str, int | None], accumulate: int = 1
) -> str:
    """Return the options of the largest batch that ``samples`` videos fill and :func:`share_of`
    deals out; smaller groups are among them where one group is larger than the data.
    """
    sizes = {name: group for name, group in groups.items() if group}
    parts = {name: accumulate if name == "bn_group" else 1 for name in sizes}
    whole = _least_batch(world=world, groups=groups, accumulate=accumulate)
    if whole <= samples:
        return f"--batch {samples // whole * whole}"
    share = samples // world // accumulate * accumulate
    fits = (
        _option(name, _divisor(share // parts[name], group))
        for name, group in sizes.items()
        if share // parts[name] % group
    )
    return " ".join((f"--batch {share * world}", *fits))


def _least_batch(*, world: int, groups: dict[str, int | None], accumulate: int) -> int:
    """Return the smallest batch that can be divided into whole groups.

    2 processes, ``accumulate=2`` and ``bn_group=8`` need batches of 2 * lcm(2, 8 * 2) = 32.
    """
    sizes = (
        size * (accumulate if name == "bn_group" else 1) for name, size in groups.items() if size
    )
    return world * math.lcm(accumulate, *sizes)


def _divisor(clips: int, most: int) -> int | None:
    """Return the largest divisor of ``clips`` in 2..``most``, of those that a search finds at once;
    ``None`` where there is none.
    """
    largest = min(most, clips, 1 << 16)
    return next((size for size in range(largest, 1, -1) if clips % size == 0), None)


def _option(name: str, value: int | None) -> str:
    return f"--{name.replace('_', '-')} {'none' if value is None else value}"


def gradients(module: nn.Module) -> list[Tensor]:
    """Return the gradients that are there."""
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
