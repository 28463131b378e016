"""Encoder weights from any checkpoint: this project's, its safetensors export, the reference's
released files, and those of other projects that have the same networks.

Nothing here runs what a file holds, and nothing reaches a network unchecked: names, shapes and
dtypes are held against the network on no memory at all, values against what can be. Shapes: B
batch, C channels, T frames, H W height/width, D feature dim, K outputs of the head.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from fame.archive import Archive, CheckpointError, one_line, open_archive
from fame.checkpoint import (
    FORMATS,
    Checkpoint,
    Maybe,
    Number,
    checksum,
    compare,
    expected,
    plain,
    take,
)
from fame.files import is_there
from fame.hub import fetch, is_address
from fame.models import Backbone, build_backbone, build_encoder, build_foreign, is_foreign
from fame.models.foreign import ForeignBackbone
from fame.models.registry import seeded
from fame.normalize import Normalisation, encoder_input
from fame.recognise import Recognised, claims_for, recognise
from fame.settings import LARGEST_CROP, MOST_APART, MOST_FRAMES
from fame.words import shown

CARD_KEY, CHECKSUM_KEY = "fame_card", "fame_checksum"
HEAD_PREFIXES = ("id_head.", "fc.")
_PARTS = ("classifier", "encoder_q")  # of a run's state: what is the encoder in it
# What a run's config says of its clips, on which those who use its encoder rely.
_OF_CLIPS = {
    "crop": Number(low=1, high=LARGEST_CROP),
    "frames": Number(low=1, high=MOST_FRAMES),
    "step": Number(low=1, high=MOST_APART),
    "span": Maybe(Number(low=0, high=1, real=True)),
}

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Card:
    """Plain values that rebuild a network, the configuration of the run that trained it, and the
    names of the classes of its classifier, where the file holds them.

    A ``stranger`` comes from another project, which numbers classes in an order of its own. The
    card is ``trusted`` to build a network of another project, which may run code, only if the user
    named that network.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    head: dict[str, Any] | None = None
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    class_names: tuple[str, ...] = ()
    stranger: bool = False
    trusted: bool = False

    def build(self) -> Backbone:
        """Return the network, untrained. Raise ``ValueError`` where the values name no network."""
        if is_foreign(self.name) and not self.trusted:
            raise ValueError(
                f"its network is another project's: name both, NETWORK@CHECKPOINT ({self.name})"
            )
        if self.head is None:
            return build_backbone(self.name, **self.options)
        return build_encoder(self.name, head=self.head, options=self.options)

    def outline(self) -> Backbone:
        """Return the network without memory, for its names and shapes. Raise
        :class:`CheckpointError` where the values name no network.
        """
        try:
            with torch.device("meta"):
                return self.build()
        except (ValueError, TypeError, RuntimeError, OverflowError) as error:
            raise CheckpointError(one_line(error)) from None

    def to_json(self) -> str:
        """Return the card as a JSON object."""
        return json.dumps(asdict(self), indent=2, sort_keys=True)

    @staticmethod
    def of(values: object) -> "Card":
        """Read a card from the values of a file. Raise :class:`CheckpointError` where something is
        missing or of another type.
        """
        model = plain(values)
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            raise CheckpointError("the description of the model has no name")
        parts: dict[str, Any] = {key: model.get(key) or {} for key in ("options", "head", "config")}
        if wrong := [key for key, part in parts.items() if not isinstance(part, dict)]:
            raise CheckpointError(f"{wrong[0]} in the description of the model is not a mapping")
        for key in _OF_CLIPS.keys() & parts["config"].keys():
            compare(parts["config"][key], _OF_CLIPS[key], f"{key} in its config")
        return Card(
            name=model["name"],
            options=parts["options"],
            head=parts["head"] or None,
            config=parts["config"],
            class_names=_class_names(model.get("class_names") or [], parts["head"]),
            stranger=bool(model.get("stranger")),
        )


@dataclass(frozen=True, kw_only=True)
class Weights:
    """An encoder's weights, the card of their network, and the SHA-256 over them."""

    path: Path
    card: Card
    state: State
    digest: str

    def load_into_(self, network: Backbone) -> None:
        """Copy every weight, the head's included. Raise :class:`CheckpointError` that names the
        first differences.
        """
        self._load(network, self.state, network.state_dict())

    def load_backbone_into_(self, network: Backbone) -> None:
        """Copy the backbone's weights and leave ``network``'s head, if any, as it is: the start of
        fine-tuning.
        """
        # Both without their heads: a projection of 128 outputs cannot be a classifier of 101
        # classes.
        self._load(network, _without_head(self.state), _without_head(network.state_dict()))

    def _load(self, network: Backbone, state: State, wanted: State) -> None:
        try:
            compare(state, expected(wanted), "the encoder")
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from None
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
        """Return the length of a feature vector."""
        return self.network.feature_dim

    @property
    def device(self) -> torch.device:
        """Return the device of the weights; clips are moved there."""
        held = chain(self.network.parameters(), self.network.buffers())  # one may have no weights
        return next((tensor.device for tensor in held), torch.device("cpu"))

    @torch.no_grad()
    def features(
        self, clips: Tensor, *, normalisation: Normalisation = "kinetics"
    ) -> Float[Tensor, "b d"]:
        """Return the global average of the last feature map, not normalised.

        ``clips``: uint8 frames ``[b, t, h, w, 3]`` as a store holds them, or colours in 0..1 ``[b,
        3, t, h, w]``; they are normalised here. Raise ``ValueError`` for anything else.
        """
        return self.network.features(encoder_input(clips.to(self.device), normalisation))

    @torch.no_grad()
    def feature_map(self, clips: Tensor) -> Float[Tensor, "b d t_map h_map w_map"]:
        """Return the last feature map of clips given as to :meth:`features`."""
        return self.network.feature_map(encoder_input(clips.to(self.device)))

    @torch.no_grad()
    def output(self, clips: Tensor) -> Float[Tensor, "b k"]:
        """Return the output of the head for clips given as to :meth:`features`: log-probabilities
        where it is a classifier.
        """
        return self.network(encoder_input(clips.to(self.device)))

    def __repr__(self) -> str:
        card = self.card
        network = f"{card.name}, {card.options}, head={card.head}"
        return f"Encoder({network}, feature_dim={self.feature_dim})"


def load(path: str | Path, *, device: torch.device | str | None = None) -> Encoder:
    """Load an encoder from a checkpoint of this project, its safetensors export, or a file of
    another project that has the same networks; a run folder is taken as its last checkpoint.
    ``hf://ORG/NAME`` and ``hf://ORG/NAME@REVISION`` are exports that `fame push` put on a hub.

    ``device`` defaults to the CPU. Raise :class:`CheckpointError`, a ``ValueError``, with one line
    that names the reason: no such file, damaged, holding objects that would run code, without an
    encoder, of an unknown network, with weights that are not finite.
    """
    if _names_foreign(path):
        encoder = _foreign(str(path))
        return Encoder(encoder.network.to(device or "cpu"), encoder.card)
    weights = read_weights(Path(path))
    # No initial weights are drawn: the outline gets its memory on ``device`` at once.
    network = weights.card.outline().to_empty(device=device or "cpu")
    weights.load_into_(network)
    return Encoder(network, weights.card)


def _names_foreign(path: str | Path) -> bool:
    return is_foreign(str(path)) and not is_there(Path(path)) and not is_address(path)


def _foreign(text: str) -> Encoder:
    """Return the network of another project that ``NAME`` or ``NAME@CHECKPOINT`` names."""
    name, at, file = text.partition("@")
    if text.startswith("hf:/") and not is_there(Path(name.removeprefix("hf:"))):
        raise CheckpointError(
            f"{text} is neither a folder nor an address: write hf:FOLDER, hf://ORG/NAME or "
            "hf://ORG/NAME@REVISION"
        )
    try:
        with seeded(0):
            network = build_foreign(name, trained=not at)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    size = {"frames": network.frames, "crop": network.crop}
    config = {key: value for key, value in size.items() if value}
    card = Card(name=name, config=config, trusted=True)
    return _filled(card, network, Path(file)) if at else Encoder(network, card)


def _filled(card: Card, network: ForeignBackbone, path: Path) -> Encoder:
    """Return the network with the weights of a run here, or of a bare state dict of its own."""
    with open_archive(path) as archive:
        if isinstance(archive.values, dict) and archive.values.get("format") in FORMATS:
            saved = Checkpoint(archive)
            found = Card.of({**saved.model, "config": saved.config})
            if found.name != card.name:
                raise CheckpointError(f"it is of {shown(found.name)}, not of {card.name}")
            card = replace(found, config={**found.config, **card.config}, trusted=True)
            with seeded(0):
                whole = card.build()
            part = next((part for part in _PARTS if part in saved.parts), _PARTS[0])
            state = saved.read({part: expected(whole.state_dict())})[part]
            whole.load_state_dict(state)
            return Encoder(whole, card)
        wanted = network.network.state_dict()
        held = claims_for(archive.values, wanted)
        # The counters that old files lack keep their value.
        needed = {name: like for name, like in wanted.items() if name in held or not _counts(name)}
        schema = expected(needed, any_precision=True)
        compare(held, schema, card.name)
        network.network.load_state_dict(
            take(archive, held, schema, card.name), strict=len(needed) == len(wanted)
        )
    return Encoder(network, card)


def read_weights(path: Path) -> Weights:
    """Read and check the encoder in ``path`` (the query encoder of a pretraining run, the
    classifier of a fine-tuned one). Raise :class:`CheckpointError`.
    """
    if _names_foreign(path):
        encoder = _foreign(str(path))
        state = encoder.network.state_dict()
        return Weights(path=path, card=encoder.card, state=state, digest=checksum(state))
    with open_archive(fetch(path) if is_address(path) else path) as archive:
        values = archive.values
        if CARD_KEY in archive.metadata or CHECKSUM_KEY in archive.metadata:
            card, state = _exported(archive)
        elif isinstance(values, dict) and values.get("format") in FORMATS:
            card, state = _of_run(Checkpoint(archive))
        else:
            card, state = _of_stranger(archive, recognise(values))
    return Weights(path=path, card=card, state=state, digest=checksum(state))


def _of_run(saved: Checkpoint) -> tuple[Card, State]:
    part = next((part for part in _PARTS if part in saved.parts), None)
    if part is None:
        held = ", ".join(map(shown, saved.parts)) or "nothing"
        raise CheckpointError(f"has no encoder (its state holds: {held})")
    card = Card.of({**saved.model, "config": saved.config})
    return card, saved.read({part: expected(card.outline().state_dict())})[part]


def _exported(archive: Archive) -> tuple[Card, State]:
    """Return the weights that ``fame export`` wrote, held against the checksum that it wrote beside
    them.
    """
    text, sum_ = (archive.metadata.get(key) for key in (CARD_KEY, CHECKSUM_KEY))
    try:
        card = Card.of(json.loads(text or ""))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"its card is damaged ({one_line(error)})") from None
    # Compare before reading: shapes are claims of the file until then.
    schema = expected(card.outline().state_dict())
    compare(archive.values, schema, "the encoder")
    state = take(archive, archive.values, schema, "the encoder")
    if sum_ is not None and sum_ != export_checksum(card, state):
        raise CheckpointError("damaged: the weights are not what was saved (the checksum differs)")
    return card, state


def export_checksum(card: Card, state: Mapping[str, Tensor]) -> str:
    """Return the checksum of an export: of the weights and their card."""
    return checksum({"card": json.loads(card.to_json()), "state": dict(state)})


def _of_stranger(archive: Archive, found: Recognised) -> tuple[Card, State]:
    """Return the weights of another project: of any precision, without the counters that old files
    lack, and without a head of a form that is not known here.

    These counters (``num_batches_tracked``) came with torch 0.4.1; no result depends on them.
    """
    card = Card(name=found.name, head=found.head, config=found.config, stranger=True)
    wanted = card.outline().state_dict()
    counters = {
        name: torch.zeros(like.shape, dtype=like.dtype)
        for name, like in wanted.items()
        if _counts(name) and name not in found.state
    }
    needed = {name: like for name, like in wanted.items() if name not in counters}
    # More layers are another network (layer1.2 of R(2+1)D-34); what has another first name, such as
    # classifier.1.weight, is none of its parts.
    tops = {name.split(".")[0] for name in needed}
    state = {name: claim for name, claim in found.state.items() if name.split(".")[0] in tops}
    schema = expected(needed, any_precision=True)
    compare(state, schema, f"the encoder ({found.name} by its names)")
    return card, take(archive, state, schema, "the encoder") | counters


def _counts(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _class_names(names: Any, head: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a classifier's classes, none where the file has none."""
    if not names or head.get("kind") != "classifier":
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in cast(Any, names)):
        raise CheckpointError("the names of its classes are no list of words")
    if len(cast(list[str], names)) != head.get("classes"):
        raise CheckpointError(
            f"names {len(cast(list[str], names))} classes, its classifier has "
            f"{shown(head.get('classes'))}"
        )
    return tuple(cast(list[str], names))


def _without_head(state: State) -> State:
    return {name: value for name, value in state.items() if not name.startswith(HEAD_PREFIXES)}
