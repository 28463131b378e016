"""An encoder for use elsewhere: safetensors weights, a JSON card, and programs that run without
this project (of torch.export or ONNX).

Shapes: B batch, T frames, H W height/width, D feature dim.
"""

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import safetensors.torch
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from fame.archive import one_line
from fame.files import try_write, whole
from fame.hub import without_folders
from fame.models import Backbone, is_foreign
from fame.normalize import MEAN, STD, normalise, to_colours
from fame.weights import CARD_KEY, CHECKSUM_KEY, Encoder, export_checksum, load

EXPORT_FORMAT = "fame-encoder/1"
FORMATS = {"safetensors": "safetensors", "torch.export": "pt2", "onnx": "onnx"}
USUAL = ("safetensors", "torch.export")


class FeatureProgram(nn.Module):
    """From uint8 frames to features, normalisation included: what is exported."""

    def __init__(self, network: Backbone) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip_BTHWC: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b d"]:
        """Return the global average of the last feature map."""
        return self.network.features(normalise(to_colours(clip_BTHWC)))


def export_encoder(
    checkpoint: Path,
    folder: Path,
    *,
    frames: int = 16,
    crop: int = 224,
    formats: Sequence[str] = USUAL,
) -> tuple[Path, ...]:
    """Write ``encoder.json`` and the formats asked for into ``folder``: ``encoder.safetensors``,
    ``encoder.pt2`` (torch.export), ``encoder.onnx``. Return their paths.

    The weights (head included) load with :func:`fame.load`. The programs take uint8 ``[b, frames,
    crop, crop, 3]`` for any b and give float32 ``[b, d]``; ``torch.export.load`` or an ONNX
    runtime is all they need. Each file replaces an older one atomically. Raise
    :class:`~fame.weights.CheckpointError` where the checkpoint cannot be used, ``ValueError`` for
    an unknown format, ONNX where its packages are not installed, or a file that cannot be written.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ValueError(f"no format {unknown[0]!r}: there are {', '.join(FORMATS)}")
    encoder, size = _portable(load(checkpoint)), {"frames": frames, "crop": crop}
    writers: dict[str, Callable[[Path], None]] = {
        "safetensors": lambda path: save_weights(encoder, path),
        "json": lambda path: _write_card(encoder, path, **size),
        "pt2": lambda path: _save_program(encoder, path, **size),
        "onnx": lambda path: _save_onnx(encoder, path, **size),
    }
    wanted = {"json", *(FORMATS[name] for name in formats)}
    paths = {suffix: folder / f"encoder.{suffix}" for suffix in writers if suffix in wanted}
    for target in paths.values():
        try_write(target)  # before a trace of a minute
    for suffix, target in paths.items():
        with whole(target) as path:
            writers[suffix](path)
    return tuple(paths.values())


def _portable(encoder: Encoder) -> Encoder:
    """Return the encoder with a card that names no folder of a person's machine: neither that of
    the run's cache nor that of a network of another project.
    """
    card = encoder.card
    config = {**card.config, "cache": None} if "cache" in card.config else card.config
    if is_foreign(card.name):
        name = without_folders(card.name)
        config = {**config, "encoder": name} if "encoder" in config else config
        card = replace(card, name=name)
    return Encoder(encoder.network, replace(card, config=config))


def trace(encoder: Encoder, *, frames: int, crop: int) -> torch.export.ExportedProgram:
    """Return the encoder as a program over uint8 clips of ``frames`` x ``crop`` x ``crop`` pixels
    and any batch size.
    """
    example = _example(encoder, frames=frames, crop=crop)
    try:
        return torch.export.export(FeatureProgram(encoder.network), example, dynamic_shapes=_SHAPES)
    except ValueError:
        raise
    except Exception as error:  # of anyone's network
        reason = f"{encoder.card.name}: torch.export cannot trace it: {one_line(error)}"
        raise ValueError(reason) from error


# Any batch, which two clips show: a batch of one would be taken for a constant.
_SHAPES = {"clip_BTHWC": {0: torch.export.Dim("batch")}}


def _example(encoder: Encoder, *, frames: int, crop: int) -> tuple[Tensor]:
    shape = (2, frames, crop, crop, 3)
    return (torch.zeros(shape, dtype=torch.uint8, device=encoder.device),)


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


def _save_onnx(encoder: Encoder, path: Path, *, frames: int, crop: int) -> None:
    if missing := [name for name in ("onnx", "onnxscript") if not find_spec(name)]:
        raise ValueError(f"the format onnx needs {missing[0]}: pip install onnx onnxscript")
    # It warns that torchvision's operators are left out, which no encoder here has.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec")  # torch's own
        program = torch.onnx.export(
            FeatureProgram(encoder.network).eval(),
            _example(encoder, frames=frames, crop=crop),
            dynamo=True,
            dynamic_shapes=_SHAPES,
            input_names=["clip_BTHWC"],
            output_names=["feature_BD"],
            verbose=False,
        )
    assert program is not None  # it is where dynamo is used
    program.save(str(path), external_data=False)  # at most 2 GB, the limit of the format


def _write_card(encoder: Encoder, path: Path, *, frames: int, crop: int) -> None:
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
    path.write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")
