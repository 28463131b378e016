"""The number of videos in a shard, a pure function of the recipe and the number of videos."""

import dataclasses

from fame.store_spec import MAX_FRAMES_PER_SHARD, StoreSpec

SHARD_BYTES = 2**28
MIN_SHARDS = 64
# Share of its raw bytes that a frame keeps (benchmarks/codecs.py). Only planning uses it.
_SHARE = {"jpeg": 0.11, "lz4": 0.87, "zstd": 0.8}


def estimate_video_bytes(spec: StoreSpec) -> int:
    """Return roughly how many bytes a video takes that fills its slots, with its maps."""
    maps = 0 if spec.foreground == "none" else spec.foreground_height * spec.foreground_width
    return int(spec.slots * spec.frame_bytes * _SHARE[spec.codec]) + spec.map_slots * maps // 4


def sized_for(spec: StoreSpec, num_videos: int) -> StoreSpec:
    """Return the recipe with as many videos per shard as suit the dataset.

    Shards of about 256 MiB keep a large dataset's files few (240k videos of 150 jpeg frames: about
    4,000 shards), the index that a reader holds of each small and the work that a kill loses too; a
    small dataset is cut into 64 shards so that workers have something to share. The number of
    workers takes no part in it: the bytes of a store must not depend on who made it.
    """
    by_size = SHARD_BYTES // estimate_video_bytes(spec)
    by_count = -(-num_videos // MIN_SHARDS)
    by_index = MAX_FRAMES_PER_SHARD // spec.slots
    fitting = max(1, min(by_size, by_count, by_index))
    return dataclasses.replace(spec, videos_per_shard=fitting)
