"""The recipe of a clip store. Light to import: the command line derives its options from it."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fame.settings import Setting, Settings

JPEG_MAX_ROWS = 65_500  # libjpeg's own limit, a little under the 65535 of the file format
MAX_CLIP_BYTES = 2**30
MAX_CLIPS_PER_SHARD = 2**20

StorePath = Path | str
"""A folder, or an address ``s3://bucket/path`` (a string: a ``Path`` would drop one of its
slashes).
"""


def canonical_json(value: object) -> bytes:
    """The one spelling of a JSON value in a store: keys sorted, UTF-8, no spaces, a newline at the
    end.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return (text + "\n").encode()


@dataclass(frozen=True, kw_only=True)
class StoreSpec(Settings):
    """Everything that decides the bytes of a store."""

    frames: Annotated[int, Setting("Frames per clip.", low=1, panel="Clips")] = 16
    stride: Annotated[
        int, Setting("Source frames from one frame of a clip to the next.", low=1, panel="Clips")
    ] = 2
    clips_per_video: Annotated[
        int, Setting("Clips per video, evenly spaced.", low=1, panel="Clips", option="clips")
    ] = 10
    height: Annotated[int, Setting("Height of stored frames, pixels.", low=1, panel="Clips")] = 256
    width: Annotated[int, Setting("Width of stored frames, pixels.", low=1, panel="Clips")] = 340
    geometry: Annotated[
        Literal["cover", "squash"],
        Setting("Keep the aspect ratio and cut the overflow, or squash.", panel="Clips"),
    ] = "cover"
    codec: Annotated[
        Literal["jpeg", "lz4", "zstd"],
        Setting("Small (jpeg) or lossless (lz4, zstd).", panel="Clips"),
    ] = "jpeg"
    quality: Annotated[int, Setting("JPEG quality.", low=1, high=100, panel="Clips")] = 90
    foreground: Annotated[
        Literal["flow", "paper", "seed", "none"],
        Setting("Foreground maps kept beside the clips.", panel="Clips"),
    ] = "flow"
    foreground_height: Annotated[int, Setting("Height of the maps.", low=1, option="")] = 64
    foreground_width: Annotated[int, Setting("Width of the maps.", low=1, option="")] = 85
    videos_per_shard: Annotated[int, Setting("Videos in one shard.", low=1, option="")] = 16

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for values that no store can have."""
        super().__post_init__()
        self._check_limits()

    def _check_limits(self) -> None:
        if self.codec == "jpeg" and max(self.frames * self.height, self.width) > JPEG_MAX_ROWS:
            raise ValueError(
                f"a JPEG has at most {JPEG_MAX_ROWS} rows and columns, but {self.frames} frames of "
                f"{self.height}x{self.width} need "
                f"{self.frames * self.height}x{self.width}: use lz4 or zstd"
            )
        if max(self.clip_bytes, self.foreground_height * self.foreground_width) > MAX_CLIP_BYTES:
            raise ValueError(
                f"one clip or map may take {MAX_CLIP_BYTES} bytes: {self} asks for more"
            )
        if self.clips_per_shard > MAX_CLIPS_PER_SHARD:
            raise ValueError(
                f"one shard may hold {MAX_CLIPS_PER_SHARD} clips: {self} asks for more"
            )

    @property
    def clip_bytes(self) -> int:
        """Bytes of one decoded clip."""
        return self.frames * self.height * self.width * 3

    @property
    def clips_per_shard(self) -> int:
        """Clips in one full shard."""
        return self.clips_per_video * self.videos_per_shard

    @property
    def digest(self) -> str:
        """A short hash that names the recipe."""
        return hashlib.sha256(canonical_json(dataclasses.asdict(self))).hexdigest()[:16]
