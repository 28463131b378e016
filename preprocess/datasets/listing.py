"""From annotations and the files on disk to the videos of one split: sorted names, labels, and what
did not match.
"""

import os
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_SUFFIXES = "3gp avi flv gif m4v mkv mov mp4 mpeg mpg mts ogv ts webm wmv"
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split(" "))
UNLABELLED = -1
_UNSPEAKABLE = ("Cc", "Cs")  # control characters, and what undecodable bytes of a file name become


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The videos of one split: names relative to the root, in sorted order, and the class index of
    each (-1: none).

    ``missing`` are listed but not on disk, ``extra`` are videos on disk that no list mentions,
    ``doubled`` are listed more than once (and kept once).
    """

    names: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()

    @property
    def missing_share(self) -> float:
        """Share of the listed videos that are not on disk."""
        return len(self.missing) / max(1, len(self.missing) + len(self.names))


@dataclass(frozen=True)
class Files:
    """Files under a root, relative to it: those inside, and links that lead out of it."""

    inside: frozenset[str]
    escaping: frozenset[str]


def scan(root: Path, *, under: str = "") -> Files:
    """List the files below ``root/under``. Hidden entries are skipped and links to folders are not
    followed.
    """
    if not (root / under).is_dir():
        raise ValueError(f"{root / under} is not a folder of videos")
    real_root = os.path.realpath(root)
    inside, escaping, folders = set[str](), set[str](), [under]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                name = f"{folder}/{entry.name}".lstrip("/")
                if entry.is_dir(follow_symlinks=False):
                    folders.append(name)
                elif (
                    entry.is_symlink()
                    and os.path.commonpath((real_root, os.path.realpath(entry.path))) != real_root
                ):
                    escaping.add(name)
                elif entry.is_file():
                    inside.add(name)
    return Files(frozenset(inside), frozenset(escaping))


def is_video(name: str) -> bool:
    """Whether a file's suffix is that of a video."""
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES


def checked_name(name: str) -> str:
    """Normalise a name from a list; raises ``ValueError`` if it is empty, leaves the root, or
    cannot be shown.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.name:
        raise ValueError(f"{name!r} is not the name of a video below the root")
    if any(unicodedata.category(character) in _UNSPEAKABLE for character in name):
        raise ValueError(f"{name!r} holds control characters or bytes that are not UTF-8")
    return str(path)


def make_listing(
    entries: Iterable[tuple[str, int]],
    *,
    files: Files,
    class_names: Iterable[str],
    elsewhere: Collection[str] = (),
) -> Listing:
    """Match listed videos (name, class index) with the files on disk.

    Args:
        entries: as the annotations list them, in any order.
        files: what :func:`scan` found.
        class_names: in index order.
        elsewhere: names that other splits list: on disk, they are not extra.

    Raises:
        ValueError: a name leaves the root, by itself or through a link, or is listed under two
            classes.
    """
    labels: dict[str, int] = {}
    doubled: set[str] = set()
    for raw_name, label in entries:
        name = checked_name(raw_name)
        if name in files.escaping:
            raise ValueError(f"{name!r} is a link that leaves the root")
        if name in labels:
            doubled.add(name)
        if labels.setdefault(name, label) != label:
            raise ValueError(f"{name!r} is listed under two classes, {labels[name]} and {label}")
    found = sorted(name for name in labels if name in files.inside)
    return Listing(
        names=tuple(found),
        labels=tuple(labels[name] for name in found),
        class_names=tuple(class_names),
        missing=tuple(sorted(labels.keys() - files.inside)),
        extra=tuple(
            sorted(n for n in files.inside - labels.keys() - frozenset(elsewhere) if is_video(n))
        ),
        doubled=tuple(sorted(doubled)),
    )
