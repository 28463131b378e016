"""The clip store: the contract between the offline stage that makes clips and the training that streams them."""

from fame.clipstore.lock import lock
from fame.clipstore.read import ClipStore
from fame.clipstore.record import ShardRecord, StoredObject, VideoOutcome
from fame.clipstore.schema import (
    CorruptChunk,
    StoreError,
    StoreHeader,
    StoreSpec,
    VideoClips,
    VideoFailure,
)
from fame.clipstore.write import create, finalise, is_finished, missing_shards, read_record, write_shard

__all__ = [
    "ClipStore",
    "CorruptChunk",
    "ShardRecord",
    "StoreError",
    "StoreHeader",
    "StoreSpec",
    "StoredObject",
    "VideoClips",
    "VideoFailure",
    "VideoOutcome",
    "create",
    "finalise",
    "is_finished",
    "lock",
    "missing_shards",
    "read_record",
    "write_shard",
]
