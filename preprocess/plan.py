"""The plan of a run, computed before it does anything: the videos, the shards, and an estimate from
a measured sample.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from fame.clipstore import sized_for
from fame.store_spec import StoreSpec
from preprocess.config import PreprocessConfig
from preprocess.datasets import Listing, read
from preprocess.datasets.files import FRAME_SUFFIXES
from preprocess.task import ShardResult, ShardTask

_FRAMES_HINT = "; --frames-folders reads folders of pictures as videos"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The cost of a whole run, by a sample of its videos. ``seconds`` is wall time with ``workers``
    free cores.
    """

    videos: int
    slots: int
    shards: int
    workers: int
    sampled: int
    sampled_failed: int
    bytes: int
    seconds: float


def list_videos(config: PreprocessConfig) -> Listing:
    """Return the videos of the split. Raise ``ValueError`` for bad annotations or more missing
    videos than allowed.
    """
    listing = read(config.dataset, config.source)
    if listing.missing_share > config.max_missing:
        first = listing.missing[0]
        why = dict(listing.reasons).get(first)
        raise ValueError(
            f"{len(listing.missing)} of {len(listing.missing) + len(listing.names)} "
            f"listed videos are missing below {config.videos}, above the "
            f"{config.max_missing:.0%} allowed; the first is {first!r}{f' ({why})' if why else ''}"
        )
    if not listing.names:
        others = ", ".join(f"{count} .{suffix}" for suffix, count in listing.passed_over)
        raise ValueError(
            f"{config.videos} holds no video of {config.dataset} {config.split}"
            f"{f'; other files there: {others[:200]}' if others else ''}"
            f"{_FRAMES_HINT if FRAME_SUFFIXES & dict(listing.passed_over).keys() else ''}"
        )
    return listing


def settle(config: PreprocessConfig, num_videos: int) -> StoreSpec:
    """Return the recipe of the store with the size of its shards settled."""
    if config.videos_per_shard is None:
        return sized_for(config.spec, num_videos)
    return replace(config.spec, videos_per_shard=config.videos_per_shard)


def tasks(
    names: Sequence[str], shards: Iterable[int], *, videos_per_shard: int
) -> Iterator[ShardTask]:
    """Yield the tasks that make these shards of the store of these videos."""
    for shard in shards:
        first = shard * videos_per_shard
        yield ShardTask(shard=shard, names=tuple(names[first : first + videos_per_shard]))


def spread(count: int, wanted: int) -> list[int]:
    """Return at most ``wanted`` indices below ``count``, evenly spaced."""
    wanted = min(count, wanted)
    # The middles of equal parts: 3 of 10 are 1, 5 and 8.
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def extrapolate(sample: ShardResult, *, videos: int, spec: StoreSpec, workers: int) -> Estimate:
    """Scale the bytes and seconds of a sample up to all videos."""
    scale = videos / sample.videos
    return Estimate(
        videos=videos,
        slots=spec.slots,
        shards=-(-videos // spec.videos_per_shard),
        workers=workers,
        sampled=sample.videos,
        sampled_failed=sample.failed,
        bytes=round(sample.stored_bytes * scale),
        # As if the workers did not slow each other down, which is why it is an estimate.
        seconds=sample.seconds * scale / workers,
    )
