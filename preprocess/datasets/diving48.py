"""Diving48, by its V2 annotations."""

from pathlib import Path

from preprocess.datasets.files import Source
from preprocess.datasets.listing import Entry, Listing, match
from preprocess.datasets.rows import class_index, json_list, shown
from preprocess.datasets.splits import find_file

_OFFICIAL = "the V2 annotations of Diving48"


def diving48(source: Source) -> Listing:
    """List one split (train or test) of Diving48.

    Videos are ``root/VIDEO.mp4``, as in Diving48_rgb.tar.gz (its ``rgb`` folder), or lie elsewhere
    below the root. The annotations are ``Diving48_V2_train.json`` and ``Diving48_V2_test.json``
    (objects with ``vid_name`` and ``label``) and ``Diving48_vocab.json`` (48 lists: take-off,
    somersaults, twists, position). A class is named by its four parts joined with ``-``. The first
    version's lists, with their wrong labels, are not read.

    Raises:
        ValueError: a file is missing or not of that form.
    """
    assert source.annotations is not None
    classes = _classes(find_file(source.annotations, "Diving48_vocab.json", of=_OFFICIAL))
    lists = {
        split: _entries(
            find_file(source.annotations, f"Diving48_V2_{split}.json", of=_OFFICIAL), len(classes)
        )
        for split in ("train", "test")
    }
    return match(
        lists[source.split],
        files=source.scan(),
        class_names=classes,
        elsewhere=lists["test" if source.split == "train" else "train"],
    )


def _classes(path: Path) -> dict[str, int]:
    named = []
    for line, parts in json_list(path):
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise line.error(f"{shown(parts)} should be a list of the parts of a class")
        named.append((line, "-".join(parts)))
    return class_index(named)


def _entries(path: Path, num_classes: int) -> list[Entry]:
    entries: list[Entry] = []
    for line, row in json_list(path):
        match row:
            case {"vid_name": str(name), "label": int(label)} if (
                0 <= label < num_classes and not isinstance(label, bool)
            ):
                entries.append(Entry(name, label, line, stems=(name,)))
            case _:
                raise line.error(
                    f"{shown(row)} should hold vid_name and a label below {num_classes}"
                )
    return entries
