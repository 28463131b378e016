"""Clip stores named on the command line: an error names what is there instead, and the command that
makes a store.
"""

import re
import shlex
from itertools import islice
from pathlib import Path
from typing import get_args

from commands.paths import AnyPath
from fame.files import is_there
from preprocess.config import Dataset
from preprocess.datasets.files import is_video

_ROOT_KEY = "zarr.json"  # of fame.clipstore.layout, which loads numpy
_LOOKED_AT = 10_000  # entries of a folder, until it is believed to hold no videos
_NAMED = 8
_MAKES = "`fame preprocess` makes clip stores"


def existing_store(path: AnyPath, *, root: Path, hint: str = "") -> AnyPath:
    """Return ``path``. Raise ``ValueError`` if no clip store is there: the line names what is there
    instead, the command that makes a store, and the stores beside ``path``, else those of ``root``.

    A store in a bucket is not looked for here: opening it raises the error.
    """
    if "://" in str(path) or is_there(Path(path) / _ROOT_KEY):
        return path
    place = Path(path)
    if not is_there(place):
        others = _named(place.parent) or _named(root / "stores")
        notes = [f"{path} is not there", _maker(place), hint, others]
    elif not place.is_dir():
        notes = [f"{path} is a file, but a clip store is a folder", _MAKES, hint]
    elif within := _named(place) or _named(place / "stores"):  # also of a data root
        notes = [f"{path} is no clip store", within]
    elif _holds_videos(place):
        make = f"`fame preprocess folder --videos {shlex.quote(str(path))}` makes one of it"
        notes = [f"{path} is a folder of videos and no clip store", make]
    else:
        notes = [f"{path} is a folder without a clip store", _MAKES, hint]
    raise ValueError("; ".join(note for note in notes if note))


def _maker(store: Path) -> str:
    """Return which command makes a store, in words: ``ucf101-train2.zarr`` is that of a dataset."""
    name = re.fullmatch(r"(\w+)-(?:train|test|val)([1-3]?)\.zarr", store.name)
    if name is None or name[1] not in get_args(Dataset):
        return _MAKES
    fold = f" --fold {name[2]}" if name[2] > "1" else ""
    return f"`fame preprocess {name[1]}{fold}` makes it"


def shares(words: list[str]) -> tuple[list[str], list[float] | None]:
    """Read ``STORE`` or ``STORE=SHARE`` words: the stores, and their shares if they have them.

    A store of that very name, with its ``=``, is taken as it is. Raise ``ValueError`` where some
    have a share and others have none.
    """
    read = [_share(word) for word in words]
    given = [share for _, share in read if share is not None]
    if given and len(given) < len(read):
        without = next(path for path, share in read if share is None)
        raise ValueError(f"{without} has no share: write STORE=SHARE for every store or for none")
    return [path for path, _ in read], given or None


def _share(word: str) -> tuple[str, float | None]:
    path, equals, text = word.rpartition("=")
    if not equals or is_there(Path(word)):
        return word, None
    try:
        return path, float(text)
    except ValueError:
        return word, None


def _named(folder: Path) -> str:
    """Return the stores that lie in a folder, in words; "" where there are none."""
    found = sorted(root.parent for root in folder.glob(f"*/{_ROOT_KEY}"))
    if not found or (folder / _ROOT_KEY).exists():  # the arrays of a store have that file too
        return ""
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return "there are the stores " + ", ".join(map(str, found[:_NAMED])) + more


def _holds_videos(folder: Path) -> bool:
    return any(is_video(entry.name) for entry in islice(folder.rglob("*"), _LOOKED_AT))
