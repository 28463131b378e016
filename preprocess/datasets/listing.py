"""From annotations and the files on disk to the videos of one split: sorted names, labels, and what
did not match.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import NamedTuple

from preprocess.datasets.files import Files, is_video, stem_of
from preprocess.datasets.rows import UNSPEAKABLE, Line, shown
from preprocess.part import WHOLE, Part

UNLABELLED = -1


class Entry(NamedTuple):
    """A video as annotations list it, or, without a line, as it was found in the tree.

    Its file is the one of that name; else one beside it that differs only in its suffix; else,
    where ``stems`` are given, one anywhere with such a stem. Several entries may be of different
    parts of one file.
    """

    name: str
    label: int
    line: Line | None = None
    stems: tuple[str, ...] = ()
    part: Part = WHOLE

    @property
    def own_name(self) -> str:
        """Return the name with the part: no two entries share it."""
        return self.part.named(self.name)

    def error(self, message: str) -> ValueError:
        """Return the error to raise about this entry."""
        return self.line.error(message) if self.line else ValueError(message)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The videos of one split: names relative to the root, in sorted order, and the class index of
    each (-1: none).

    ``missing`` are listed but not on disk, or are there and cannot be used; ``reasons`` give the
    reason, where there is one. ``extra`` are videos on disk that no list mentions, ``doubled`` are
    listed more than once (and kept once). ``others`` are further files of one video:
    :meth:`settled` takes the first that opens, and ``choices`` record it (the file, and the faults
    of those that were left, if any). ``passed_over`` counts files that are no videos by their
    suffix; ``notes`` are for the report.
    """

    names: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    missing: tuple[str, ...] = ()
    reasons: tuple[tuple[str, str], ...] = ()
    extra: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    others: tuple[tuple[str, tuple[str, ...]], ...] = ()
    choices: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    passed_over: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()

    def settled(self, why_not: Callable[[str], str]) -> "Listing":
        """Return the listing with one file for each video: of several the first that opens, or the
        first if none does.

        Args:
            why_not: of a name, why its file cannot be opened; nothing if it can.
        """
        labels = dict(zip(self.names, self.labels, strict=True))
        choices: list[tuple[str, tuple[tuple[str, str], ...]]] = []
        for name, others in self.others:
            reasons = dict.fromkeys((name, *others), "")
            taken = name
            for file in reasons:
                reasons[file] = why_not(file)
                if not reasons[file]:
                    taken = file
                    break
            del reasons[taken]
            labels[taken] = labels.pop(name)
            choices.append((taken, tuple(reasons.items())))
        names = tuple(sorted(labels))
        return replace(
            self,
            names=names,
            labels=tuple(labels[name] for name in names),
            others=(),
            choices=tuple(choices),
        )

    @property
    def missing_share(self) -> float:
        """Return the share of the listed videos that are not on disk."""
        return len(self.missing) / max(1, len(self.missing) + len(self.names))

    @property
    def empty_classes(self) -> tuple[str, ...]:
        """Return the names of the classes without a video."""
        used = set(self.labels)
        return tuple(name for label, name in enumerate(self.class_names) if label not in used)


def checked_name(name: str, line: Line | None = None) -> str:
    """Normalise a name from a list. Raise ``ValueError`` if it is empty, leaves the root, or cannot
    be shown.
    """
    raising = Entry(name, UNLABELLED, line).error
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.name:
        raise raising(f"{shown(name)} is not the name of a video below the root")
    if UNSPEAKABLE.search(name):
        raise raising(f"{shown(name)} holds control characters or bytes that are not UTF-8")
    return str(path)


def match(
    entries: Iterable[Entry],
    *,
    files: Files,
    class_names: Iterable[str],
    elsewhere: Iterable[Entry] = (),
    notes: Iterable[str] = (),
) -> Listing:
    """Match listed videos with the files on disk.

    Args:
        entries: as the annotations list them, in any order.
        files: what :func:`~preprocess.datasets.files.scan` found.
        class_names: in index order.
        elsewhere: what other splits list: on disk, they are not extra, and no other video's file.
        notes: for the report.

    Raises:
        ValueError: a name leaves the root, by itself or through a link, or is listed under two
            classes.
    """
    wanted, doubled = _once(entries)
    others, _ = _once(entry for entry in elsewhere if entry.own_name not in wanted)
    found = _find({entry.name: entry for entry in (*wanted.values(), *others.values())}, files)
    matches = _Matches(files, doubled)
    for name, entry in wanted.items():
        matches.add(name, entry, found[entry.name])
    if moved := matches.moved:
        notes = (*notes, f"{len(moved)} found in another folder than the list says: {moved[0]}")
    taken = sorted(matches.taken.items())
    return Listing(
        names=tuple(name for name, _ in taken),
        labels=tuple(entry.label for _, entry in taken),
        class_names=tuple(class_names),
        missing=tuple(sorted(matches.missing)),
        reasons=tuple(sorted(files.unusable.items())),
        extra=tuple(sorted(files.videos.difference(*found.values()))),
        doubled=tuple(sorted(matches.doubled)),
        others=tuple(sorted((name, rest) for name, rest in matches.others.items() if rest)),
        passed_over=tuple(sorted(files.others.items())),
        notes=tuple(notes),
    )


class _Matches:
    """The entries of a list, each with its file, as far as they were matched."""

    def __init__(self, files: Files, doubled: set[str]) -> None:
        self.files, self.doubled = files, doubled
        self.taken: dict[str, Entry] = {}
        self.others: dict[str, tuple[str, ...]] = {}
        self.missing: list[str] = []
        self.moved: list[str] = []

    def add(self, name: str, entry: Entry, candidates: Sequence[str]) -> None:
        """Assign the first of its candidates to an entry. Raise ``ValueError`` if the lists
        contradict it.
        """
        if not candidates:
            self.missing.append(_missing(entry, self.files))
            return
        file, *rest = candidates
        if file in self.files.outside:
            raise entry.error(str(self.files.refuse_outside(file)))
        if is_video(entry.name) and folder_of(entry.name) != folder_of(file):
            self.moved.append(f"{entry.name} as {file}")
        own_name = entry.part.named(file)
        if own_name != file and own_name in self.files.videos:
            raise entry.error(f"{shown(own_name)} is a part of a video, and another one's name")
        if own_name in self.taken:
            _expect_one_class(self.taken[own_name], entry)
        if own_name in self.taken or name in self.doubled:
            self.doubled = (self.doubled - {name}) | {own_name}
        self.taken.setdefault(own_name, entry)
        inside = (other for other in rest if other not in self.files.outside)
        self.others[own_name] = tuple(entry.part.named(other) for other in inside)


def tree(files: Files) -> list[str]:
    """Return the names of all that a tree holds, for a split without a list: videos, those that no
    store can take, and links that lead out (which :func:`match` refuses).
    """
    return sorted((*files.videos, *files.unusable, *files.outside))


def folder_of(name: str) -> str:
    """Return the folders of a name."""
    return name.rpartition("/")[0]


def _once(entries: Iterable[Entry]) -> tuple[dict[str, Entry], set[str]]:
    """Return the entries by their own names, and the names that came more than once."""
    once, doubled = dict[str, Entry](), set[str]()
    for entry in entries:
        if entry.line:
            entry = entry._replace(name=checked_name(entry.name, entry.line))
        name = entry.own_name
        if name in once:
            doubled.add(name)
            _expect_one_class(once[name], entry)
        else:
            once[name] = entry
    return once, doubled


def _expect_one_class(first: Entry, second: Entry) -> None:
    if first.label != second.label:
        before = f" (before on line {first.line.number})" if first.line else ""
        raise second.error(
            f"{shown(second.own_name)} is listed under two classes, "
            f"{first.label} and {second.label}{before}"
        )


def _find(wanted: Mapping[str, Entry], files: Files) -> dict[str, list[str]]:
    """Return the files of each name, the best first.

    A file that an entry names, or that lies where an entry points, is not taken for another entry:
    of the lists ``a/x.avi`` and ``b/x.avi`` each gets its own ``x.mp4``.
    """
    known = files.videos | {name for name in files.outside if not name.endswith("/")}
    places, stems = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for file in sorted(known):
        stem = stem_of(file)
        places[f"{folder_of(file)}/{stem}"].append(file)
        stems[stem].append(file)
    named = wanted.keys() & known
    found: dict[str, list[str]] = {}
    for name in wanted:
        beside = places.get(f"{folder_of(name)}/{stem_of(name)}", ())
        own = [name] if name in named else []
        # First the file with the very name, then those that differ from it in the suffix only.
        found[name] = own + [file for file in beside if file not in named]
    # Last, files elsewhere with one of the stems of the entry, unless another entry has them.
    claimed = {file for candidates in found.values() for file in candidates}
    for entry in wanted.values():
        for stem in entry.stems:
            found[entry.name] += [file for file in stems.get(stem, ()) if file not in claimed]
    return found


def _missing(entry: Entry, files: Files) -> str:
    """Return the name of an entry without a file. Raise ``ValueError`` if it may lie in a linked
    folder that was not read.
    """
    for folder in files.outside:
        if folder == entry.name or (
            folder.endswith("/") and (entry.stems or f"{entry.name}/".startswith(folder))
        ):
            raise entry.error(str(files.refuse_outside(folder)))
    return entry.own_name
