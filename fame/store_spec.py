"""The recipe of a clip store. Light to import: the command line derives its options from it."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fame.settings import FRAMES, SEED, Setting, Settings

JPEG_MAX_ROWS = 65_500  # libjpeg's own limit, a little under the 65535 of the file format
MAX_FRAME_BYTES = 2**30
MAX_FRAMES_PER_SHARD = 2**20
USUAL_FPS = 30  # what seconds are counted by where frames are kept by number

StorePath = Path | str
"""A folder, or an address ``s3://bucket/path``, ``gs://bucket/path`` or ``az://container/path`` (a
string: a ``Path`` would drop one of its slashes).
"""


def canonical_json(value: object) -> bytes:
    """Return the one spelling of a JSON value in a store: keys sorted, UTF-8, no spaces, a newline
    at the end.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return (text + "\n").encode()


@dataclass(frozen=True, kw_only=True)
class StoreSpec(Settings):
    """Everything that decides the bytes of a store.

    Of each video every ``keep``-th frame is kept, or ``fps`` frames a second by their times. A
    video that is longer than ``seconds`` keeps evenly spaced stretches of at least ``stretch``
    frames. Every ``foreground_every``-th kept frame has a foreground map.
    """

    keep: Annotated[int, FRAMES("Keep every k-th frame of a video; see --fps.", low=1)] = 2
    fps: Annotated[
        float | None,
        FRAMES(
            "Keep this many frames a second instead, by their times: for mixed frame rates.",
            above=0,
            high=1000,
        ),
    ] = None
    seconds: Annotated[
        float,
        FRAMES(
            "Keep at most this much of a video, counted at 30 frames a second with --keep.",
            above=0,
            high=1e6,
        ),
    ] = 10.0
    stretch: Annotated[
        int,
        FRAMES(
            "Fewest kept frames of each evenly spaced stretch of a longer video: more than a clip.",
            low=1,
        ),
    ] = 48
    height: Annotated[int, FRAMES("Height of stored frames, pixels.", low=1)] = 256
    width: Annotated[int, FRAMES("Width of stored frames, pixels.", low=1)] = 340
    geometry: Annotated[
        Literal["cover", "squash"], FRAMES("Keep the aspect ratio and cut the overflow, or squash.")
    ] = "cover"
    codec: Annotated[
        Literal["jpeg", "lz4", "zstd"], FRAMES("Small (jpeg) or lossless (lz4, zstd).")
    ] = "jpeg"
    quality: Annotated[int, FRAMES("JPEG quality.", low=1, high=100)] = 90
    foreground: Annotated[
        Literal["flow", "paper", "difference", "none"],
        FRAMES("Foreground maps kept beside the frames.", formerly=SEED),
    ] = "flow"
    foreground_every: Annotated[int, FRAMES("Kept frames from one map to the next.", low=1)] = 2
    foreground_height: Annotated[int, Setting("Height of the maps.", low=1, option="")] = 64
    foreground_width: Annotated[int, Setting("Width of the maps.", low=1, option="")] = 85
    videos_per_shard: Annotated[int, Setting("Videos in one shard.", low=1, option="")] = 16

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for values that no store can have."""
        super().__post_init__()
        self._check_limits()

    def _check_limits(self) -> None:
        if self.stretch < self.foreground_every:
            raise ValueError(
                f"stretch {self.stretch} must be at least foreground_every {self.foreground_every}"
            )
        if self.codec == "jpeg" and max(self.height, self.width) > JPEG_MAX_ROWS:
            raise ValueError(
                f"a JPEG has at most {JPEG_MAX_ROWS} rows and columns, not "
                f"{self.height}x{self.width}: use lz4 or zstd"
            )
        if max(self.frame_bytes, self.foreground_height * self.foreground_width) > MAX_FRAME_BYTES:
            raise ValueError(
                f"one frame or map may take {MAX_FRAME_BYTES} bytes: {self} asks for more"
            )
        if self.slots * self.videos_per_shard > MAX_FRAMES_PER_SHARD:
            raise ValueError(
                f"one shard may hold {MAX_FRAMES_PER_SHARD} frames: {self} asks for more"
            )

    @property
    def slots(self) -> int:
        """Return F, the most frames that one video keeps, which depends on no video."""
        return max(1, round(self.seconds * (self.fps or USUAL_FPS / self.keep)))

    @property
    def map_slots(self) -> int:
        """Return the most maps that one video keeps."""
        return -(-self.slots // self.foreground_every)

    @property
    def frame_bytes(self) -> int:
        """Return the bytes of one decoded frame."""
        return self.height * self.width * 3

    @property
    def kept(self) -> str:
        """Return which frames are kept, in words: two stores that differ in it give different
        clips.
        """
        if self.fps is not None:
            return f"{self.fps:g} frames a second"
        return "every frame" if self.keep == 1 else f"1 of {self.keep} frames"

    @property
    def digest(self) -> str:
        """Return a short hash that names the recipe."""
        return hashlib.sha256(canonical_json(dataclasses.asdict(self))).hexdigest()[:16]
