"""What a run is: frozen values, checked when they are made, that say everything a training run
depends on.

A config is plain data: :meth:`TrainingConfig.to_dict` is written beside every run and inside every
checkpoint, and :func:`from_dict` reads it back. A field that does not exist is an error that names
the nearest one that does.
"""

import dataclasses
import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

C = TypeVar("C", bound="TrainingConfig")


def _number(default: Any, *, low: float, high: float | None = None, above: bool = False) -> Any:
    """A field whose value lies in low..high (both allowed, or above ``low`` only)."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What pretraining and fine-tuning have in common: network, optimiser, precision, loading,
    bookkeeping.

    ``batch`` is the total over all processes; ``accumulate`` splits each process's share into that
    many parts, run one after the other. ``width`` scales the channels of I3D. ``bn_group`` is the
    number of clips whose statistics a batch norm uses (None: all clips that a process sees at
    once). ``lr_update`` says whether the learning rate moves every step or every epoch.
    ``checkpoint_every`` counts epochs, ``log_every`` steps; ``save_seconds`` is the longest time
    that a killed run can lose.
    """

    seed: int = _number(0, low=0)
    encoder: Literal["i3d", "r2plus1d_18", "c3d_small"] = "i3d"
    width: float = _number(1.0, low=0, above=True)
    bn_group: int | None = _number(None, low=1)

    epochs: int = _number(200, low=1)
    batch: int = _number(64, low=1)
    accumulate: int = _number(1, low=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = _number(0.01, low=0, above=True)
    momentum: float = _number(0.9, low=0, high=1)
    weight_decay: float = _number(1e-4, low=0)
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    milestones: tuple[int, ...] = ()
    warmup_epochs: float = _number(0.0, low=0)
    lr_update: Literal["step", "epoch"] = "step"

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: bool = False
    channels_last: bool = False
    checkpoint_activations: bool = False

    workers: int = _number(4, low=0)
    prefetch: int = _number(2, low=1)
    on_corrupt: Literal["stop", "skip"] = "stop"

    log_every: int = _number(10, low=1)
    checkpoint_every: int = _number(10, low=1)
    save_seconds: float = _number(600.0, low=0)

    def __post_init__(self) -> None:
        """Refuse values that no run can be made from."""
        hints = get_type_hints(type(self))
        for entry in dataclasses.fields(self):
            _check(entry, hints[entry.name], getattr(self, entry.name))
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate must divide batch {self.batch}, got {self.accumulate}")
        if self.schedule == "steps" and not self.milestones:
            raise ValueError(
                "schedule 'steps' needs milestones (epochs at which the rate falls "
                "tenfold), got none"
            )

    @property
    def encoder_options(self) -> dict[str, Any]:
        """Options of the backbone beyond its name."""
        return {"width": self.width} if self.encoder == "i3d" else {}

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what JSON and a weights-only checkpoint can hold."""
        return {
            key: list(v) if isinstance(v, tuple) else v
            for key, v in dataclasses.asdict(self).items()
        }

    def override(self, settings: Iterable[str]) -> Self:
        """This config with ``key=value`` settings applied, values parsed by the field's type
        (``none`` for None).
        """
        hints = get_type_hints(type(self))
        changes: dict[str, Any] = {}
        for setting in settings:
            key, equals, text = setting.partition("=")
            if not equals:
                raise ValueError(f"a setting is key=value, got {setting!r}")
            _known(type(self), key)
            changes[key] = _parse(key, hints[key], text)
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """A run of momentum contrast with foreground-background merging; the defaults are the
    reference's on K400.

    Clips: random resized ``crop`` of an area of ``min_area``..1, flip, then grey, jitter and blur
    with these probabilities. Merging: the top ``beta`` of the ``mask`` of a clip stays, the rest
    comes from another video (``background="inter"``), from the other clip of the same video
    (``"intra"``), or nothing is merged (``"none"``); ``views`` says whether one or both views are
    merged, ``merge_group`` how many clips exchange backgrounds (None: all that a process sees),
    ``sources`` whether a clip may draw its own (``"permutation"``, as in the reference), ``hue``
    which colours ``mask="online"`` sees. ``mask="median"`` makes a map for every frame; ``cut``
    takes ``beta`` of every map, of all frames of a clip together, or lets each clip choose a share
    up to ``beta``. Contrast: ``queue`` keys of ``dim`` numbers,
    ``temperature``, a key encoder moving by ``ema`` (``ema_schedule="cosine"`` raises it to 1); the
    keys of view 2 enter the queue ``"between"`` the two directions as in the reference, or
    ``"after"`` both; ``negatives="others"`` leaves a video's own older keys out of its negatives,
    ``"all"`` takes the whole queue, as in the reference. Every ``knn_every`` epochs (0: never) the
    features are scored on a labelled store by ``knn_k`` neighbours.
    """

    crop: int = _number(224, low=8)
    min_area: float = _number(0.2, low=0, high=1, above=True)
    flip: float = _number(0.5, low=0, high=1)
    gray: float = _number(0.2, low=0, high=1)
    jitter: float = _number(0.8, low=0, high=1)
    blur: float = _number(0.5, low=0, high=1)

    beta: float = _number(0.5, low=0, high=1, above=True)
    views: Literal["single", "both"] = "single"
    background: Literal["inter", "intra", "none"] = "inter"
    mask: Literal["stored", "online", "median", "gauss", "grid", "seed"] = "stored"
    cut: Literal["frame", "clip", "adaptive"] = "frame"
    hue: Literal["reference", "correct"] = "reference"
    sources: Literal["derangement", "permutation"] = "derangement"
    merge_group: int | None = _number(None, low=2)

    head: Literal["projection", "linear"] = "projection"
    dim: int = _number(128, low=1)
    queue: int = _number(65536, low=1)
    temperature: float = _number(0.1, low=0, above=True)
    ema: float = _number(0.999, low=0, high=1)
    ema_schedule: Literal["constant", "cosine"] = "constant"
    enqueue: Literal["between", "after"] = "after"
    negatives: Literal["others", "all"] = "others"

    knn_every: int = _number(0, low=0)
    knn_k: int = _number(20, low=1)

    @property
    def head_options(self) -> dict[str, Any]:
        """The head as :func:`fame.models.build_encoder` takes it."""
        return {"kind": self.head, "dim": self.dim}

    @property
    def merges(self) -> bool:
        """Whether any view is merged."""
        return self.background != "none"


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TrainingConfig):
    """A run of supervised fine-tuning; the defaults are the reference's on UCF101 (published there:
    88.6 from K400).

    One random clip of every video an epoch: random resized ``crop`` of an area of ``min_area``..1
    and flip, then grey, jitter and blur with these probabilities (the reference blurs in
    pretraining only). ``dropout`` comes before the classifier. ``select`` says whose weights are
    the result: those of the ``"last"`` epoch; the best on a part of the training videos
    (``val_share`` of each class, never trained on), ``"validation"``; or the best on the test
    videos themselves, ``"test"``, as the reference reports. The latter two look every
    ``select_every`` epochs.
    """

    epochs: int = _number(150, low=1)
    batch: int = _number(128, low=1)
    lr: float = _number(0.025, low=0, above=True)
    schedule: Literal["cosine", "steps", "constant"] = "steps"
    milestones: tuple[int, ...] = (60, 120)

    crop: int = _number(224, low=8)
    min_area: float = _number(0.2, low=0, high=1, above=True)
    flip: float = _number(0.5, low=0, high=1)
    gray: float = _number(0.2, low=0, high=1)
    jitter: float = _number(0.8, low=0, high=1)
    blur: float = _number(0.0, low=0, high=1)
    dropout: float = _number(0.7, low=0, high=0.99)

    select: Literal["last", "validation", "test"] = "last"
    val_share: float = _number(0.1, low=0, high=0.5, above=True)
    select_every: int = _number(10, low=1)


def from_dict(kind: type[C], data: Mapping[str, Any]) -> C:
    """Read a config of ``kind``; raises ``ValueError`` for an unknown field or a value that is not
    allowed.
    """
    hints = get_type_hints(kind)
    for key in data:
        _known(kind, key)
    values: dict[str, Any] = dict(data)
    for key, value in data.items():
        if get_origin(hints[key]) is tuple and isinstance(value, list):  # JSON has no tuples
            values[key] = tuple(value)
    return kind(**values)


def _known(kind: type[TrainingConfig], key: str) -> None:
    names = [entry.name for entry in dataclasses.fields(kind)]
    if key not in names:
        near = difflib.get_close_matches(key, names, n=1, cutoff=0.0)
        raise ValueError(f"{kind.__name__} has no field {key!r}; did you mean {near[0]!r}?")


def _check(entry: dataclasses.Field[Any], hint: Any, value: Any) -> None:
    """Raise ``ValueError`` naming the field, its value and what is allowed."""
    if get_origin(hint) in (Union, types.UnionType) and value is None:
        return
    hint = _without_none(hint)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(
                f"{entry.name} must be one of {', '.join(get_args(hint))}, got {value!r}"
            )
        return
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple) or not all(type(v) is int and v > 0 for v in value):
            raise ValueError(f"{entry.name} must be positive whole numbers, got {value!r}")
        return
    allowed = (int, float) if hint is float else (hint,)
    if type(value) not in allowed:
        raise ValueError(f"{entry.name} must be of type {hint.__name__}, got {value!r}")
    if "low" in entry.metadata:
        _check_range(entry, value)


def _check_range(entry: dataclasses.Field[Any], value: float) -> None:
    low, high, above = (entry.metadata[key] for key in ("low", "high", "above"))
    inside = (value > low if above else value >= low) and (
        value <= high if high is not None else value < float("inf")
    )
    if not inside:
        bound = f"above {low}" if above else f"at least {low}"
        raise ValueError(
            f"{entry.name} must be "
            f"{bound}{f' and at most {high}' if high is not None else ''}, got {value!r}"
        )


def _without_none(hint: Any) -> Any:
    """``int`` of ``int | None``; any other type as it is."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(member for member in get_args(hint) if member is not types.NoneType)
    return hint


def _parse(key: str, hint: Any, text: str) -> Any:
    """Read a value of the field's type from the command line."""
    if text.lower() == "none" and _without_none(hint) is not hint:
        return None
    kind = _without_none(hint)
    if get_origin(kind) is Literal:
        return text
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if get_origin(kind) is tuple:
            return tuple(int(part) for part in text.split(",") if part)
        return kind(text)
    except (ValueError, KeyError):
        name = (
            getattr(kind, "__name__", "numbers separated by commas")
            if get_origin(kind) is None
            else "a,b,c"
        )
        raise ValueError(f"{key} takes a value of type {name}, got {text!r}") from None
