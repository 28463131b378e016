"""The clip store: the contract between the offline stage that makes clips and the training that
streams them.

Making one: ``with lock(path): create(...)``, ``write_shard`` for each of ``missing_shards``,
``finalise``. Using one: :class:`ClipStore`. The format is described in ``docs/store-format.md``.
"""

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
    VideoClips,
    VideoFailure,
)
from fame.clipstore.seal import is_finished
from fame.clipstore.sizing import estimate_clip_bytes, sized_for
from fame.clipstore.storage import StorePath
from fame.clipstore.verify import ShardReport, StoreReport, repair, verify, verify_shard
from fame.clipstore.write import create, finalise, missing_shards, read_record, write_shard

__all__ = [
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
    "VideoClips",
    "VideoFailure",
    "VideoOutcome",
    "absolute",
    "create",
    "estimate_clip_bytes",
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
