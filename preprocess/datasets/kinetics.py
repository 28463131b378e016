"""Kinetics-400, -600 and -700, by class folders or by the official CSV files."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from preprocess.datasets.files import Files, Source, folders_below
from preprocess.datasets.listing import UNLABELLED, Entry, Listing, match, tree
from preprocess.datasets.rows import UNSPEAKABLE, Line, checked_class, shown, table
from preprocess.datasets.splits import called, find_list, split_folder

_SPLITS = ("train", "val", "test")
_COLUMNS = {"video_id": "youtube_id", "start_time": "time_start", "end_time": "time_end"}
_MAX_SECONDS = 10**6 - 1  # six digits in the name of a clip


def kinetics(source: Source, *, version: str) -> Listing:
    """List one split (train, val or test) of Kinetics.

    Without annotations the tree decides: ``root/SPLIT/CLASS/video``; classes are the sorted folders
    of all splits. ``videos_SPLIT`` and ``validation`` are names of splits too.

    With annotations, the official files (columns label, youtube_id, time_start, time_end) or a
    folder that holds them under any of the names they go by, a clip is
    ``YOUTUBEID_SSSSSS_EEEEEE``, or ``YOUTUBEID``, with any video suffix, anywhere below
    ``root/SPLIT`` and ``root/replacement`` (below ``root`` where there is no such folder). Classes
    are the sorted labels of the training list and of the split's own. A list without labels gives
    videos without labels.

    Raises:
        ValueError: no such folder or file, a row is of another form, or a clip is listed under two
            classes.
    """
    return _from_tree(source) if source.annotations is None else _from_csv(source, version)


k400, k600, k700 = (partial(kinetics, version=version) for version in ("400", "600", "700"))


def _from_tree(source: Source) -> Listing:
    folder = split_folder(source.root, source.split)
    if folder is None:
        raise ValueError(_no_split(source))
    folders = [split_folder(source.root, split) for split in _SPLITS]
    class_names = sorted(
        {
            entry.name
            for folder in folders
            if folder
            for entry in (source.root / folder).iterdir()
            if entry.is_dir() and not entry.name.startswith(".")
            if not UNSPEAKABLE.search(entry.name)
        }
    )
    index = {name: label for label, name in enumerate(class_names)}
    files = source.scan(folder)
    entries = [
        Entry(name, index.get(name.split("/")[1], UNLABELLED))
        for name in tree(files)
        if name.rstrip("/").count("/") >= 2 or name in files.outside
    ]
    return match(entries, files=files, class_names=class_names)


def _no_split(source: Source) -> str:
    """Return the error for a root without a folder of the split: often it is one level too high."""
    message = f"{source.root} holds no folder {source.split}"
    for folder in folders_below(source.root, depth=2):
        if split_folder(folder, source.split):
            return f"{message}, but {folder} does: name that with --videos"
    if called(source.root.name, source.split):
        return f"{message}, but is one: name the folder that holds it with --videos"
    return f"{message}; --split names the splits that are there, --annotations the official lists"


def _from_csv(source: Source, version: str) -> Listing:
    find = partial(find_list, source, suffixes=(".csv", ".txt"), of=version)
    path = find(source.split)
    rows = list(_rows(path, source.split))
    if not rows:
        raise Line(path, 1).error(f"no row is of the split {source.split}")
    notes = list[str]()
    labels = {label for _, label, _ in rows}
    try:
        training = path if source.split == "train" else find("train")
    except ValueError:
        notes.append(f"no list of train is beside {path}: its own labels are the classes")
    else:
        if training != path:
            labels |= {label for _, label, _ in _rows(training, "train")}
    if "" in labels:
        notes.append(f"{path} has rows without a label: their videos have none")
    class_names = sorted(labels - {""})
    index = {name: label for label, name in enumerate(class_names)} | {"": UNLABELLED}
    times = Counter(clip[:-14] for _, _, clip in rows)
    entries = [
        Entry(
            f"{source.split}/{label}/{clip}" if label else f"{source.split}/{clip}",
            index[label],
            line,
            stems=(clip, clip[:-14]) if times[clip[:-14]] == 1 else (clip,),
        )
        for line, label, clip in rows
    ]
    return match(entries, files=_files(source), class_names=class_names, notes=notes)


def _files(source: Source) -> Files:
    folder = split_folder(source.root, source.split)
    if folder is None:
        return source.scan()
    return source.scan(*dict.fromkeys((folder, *_replacements(source.root))))


def _replacements(root: Path) -> Iterator[str]:
    """Return the repaired clips, where CVDF's archive of them was unpacked beside the splits."""
    if (root / "replacement").is_dir():
        yield "replacement"


def _rows(path: Path, split: str) -> Iterator[tuple[Line, str, str]]:
    """Yield line, label and file stem of each clip that a CSV lists for a split; skip rows that
    name another split.
    """
    labels: dict[str, str] = {}
    for line, row in table(path):
        row = {_COLUMNS.get(column, column): cell for column, cell in row.items()}
        if not {"youtube_id", "time_start", "time_end"} <= row.keys():
            raise Line(path, 1).error(
                "not the header of a Kinetics list (label,youtube_id,time_start,time_end); "
                "`fame preprocess folder --list` takes lists of other forms"
            )
        if row.get("split") and not called(row["split"], split):
            continue
        clip, label = _clip(line, row), row.get("label", row.get("label_name", ""))
        if label:
            checked_class(line, label)
        if labels.setdefault(clip, label) != label:
            both = f"{shown(labels[clip])} and {shown(label)}"
            raise line.error(f"{shown(clip)} is listed under two classes, {both}")
        yield line, label, clip


def _clip(line: Line, row: dict[str, str]) -> str:
    start, end = (_seconds(line, row[column]) for column in ("time_start", "time_end"))
    if not row["youtube_id"] or "/" in row["youtube_id"]:
        raise line.error(f"{shown(row['youtube_id'])} is not the id of a video")
    return f"{row['youtube_id']}_{start:06d}_{end:06d}"


def _seconds(line: Line, text: str) -> int:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _MAX_SECONDS:  # neither is NaN
        raise line.error(f"not a Kinetics row: {shown(text)} is no time in seconds")
    return int(seconds)
