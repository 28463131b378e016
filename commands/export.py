"""``fame export``. Heavy imports live inside the command."""

from pathlib import Path
from typing import Annotated

import typer

from commands.options import Root, checkpoint_or_default, say
from fame.lock import hold


def export(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="A checkpoint (default: ROOT/runs/pretrain/checkpoints/last.pt)."),
    ] = None,
    root: Root = Path("data"),
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to (default: ROOT/runs/export).")
    ] = None,
    frames: Annotated[
        int, typer.Option(min=1, help="Frames per clip that the exported program takes.")
    ] = 16,
    crop: Annotated[int, typer.Option(min=8, help="Side of its clips, pixels.")] = 224,
) -> None:
    """Write an encoder's weights as safetensors, a JSON card, and a program that runs without this
    project.
    """
    from fame.export import export_encoder

    folder, source = out or root / "runs" / "export", checkpoint_or_default(checkpoint, root)
    with hold(folder, what="export"):
        paths = export_encoder(source, folder, frames=frames, crop=crop)
    for path in paths:
        say(path)
