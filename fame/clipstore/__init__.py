"""The clip store: the contract between the offline stage that keeps frames and the training that
streams clips of them.

Making one: ``with lock(path): create(...)``, ``write_shard`` for each of ``missing_shards``,
``finalise``. Using one: :class:`ClipStore`. The format is described in ``docs/store-format.md``.
"""

from fame.clipstore.cache import Cache
from fame.clipstore.info import StoreInfo, store_info
from fame.clipstore.locate import absolute, locate, lock
from fame.clipstore.read import ClipStore
from fame.clipstore.record import ShardRecord, StoredObject, VideoOutcome
from fame.clipstore.schema import (
    CorruptChunk,
    StoreError,
    StoreHeader,
    StoreSpec,
    UnreachableError,
    VideoFailure,
    VideoFrames,
)
from fame.clipstore.seal import is_finished
from fame.clipstore.sizing import estimate_video_bytes, sized_for
from fame.clipstore.storage import StorePath
from fame.clipstore.verify import ShardReport, StoreReport, repair, verify, verify_shard
from fame.clipstore.window import Window
from fame.clipstore.write import (
    create,
    drop_failed,
    finalise,
    missing_shards,
    read_record,
    write_shard,
)

__all__ = [
    "Cache",
    "ClipStore",
    "CorruptChunk",
    "ShardRecord",
    "ShardReport",
    "StoreError",
    "StoreHeader",
    "StoreInfo",
    "StorePath",
    "StoreReport",
    "StoreSpec",
    "StoredObject",
    "UnreachableError",
    "VideoFailure",
    "VideoFrames",
    "VideoOutcome",
    "Window",
    "absolute",
    "create",
    "drop_failed",
    "estimate_video_bytes",
    "finalise",
    "is_finished",
    "locate",
    "lock",
    "missing_shards",
    "read_record",
    "repair",
    "sized_for",
    "store_info",
    "verify",
    "verify_shard",
    "write_shard",
]
