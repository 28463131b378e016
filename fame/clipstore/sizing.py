"""How many videos go into a shard: a pure function of the recipe and the number of videos."""

import dataclasses

from fame.clipstore.schema import StoreSpec

SHARD_BYTES = 2**29
MIN_SHARDS = 64
# Share of its raw bytes that a clip keeps (benchmarks/codecs.py). Only planning uses it.
_SHARE = {"jpeg": 0.11, "lz4": 0.87, "zstd": 0.8}


def estimate_clip_bytes(spec: StoreSpec) -> int:
    """Roughly how many bytes one stored clip takes with its map."""
    maps = 0 if spec.foreground == "none" else spec.foreground_height * spec.foreground_width
    return int(spec.clip_bytes * _SHARE[spec.codec]) + maps


def sized_for(spec: StoreSpec, num_videos: int) -> StoreSpec:
    """The recipe with as many videos per shard as suit the dataset.

    Shards of about 512 MiB keep a large dataset's files few (240k videos of 10 jpeg clips: about
    2,000 shards) and the work that a kill loses small; a small dataset is cut into 64 shards so
    that workers have something to share. The number of workers takes no part in it: the bytes of a
    store must not depend on who made it.
    """
    by_size = SHARD_BYTES // (estimate_clip_bytes(spec) * spec.clips_per_video)
    by_count = -(-num_videos // MIN_SHARDS)
    return dataclasses.replace(spec, videos_per_shard=max(1, min(by_size, by_count)))
