"""Encoder weights from any checkpoint: this project's, its safetensors export, the reference's
released files.

Nothing here unpickles objects: a checkpoint from a stranger is tensors and plain values, or it is
refused. Shapes: B batch, C channels, T frames, H W height/width, D feature dim, K outputs of the
head.
"""

import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import safetensors
import torch
from jaxtyping import Float
from torch import Tensor

from fame.models import Backbone, build_backbone, build_encoder, build_foreign, is_foreign
from fame.models.registry import seeded
from fame.normalize import encoder_input

CHECKPOINT_FORMAT = "fame-checkpoint/1"
CARD_KEY = "fame_card"
HEAD_PREFIXES = ("id_head.", "fc.")

State = dict[str, Tensor]


class WeightsError(ValueError):
    """A checkpoint that cannot be used; the message names the file and says why in one line."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What must be known to rebuild a network (plain values), and the configuration of the run that
    trained it.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    head: dict[str, Any] | None = None
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    trusted: bool = False

    def build(self) -> Backbone:
        """The network, untrained; ``ValueError`` where the values name no network."""
        if is_foreign(self.name) and not self.trusted:
            raise ValueError(
                f"the checkpoint is of {self.name}, a network of another project, which a "
                "checkpoint may not choose"
            )
        if self.head is None:
            return build_backbone(self.name, **self.options)
        return build_encoder(self.name, head=self.head, options=self.options)

    def to_json(self) -> str:
        """The card as a JSON object."""
        return json.dumps(asdict(self), indent=2, sort_keys=True)

    @staticmethod
    def of(values: object) -> "Card":
        """Read a card from the values of a file; ``ValueError`` where something is missing or of
        another type.
        """
        if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
            raise ValueError("the description of the model has no name")
        parts = {key: values.get(key) or {} for key in ("options", "head", "config")}
        if wrong := [key for key, part in parts.items() if not isinstance(part, dict)]:
            raise ValueError(f"{wrong[0]} in the description of the model is not a mapping")
        head = parts["head"] or None
        return Card(
            name=values["name"], options=parts["options"], head=head, config=parts["config"]
        )


@dataclass(frozen=True, kw_only=True)
class Weights:
    """An encoder's weights and the card that says which network they belong to."""

    path: Path
    card: Card
    state: State

    def load_into_(self, network: Backbone) -> None:
        """Copy every weight, the head's included; ``WeightsError`` names the first differences."""
        self._load(network, self.state, network.state_dict())

    def load_backbone_into_(self, network: Backbone) -> None:
        """Copy the backbone's weights and leave ``network``'s head, if any, as it is: the start of
        fine-tuning.
        """
        self._load(network, _without_head(self.state), _without_head(network.state_dict()))

    def _load(self, network: Backbone, state: State, wanted: State) -> None:
        if difference := _difference(state, wanted):
            raise WeightsError(
                f"{self.path}: the weights do not fit the network {self.card.name!r}: {difference}"
            )
        network.load_state_dict(state, strict=False)


class Encoder:
    """A frozen, pretrained encoder in evaluation mode, for people who want features. Made by
    :func:`load`.
    """

    def __init__(self, network: Backbone, card: Card) -> None:
        self.network = network.eval().requires_grad_(False)
        self.card = card

    @property
    def feature_dim(self) -> int:
        """Length of a feature vector."""
        return self.network.feature_dim

    @property
    def device(self) -> torch.device:
        """Where the weights are; clips are brought there."""
        return next(self.network.parameters()).device

    @torch.no_grad()
    def features(self, clips: Tensor) -> Float[Tensor, "b d"]:
        """Global average of the last feature map, not normalised.

        ``clips``: uint8 frames ``[b, t, h, w, 3]`` as a store holds them, or colours in 0..1 ``[b,
        3, t, h, w]``; the recipe's normalisation is applied here. ``ValueError`` on anything else.
        """
        return self.network.features(encoder_input(clips.to(self.device)))

    @torch.no_grad()
    def feature_map(self, clips: Tensor) -> Float[Tensor, "b d t_map h_map w_map"]:
        """The last feature map of clips given as to :meth:`features`."""
        return self.network.feature_map(encoder_input(clips.to(self.device)))

    @torch.no_grad()
    def output(self, clips: Tensor) -> Float[Tensor, "b k"]:
        """What the head says of clips given as to :meth:`features`: log-probabilities where it is a
        classifier.
        """
        return self.network(encoder_input(clips.to(self.device)))

    def __repr__(self) -> str:
        card = self.card
        network = f"{card.name}, {card.options}, head={card.head}"
        return f"Encoder({network}, feature_dim={self.feature_dim})"


def load(path: str | Path, *, device: torch.device | str | None = None) -> Encoder:
    """Load an encoder from a checkpoint of this project, its safetensors export, or a release of
    the reference.

    ``device`` defaults to the CPU. Raises :class:`WeightsError`, a ``ValueError``, with one line
    that says what is wrong: no such file, damaged, holding objects that would run code, without an
    encoder, of an unknown network.
    """
    if is_foreign(str(path)) and not Path(path).exists():
        return _foreign(str(path), device=device)
    weights = read_weights(Path(path))
    try:
        network = weights.card.build()
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None
    weights.load_into_(network)
    return Encoder(network.to(device or "cpu"), weights.card)


def _foreign(name: str, *, device: torch.device | str | None) -> Encoder:
    """Return a network of another project; see :mod:`fame.models.foreign`."""
    try:
        with seeded(0):
            network = build_foreign(name, trained=True)
    except ValueError as error:
        raise WeightsError(str(error)) from None
    size = {"frames": network.frames, "crop": network.crop}
    config = {key: value for key, value in size.items() if value}
    card = Card(name=name, config=config, trusted=True)
    return Encoder(network.to(device or "cpu"), card)


def read_weights(path: Path) -> Weights:
    """Read the encoder in ``path`` (the query encoder of a pretraining run, the classifier of a
    fine-tuned one).
    """
    if not path.is_file():
        raise WeightsError(
            f"{path}: {'is a folder, not a checkpoint' if path.is_dir() else 'no such file'}"
        )
    try:
        card, state = (
            _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
        )
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    return Weights(path=path, card=card, state=state)


def _read_safetensors(path: Path) -> tuple[Card, State]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            text = (file.metadata() or {}).get(CARD_KEY)
        card = None if text is None else Card.of(json.loads(text))
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(f"not a readable safetensors file ({_line(error)})") from None
    except ValueError as error:
        raise WeightsError(f"its card is damaged ({_line(error)})") from None
    return card or _recognise(state, contrastive=True), state


def _read_torch(path: Path) -> tuple[Card, State]:
    """Tensors and plain values of a ``torch.save`` file: ours, or one with the reference's
    ``state_dict``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about the pickle protocol, for which there is an error if it matters
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(str(error))) from None
    except OSError as error:
        raise WeightsError(f"cannot be read ({_line(error)})") from None
    except (EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError):
        raise WeightsError("truncated, damaged or not a checkpoint") from None
    if isinstance(content, dict) and content.get("format") == CHECKPOINT_FORMAT:
        return _ours(content)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        return _reference(content["state_dict"])
    found = (
        ", ".join(map(str, list(content)[:5]))
        if isinstance(content, dict)
        else type(content).__name__
    )
    raise WeightsError(
        f"neither {CHECKPOINT_FORMAT} nor a checkpoint with a state_dict (found: {found})"
    )


def _refusal(message: str) -> str:
    """Why torch's restricted unpickler gave up: an object that would run code, or bytes that it
    does not know.
    """
    _, found, rest = message.partition("GLOBAL ")
    if found:
        return (
            f"refused: it holds {rest.split()[0]}, an object that could run code; "
            "save tensors and plain values only"
        )
    return (
        "refused: damaged, or a pickle of more than tensors and plain values, which could run code"
    )


def _ours(content: Mapping[str, Any]) -> tuple[Card, State]:
    states = content.get("state")
    states = states if isinstance(states, dict) else {}
    state = states.get("classifier") or states.get("encoder_q")
    if not isinstance(state, dict):
        raise WeightsError(
            f"has no encoder (its state holds: {', '.join(map(str, states)) or 'nothing'})"
        )
    try:
        card = Card.of({**content["model"], "config": content.get("config")})
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"does not describe its model ({_line(error)})") from None
    return card, _tensors(state)


def _reference(states: Mapping[Any, Any]) -> tuple[Card, State]:
    """The reference wrapped everything in ``module.``, and the query encoder of MoCo in
    ``module.encoder_q.``.
    """
    names = [name for name in states if isinstance(name, str)]
    contrastive = any(name.startswith("module.encoder_q.") for name in names)
    prefix = "module.encoder_q." if contrastive else "module."
    state = {name.removeprefix(prefix): states[name] for name in names if name.startswith(prefix)}
    if not state:
        raise WeightsError(
            f"has no encoder: no name begins with {prefix} (found: {', '.join(names[:3])})"
        )
    return _recognise(_tensors(state), contrastive=contrastive), state


def _recognise(state: State, *, contrastive: bool) -> Card:
    """Which network a state dict without a card belongs to, from the names of its stem and head."""
    if "conv3d_1a_7x7.conv3d.weight" in state:
        name = "i3d"
    elif "stem.0.weight" in state:
        name = "r2plus1d_18"
    else:
        raise WeightsError(
            f"has no encoder known here (its weights begin: {', '.join(list(state)[:3])})"
        )
    if "id_head.4.bias" in state:
        return Card(name=name, head={"kind": "projection", "dim": state["id_head.4.bias"].numel()})
    if "fc.bias" not in state:
        return Card(name=name)
    outputs = state["fc.bias"].numel()
    return Card(
        name=name,
        head={"kind": "linear", "dim": outputs}
        if contrastive
        else {"kind": "classifier", "classes": outputs},
    )


def _tensors(state: Mapping[Any, Any]) -> State:
    if wrong := [
        name
        for name, value in state.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]:
        raise WeightsError(f"{wrong[0]} among the weights is not a named tensor")
    return cast(State, dict(state))


def _without_head(state: State) -> State:
    return {name: value for name, value in state.items() if not name.startswith(HEAD_PREFIXES)}


def _difference(state: State, wanted: State) -> str:
    """The first few differences between two state dicts in names or shapes, or nothing."""
    parts = [
        f"{name} is {list(state[name].shape)}, the network's is {list(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ][:2]
    for verb, names in (
        ("lacks", wanted.keys() - state.keys()),
        ("has the unknown", state.keys() - wanted.keys()),
    ):
        if names:
            parts.append(f"it {verb} {', '.join(sorted(names)[:2])} ({len(names)} in all)")
    return "; ".join(parts)


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:160] or type(error).__name__
