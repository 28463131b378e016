"""UCF101, by its official lists."""

from pathlib import Path

from preprocess.datasets.files import Source, stem_of
from preprocess.datasets.listing import Entry, Listing, match
from preprocess.datasets.rows import Line, class_index, lines, shown
from preprocess.datasets.splits import find_file

_OFFICIAL = "the train/test splits for action recognition"


def ucf101(source: Source) -> Listing:
    """List one split (train or test) of one fold (1, 2 or 3) of UCF101.

    Videos are ``root/CLASS/v_CLASS_gNN_cNN.avi``, as in UCF101.rar, or have another suffix or
    another folder. The annotations are ``classInd.txt``, ``trainlist0N.txt`` and
    ``testlist0N.txt``, as in UCF101TrainTestSplits-RecognitionTask.zip. Class 1 of ``classInd.txt``
    is class 0 here.

    Raises:
        ValueError: a file is missing, a class is unknown, or a label disagrees with its folder.
    """
    assert source.annotations is not None
    classes = _classes(find_file(source.annotations, "classInd.txt", of=_OFFICIAL))
    other = {"train": "test", "test": "train"}[source.split]
    lists = {
        split: _entries(
            find_file(source.annotations, f"{split}list{source.fold:02d}.txt", of=_OFFICIAL),
            classes,
            empty=split == other,
        )
        for split in (source.split, other)
    }
    return match(
        lists[source.split], files=source.scan(), class_names=classes, elsewhere=lists[other]
    )


def _classes(path: Path) -> dict[str, int]:
    def named() -> list[tuple[Line, str]]:
        found: list[tuple[Line, str]] = []
        for line in lines(path):
            number, _, name = line.text.partition(" ")
            line.whole(number, low=len(found) + 1, high=len(found) + 1)
            found.append((line, name.strip()))
        return found

    return class_index(named())


def _entries(path: Path, index: dict[str, int], *, empty: bool) -> list[Entry]:
    entries: list[Entry] = []
    for line in lines(path, empty=empty):
        name, *number = line.text.rsplit(maxsplit=1)
        label = index.get(name.split("/")[0])
        if label is None:
            raise line.error(f"the folder of {shown(name)} is not among classInd.txt")
        for text in number:
            line.whole(text, low=label + 1, high=label + 1)
        entries.append(Entry(name, label, line, stems=(stem_of(name),)))
    return entries
