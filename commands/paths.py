"""Default paths of the commands, all below one data root."""

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from commands.options import option
from fame.files import is_there

Root = Annotated[
    Path,
    option(
        "Data root: videos/, stores/ and runs/ live below it.", envvar="FAME_ROOT", metavar="FOLDER"
    ),
]
Checkpoints = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="CHECKPOINT",
        help="Checkpoints to compare (default: ROOT/runs/pretrain/checkpoints/last.pt).",
    ),
]
AnyPath = TypeVar("AnyPath", Path, Path | str)


def existing(path: AnyPath, *, made_by: str) -> AnyPath:
    """Return ``path``. Raise ``ValueError`` naming the path and the command that creates it, if
    nothing is there.

    An address (``s3://``, ``hf:``) or a function (``module:name``) is not looked for here: opening
    it raises the error.
    """
    if ":" not in str(path) and not is_there(Path(path)):
        raise ValueError(f"{path} is not there; {made_by}")
    return path


def checkpoint_or_default(given: Path | None, root: Path) -> Path:
    """Return the checkpoint that was named, else the last one of the default run."""
    path = given or root / "runs" / "pretrain" / "checkpoints" / "last.pt"
    return existing(path, made_by="`fame pretrain` makes checkpoints")
