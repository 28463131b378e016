"""Networks by name, built from plain values (what a checkpoint's card holds), with addressed
initial weights.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from fame.models.backbone import Backbone
from fame.models.c3d import SmallC3D
from fame.models.foreign import build_foreign, is_foreign
from fame.models.heads import HEADS
from fame.models.i3d import I3D, PytorchI3D
from fame.models.r2plus1d import R2Plus1D18

T = TypeVar("T")

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "i3d": I3D,
    "r2plus1d_18": R2Plus1D18,
    "c3d_small": SmallC3D,
    "pytorch_i3d": PytorchI3D,
}


def build_backbone(name: str, *, seed: int = 0, **options: Any) -> Backbone:
    """Build ``"i3d"`` (option ``width``), ``"r2plus1d_18"``, ``"c3d_small"`` or ``"pytorch_i3d"``
    without a head.

    ``seed`` decides the initial weights, which follow the reference: torch's defaults, and He's
    normal over outgoing connections for the convolutions of R(2+1)D. Global random state is neither
    read nor changed. Raise ``ValueError`` for a name or option that does not exist.
    """
    with seeded(seed):
        return _backbone(name, options)


def build_encoder(
    name: str, *, head: Mapping[str, Any], options: Mapping[str, Any] | None = None, seed: int = 0
) -> Backbone:
    """Build a backbone (``options`` as of :func:`build_backbone`) with a head on it.

    ``head`` is ``{"kind": "projection", "dim": 128}``, ``{"kind": "linear", "dim": 128}`` or
    ``{"kind": "classifier", "classes": 101, "dropout": 0.7}``.
    """
    settings = dict(head)  # a copy: the kind is taken out of it
    kind = settings.pop("kind", None)
    attribute, constructor = _lookup("head", kind, HEADS)
    # The backbone draws first: with one seed it gets the same weights under any head.
    with seeded(seed):
        encoder = _backbone(name, options or {})
        built: nn.Module = _construct(
            "head", kind, {kind: constructor}, encoder.feature_dim, **settings
        )
    encoder.attach(attribute, built)
    return encoder


def _backbone(name: str, options: Mapping[str, Any]) -> Backbone:
    if is_foreign(name):
        return build_foreign(name)
    backbone = _construct("backbone", name, BACKBONES, **options)
    return backbone.to(memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Make initial weights within this context depend on ``seed`` alone; restore the global
    generator afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also seed accelerators, where nothing is built.
        torch.default_generator.manual_seed(seed)
        yield


def _lookup(what: str, name: object, known: Mapping[str, T]) -> T:
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"unknown {what} {name!r}: there are {', '.join(known)}")
    return known[name]


def _construct(
    what: str, name: str, known: Mapping[str, Callable[..., T]], *args: Any, **options: Any
) -> T:
    constructor = _lookup(what, name, known)
    try:
        return constructor(*args, **options)
    except TypeError as error:  # Python's own for an option that the constructor does not have
        reason = str(error).split("\n")[0]
        raise ValueError(f"{what} {name!r} cannot be built with {options}: {reason}") from None
