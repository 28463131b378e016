"""An encoder for use elsewhere: safetensors weights, a JSON card, and a program that runs without
this project.

Shapes: B batch, T frames, H W height/width, D feature dim.
"""

import json
import warnings
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from fame.files import whole
from fame.models import Backbone
from fame.normalize import MEAN, STD, normalise, to_colours
from fame.weights import CARD_KEY, CHECKSUM_KEY, Encoder, export_checksum, load

EXPORT_FORMAT = "fame-encoder/1"


class FeatureProgram(nn.Module):
    """From uint8 frames to features, normalisation included: what is exported."""

    def __init__(self, network: Backbone) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip_BTHWC: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b d"]:
        """Global average of the last feature map."""
        return self.network.features(normalise(to_colours(clip_BTHWC)))


def export_encoder(
    checkpoint: Path, folder: Path, *, frames: int = 16, crop: int = 224
) -> tuple[Path, Path, Path]:
    """Write ``encoder.safetensors``, ``encoder.json`` and ``encoder.pt2`` into ``folder``; returns
    their paths.

    The weights (head included) load with :func:`fame.load`; the program takes uint8 ``[b, frames,
    crop, crop, 3]`` for any b, gives float32 ``[b, d]`` and needs only ``torch.export.load``. Each
    file replaces an older one atomically. Raises :class:`~fame.weights.CheckpointError` where the
    checkpoint cannot be used.
    """
    encoder = load(checkpoint)
    weights, card, program = (
        folder / f"encoder.{suffix}" for suffix in ("safetensors", "json", "pt2")
    )
    with whole(weights) as path:
        save_weights(encoder, path)
    with whole(card) as path:
        path.write_text(_card(encoder, frames=frames, crop=crop))
    with whole(program) as path:
        _save_program(encoder, path, frames=frames, crop=crop)
    return weights, card, program


def trace(encoder: Encoder, *, frames: int, crop: int) -> torch.export.ExportedProgram:
    """The encoder as a program over uint8 clips of ``frames`` x ``crop`` x ``crop`` pixels and any
    batch size.
    """
    # Two clips, because a batch of one would be taken for a constant.
    example = torch.zeros(2, frames, crop, crop, 3, dtype=torch.uint8, device=encoder.device)
    shapes = {"clip_BTHWC": {0: torch.export.Dim("batch")}}
    return torch.export.export(FeatureProgram(encoder.network), (example,), dynamic_shapes=shapes)


def save_weights(encoder: Encoder, path: Path) -> None:
    """Write the weights as safetensors, with their card and their checksum."""
    state = {name: value.contiguous() for name, value in encoder.network.state_dict().items()}
    metadata = {
        CARD_KEY: encoder.card.to_json(),
        CHECKSUM_KEY: export_checksum(encoder.card, state),
    }
    path.write_bytes(safetensors.torch.save(state, metadata))


def _save_program(encoder: Encoder, path: Path, *, frames: int, crop: int) -> None:
    program = trace(encoder, frames=frames, crop=crop)
    with warnings.catch_warnings():
        # torch sees no "complete" tensor in channels-last memory; on the CPU the first is the whole
        # one.
        warnings.filterwarnings("ignore", message="No complete tensor")
        with path.open("wb") as file:
            torch.export.save(program, file)


def _card(encoder: Encoder, *, frames: int, crop: int) -> str:
    card = {
        "format": EXPORT_FORMAT,
        "model": asdict(encoder.card),
        "feature_dim": encoder.feature_dim,
        "program_input": {
            "dtype": "uint8",
            "shape": ["batch", frames, crop, crop, 3],
            "colours": "RGB",
        },
        "normalisation": {
            "mean": MEAN,
            "std": STD,
            "of": "colours in 0..1; the program includes it",
        },
    }
    return json.dumps(card, indent=2, sort_keys=True) + "\n"
