"""Any folder, and lists as people have them."""

import re
from pathlib import Path

import pytest

from tests.preprocess.datasets.trees import labelled, listed, touch, write


def test_classes_are_the_subfolders(root: Path) -> None:
    touch(root, ["walk/b.mp4", "sit/x/a.AVI", "sit/notes.txt", "walk/.hidden.mp4", ".cache/c.mp4"])
    touch(root, ["top.webm"])
    listing = listed("folder", root)
    assert labelled(listing) == {"sit/x/a.AVI": "sit", "top.webm": "none", "walk/b.mp4": "walk"}
    assert listing.class_names == ("sit", "walk")


def test_without_subfolders_there_are_no_labels(root: Path) -> None:
    listing = listed("folder", touch(root, ["b.mp4", "a.mp4"]))
    assert (listing.names, listing.labels, listing.class_names) == (
        ("a.mp4", "b.mp4"),
        (-1, -1),
        (),
    )


def test_lists_of_one_folder_number_classes_alike(root: Path, annotations: Path) -> None:
    touch(root, ["a/1.mp4", "b/2.mp4", "c/3.mp4"])
    write(annotations, {"train.txt": "c/3.mp4\n# a comment\n\na/1.mp4\n", "test.txt": "./b/2.mp4"})
    train, test = (
        listed("folder", root, list_file=annotations / f"{name}.txt") for name in ("train", "test")
    )
    assert train.class_names == test.class_names == ("a", "b", "c")
    assert labelled(train) == {"a/1.mp4": "a", "c/3.mp4": "c"}
    assert labelled(test) == {"b/2.mp4": "b"}
    assert train.extra == ("b/2.mp4",)


def test_a_list_may_name_the_class(root: Path, annotations: Path) -> None:
    touch(root, ["1.mp4", "x/2,3.mp4"])
    write(annotations, {"list": '1.mp4, jump\n"x/2,3.mp4",run\n', "classes": "run\njump\n"})
    fields = {"list_file": annotations / "list"}
    listing = listed("folder", root, class_file=annotations / "classes", **fields)
    assert labelled(listing) == {"1.mp4": "jump", "x/2,3.mp4": "run"}
    assert listing.class_names == ("run", "jump")
    with pytest.raises(ValueError, match=r"line 1: '1.mp4' is of class 'jump', .* the 1 classes"):
        listed("folder", root, **fields)


FORMS = {
    "SlowFast and VideoMAE": "a/x.mp4 0\nb/y z.mp4 1\n",
    "tabs": "a/x.mp4\t0\nb/y z.mp4\t1\n",
    "commas": "a/x.mp4,0\nb/y z.mp4,1\n",
    "semicolons": "a/x.mp4;0\nb/y z.mp4;1\n",
    "a header": "path,label\na/x.mp4,0\nb/y z.mp4,1\n",
    "byte order mark and CRLF": "\ufeffa/x.mp4 0\r\nb/y z.mp4 1\r\n",
    "total and label": "a/x.mp4 300 0\nb/y z.mp4 250 1\n",
    "start, any end and label": "a/x.mp4 0 -1 0\nb/y z.mp4 1 -1 1\n",
    "an index of pandas": ",path,label\n0,a/x.mp4,a\n1,b/y z.mp4,b\n",
    "the label first": "class_name video\na a/x.mp4\nb b/y z.mp4\n",
    "a header of three": "path,total,label\na/x.mp4,300,0\nb/y z.mp4,250,1\n",
    "a header in another order": 'video;class;num_frames\na/x.mp4;a;300\n"b/y z.mp4";b;250\n',
    "absolute": "{root}/a/x.mp4 0\n{root}/b/y z.mp4 1\n",
    "re-encoded": "a/x.avi 0\nb/y z.webm 1\n",
    "no suffix": "a/x 0\nb/y z 1\n",
    "class names": "a/x.mp4 a\nb/y z.mp4,b\n",
    "names alone": "a/x.mp4\nb/y z.mp4\n",
    "comments": "# made by hand\na/x.mp4 0\n\n#b/y z.mp4 0\nb/y z.mp4 1",
    "old Macs": "a/x.mp4 0\rb/y z.mp4 1\r",
    "numbers in another order": "a/x.mp4 1\nb/y z.mp4 0\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_lists_as_people_have_them(root: Path, annotations: Path, form: str) -> None:
    touch(root, ["a/x.mp4", "b/y z.mp4"])
    write(annotations, {"list": FORMS[form].format(root=root)})
    listing = listed("folder", root, list_file=annotations / "list")
    assert labelled(listing) == {"a/x.mp4": "a", "b/y z.mp4": "b"}
    assert not listing.missing and not listing.extra
    assert not listing.notes


PARTS = {
    "start and end": ("a/x.mp4 10 40 0\na/x.mp4 0 10 0\na/x.mp4 40 -1 0\n", "start-end"),
    "counted from 1": ("a/x.mp4 10 40 0\na/x.mp4 1 10 0\na/x.mp4 40 -1 0\n", "start-end"),
    "with commas": ("a/x.mp4,10,40,0\na/x.mp4,0,10,0\na/x.mp4,40,-1,0\n", "start-end"),
    "offset and total": ("a/x.mp4 10 30 0\na/x.mp4 0 10 0\na/x.mp4 40 -1 0\n", "offset-total"),
    "no suffix": ("a/x 10 40 0\na/x 0 10 0\na/x 40 -1 0\n", "start-end"),
    "a header": (
        "video_path,label,start_frame,end_frame\na/x.mp4,a,10,40\na/x.mp4,a,0,10\na/x.mp4,a,40,-1\n",
        "offset-total",
    ),
    "a header of offsets": (
        "frame_dir offset total_frames label\na/x.mp4 10 30 0\na/x.mp4 0 10 0\na/x.mp4 40 -1 0\n",
        "start-end",
    ),
}


@pytest.mark.parametrize("form", PARTS)
def test_lists_of_parts_of_videos(root: Path, annotations: Path, form: str) -> None:
    touch(root, ["a/x.mp4", "a/y.mp4"])
    text, numbers = PARTS[form]
    write(annotations, {"list": text})
    listing = listed("folder", root, list_file=annotations / "list", list_numbers=numbers)
    assert listing.names == ("a/x.mp4[0:10]", "a/x.mp4[10:40]", "a/x.mp4[40:]")
    assert (listing.labels, listing.missing, listing.extra) == ((0, 0, 0), (), ("a/y.mp4",))
    (note,) = listing.notes
    assert re.fullmatch(r"3 lines name parts of videos, .* 0: a/x(.mp4)?\[10:40\], ...", note)


def test_parts_are_of_one_class_each(root: Path, annotations: Path) -> None:
    touch(root, ["a/x.mp4", "b/y.mp4"])
    text = "a/x.mp4 0 9 b\na/x.mp4 9 18 a\na/x.mp4 0 -1 a\na/x.mp4 0 9 b\n"
    write(annotations, {"list": text})
    listing = listed("folder", root, list_file=annotations / "list")
    assert labelled(listing) == {"a/x.mp4": "a", "a/x.mp4[0:9]": "b", "a/x.mp4[9:18]": "a"}
    assert listing.doubled == ("a/x.mp4[0:9]",)
    write(annotations, {"list": "a/x.mp4 0 9 b\na/x.mp4 9 18 a\na/x.mp4 0 9 a\n"})
    with pytest.raises(ValueError, match=r"line 3: 'a/x.mp4\[0:9\]' is listed under two classes"):
        listed("folder", root, list_file=annotations / "list")


def test_a_folder_of_frames_named_like_a_part(root: Path, annotations: Path) -> None:
    touch(root, ["a/x/1.jpg", "a/x[0:9]/1.jpg"])
    write(annotations, {"list": "a/x[0:9] 0\n"})
    fields = {"list_file": annotations / "list", "frames_folders": True}
    assert listed("folder", root, **fields).names == ("a/x[0:9]",)
    write(annotations, {"list": "a/x 0 9 0\n"})
    with pytest.raises(ValueError, match=r"line 1: 'a/x\[0:9\]' is a part of a video, and"):
        listed("folder", root, **fields)


@pytest.mark.parametrize(
    "classes", ["0 run\n1 sit\n", "run,0\nsit,1\n", "1\tsit\n0\trun\n", "run\nsit\n"]
)
def test_files_of_numbered_classes(root: Path, annotations: Path, classes: str) -> None:
    touch(root, ["x.mp4", "y.mp4"])
    write(annotations, {"list": "x.mp4 1\ny.mp4 0\n", "classes": classes})
    fields = {"list_file": annotations / "list", "class_file": annotations / "classes"}
    listing = listed("folder", root, **fields)
    assert (listing.class_names, listing.labels) == (("run", "sit"), (1, 0))
    write(annotations, {"list": "x.mp4 2\ny.mp4 1\n", "classes": "1 run\n2 sit\n"})
    assert listed("folder", root, **fields).labels == (1, 0)
    write(annotations, {"list": "x.mp4 0\n", "classes": "1 run\n2 sit\n"})
    with pytest.raises(ValueError, match="line 1: '0' should be a whole number from 1 to 2"):
        listed("folder", root, **fields)
    write(annotations, {"list": "x.mp4 take 2\n", "classes": "take 1\ntake 2\n"})
    assert listed("folder", root, **fields).class_names == ("take 1", "take 2")


def test_utf_16_as_spreadsheets_write_it(root: Path, annotations: Path) -> None:
    touch(root, ["a/é.mp4"])
    (annotations / "list").write_bytes("a/é.mp4\t0\r\n".encode("utf-16"))
    assert listed("folder", root, list_file=annotations / "list").names == ("a/é.mp4",)


def test_numbers_count_in_the_file_of_classes(root: Path, annotations: Path) -> None:
    touch(root, ["x.mp4", "y.mp4", "z.mp4"])
    write(annotations, {"list": "x.mp4 1\ny.mp4 0\nz.mp4 -1\n", "classes": "run\njump\n"})
    fields = {"list_file": annotations / "list", "class_file": annotations / "classes"}
    assert labelled(listed("folder", root, **fields)) == {
        "x.mp4": "jump",
        "y.mp4": "run",
        "z.mp4": "none",
    }
    write(annotations, {"list": "x.mp4 1\ny.mp4 2\n"})
    with pytest.raises(ValueError, match="line 2: '2' should be a whole number from 0 to 1"):
        listed("folder", root, **fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/x.mp4 0\nb/y.mp4 0\n", "line 2: '0' for the folder 'b', but line 1 has '0' for 'a'"),
        ("a/x.mp4 0\na/z.mp4 1\n", "line 2: '1' for the folder 'a', but line 1 has '0' for 'a'"),
        ("top.mp4 0\n", "line 1: the number '0' names no class: .*--classes"),
        (
            "a/x.mp4 60 10 0\n",
            "line 1: the part of 'a/x.mp4' from frame 60 on ends at 10; .*--list-n",
        ),
        (
            "a/x.mp4 0 9 0\na/x.mp4 9 9 0\n",
            "line 2: the part of 'a/x.mp4' from frame 9 on ends at 9",
        ),
        ("a/x.mp4 -5 9 0\n", "line 1: '-5' should be a whole number from 0"),
        ("a/x.mp4 5 -9 0\n", "line 1: '-9' should be a whole number from -1"),
        ("a/x.mp4 0\nb/y.mp4 1 0\n", "line 2: 2 values behind the name, but 1 on line 1: a video"),
        ("a/x.mp4 1.5 3.0 0\n", "line 1: '1.5 3.0 0' are times: parts of videos are named by"),
        ("path,label,fps\na/x.mp4,0,25\n", "line 1: the column 'fps' is not known"),
        ("path,label,label\na/x.mp4,0,0\n", "line 1: the column 'label' is not known, or there tw"),
        ("path,label,start,end\na/x.mp4,0,5\n", "line 2: 3 cells under a header of 4"),
        ("a/x.mp4 0 1 2 3\n", "line 1: .* at most two numbers between"),
        ("a/x.mp4 nothing\n", "line 1: 'a/x.mp4' is of class 'nothing'"),
        ("/elsewhere/x.mp4 0\n", "line 1: '/elsewhere/x.mp4' is not the name of a video below"),
    ],
)
def test_labels_that_may_be_wrong_are_refused(
    root: Path, annotations: Path, text: str, message: str
) -> None:
    touch(root, ["a/x.mp4", "a/z.mp4", "b/y.mp4", "top.mp4"])
    write(annotations, {"list": text})
    with pytest.raises(ValueError, match=message):
        listed("folder", root, list_file=annotations / "list")


def test_names_that_look_like_something_else(root: Path, annotations: Path) -> None:
    names = ["#20_Rhythm_clap.avi", "take 1.mp4", "a.mp4 2.mp4", "walk, then sit.mp4"]
    touch(root, [f"c/{name}" for name in names])
    touch(root, names[:1])
    text = "\n".join(f"c/{name}" for name in names) + "\n#20_Rhythm_clap.avi -1\n"
    write(annotations, {"list": text})
    listing = listed("folder", root, list_file=annotations / "list")
    assert set(listing.names) == {*(f"c/{name}" for name in names), names[0]}


def test_frame_folders_by_the_lists_of_mmaction2(root: Path, annotations: Path) -> None:
    touch(root, ["some/directory-1/img_00001.jpg", "some/take 2/img_00001.jpg"])
    text = "some/directory-1 0 -1 0\nsome/take 2 1 122 1\n"
    write(annotations, {"list": text, "classes": "a\nb"})
    listing = listed(
        "folder",
        root,
        list_file=annotations / "list",
        class_file=annotations / "classes",
        frames_folders=True,
    )
    assert labelled(listing) == {"some/directory-1": "a", "some/take 2[0:122]": "b"}


def test_a_root_one_level_too_high_is_told(root: Path) -> None:
    touch(root, ["train/a/1.mp4", "val/a/2.mp4"])
    (note,) = listed("folder", root).notes
    assert "train, val: is --videos one level too high?" in note
    (note,) = listed("folder", touch(root.parent / "other", ["k/a/1.mp4", "k/b/2.mp4"])).notes
    assert "k is the only class" in note


def test_the_lists_of_the_real_footage_agree(footage: Path) -> None:
    root = footage / "overhead-actions"
    train, test = (
        listed("folder", root, list_file=root / f"{name}.txt") for name in ("train", "test")
    )
    assert (len(train.names), len(test.names)) == (302, 133)
    assert train.class_names == test.class_names and len(train.class_names) == 9
    assert not train.missing and not test.missing and not set(train.names) & set(test.names)
