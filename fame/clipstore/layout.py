"""The keys of a store and the zarr metadata below them, pure functions of header and video count.

V videos, F slots for the frames of one video, G slots for its maps, H W height and width of a
frame, h w size of a foreground map.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from fame.clipstore.schema import (
    MAX_VIDEOS,
    StoreError,
    StoreHeader,
    canonical_json,
    parse_json_object,
)

ATTRIBUTE = "fame_clip_store"
ROOT_KEY = "zarr.json"
SEAL_KEY = "seal.json"
RECORDS = "records"
PARTIAL = ".partial"
WHOLE_ARRAYS = ("label", "length", "stretches", "names")
NOTHING = -1  # of a label that is unknown, and of frames that are not there
_CHUNK_PREFIX = "c"
_CRC = {"name": "crc32c"}
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
_ZSTD = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
_LZ4 = {
    "name": "blosc",
    "configuration": {
        "cname": "lz4",
        "clevel": 9,
        "shuffle": "noshuffle",
        "typesize": 1,
        "blocksize": 0,
    },
}

Codecs = list[dict[str, Any]]


def record_key(shard: int) -> str:
    """Return the key of the record of one shard."""
    return f"{RECORDS}/{shard}.json"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One store's header and videos, and what follows from them: sizes, keys and metadata of every
    array.
    """

    header: StoreHeader
    num_videos: int
    videos_sha256: str

    @property
    def num_shards(self) -> int:
        """Return the number of shards; the last one may hold fewer videos."""
        # Rounded up: 10 videos by 4 a shard are 3 shards.
        return -(-self.num_videos // self.header.spec.videos_per_shard)

    @cached_property
    def identity(self) -> str:
        """Return a hash over recipe and videos, by which the record of another store's shard is
        refused.
        """
        root = self._attribute()
        # Another version of the software may continue a store.
        del root["software"]
        return hashlib.sha256(canonical_json(root)).hexdigest()

    @property
    def sharded_arrays(self) -> tuple[str, ...]:
        """Return the names of the arrays that are stored in shards, sorted."""
        names = ("foreground", "frames", "source")
        return names[1:] if self.header.spec.foreground == "none" else names

    def chunks_per_video(self, array: str) -> int:
        """Return the chunks of a sharded array that one video has room for: a frame, a map, or all
        its sources.
        """
        spec = self.header.spec
        return {"frames": spec.slots, "foreground": spec.map_slots, "source": 1}[array]

    def chunks_per_shard(self, array: str) -> int:
        """Return the chunks that a shard has room for."""
        return self.chunks_per_video(array) * self.header.spec.videos_per_shard

    def chunks_of(self, array: str, length: int) -> int:
        """Return the chunks of a video of ``length`` kept frames; the others are absent."""
        # 5 frames with a map for every 2 have 3 maps, of frames 0, 2 and 4. A failed video, of
        # length 0, has no chunk at all.
        every = self.header.spec.foreground_every
        return {"frames": length, "foreground": -(-length // every), "source": min(length, 1)}[
            array
        ]

    def num_maps(self, length: int) -> int:
        """Return the maps of a video of ``length`` kept frames; 0 in a store without maps."""
        none = self.header.spec.foreground == "none"
        return 0 if none else self.chunks_of("foreground", length)

    def videos_of(self, shard: int) -> range:
        """Return the videos of one shard."""
        if not 0 <= shard < self.num_shards:
            raise StoreError(f"no shard {shard}: the store has shards 0 to {self.num_shards - 1}")
        size = self.header.spec.videos_per_shard
        # 10 videos by 4 a shard: shard 2 holds the videos 8 and 9.
        return range(shard * size, min((shard + 1) * size, self.num_videos))

    def shard_key(self, array: str, shard: int) -> str:
        """Return the key of one shard of one array."""
        # A shard is cut along videos only, so all its other indices are 0: shard 2 of the frames,
        # an array of 5 axes, is frames/c.2.0.0.0.0.
        zeros = ("0" for _ in self._array_shape(array)[1:])
        return ".".join((f"{array}/{_CHUNK_PREFIX}", str(shard), *zeros))

    def whole_key(self, array: str) -> str:
        """Return the key of the one chunk of a whole array."""
        return f"{array}/{_CHUNK_PREFIX}.0"

    def element_shape(self, array: str) -> tuple[int, ...]:
        """Return the shape of what one chunk holds."""
        spec = self.header.spec
        return {
            "frames": (spec.height, spec.width, 3),
            "foreground": (spec.foreground_height, spec.foreground_width),
            "source": (spec.slots, 2),
        }[array]

    def _array_shape(self, array: str) -> tuple[int, ...]:
        element = self.element_shape(array)
        if array == "source":
            return (self.num_videos, *element)
        return (self.num_videos, self.chunks_per_video(array), *element)

    def root_json(self) -> bytes:
        """Return the root ``zarr.json``: the header, and every array's metadata consolidated."""
        return canonical_json(
            {
                "zarr_format": 3,
                "node_type": "group",
                "attributes": {ATTRIBUTE: self._attribute()},
                "consolidated_metadata": {
                    "kind": "inline",
                    "must_understand": False,
                    "metadata": self.array_metadata(),
                },
            }
        )

    def array_metadata(self) -> dict[str, dict[str, Any]]:
        """Return the ``zarr.json`` of every array, by name."""
        sharded = {name: self._sharded_metadata(name) for name in self.sharded_arrays}
        return sharded | {name: self._whole_metadata(name) for name in WHOLE_ARRAYS}

    @classmethod
    def from_root_json(cls, data: bytes) -> "Layout":
        """Read a root ``zarr.json`` that may come from anybody. Raise :class:`StoreError`."""
        root = parse_json_object(data, ROOT_KEY)
        attributes = root.get("attributes")
        attribute = (
            cast("dict[str, Any]", attributes).get(ATTRIBUTE)
            if isinstance(attributes, dict)
            else None
        )
        if not isinstance(attribute, dict):
            raise StoreError(f"no clip store: {ROOT_KEY} has no attribute {ATTRIBUTE!r}")
        fields = dict(cast("dict[str, Any]", attribute))
        num_videos, digest = fields.pop("num_videos", None), fields.pop("videos_sha256", None)
        header = StoreHeader.from_json(fields)
        if (
            type(num_videos) is not int
            or not 1 <= num_videos <= MAX_VIDEOS
            or not isinstance(digest, str)
        ):
            raise StoreError(
                f"num_videos {num_videos!r} or videos_sha256 {digest!r} in {ROOT_KEY} is not valid"
            )
        layout = cls(header=header, num_videos=num_videos, videos_sha256=digest)
        # Every reader must see the same arrays, zarr by this metadata and we by the header.
        if canonical_json(root) != layout.root_json():
            raise StoreError(f"the array metadata in {ROOT_KEY} does not match its header")
        return layout

    def _attribute(self) -> dict[str, Any]:
        return self.header.to_json() | {
            "num_videos": self.num_videos,
            "videos_sha256": self.videos_sha256,
        }

    def chunk_codecs(self, array: str) -> Codecs:
        """Return the codecs of one chunk, as zarr metadata has them."""
        if array == "source":
            return [_LITTLE, _CRC]
        if array == "foreground":
            return [{"name": "bytes"}, _ZSTD, _CRC]
        by_name: dict[str, Codecs] = {
            "jpeg": [
                {"name": "fame.tall_jpeg", "configuration": {"quality": self.header.spec.quality}}
            ],
            "lz4": [{"name": "bytes"}, _LZ4],
            "zstd": [{"name": "bytes"}, _ZSTD],
        }
        return [*by_name[self.header.spec.codec], _CRC]

    def _sharded_metadata(self, array: str) -> dict[str, Any]:
        element, shape = self.element_shape(array), self._array_shape(array)
        # One chunk is one frame: of axes (video, frame, row, column, rgb) the first two have length
        # 1 in it.
        leading = len(shape) - len(element)
        sharding = {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [1] * leading + list(element),
                "codecs": self.chunk_codecs(array),
                "index_codecs": [_LITTLE, _CRC],
                "index_location": "end",
            },
        }
        axes = {
            "frames": ["video", "frame", "row", "column", "rgb"],
            "foreground": ["video", "map", "row", "column"],
            "source": ["video", "frame", "number_and_ms"],
        }
        return _array_json(
            shape=list(shape),
            chunk=[self.header.spec.videos_per_shard, *shape[1:]],
            data_type="int32" if array == "source" else "uint8",
            fill_value=NOTHING if array == "source" else 0,
            codecs=[sharding],
            axes=axes[array],
        )

    def _whole_metadata(self, array: str) -> dict[str, Any]:
        names = array == "names"
        vlen: dict[str, Any] = {"name": "vlen-utf8", "configuration": {}}
        return _array_json(
            shape=[self.num_videos],
            chunk=[self.num_videos],
            data_type="string" if names else "int32",
            fill_value="" if names else NOTHING,
            codecs=[vlen if names else _LITTLE, _CRC],
            axes=["video"],
        )


def _array_json(
    *,
    shape: list[int],
    chunk: list[int],
    data_type: str,
    fill_value: object,
    codecs: Codecs,
    axes: list[str],
) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": fill_value,
        "codecs": codecs,
        "attributes": {},
        "dimension_names": axes,
        "storage_transformers": [],
    }
