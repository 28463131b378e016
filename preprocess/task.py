"""One shard of a clip store, made from its videos: the idempotent unit that every executor runs."""

import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fame.clipstore import (
    StoreError,
    StorePath,
    StoreSpec,
    UnreachableError,
    VideoFailure,
    VideoFrames,
    write_shard,
)
from fame.flow import map_frames
from preprocess.isolation import DECODER, Decoder, DecoderStartError, SourceError
from preprocess.reading import DecodeError
from preprocess.selection import Sampling


@dataclass(frozen=True, kw_only=True)
class Work:
    """The settings that all shards of a run share. ``time_limit`` is in seconds per video,
    ``memory_limit`` in bytes.
    """

    store: StorePath
    videos: Path
    spec: StoreSpec
    time_limit: float
    memory_limit: int = 0
    decoder: tuple[str, ...] = DECODER

    @property
    def sampling(self) -> Sampling:
        """Return the settings of the spec that the decoder needs."""
        spec = self.spec
        return Sampling(
            slots=spec.slots,
            keep=spec.keep,
            fps=spec.fps,
            stretch=spec.stretch,
            aligned=spec.foreground_every,
            height=spec.height,
            width=spec.width,
            geometry=spec.geometry,
        )

    def open_decoder(self) -> Decoder:
        """Return a decoder for these videos, in a process of its own."""
        return Decoder(
            self.sampling,
            time_limit=self.time_limit,
            memory_limit=self.memory_limit,
            command=self.decoder,
        )


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to make, from these videos in this order."""

    shard: int
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """The result of one task. ``error`` is empty unless the shard could not be made; then nothing
    of it was kept.
    """

    shard: int
    videos: int
    failed: int = 0
    frames_read: int = 0
    stored_bytes: int = 0
    seconds: float = 0.0
    error: str = ""


def make_shard(work: Work, task: ShardTask, decoder: Decoder) -> ShardResult:
    """Decode, map, encode and commit one shard.

    A video that cannot be decoded becomes a failure on record. An unforeseen error costs the shard
    and is part of the result.

    Raises:
        StoreError, UnreachableError: the store cannot be written: other shards would meet the same
            disk or server.
        DecoderStartError: no video can be decoded at all.
        SourceError: a video cannot be read, through no fault of its own.
    """
    # A list, since the generator of videos has no other way to report the frames it read.
    started, frames_read = time.monotonic(), [0]
    cv2.setNumThreads(1)
    try:
        record = write_shard(
            work.store, task.shard, _videos(work, task.names, decoder, frames_read)
        )
    except (StoreError, UnreachableError, DecoderStartError, SourceError):
        raise
    except Exception:
        return ShardResult(
            shard=task.shard, videos=len(task.names), error=traceback.format_exc(limit=-3)
        )
    return ShardResult(
        shard=task.shard,
        videos=len(task.names),
        failed=sum(outcome.status == "failed" for outcome in record.videos),
        frames_read=sum(frames_read),
        stored_bytes=sum(entry.size for entry in record.objects.values()),
        seconds=time.monotonic() - started,
    )


def _videos(
    work: Work, names: Iterable[str], decoder: Decoder, frames_read: list[int]
) -> Iterator[VideoFrames | VideoFailure]:
    for name in names:
        try:
            decoded, frames_LHW3 = decoder.decode(str(work.videos / name))
        except DecodeError as error:
            # A damaged video costs its own place only: the shard goes on.
            yield VideoFailure(str(error))
            continue
        frames_read.append(decoded.frames_read)
        yield VideoFrames(
            # The decoder overwrites these frames with the next video, which is asked for once they
            # are encoded.
            frames=frames_LHW3,
            foreground=_foreground(work.spec, frames_LHW3, decoded.stretches),
            source=np.array(decoded.source, np.int32),
            stretches=decoded.stretches,
            cut=decoded.cut,
            lost=decoded.lost,
        )


def _foreground(spec: StoreSpec, frames_LHW3: np.ndarray, stretches: int) -> np.ndarray | None:
    """Return the maps of all stretches; one stretch is independent of the next."""
    if spec.foreground == "none":
        return None
    maps = [
        map_frames(
            spec.foreground,
            frames_RHW3,
            every=spec.foreground_every,
            height=spec.foreground_height,
            width=spec.foreground_width,
        )
        for frames_RHW3 in np.split(frames_LHW3, stretches)
    ]
    return np.concatenate(maps)
