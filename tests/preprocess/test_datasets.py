"""Datasets on made-up trees: which videos, which labels, what is counted and what is refused."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.datasets import Listing, diving48, folder, hmdb51, k400, ucf101
from preprocess.datasets.listing import Files, checked_name, make_listing, scan


def touch(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def labelled(listing: Listing) -> dict[str, str]:
    classes = (*listing.class_names, "none")
    return {name: classes[label] for name, label in zip(listing.names, listing.labels, strict=True)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "videos"


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    folder = tmp_path / "annotations"
    folder.mkdir()
    return folder


def test_folder_takes_classes_from_subfolders(root: Path) -> None:
    touch(
        root,
        [
            "walk/b.mp4",
            "sit/x/a.AVI",
            "sit/notes.txt",
            "walk/.hidden.mp4",
            ".cache/c.mp4",
            "top.webm",
        ],
    )
    listing = folder(root)
    assert labelled(listing) == {"sit/x/a.AVI": "sit", "top.webm": "none", "walk/b.mp4": "walk"}
    assert listing.class_names == ("sit", "walk")


def test_folder_without_subfolders_has_no_labels(root: Path) -> None:
    listing = folder(touch(root, ["b.mp4", "a.mp4"]))
    assert (listing.names, listing.labels, listing.class_names) == (
        ("a.mp4", "b.mp4"),
        (-1, -1),
        (),
    )


def test_lists_of_one_folder_number_classes_alike(root: Path, annotations: Path) -> None:
    touch(root, ["a/1.mp4", "b/2.mp4", "c/3.mp4"])
    (annotations / "train.txt").write_text("c/3.mp4\n# a comment\n\na/1.mp4\n")
    (annotations / "test.txt").write_text("./b/2.mp4\n")
    train, test = (
        folder(root, list_file=annotations / f"{name}.txt") for name in ("train", "test")
    )
    assert train.class_names == test.class_names == ("a", "b", "c")
    assert labelled(train) == {"a/1.mp4": "a", "c/3.mp4": "c"}
    assert labelled(test) == {"b/2.mp4": "b"}
    assert train.extra == ("b/2.mp4",)


def test_a_list_may_name_the_class(root: Path, annotations: Path) -> None:
    touch(root, ["1.mp4", "x/2,3.mp4"])
    (annotations / "list.txt").write_text('1.mp4, jump\n"x/2,3.mp4",run\n')
    (annotations / "classes.txt").write_text("run\njump\n")
    listing = folder(
        root, list_file=annotations / "list.txt", class_file=annotations / "classes.txt"
    )
    assert labelled(listing) == {"1.mp4": "jump", "x/2,3.mp4": "run"}
    assert listing.class_names == ("run", "jump")
    with pytest.raises(
        ValueError, match=r"'1.mp4' is of class 'jump', which is not among the 1 classes"
    ):
        folder(root, list_file=annotations / "list.txt")


def test_the_lists_of_the_real_footage_agree(footage: Path) -> None:
    root = footage / "overhead-actions"
    train, test = (folder(root, list_file=root / f"{name}.txt") for name in ("train", "test"))
    assert (len(train.names), len(test.names)) == (302, 133)
    assert train.class_names == test.class_names and len(train.class_names) == 9
    assert not train.missing and not test.missing and not set(train.names) & set(test.names)


def test_k400_by_folders(root: Path) -> None:
    touch(root, ["train/b c/1.mp4", "train/a/2.mkv", "val/d/3.mp4"])
    listing = k400(root, split="train")
    assert labelled(listing) == {"train/a/2.mkv": "a", "train/b c/1.mp4": "b c"}
    assert listing.class_names == k400(root, split="val").class_names == ("a", "b c", "d")


@pytest.mark.parametrize(
    "tree",
    ["train/dancing ballet/{}.mp4", "train/dancing_ballet/{}.webm", "train/{}.mkv", "{}.mp4"],
)
def test_k400_by_csv_finds_clips_in_any_tree(root: Path, annotations: Path, tree: str) -> None:
    touch(
        root, [tree.format("-abcdefghij_000002_000012"), tree.format("ZZZZZZZZZZZ_000000_000010")]
    )
    (annotations / "train.csv").write_text(
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        "dancing ballet,-abcdefghij,2,12,train,0\n"
        "abseiling,BBBBBBBBBBB,33,43,train,0\n"
        "dancing ballet,-abcdefghij,2,12,train,0\n"
    )
    (annotations / "validate.csv").write_text(
        "label,youtube_id,time_start,time_end\nabseiling,CCCCCCCCCCC,1,11\n"
    )
    listing = k400(root, split="train", annotations=annotations)
    assert labelled(listing) == {tree.format("-abcdefghij_000002_000012"): "dancing ballet"}
    assert listing.missing == ("train/abseiling/BBBBBBBBBBB_000033_000043.mp4",)
    assert listing.doubled == listing.names and listing.missing_share == 0.5
    assert listing.extra == (tree.format("ZZZZZZZZZZZ_000000_000010"),)
    (root / "val").mkdir()
    assert k400(root, split="val", annotations=annotations).class_names == (
        "abseiling",
        "dancing ballet",
    )


@pytest.mark.parametrize(
    "text",
    [
        "label,youtube_id\na,b\n",
        "label,youtube_id,time_start,time_end\na,b,two,12\n",
        "a,b,1\nc,d,2\n",
    ],
)
def test_k400_refuses_other_tables(root: Path, annotations: Path, text: str) -> None:
    root.mkdir()
    (annotations / "train.csv").write_text(text)
    with pytest.raises(ValueError, match="not a Kinetics row"):
        k400(root, split="train", annotations=annotations)


UCF = {
    "classInd.txt": "1 Archery\r\n2 BaseballPitch\r\n",
    "trainlist01.txt": "BaseballPitch/v_B_g08_c01.avi 2\nArchery/v_A_g08_c01.avi 1\nArchery/v_A_g09_c01.avi 1\n",
    "testlist01.txt": "Archery/v_A_g01_c01.avi\n",
    "trainlist02.txt": "Archery/v_A_g01_c01.avi 1\n",
    "testlist02.txt": "BaseballPitch/v_B_g08_c01.avi\n",
}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)


def test_ucf101(root: Path, annotations: Path) -> None:
    write(annotations, UCF)
    on_disk = [
        "BaseballPitch/v_B_g08_c01.avi",
        "Archery/v_A_g08_c01.avi",
        "Archery/v_A_g01_c01.avi",
        "Archery/new.avi",
    ]
    touch(root, on_disk)
    train = ucf101(root, split="train", annotations=annotations, fold=1)
    assert labelled(train) == {
        "Archery/v_A_g08_c01.avi": "Archery",
        "BaseballPitch/v_B_g08_c01.avi": "BaseballPitch",
    }
    assert train.missing == ("Archery/v_A_g09_c01.avi",)
    assert train.extra == ("Archery/new.avi",), "the videos of the other split are not extra"
    assert labelled(ucf101(root, split="test", annotations=annotations, fold=1)) == {
        "Archery/v_A_g01_c01.avi": "Archery"
    }
    assert labelled(ucf101(root, split="test", annotations=annotations, fold=2)) == {
        "BaseballPitch/v_B_g08_c01.avi": "BaseballPitch"
    }


@pytest.mark.parametrize(
    "change",
    [
        {"trainlist01.txt": "Archery/v_A_g08_c01.avi 2\n"},
        {"trainlist01.txt": "Bowling/v_A_g08_c01.avi 1\n"},
        {"classInd.txt": "0 Archery\n1 BaseballPitch\n"},
    ],
)
def test_ucf101_refuses_lists_that_disagree(
    root: Path, annotations: Path, change: dict[str, str]
) -> None:
    write(annotations, UCF | change)
    root.mkdir()
    with pytest.raises(ValueError, match=r"classInd\.txt"):
        ucf101(root, split="train", annotations=annotations, fold=1)


def test_hmdb51(root: Path, annotations: Path) -> None:
    touch(root, ["brush_hair/a b_nm_np1.avi", "brush_hair/c.avi", "wave/d.avi", "wave/e.avi"])
    write(annotations, {"brush_hair_test_split1.txt": "a b_nm_np1.avi 1 \nc.avi 2 \n"})
    write(
        annotations,
        {"wave_test_split1.txt": "d.avi 0 \ne.avi 1 \n", "wave_test_split2.txt": "d.avi 1\n"},
    )
    train = hmdb51(root, split="train", annotations=annotations, fold=1)
    assert labelled(train) == {"brush_hair/a b_nm_np1.avi": "brush_hair", "wave/e.avi": "wave"}
    assert train.extra == ()
    assert labelled(hmdb51(root, split="test", annotations=annotations, fold=1)) == {
        "brush_hair/c.avi": "brush_hair"
    }
    write(annotations, {"wave_test_split1.txt": "d.avi 3\n"})
    with pytest.raises(ValueError, match="should be a video and 0, 1 or 2"):
        hmdb51(root, split="train", annotations=annotations, fold=1)


def test_diving48(root: Path, annotations: Path) -> None:
    touch(root, ["-a_00001.mp4", "b_00002.mp4", "c_00003.mp4"])
    vocab = [["Back", "15som", "05Twis", "FREE"], ["Forward", "35som", "NoTwis", "PIKE"]]
    (annotations / "Diving48_vocab.json").write_text(json.dumps(vocab))
    train = [{"vid_name": "-a_00001", "label": 1, "start_frame": 0, "end_frame": 9}]
    (annotations / "Diving48_V2_train.json").write_text(json.dumps(train))
    (annotations / "Diving48_V2_test.json").write_text(
        json.dumps([{"vid_name": "b_00002", "label": 0}])
    )
    listing = diving48(root, split="train", annotations=annotations)
    assert labelled(listing) == {"-a_00001.mp4": "Forward-35som-NoTwis-PIKE"}
    assert listing.extra == ("c_00003.mp4",)
    assert labelled(diving48(root, split="test", annotations=annotations)) == {
        "b_00002.mp4": "Back-15som-05Twis-FREE"
    }
    (annotations / "Diving48_V2_test.json").write_text(
        json.dumps([{"vid_name": "b_00002", "label": 48}])
    )
    with pytest.raises(ValueError, match="label below 2"):
        diving48(root, split="test", annotations=annotations)


def test_annotations_that_are_not_there_are_named(root: Path, annotations: Path) -> None:
    root.mkdir()
    for listed, missing in (
        (lambda: ucf101(root, split="train", annotations=annotations, fold=1), "classInd.txt"),
        (
            lambda: hmdb51(root, split="train", annotations=annotations, fold=1),
            "CLASS_test_split1.txt",
        ),
        (lambda: diving48(root, split="train", annotations=annotations), "Diving48_vocab.json"),
        (lambda: k400(root, split="val", annotations=annotations), "val.csv, validate.csv"),
        (lambda: k400(root, split="val"), "val is not a folder"),
        (lambda: ucf101(root, split="val", annotations=annotations, fold=1), "not 'val' in 1"),
        (lambda: hmdb51(root, split="test", annotations=annotations, fold=4), "not 'test' in 4"),
        (lambda: diving48(root, split="val", annotations=annotations), "not 'val'"),
        (lambda: k400(root, split="dev"), "not 'dev'"),
    ):
        with pytest.raises(ValueError, match=missing):
            listed()


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../a.mp4",
        "a/../../b.mp4",
        "a\\b.mp4",
        "",
        ".",
        "a\nb.mp4",
        "a\0.mp4",
        "a\udcff.mp4",
    ],
)
def test_names_that_leave_the_root_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"is not the name of a video|control characters"):
        checked_name(name)


@given(st.text(min_size=1))
def test_a_name_that_passes_stays_below_the_root(name: str) -> None:
    try:
        checked = checked_name(name)
    except ValueError:
        return
    assert (
        Path("/root", checked).resolve().is_relative_to("/root/")
        and checked_name(checked) == checked
    )


def test_links_may_stay_inside_but_not_leave(root: Path, tmp_path: Path) -> None:
    touch(root, ["a/1.mp4"])
    (root / "a" / "inside.mp4").symlink_to(root / "a" / "1.mp4")
    (root / "a" / "broken.mp4").symlink_to(root / "nowhere.mp4")
    (root / "a" / "loop").symlink_to(root)
    assert folder(root).names == ("a/1.mp4", "a/inside.mp4")
    (tmp_path / "alias").symlink_to(root)
    assert folder(tmp_path / "alias").names == ("a/1.mp4", "a/inside.mp4"), (
        "the root itself may be a link"
    )
    (root / "a" / "out.mp4").symlink_to(touch(tmp_path, ["secret.mp4"]) / "secret.mp4")
    assert scan(root).escaping == {"a/out.mp4"}
    with pytest.raises(ValueError, match=r"'a/out.mp4' is a link that leaves the root"):
        folder(root)


def test_one_video_under_two_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="'a' is listed under two classes, 0 and 1"):
        make_listing(
            [("a", 0), ("./a", 1)], files=Files(frozenset("a"), frozenset()), class_names="xy"
        )


@given(st.lists(st.sampled_from("abcdefgh")), st.sets(st.sampled_from("abcdefgh")))
def test_every_listed_video_is_found_or_missing(listed: list[str], on_disk: set[str]) -> None:
    files = Files(frozenset(f"{name}.mp4" for name in on_disk), frozenset())
    listing = make_listing(((f"{name}.mp4", 0) for name in listed), files=files, class_names=["x"])
    assert set(listing.names) | set(listing.missing) == {f"{name}.mp4" for name in listed}
    assert set(listing.extra) == files.inside - {f"{name}.mp4" for name in listed}
    assert set(listing.doubled) == {f"{name}.mp4" for name in listed if listed.count(name) > 1}
    assert list(listing.names) == sorted(set(listing.names))
