"""The contents of the root of the videos: files, folders of frames, and the targets of links."""

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from preprocess.datasets.rows import UNSPEAKABLE

_SUFFIXES = (
    "3g2 3gp asf avi divx f4v flv gif h264 hevc ivf m1v m2t m2ts m2v m4v mj2 mjpeg mjpg mkv mov "
    "mp4 mpe mpeg mpg mts mxf nut obu ogm ogv qt ts vob webm wmv"
)
VIDEO_SUFFIXES = frozenset(_SUFFIXES.split())
FRAME_SUFFIXES = frozenset(("jpg", "jpeg", "png", "webp", "bmp"))
ListNumbers = Literal["start-end", "offset-total"]
_LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR)
_MAX_WAYS = 64  # to one folder, through links: more make a tree without end


@dataclass(frozen=True, kw_only=True)
class Source:
    """The annotations of a split and the root of its videos. Which fields count depends on the
    dataset; see the function of its name.

    Args:
        root: of the videos.
        split: train, val or test.
        annotations: folder of the official annotations, or one file of them.
        fold: 1, 2 or 3.
        list_file: only these videos.
        list_numbers: what the two numbers between a listed name and its label are.
        class_file: class names in index order.
        allow_links: folders out of the root that links may lead to.
        frames_folders: videos are folders of pictures, one a frame.
    """

    root: Path
    split: str = "train"
    annotations: Path | None = None
    fold: int = 1
    list_file: Path | None = None
    list_numbers: ListNumbers = "start-end"
    class_file: Path | None = None
    allow_links: tuple[Path, ...] = ()
    frames_folders: bool = False

    def scan(self, *under: str) -> "Files":
        """Return the videos below these folders of the root, or below all of it."""
        return scan(self.root, *under, allow=self.allow_links, frames_folders=self.frames_folders)


@dataclass(frozen=True, kw_only=True)
class Files:
    """Videos below a root, by name relative to it.

    ``outside`` are links that lead out of the root to where it was not allowed, with their target;
    a linked folder ends with ``/``. ``unusable`` are videos that no store can take, with the
    reason. ``others`` counts the files that are no videos, by suffix.
    """

    root: Path
    videos: frozenset[str]
    outside: Mapping[str, str] = field(default_factory=dict[str, str])
    unusable: Mapping[str, str] = field(default_factory=dict[str, str])
    others: Mapping[str, int] = field(default_factory=dict[str, int])

    def refuse_outside(self, name: str) -> ValueError:
        """Return the error about a link that leads out of the root."""
        target = self.outside[name]
        folder = os.path.commonpath([str(Path(other).parent) for other in self.outside.values()])
        more = f" ({len(self.outside)} links do)" if len(self.outside) > 1 else ""
        return ValueError(
            f"{name!r} below {self.root} is a link that leads out of it, to {target}{more}; "
            f"--allow-links {folder} allows what lies there"
        )


def suffix_of(name: str) -> str:
    """Return the suffix of a name in lower case, without its dot."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def is_video(name: str) -> bool:
    """Return whether a file's suffix is that of a video."""
    return suffix_of(name) in VIDEO_SUFFIXES


def stem_of(name: str) -> str:
    """Return a name without its folders and its suffixes of videos (``x.mp4.mkv``: ``x``)."""
    stem = name.rpartition("/")[2]
    while is_video(stem):
        stem = stem.rpartition(".")[0]
    return stem


def scan(
    root: Path, *under: str, allow: tuple[Path, ...] = (), frames_folders: bool = False
) -> Files:
    """List the videos below ``root``, or below folders of it. Hidden entries are skipped.

    Links are followed where they stay below the root or below one of ``allow``. Raise
    ``ValueError`` where there is no such folder, or where links make a tree without end. Raise
    ``OSError`` for a folder that cannot be read.
    """
    for folder in (root, *(root / name for name in under), *allow):
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder")
    walk = _Walk(root, allow, frames_folders)
    for name in under or ("",):
        walk.folder(name)
    return Files(
        root=root,
        videos=frozenset(walk.videos - walk.unusable.keys()),
        outside=walk.outside,
        unusable=walk.unusable,
        others=walk.others,
    )


class _Walk:
    """One reading of a tree; its fields fill up."""

    def __init__(self, root: Path, allow: tuple[Path, ...], frames_folders: bool) -> None:
        self.videos, self.others = set[str](), Counter[str]()
        self.outside, self.unusable = dict[str, str](), dict[str, str]()
        self._root, self._frames = root, frames_folders
        self._inside = tuple(f"{os.path.realpath(path).rstrip('/')}/" for path in (root, *allow))
        self._real = dict[str, str]()  # of the folders that links name
        self._ways = Counter[str]()

    def folder(self, under: str) -> None:
        """Read a folder and all below it. Each is kept with its real path and those above it, so
        that a link back up is found: ``a/loop -> ..`` leads from ``R/a`` to ``R``.
        """
        real = os.path.realpath(self._root / under)
        if not f"{real}/".startswith(self._inside):
            self.outside[f"{under}/"] = real
            return
        todo: list[tuple[str, tuple[str, ...]]] = [(under, (real,))]
        while todo:
            name, reals = todo.pop()
            with os.scandir(self._root / name) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    child = f"{name}/{entry.name}" if name else entry.name
                    kind, real = self._kind(entry, child, reals[0])
                    if kind == "file":
                        self._take(self._video_of(child), entry.name)
                    elif kind and self._goes_on(child, real, reals, linked=entry.is_symlink()):
                        todo.append((child, (real, *reals)))

    def _kind(self, entry: "os.DirEntry[str]", name: str, real_folder: str) -> tuple[str, str]:
        """Return ``folder`` or ``file``, nothing if it is noted as neither; and the real path."""
        if entry.is_symlink():
            return self._linked(entry.name, name, real_folder)
        real = f"{real_folder}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            return "folder", real
        if entry.is_file(follow_symlinks=False):
            return "file", real
        return self._note(name, "it is no regular file"), real

    def _linked(self, file: str, name: str, real_folder: str) -> tuple[str, str]:
        try:
            real, mode = self._target(real_folder, file)
        except OSError as error:
            if error.errno in _LEADS_NOWHERE:
                return self._note(name, "the link leads nowhere"), ""
            if error.errno == errno.ELOOP:
                return self._note(name, "the link leads to itself"), ""
            raise
        if stat.S_ISDIR(mode):
            if f"{real}/".startswith(self._inside):
                return "folder", real
            self.outside[f"{name}/"] = real
        elif not real.startswith(self._inside):
            if self._counts(name):
                self.outside[self._video_of(name)] = real
        elif stat.S_ISREG(mode):
            return "file", real
        else:
            self._note(name, "it is no regular file")
        return "", real

    def _target(self, real_folder: str, name: str) -> tuple[str, int]:
        """Return where a link leads, and the mode of what is there. The folders of targets are few
        and looked up once, which is what makes 240,000 links quick.
        """
        text = os.readlink(f"{real_folder}/{name}")  # noqa: PTH115 (a Path costs as much again)
        folder, _, base = (text if text.startswith("/") else f"{real_folder}/{text}").rpartition(
            "/"
        )
        if base not in ("", ".", ".."):
            if folder not in self._real:
                self._real[folder] = os.path.realpath(folder or "/", strict=True).rstrip("/")
            real = f"{self._real[folder]}/{base}"
            mode = os.lstat(real).st_mode
            if not stat.S_ISLNK(mode):
                return real, mode
        real = os.path.realpath(f"{real_folder}/{name}", strict=True)
        return real, os.lstat(real).st_mode

    def _goes_on(self, name: str, real: str, reals: tuple[str, ...], *, linked: bool) -> bool:
        """Return whether to read a folder: not if a link leads back to one that it lies in."""
        if linked and real in reals:
            self.unusable[name] = "the link leads back to a folder that holds it"
            return False
        self._ways[real] += 1
        if self._ways[real] > _MAX_WAYS:
            raise ValueError(f"more than {_MAX_WAYS} ways lead through links to {real}: mend them")
        return True

    def _take(self, name: str, file: str) -> None:
        """Record a file: as a video, as one more picture of a video, or as something else."""
        if not self._counts(file) or not name:
            self.others[suffix_of(file)] += 1
        elif "\\" in name or UNSPEAKABLE.search(name):
            self.unusable[name] = (
                "its name holds a backslash, control characters or bytes that are not UTF-8"
            )
        else:
            self.videos.add(name)

    def _video_of(self, file: str) -> str:
        """Return the video that a file is, or is a picture of."""
        return file.rpartition("/")[0] if self._frames else file

    def _counts(self, name: str) -> bool:
        return suffix_of(name) in (FRAME_SUFFIXES if self._frames else VIDEO_SUFFIXES)

    def _note(self, name: str, reason: str) -> str:
        if self._counts(name):
            what = f"{name.rpartition('/')[2]}: " if self._frames else ""
            self.unusable[self._video_of(name)] = f"{what}{reason}"
        return ""


def folders_below(root: Path, *, depth: int) -> Iterator[Path]:
    """Yield the folder and those up to ``depth`` levels below it, nearest first and sorted."""
    level = [root]
    for _ in range(depth + 1):
        yield from level
        level = sorted(
            child
            for folder in level
            if folder.is_dir()
            for child in folder.iterdir()
            if not child.name.startswith(".") and child.is_dir()
        )
