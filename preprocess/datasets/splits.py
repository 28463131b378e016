"""Find the lists and folders of a split under the names in common use."""

import re
from pathlib import Path

from preprocess.datasets.files import Source, folders_below

_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "validation", "validate", "valid"),
    "test": ("test", "testing"),
}


_SAY_NOTHING = ("", "list", "lists", "videos", "split", "annotations", "rawframes")


def called(text: str, name: str) -> bool:
    """Return whether ``text`` is one of the names of a split, in either case."""
    return text.lower() in _NAMES.get(name, (name,))


def split_folder(root: Path, split: str) -> str | None:
    """Return the folder of a split below ``root``: ``train``, ``videos_train`` or
    ``rawframes_train``.
    """
    for name in _NAMES.get(split, (split,)):
        for folder in (name, f"videos_{name}", f"rawframes_{name}"):
            if (root / folder).is_dir():
                return folder
    return None


def find_list(source: Source, name: str, *, suffixes: tuple[str, ...], of: str) -> Path:
    """Return the list ``name`` (a split, or ``labels``) in the annotations or two levels below
    them.

    Lists end with the name: ``train.csv``, ``kinetics_train.csv``, ``kinetics400/train.csv``. The
    nearest one is taken; among equals one whose path names the dataset (``of``), then by the
    order of suffixes, then the plainest name. A file in place of the folder is the list of the
    source's split; the others are looked for beside it.

    Raises:
        ValueError: there is none, or several are equally good.
    """
    assert source.annotations is not None
    folder = source.annotations
    if folder.is_file():
        if name == source.split:
            return _given(folder, name)
        folder = folder.parent
    ranked = sorted(
        (_rank(folder, path, suffixes, of), path)
        for place in folders_below(folder, depth=2)
        if place.is_dir()
        for path in sorted(place.iterdir())
        if path.suffix.lower() in suffixes
        and called(_last_word(path), name)
        and path.is_file()
        and not _of_another(str(path.relative_to(folder)), of)
    )
    if not ranked:
        raise ValueError(
            f"{folder} holds no list of {name}: {name}{suffixes[0]}, or a name that ends so"
        )
    (best, path), *rest = ranked
    if rest and rest[0][0] == best:
        raise ValueError(
            f"{path} and {rest[0][1]} may both be the list of {name}: name one with --annotations"
        )
    return path


def _given(path: Path, split: str) -> Path:
    """Return the one file that was named. Raise ``ValueError`` if its name is of another split."""
    for other in _NAMES:
        if other != split and called(_last_word(path), other):
            raise ValueError(f"{path} is a list of {other}, not of {split}; see --split")
    return path


def _of_another(path: str, of: str) -> bool:
    """Return whether a path names another Kinetics: ``kinetics600/train.csv`` does not belong to
    the 400.
    """
    return of not in path and re.search(r"(?<![0-9])[467]00(?![0-9])", path) is not None


def _last_word(path: Path) -> str:
    """Return the last word of a name that is not a filler: ``train`` of
    ``k400_train_list_videos.txt``.
    """
    words = re.split(r"[^a-z]+", path.stem.lower())
    return next((word for word in reversed(words) if word not in _SAY_NOTHING), "")


def find_file(folder: Path, name: str, *, of: str) -> Path:
    """Return the file ``name`` in a folder or two levels below it. Raise ``ValueError`` if it is
    not there.
    """
    for place in folders_below(folder, depth=2):
        if (place / name).is_file():
            return place / name
    raise ValueError(f"{folder / name} is missing: it comes with {of}")


def _rank(
    folder: Path, path: Path, suffixes: tuple[str, ...], of: str
) -> tuple[int, bool, int, bool]:
    # The lowest is the best: few folders, the dataset in the path, the first suffix, letters only.
    below = path.relative_to(folder)
    return (
        len(below.parts),
        of not in str(below),
        suffixes.index(path.suffix.lower()),
        not path.stem.isalpha(),
    )
