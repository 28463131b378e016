"""Streaming pairs of clips from clip stores: what is trained on when is a pure function of (seed,
step).

Workers only read and decode. A batch sampler sends them addresses (epoch, position in the epoch's
order); its whole state is the number of the next step, so resuming costs nothing and is exact. The
rows of a step are the same for any number of workers and processes: process r of W takes the r-th
of W equal runs of rows.

Shapes: B batch, T frames, H W height/width, h w size of a foreground map, S samples (videos that
can be shown).
"""

import math
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from fame.clipstore import ClipStore, CorruptChunk, Window
from fame.dataset import Address, ClipDataset
from fame.processes import server
from train.config import TrainingConfig
from train.jpegs import Clip, Jpegs, decoded, packed
from train.run.loading import batches

PART = 8  # most pairs that one worker decodes at a time: it bounds what prefetching holds


class Pairs(NamedTuple):
    """Two clips of each of B videos, as stored; ``score`` is empty where no maps are read, and has
    an axis T before h where they are those of every frame.

    ``sample`` addresses the draws of augmentation. ``skipped`` counts videos that could not be
    read, so that the next one of the order took their place; ``error`` is the message of the error
    that stopped a worker. ``jpegs`` are the clips of a part that the device will decode.
    """

    clip_B2THWC: Tensor
    score_B2hw: Tensor
    sample_B: Tensor
    skipped: int = 0
    error: str | None = None
    jpegs: Jpegs | None = None


class PairDataset(ClipDataset):
    """The videos of one or several stores that can be shown, as pairs of clips by address.

    A video's two clips start anywhere, drawn independently and again each epoch, as in the
    reference. ``window`` selects the frames of a clip; with ``frame_maps``, ``maps`` are read for
    every frame of it. Raise ``ValueError`` for stores that do not fit each other or the window, or
    have nothing to train on.
    """

    views = 2  # clips of each video
    encoded = False  # whether clips are read as JPEGs, which the device decodes

    def __init__(
        self,
        stores: Sequence[ClipStore],
        *,
        seed: int,
        window: Window,
        maps: bool,
        frame_maps: bool = False,
        on_corrupt: str = "stop",
        proportion: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            stores,
            seed=seed,
            window=window,
            clips=self.views,
            maps="none" if not maps else "frames" if frame_maps else "clip",
            proportion=proportion,
        )
        self.on_corrupt = on_corrupt

    def __getitems__(self, addresses: Sequence[Address]) -> Pairs:
        """Decode a part of a batch to where it will be read: in a worker that is shared memory."""
        clip_shape, map_shape = self.shapes()
        rows, shape = len(addresses), (0,) if self.encoded else clip_shape
        clips, maps = _room((rows, *shape)), _room((rows, *map_shape))
        samples = torch.empty(rows, dtype=torch.int64)
        jpegs: list[Clip] = []
        skipped = 0
        try:
            for row, (epoch, position) in enumerate(addresses):
                sample, missed, read = self._read_readable(
                    epoch, position, clips[row].numpy(), maps[row].numpy()
                )
                samples[row] = sample
                skipped += missed
                jpegs += read
        except CorruptChunk as error:
            return Pairs(clips, maps, samples, error=str(error))
        return Pairs(
            clips, maps, samples, skipped, jpegs=packed(jpegs, rows=rows) if self.encoded else None
        )

    def prefetch(self, addresses: Sequence[Address]) -> None:
        """Start to fetch what these addresses need in the background, where stores have a cache."""
        for epoch, position in addresses:
            sample = int(self.order(epoch)[position])
            number, video = self.video_S2[sample % len(self)].tolist()
            for start in self.starts_of(epoch, sample):
                maps = self.maps != "none"
                self.stores[number].prefetch(video, start, self.window, maps=maps)

    def _read_readable(
        self, epoch: int, position: int, clips: np.ndarray, maps: np.ndarray
    ) -> tuple[int, int, list[Clip]]:
        """Read the sample at ``position``; under ``on_corrupt="skip"`` the next that can be read.
        Return the sample, how many were skipped, and what :meth:`_read` returned.
        """
        order = self.order(epoch)
        # From position 3 of 5 the candidates are at 3, 4, 0, 1 and 2.
        for missed in range(len(order)):
            sample = int(order[(position + missed) % len(order)])
            try:
                return sample, missed, self._read(epoch, sample, clips, maps)
            except CorruptChunk:
                if self.on_corrupt == "stop":
                    raise
        raise CorruptChunk(f"{self.stores[0].path}: no video can be read")

    def _read(self, epoch: int, sample: int, clips: np.ndarray, maps: np.ndarray) -> list[Clip]:
        """Decode a sample, or return its clips as JPEGs."""
        if not self.encoded:
            self.read(epoch, sample, clips, maps)
            return []
        self.read_maps(epoch, sample, maps)
        number, video = self.video_S2[sample % len(self)].tolist()
        starts = self.starts_of(epoch, sample)
        return [self.stores[number].jpegs(video, start, self.window) for start in starts]


def _room(shape: tuple[int, ...]) -> Tensor:
    """Return the memory for bytes: shared in a worker, so that what is decoded there need not be
    copied to be handed over.
    """
    if get_worker_info() is None or not math.prod(shape):
        return torch.empty(shape, dtype=torch.uint8)
    make = torch.UntypedStorage._new_shared  # pyright: ignore[reportPrivateUsage] (as torch collates)
    storage = make(math.prod(shape))
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


class StepSampler(Sampler[list[Address]]):
    """Addresses of this process's rows, in parts, from step ``start`` to step ``stop`` across
    epochs.
    """

    def __init__(
        self,
        *,
        samples: int,
        batch: int,
        start: int,
        stop: int,
        part: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.steps_per_epoch = steps_per_epoch(samples=samples, batch=batch)
        self.batch, self.start, self.stop, self.part = batch, start, stop, part
        # Batch 16 in 2 processes: rows 0-7 and 8-15.
        self.share = range(rank * batch // world, (rank + 1) * batch // world)

    def __iter__(self) -> Iterator[list[Address]]:
        return map(self._part, range(len(self)))

    def __len__(self) -> int:
        return (self.stop - self.start) * (len(self.share) // self.part)

    def later(self, addresses: Sequence[Address], parts: int) -> list[Address]:
        """Return the addresses that come ``parts`` parts after these, none after the end."""
        # The inverse of `_part`. In batches of 16 and parts of 8, row 8 of step start + 2 begins
        # part 5; 3 parts later is part 8, the first of step start + 4.
        epoch, position = addresses[0]
        within, row = divmod(position, self.batch)
        steps = epoch * self.steps_per_epoch + within - self.start
        place = (row - self.share.start) // self.part
        number = steps * (len(self.share) // self.part) + place + parts
        return self._part(number) if number < len(self) else []

    def _part(self, number: int) -> list[Address]:
        # Part 5 of shares of 16 rows in parts of 8 is the second of step start + 2: rows 8 to 15.
        step, place = divmod(number, len(self.share) // self.part)
        epoch, within = divmod(self.start + step, self.steps_per_epoch)
        first = self.share.start + place * self.part
        return [(epoch, within * self.batch + row) for row in range(first, first + self.part)]


class _Ahead(Dataset[Pairs]):
    """A dataset that has the bytes of a worker's next part fetched while it decodes one.

    Workers take parts in turn, so the next one of this worker comes ``workers`` parts later.
    """

    def __init__(self, dataset: PairDataset, sampler: StepSampler, workers: int) -> None:
        self.dataset, self.sampler, self.turn = dataset, sampler, max(1, workers)
        self._begun = False

    def __getitem__(self, address: Address) -> Pairs:
        return self.dataset[address]

    def __getitems__(self, addresses: Sequence[Address]) -> Pairs:
        # The first part has no part before it, during which it could have been fetched.
        if not self._begun:
            self.dataset.prefetch(addresses)
            self._begun = True
        self.dataset.prefetch(self.sampler.later(addresses, self.turn))
        return self.dataset.__getitems__(addresses)


def store_identity(store: ClipStore) -> str:
    """Return a description of the content of a store by which a resumed run recognises it, at any
    path.
    """
    header, valid = store.header, int(store.valid_V.sum())
    videos = f"{valid} of {store.num_videos} videos, {int(store.length_V.sum())} frames"
    about = f"{header.dataset}/{header.split}: {videos}, recipe {store.spec.digest}"
    return f"{about}, content {store.digest[:16]}"


def steps_per_epoch(*, samples: int, batch: int, fitting: str = "a smaller batch") -> int:
    """Return the whole batches in an epoch; the rest of the order sits this epoch out. Raise
    ``ValueError`` where there is none, with the options of a ``fitting`` batch.
    """
    if batch > samples:
        raise ValueError(f"batch {batch} is larger than the data: {samples} videos; give {fitting}")
    return samples // batch


def part_size(share: int) -> int:
    """Return the largest part of at most PART pairs that divides a process's share of the batch."""
    # A share of 20 pairs has parts of 5: 8, 7 and 6 do not divide it.
    return max(size for size in range(1, min(share, PART) + 1) if share % size == 0)


def stream(
    dataset: PairDataset,
    config: TrainingConfig,
    *,
    start: int,
    stop: int,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Pairs]:
    """Yield the batches of this process for steps ``start``..``stop``, on ``device``. Raise what
    stopped a worker.
    """
    share = config.batch // world
    part = part_size(share)
    sampler = StepSampler(
        samples=len(dataset),
        batch=config.batch,
        start=start,
        stop=stop,
        part=part,
        rank=rank,
        world=world,
    )
    parts = batches(_loader(dataset, sampler, config, pin=device.type == "cuda"))
    side = torch.cuda.Stream(device) if device.type == "cuda" else None
    for _ in range(start, stop):
        yield on_device((next(parts) for _ in range(share // part)), device, side)


def on_device(parts: Iterable[Pairs], device: torch.device, side: Any = None) -> Pairs:
    """Return the parts of a batch as one, on ``device``. Raise :class:`CorruptChunk` for a part
    with an error.

    Each is copied from pinned memory straight to its place. On ``side``, a stream of its own, that
    happens while the device computes the step before, which the host has only queued by then.
    """
    parts = [_sound(part) for part in parts]
    jpegs = [part.jpegs for part in parts if part.jpegs]
    with torch.cuda.stream(side) if side else nullcontext():
        given = [part.clip_B2THWC for part in parts]
        clips = decoded(jpegs, device) if jpegs else _placed(given, device)
        maps = _placed([part.score_B2hw for part in parts], device)
    if side is not None:
        # The memory belongs to ``side``: without record_stream it could be given away while the
        # current stream still reads it.
        now = torch.cuda.current_stream(device)
        now.wait_stream(side)
        clips.record_stream(now)
        maps.record_stream(now)
    samples = torch.cat([part.sample_B for part in parts])
    return Pairs(clips, maps, samples, sum(part.skipped for part in parts))


def _placed(parts: list[Tensor], device: torch.device) -> Tensor:
    """Return the parts as one tensor, which is allocated once; each is copied into its rows."""
    if len(parts) == 1:
        return parts[0].to(device, non_blocking=True)
    whole = parts[0].new_empty((sum(map(len, parts)), *parts[0].shape[1:]), device=device)
    for place, part in zip(whole.split([len(part) for part in parts]), parts, strict=True):
        place.copy_(part, non_blocking=True)
    return whole


def _sound(pairs: Pairs) -> Pairs:
    if pairs.error:
        raise CorruptChunk(pairs.error)
    return pairs


def _loader(
    dataset: PairDataset, sampler: StepSampler, config: TrainingConfig, *, pin: bool
) -> DataLoader[Pairs]:
    workers: dict[str, Any] = {}
    if config.workers:
        workers = {"multiprocessing_context": server(__name__), "prefetch_factor": config.prefetch}
    return DataLoader(
        _Ahead(dataset, sampler, config.workers) if config.cache else dataset,
        batch_sampler=sampler,
        num_workers=config.workers,
        collate_fn=_shared if config.workers else _as_it_is,
        pin_memory=pin,
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(
            config.seed
        ),  # else every loader draws from the global generator
        **workers,
    )


def _as_it_is(pairs: Any) -> Pairs:
    return pairs


def _shared(pairs: Any) -> Pairs:
    """Move a part into shared memory here, where the main process gets the error of a failure. In
    the thread that sends parts off the error would be lost, and the main process would wait for
    ever.
    """
    for tensor in (*pairs[:3], *(pairs.jpegs or ())):
        tensor.share_memory_()
    return pairs


def _start_worker(number: int) -> None:
    """Ignore signals in a worker, since the main process still wants the batches on their way, and
    use one core.
    """
    # Ctrl-C reaches every process of the terminal's group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    torch.set_num_threads(1)
