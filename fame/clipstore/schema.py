"""What a clip store is: its recipe, its header, what a video gives it, and the errors it raises.

V videos, N = V x clips_per_video clips, T frames, H W height and width of a frame, h w size of a
foreground map.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal, cast, get_args

import numpy as np
from jaxtyping import Int32, UInt8

FORMAT_VERSION = 1
JPEG_MAX_ROWS = 65_500  # libjpeg's own limit, a little under the 65535 of the file format
MAX_CLIP_BYTES = 2**30
MAX_CLIPS_PER_SHARD = 2**20
MAX_VIDEOS = 2**31 - 1

Geometry = Literal["cover", "squash"]
CodecName = Literal["jpeg", "lz4", "zstd"]
ForegroundMethod = Literal["flow", "paper", "seed", "none"]
Status = Literal["ok", "looped", "failed"]
Parameter = str | int | float | bool


class StoreError(ValueError):
    """A clip store cannot be made, written or read; the message names the store and, where there is
    one, the shard.
    """


class UnreachableError(OSError):
    """The server of a store does not answer, or does not let us read: this tells nothing about the
    store.
    """


class CorruptChunk(StoreError):  # noqa: N818 - it names the thing that is wrong
    """The bytes of one clip or map in a finished store are not the bytes that were written."""


def canonical_json(value: object) -> bytes:
    """The one spelling of a JSON value in a store: keys sorted, UTF-8, no spaces, a newline at the
    end.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return (text + "\n").encode()


def parse_json_object(data: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object that may come from anybody; anything else is a :class:`StoreError`."""
    try:
        value = json.loads(data)
        canonical_json(value)  # refuses NaN and lone surrogates, which Python's parser lets through
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise StoreError(f"{what} holds a JSON {type(value).__name__}, not an object")
    return cast("dict[str, Any]", value)


def expect_keys(data: Mapping[str, object], keys: set[str], what: str) -> None:
    """Raise unless ``data`` has exactly these keys."""
    if set(data) != keys:
        missing, extra = sorted(keys - set(data)), sorted(set(data) - keys)
        raise StoreError(
            f"{what} is not of format {FORMAT_VERSION}: missing {missing}, unknown {extra}"
        )


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    """Everything that decides the bytes of a store. Invalid values raise ``ValueError`` on
    construction.
    """

    frames: int = 16
    stride: int = 2
    clips_per_video: int = 10
    height: int = 256
    width: int = 340
    geometry: Geometry = "cover"
    codec: CodecName = "jpeg"
    quality: int = 90
    foreground: ForegroundMethod = "flow"
    foreground_height: int = 64
    foreground_width: int = 85
    videos_per_shard: int = 16

    def __post_init__(self) -> None:
        for spec_field in dataclasses.fields(self):
            value = getattr(self, spec_field.name)
            if spec_field.type is int and (type(value) is not int or value < 1):
                raise ValueError(
                    f"{spec_field.name} must be a whole number of at least 1, not {value!r}"
                )
        for name, allowed in (
            ("geometry", get_args(Geometry)),
            ("codec", get_args(CodecName)),
            ("foreground", get_args(ForegroundMethod)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}"
                )
        self._check_limits()

    def _check_limits(self) -> None:
        if self.quality > 100:
            raise ValueError(f"quality must be at most 100, not {self.quality}")
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

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> "StoreSpec":
        """Read a spec that may come from anybody; raises :class:`StoreError`."""
        expect_keys(data, {f.name for f in dataclasses.fields(cls)}, "the spec")
        try:
            return cls(**cast("dict[str, Any]", data))
        except (TypeError, ValueError) as error:
            raise StoreError(f"the spec is not valid: {error}") from error


@dataclass(frozen=True, kw_only=True)
class StoreHeader:
    """What a store says about itself: where its videos come from and how they were made into clips.

    ``foreground_parameters`` is the recipe of the maps beyond their method and size. ``software``
    tells who began the store; it takes no part in the comparison of two headers.
    """

    dataset: str
    split: str
    class_names: tuple[str, ...]
    spec: StoreSpec
    foreground_parameters: Mapping[str, Parameter] = field(default_factory=dict[str, Parameter])
    software: str = field(
        default_factory=lambda: f"fame-video {version('fame-video')}", compare=False
    )
    version: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        """The header's part of the root attribute ``fame_clip_store``."""
        return {
            "version": self.version,
            "dataset": self.dataset,
            "split": self.split,
            "class_names": list(self.class_names),
            "spec": dataclasses.asdict(self.spec),
            "foreground_parameters": dict(self.foreground_parameters),
            "software": self.software,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "StoreHeader":
        """Read a header that may come from anybody; raises :class:`StoreError`."""
        if data.get("version") != FORMAT_VERSION:
            raise StoreError(
                f"the store is of format {data.get('version')!r}; this software reads "
                f"format {FORMAT_VERSION}"
            )
        expect_keys(data, {f.name for f in dataclasses.fields(cls)}, "the header")
        classes, parameters, spec = data["class_names"], data["foreground_parameters"], data["spec"]
        if not (
            isinstance(classes, list)
            and all(isinstance(name, str) for name in cast("list[object]", classes))
        ):
            raise StoreError("class_names in the header must be a list of strings")
        if not (isinstance(parameters, dict) and isinstance(spec, dict)):
            raise StoreError("spec and foreground_parameters in the header must be objects")
        if not all(
            isinstance(value, Parameter) for value in cast("dict[str, object]", parameters).values()
        ):
            raise StoreError(
                "foreground_parameters in the header must hold strings, numbers and booleans only"
            )
        if not all(isinstance(data[name], str) for name in ("dataset", "split", "software")):
            raise StoreError("dataset, split and software in the header must be strings")
        return cls(
            dataset=data["dataset"],
            split=data["split"],
            class_names=tuple(cast("list[str]", classes)),
            spec=StoreSpec.from_json(cast("dict[str, object]", spec)),
            foreground_parameters=cast("dict[str, Parameter]", parameters),
            software=data["software"],
        )


@dataclass(frozen=True, kw_only=True)
class VideoClips:
    """One decoded video on its way into a store: its clips, their maps (none where the spec has
    none), first frames.
    """

    clips: UInt8[np.ndarray, "c t h w 3"]
    foreground: UInt8[np.ndarray, "c mh mw"] | None
    start_frame: Int32[np.ndarray, " c"]
    looped: bool = False


@dataclass(frozen=True)
class VideoFailure:
    """One video that could not be decoded. The reason must be the same in every run: no times, no
    addresses.
    """

    reason: str
