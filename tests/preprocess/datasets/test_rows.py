"""Hostile and broken annotation files: one line that names file and line number, for every one."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from preprocess.datasets import rows
from tests.preprocess.datasets.test_official import SSV2, UCF
from tests.preprocess.datasets.trees import listed, write

K = "label,youtube_id,time_start,time_end,split\n"
LONG = "x" * 140_000
DEEP = "[" * 200_000

KINETICS = {
    "a long field": K + f"ski,{LONG},1,11,train\n",
    "1e400": K + "ski,A,1e400,11,train\n",
    "nan": K + "ski,A,nan,11,train\n",
    "inf": K + "ski,A,1,inf,train\n",
    "1e300": K + "ski,A,1,1e300,train\n",
    "negative": K + "ski,A,-1,11,train\n",
    "words": K + "ski,A,one,11,train\n",
    "no time": K + "ski,A,,11,train\n",
    "too few cells": K + "ski,A,1\n",
    "too many cells": K + "ski,A,1,11,train,5,6\n",
    "an open quote": K + 'ski,"A,1,11,train\n',
    "text behind a quote": K + 'ski,"A"B,1,11,train\n',
    "another header": "a,b,c\n1,2,3\n",
    "no header": "ski,A,1,11,train\n",
    "the lists of SlowFast": "/data/train/ski/A.mp4 0\n",
    "nothing": "",
    "blank lines": "\n\n \n",
    "a header alone": K,
    "another split alone": K + "ski,A,1,11,validate\n",
    "a name that climbs": K + "ski,../../etc/x,1,11,train\n",
    "an absolute name": K + "ski,/etc/x,1,11,train\n",
    "a class that climbs": K + "..,A,1,11,train\n",
    "a NUL in a name": K + "ski,A\0,1,11,train\n",
    "an escape in a class": K + "s\x1bki,A,1,11,train\n",
    "two classes": K + "ski,A,1,11,train\nrun,A,1,11,train\nrun,A,1,11,train\n",
    "a backslash": K + "ski,A\\B,1,11,train\n",
    "a bell": K + "ski,\x07,1,11,train\n",
}
FOLDER = {
    "a long name": f"{LONG}.mp4 0\n",
    "blanks": "x" + " " * 50_000 + "y.mp4,7" + "\t" * 50_000 + "z\n",
    "commas": "," * 100_000 + "\n",
    "a name that climbs": "../x.mp4\n",
    "an absolute name": "/etc/passwd\n",
    "a link of dots": "a/./../../x.mp4\n",
    "a number too long": "x.mp4 " + "9" * 10_000 + "\n",
    "an open quote": '"x.mp4\n',
    "a lone quote": '"\n',
    "a label of nothing": "x.mp4 unknown\n",
    "a NUL": "x\0.mp4\n",
    "Windows": "a\\x.mp4 0\n",
    "four numbers": "x.mp4 1 2 3 4\n",
    "a fraction": "x.mp4 0.5\n",
    "a number below -1": "x.mp4 -2\n",
    "nothing": "",
}
CLASSES = {
    "twice": "run\nrun\n",
    "an escape": "run\nj\x1bmp\n",
    "nothing": "\n",
}
UCF101 = {
    "numbers as words": ("classInd.txt", "one Archery\n"),
    "a long number": ("classInd.txt", "9" * 5000 + " Archery\n"),
    "no names": ("classInd.txt", "1\n2\n"),
    "a class twice": ("classInd.txt", "1 Archery\n2 Archery\n"),
    "a number too many": ("trainlist01.txt", "Archery/x.avi one\n"),
    "no folder": ("trainlist01.txt", "x.avi 1\n"),
    "a name that climbs": ("trainlist01.txt", "Archery/../../x.avi 1\n"),
    "an empty list": ("trainlist01.txt", ""),
}
HMDB51 = {
    "no mark": "x.avi\n",
    "another mark": "x.avi 3\n",
    "a mark alone": "1\n",
    "a name that climbs": "../../x.avi 1\n",
    "nothing": "",
}
DIVING48 = {
    "a vocabulary of numbers": ("vocab", "[1, 2, 3]"),
    "a vocabulary of lists of numbers": ("vocab", "[[1], [2]]"),
    "a vocabulary of nothing": ("vocab", "[[]]"),
    "a vocabulary with a class twice": ("vocab", '[["a"], ["a"]]'),
    "an object": ("vocab", "{}"),
    "deep": ("V2_train", DEEP),
    "deep entries": ("V2_train", "[" + DEEP),
    "deep objects": ("V2_train", '[{"a":' * 100_000),
    "a long number": ("V2_train", "[" + "9" * 10_000 + "]"),
    "NaN": ("V2_train", '[{"vid_name": "a", "label": NaN}]'),
    "a fraction": ("V2_train", '[{"vid_name": "a", "label": 0.0}]'),
    "a truth": ("V2_train", '[{"vid_name": "a", "label": true}]'),
    "no label": ("V2_train", '[{"vid_name": "a"}]'),
    "a surrogate": ("V2_train", '[{"vid_name": "\\ud800", "label": 0}]'),
    "a name that climbs": ("V2_train", '[{"vid_name": "../a", "label": 0}]'),
    "cut off": ("V2_train", '[{"vid_name": "a",'),
    "no comma": ("V2_train", '[{"vid_name": "a", "label": 0} 5]'),
    "text after the end": ("V2_train", "[] []"),
    "nothing": ("V2_train", ""),
}
SOMETHING = {
    "labels in a list": ("labels", "[]"),
    "labels by words": ("labels", '{"a": "one"}'),
    "labels with a gap": ("labels", '{"a": "0", "b": "2"}'),
    "labels that are lists": ("labels", '{"a": [0]}'),
    "an unknown template": ("train", '[{"id": "1", "template": "Eating [something]"}]'),
    "a template that is a list": ("train", '[{"id": "1", "template": ["a"]}]'),
    "no id": ("train", '[{"template": "x"}]'),
    "an id of truth": ("train", '[{"id": true}]'),
    "a key without its colon": ("labels", '{"a" 1}'),
}
JESTER = {
    "three cells": ("jester-v1-train.csv", "1;Swiping Left;3\n"),
    "an unknown class": ("jester-v1-train.csv", "1;Eating\n"),
    "another header": ("jester-v1-train.csv", "a,b\n1,2\n"),
    "a class twice": ("jester-v1-labels.csv", "a\na\n"),
    "a name that climbs": ("jester-v1-train.csv", "../1;Swiping Left\n"),
}


def cases() -> Iterator[tuple[str, str, dict[str, str]]]:
    """Dataset, name of the case, and the files of annotations, the hostile one first."""
    for case, text in KINETICS.items():
        yield "k400", case, {"train.csv": text}
    for case, text in FOLDER.items():
        yield "folder", case, {"list": text}
    for case, text in CLASSES.items():
        yield "folder", f"classes: {case}", {"classes": text, "list": "x.mp4\n"}
    for case, (name, text) in UCF101.items():
        yield "ucf101", case, {name: text} | {n: t for n, t in UCF.items() if n != name}
    for case, text in HMDB51.items():
        yield "hmdb51", case, {"wave_test_split1.txt": text}
    good = {"vocab": '[["a"]]', "V2_train": "[]", "V2_test": "[]"}
    for case, (name, text) in DIVING48.items():
        files = {name: text} | {n: t for n, t in good.items() if n != name}
        yield "diving48", case, {f"Diving48_{n}.json": t for n, t in files.items()}
    for case, (name, text) in SOMETHING.items():
        files = {name: text} | {n: json.dumps(v) for n, v in SSV2.items() if n != name}
        yield "ssv2", case, {f"{n}.json": t for n, t in files.items()}
    for case, (name, text) in JESTER.items():
        files = {"jester-v1-labels.csv": "Swiping Left\n", "jester-v1-train.csv": "1;Swiping Left"}
        yield "jester", case, {name: text} | {n: t for n, t in files.items() if n != name}


CASES = [pytest.param(*case, id=f"{case[0]}: {case[1]}") for case in cases()]


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize(("dataset", "case", "files"), CASES)
def test_an_error_names_file_and_line(
    root: Path, annotations: Path, dataset: str, case: str, files: dict[str, str]
) -> None:
    for name in ("x.mp4", "a.mp4"):
        (root / name).touch()
    write(annotations, files)
    fields = {"annotations": annotations}
    if dataset == "folder":
        fields = {"list_file": annotations / "list"}
        fields |= {"class_file": annotations / "classes"} if "classes" in files else {}
    with pytest.raises(ValueError, match=r"^.*, line [1-9][0-9]*: .") as error:
        listed(dataset, root, **fields)
    message = str(error.value)
    assert message.startswith(f"{annotations / next(iter(files))}, line ")
    assert len(message) < 1000 and message.isprintable()


def test_latin_1_is_told_as_such(root: Path, annotations: Path) -> None:
    (annotations / "list").write_bytes(b"a.mp4\ncaf\xe9.mp4\n")
    with pytest.raises(ValueError, match="line 2: byte 0xe9 is not UTF-8; in Latin-1 it is 'é'"):
        listed("folder", root, list_file=annotations / "list")
    (annotations / "list").write_bytes(b"a.mp4\n\xff\xfe.mp4\n")
    with pytest.raises(ValueError, match="line 2: byte 0xff is not UTF-8"):
        listed("folder", root, list_file=annotations / "list")


def test_a_file_that_is_too_large_is_not_read(
    root: Path, annotations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MAX_BYTES", 1 << 20)
    with (annotations / "list").open("wb") as file:
        file.truncate((1 << 20) + 1)
    with pytest.raises(ValueError, match="is larger than the 1 MiB that are read"):
        listed("folder", root, list_file=annotations / "list")
    with pytest.raises(ValueError, match="/dev/zero: is a pipe or a device"):
        listed("folder", root, list_file=Path("/dev/zero"))


def test_a_list_that_is_not_there_is_named(root: Path, annotations: Path) -> None:
    with pytest.raises(ValueError, match=r"nolist\.txt is not there: check its path"):
        listed("folder", root, list_file=annotations / "nolist.txt")


def test_json_entries_know_their_lines(annotations: Path) -> None:
    text = '\n[\r\n {"a":\r\n1}, 2,\r\n\r\n"x"]\r\n'
    path = write(annotations, {"f": text}) / "f"
    found = [(line.number, value) for line, value in rows.json_list(path)]
    assert found == [(3, {"a": 1}), (4, 2), (6, "x")]
    assert [value for _, value in found] == json.loads(text)
    path.write_text('{"a": 1,\n"b": {"c": []}}')
    found = [(line.number, entry) for line, entry in rows.json_object(path)]
    assert found == [(1, ("a", 1)), (2, ("b", {"c": []}))]
