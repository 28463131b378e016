"""UCF101, by its official lists."""

from collections.abc import Iterator
from pathlib import Path

from preprocess.datasets.listing import Listing, make_listing, scan

_LISTS = {"train": "trainlist", "test": "testlist"}


def ucf101(root: Path, *, split: str, annotations: Path, fold: int) -> Listing:
    """List one split (train or test) of one fold (1, 2 or 3) of UCF101.

    Args:
        root: ``root/CLASS/v_CLASS_gNN_cNN.avi``, as in UCF101.rar.
        split: train or test.
        annotations: folder of ``classInd.txt``, ``trainlist0N.txt`` and ``testlist0N.txt``, as in
            UCF101TrainTestSplits-RecognitionTask.zip. Class 1 of ``classInd.txt`` is class 0 here.
        fold: which of the three splits.

    Raises:
        ValueError: a file is missing, a class is unknown, or a label disagrees with its folder.
    """
    if split not in _LISTS or fold not in (1, 2, 3):
        raise ValueError(
            f"ucf101 has the splits train and test in folds 1, 2 and 3, not {split!r} in {fold}"
        )
    numbered = (line.split() for line in _lines(annotations / "classInd.txt"))
    index = {name: int(number) - 1 for number, name in numbered}
    if sorted(index.values()) != list(range(len(index))):
        raise ValueError(f"{annotations / 'classInd.txt'} does not number its classes from 1 on")
    other = next(name for name in _LISTS if name != split)
    return make_listing(
        _entries(annotations / f"{_LISTS[split]}{fold:02d}.txt", index),
        files=scan(root),
        class_names=sorted(index, key=index.__getitem__),
        elsewhere=[
            name for name, _ in _entries(annotations / f"{_LISTS[other]}{fold:02d}.txt", index)
        ],
    )


def _entries(path: Path, index: dict[str, int]) -> Iterator[tuple[str, int]]:
    for line in _lines(path):
        name, *number = line.split()
        class_name = name.split("/")[0]
        if class_name not in index or (number and int(number[0]) - 1 != index[class_name]):
            raise ValueError(f"{path}: {line!r} does not agree with classInd.txt")
        yield name, index[class_name]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: it comes with the train/test splits for action recognition"
        )
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
