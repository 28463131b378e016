"""HMDB51, by its official split files."""

from collections.abc import Iterator
from pathlib import Path

from preprocess.datasets.files import Source, folders_below, stem_of
from preprocess.datasets.listing import Entry, Listing, match
from preprocess.datasets.rows import Line, lines, shown

_MARKS = {"train": "1", "test": "2"}


def hmdb51(source: Source) -> Listing:
    """List one split (train or test) of one fold (1, 2 or 3) of HMDB51.

    Videos are ``root/CLASS/video.avi``, as the 51 archives in hmdb51_org.rar unpack, or have
    another suffix or another folder. The annotations are ``CLASS_test_splitN.txt``
    (test_train_splits.rar), each line ``video.avi MARK`` where the mark is 1 for train, 2 for test
    and 0 for neither. Classes are the sorted names of these files.

    Raises:
        ValueError: no split file is there, or a line is not of that form.
    """
    assert source.annotations is not None
    ending = f"_test_split{source.fold}.txt"
    paths = {
        path.name.removesuffix(ending): path
        for folder in folders_below(source.annotations, depth=2)
        for path in sorted(folder.glob(f"*{ending}"))
    }
    if not paths:
        raise ValueError(f"{source.annotations} holds no file named CLASS{ending}")
    class_names = sorted(paths)
    marked = [
        (Entry(f"{class_name}/{video}", label, line, stems=(stem_of(video),)), mark)
        for label, class_name in enumerate(class_names)
        for line, video, mark in _rows(paths[class_name])
    ]
    wanted = _MARKS[source.split]
    return match(
        (entry for entry, mark in marked if mark == wanted),
        files=source.scan(),
        class_names=class_names,
        elsewhere=(entry for entry, mark in marked if mark != wanted),
    )


def _rows(path: Path) -> Iterator[tuple[Line, str, str]]:
    for line in lines(path):
        video, _, mark = line.text.rpartition(" ")
        if mark not in ("0", "1", "2") or not video:
            raise line.error(f"{shown(line.text)} should be a video and 0, 1 or 2")
        yield line, video.strip(), mark
