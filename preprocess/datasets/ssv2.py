"""Something-Something v2, by its official JSON files."""

from collections.abc import Iterator
from pathlib import Path

from preprocess.datasets.files import Source
from preprocess.datasets.listing import UNLABELLED, Entry, Listing, match
from preprocess.datasets.rows import Line, class_index, json_list, json_object, shown
from preprocess.datasets.splits import find_list

_SPLITS = ("train", "val", "test")


def ssv2(source: Source) -> Listing:
    """List one split (train, val or test) of Something-Something v2.

    Videos are ``ID.webm`` (or another suffix, or a folder of frames) anywhere below the root. The
    annotations are ``labels.json`` (template to class index), ``train.json``, ``validation.json``
    and ``test.json`` (lists of objects with ``id`` and ``template``), or these names after
    ``something-something-v2-``. A class is named by its template without brackets. The test split
    has no templates, so its videos have no labels.

    Raises:
        ValueError: a file is missing or not of that form, or a template is unknown.
    """
    classes = _classes(_list(source, "labels"))
    others = (split for split in _SPLITS if split != source.split)
    return match(
        _entries(_list(source, source.split), classes),
        files=source.scan(),
        class_names=classes,
        elsewhere=(entry for split in others for entry in _others(source, split)),
    )


def _list(source: Source, name: str) -> Path:
    return find_list(source, name, suffixes=(".json",), of="v2")


def _classes(path: Path) -> dict[str, int]:
    named: list[tuple[int, Line, str]] = []
    for line, (template, number) in json_object(path):
        named.append((line.whole(str(number), low=0, high=10**6), line, template))
    named.sort(key=lambda row: row[0])
    for label, (number, line, _) in enumerate(named):
        if number != label:
            raise line.error(f"classes are not numbered from 0 on: {number} where {label} is due")
    return class_index((line, template) for _, line, template in named)


def _entries(path: Path, classes: dict[str, int]) -> Iterator[Entry]:
    for line, row in json_list(path):
        name = _name(line, row)
        template = row.get("template", "")
        label = UNLABELLED
        if template:
            plain = template if isinstance(template, str) else str(template)
            label = classes.get(plain.replace("[", "").replace("]", ""), UNLABELLED)
            if label == UNLABELLED:
                raise line.error(f"the template {shown(template)} is not among the labels")
        yield Entry(name, label, line, stems=(name,))


def _others(source: Source, split: str) -> Iterator[Entry]:
    """Yield what another split lists, if its list is there: only for telling what is extra."""
    try:
        path = _list(source, split)
    except ValueError:
        return
    for line, row in json_list(path):
        name = _name(line, row)
        yield Entry(name, UNLABELLED, line, stems=(name,))


def _name(line: Line, row: object) -> str:
    match row:
        case {"id": str(name) | int(name)} if not isinstance(name, bool):
            return str(name)
        case _:
            raise line.error(f"{shown(row)} should hold the id of a video")
