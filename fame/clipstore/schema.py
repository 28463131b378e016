"""The types of a clip store: its recipe, its header, the frames of a video, and its errors.

V videos, F slots for the frames of one video, L <= F frames that it has, G foreground maps of them,
H W height and width of a frame, h w size of a map.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Int32, UInt8

from fame.store_spec import StoreSpec, canonical_json

FORMAT_VERSION = 2
MAX_VIDEOS = 2**31 - 1

Status = Literal["ok", "cut", "failed"]
Parameter = str | int | float | bool


class StoreError(ValueError):
    """A clip store cannot be made, written or read; the message names the store and, where there is
    one, the shard.
    """


class UnreachableError(OSError):
    """The server of a store does not answer, or does not let us read: the store itself may be
    sound.
    """


class CorruptChunk(StoreError):  # noqa: N818 - it names the thing that is wrong
    """The bytes of a frame or map in a finished store are not the bytes that were written."""


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
class StoreHeader:
    """A store's description of itself: where its videos come from and how they were made into
    clips.

    ``foreground_parameters`` is the recipe of the maps beyond their method and size. ``software``
    names the program that began the store; it takes no part in the comparison of two headers.
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
        """Return the header's part of the root attribute ``fame_clip_store``."""
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
        """Read a header that may come from anybody. Raise :class:`StoreError`."""
        if data.get("version") != FORMAT_VERSION:
            raise StoreError(
                f"the store is of format {data.get('version')!r}; this software reads "
                f"format {FORMAT_VERSION}: remove it and make it again with `fame preprocess` "
                f"({data.get('dataset')!r:.40}, split {data.get('split')!r:.40})"
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
            spec=_read_spec(cast("dict[str, object]", spec)),
            foreground_parameters=cast("dict[str, Parameter]", parameters),
            software=data["software"],
        )


def _read_spec(data: Mapping[str, object]) -> StoreSpec:
    """Read a recipe that may come from anybody. Raise :class:`StoreError`."""
    expect_keys(data, set(StoreSpec.fields()), "the spec")
    try:
        return StoreSpec.from_dict(data)
    except (TypeError, ValueError) as error:
        raise StoreError(f"the spec is not valid: {error}") from error


@dataclass(frozen=True, kw_only=True)
class VideoFrames:
    """One decoded video on its way into a store: its frames, their maps (none where the spec has
    none), and number and time of each frame in the source.

    ``source`` holds frame numbers and milliseconds. A video that was ``cut`` consists of
    ``stretches`` runs of equal length, and no clip goes from one into the next. ``lost`` counts
    frames of the source that damage spoilt or took.
    """

    frames: UInt8[np.ndarray, "l h w 3"]
    foreground: UInt8[np.ndarray, "g mh mw"] | None
    source: Int32[np.ndarray, "l 2"]
    stretches: int = 1
    cut: bool = False
    lost: int = 0


@dataclass(frozen=True)
class VideoFailure:
    """One video that could not be decoded. The reason must be the same in every run: no times, no
    addresses.
    """

    reason: str
