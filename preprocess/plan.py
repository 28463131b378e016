"""What a run will do, computed before it does anything: pure functions of names, spec and a
measured sample.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fame.clipstore import StoreSpec
from preprocess.task import ShardResult, ShardTask


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a whole run would take, by a sample of its videos. ``seconds`` is wall time with
    ``workers`` free cores.
    """

    videos: int
    clips: int
    shards: int
    workers: int
    sampled: int
    sampled_failed: int
    bytes: int
    seconds: float


def tasks(
    names: Sequence[str], shards: Iterable[int], *, videos_per_shard: int
) -> Iterator[ShardTask]:
    """The tasks that make these shards of the store of these videos."""
    for shard in shards:
        first = shard * videos_per_shard
        yield ShardTask(shard=shard, names=tuple(names[first : first + videos_per_shard]))


def spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` indices below ``count``, evenly spaced."""
    wanted = min(count, wanted)
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def extrapolate(sample: ShardResult, *, videos: int, spec: StoreSpec, workers: int) -> Estimate:
    """Scale the bytes and seconds of a sample up to all videos."""
    scale = videos / sample.videos
    return Estimate(
        videos=videos,
        clips=videos * spec.clips_per_video,
        shards=-(-videos // spec.videos_per_shard),
        workers=workers,
        sampled=sample.videos,
        sampled_failed=sample.failed,
        bytes=round(sample.stored_bytes * scale),
        seconds=sample.seconds * scale / workers,
    )
