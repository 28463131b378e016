"""``fame export``. Heavy imports live inside the command."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from commands.output import say
from commands.paths import Root, checkpoint_or_default
from fame.lock import hold
from fame.settings import LARGEST_CROP, MOST_FRAMES, Setting, Settings


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Settings):
    """The clips that an exported program takes, and where it goes."""

    out: Annotated[Path | None, Setting("Folder to write to (default: ROOT/runs/export).")] = None
    frames: Annotated[
        int, Setting("Frames of a clip.", low=1, high=MOST_FRAMES, metavar="FRAMES")
    ] = 16
    crop: Annotated[
        int, Setting("Side of a clip, pixels.", low=8, high=LARGEST_CROP, metavar="PIXELS")
    ] = 224


def export(
    config: ExportConfig,
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A checkpoint (default: ROOT/runs/pretrain/checkpoints/last.pt).",
        ),
    ] = None,
    root: Root = Path("data"),
    formats: Annotated[
        list[str],
        typer.Option(
            "--format",
            metavar="safetensors|torch.export|onnx",
            help="What to write; may be repeated. ONNX needs the packages onnx and onnxscript.",
        ),
    ] = ["safetensors", "torch.export"],
) -> None:
    """Write an encoder's weights as safetensors, a JSON card, and a program that runs without this
    project.
    """
    from fame.export import export_encoder

    folder = config.out or root / "runs" / "export"
    source = checkpoint_or_default(checkpoint, root)
    with hold(folder, what="export"):
        size = {"frames": config.frames, "crop": config.crop}
        paths = export_encoder(source, folder, **size, formats=formats)
    for path in paths:
        say(path)
