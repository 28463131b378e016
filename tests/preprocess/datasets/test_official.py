"""UCF101, HMDB51, Diving48, Something-Something v2 and Jester by their official lists."""

import json
from pathlib import Path

import pytest

from tests.preprocess.datasets.trees import labelled, listed, touch, write

UCF = {
    "classInd.txt": "1 Archery\r\n2 BaseballPitch\r\n",
    "trainlist01.txt": "BaseballPitch/v_B_g08_c01.avi 2\nArchery/v_A_g08_c01.avi 1\n"
    "Archery/v_A_g09_c01.avi 1\n",
    "testlist01.txt": "Archery/v_A_g01_c01.avi\n",
    "trainlist02.txt": "Archery/v_A_g01_c01.avi 1\n",
    "testlist02.txt": "BaseballPitch/v_B_g08_c01.avi\n",
}
ON_DISK = ("BaseballPitch/v_B_g08_c01", "Archery/v_A_g08_c01", "Archery/v_A_g01_c01", "Archery/new")


@pytest.mark.parametrize("suffix", ["avi", "mp4"])
@pytest.mark.parametrize("below", ["", "ucfTrainTestlist/"])
def test_ucf101(root: Path, annotations: Path, suffix: str, below: str) -> None:
    write(annotations / below, UCF)
    touch(root, [f"{name}.{suffix}" for name in ON_DISK])
    train = listed("ucf101", root, annotations=annotations)
    assert labelled(train) == {
        f"Archery/v_A_g08_c01.{suffix}": "Archery",
        f"BaseballPitch/v_B_g08_c01.{suffix}": "BaseballPitch",
    }
    assert train.missing == ("Archery/v_A_g09_c01.avi",)
    assert train.extra == (f"Archery/new.{suffix}",), "the videos of the other split are not extra"
    assert labelled(listed("ucf101", root, split="test", annotations=annotations)) == {
        f"Archery/v_A_g01_c01.{suffix}": "Archery"
    }
    assert labelled(listed("ucf101", root, split="test", annotations=annotations, fold=2)) == {
        f"BaseballPitch/v_B_g08_c01.{suffix}": "BaseballPitch"
    }


def test_ucf101_in_a_folder_more_or_spelled_otherwise(root: Path, annotations: Path) -> None:
    write(annotations, UCF)
    touch(root, ["UCF-101/baseballpitch/v_B_g08_c01.avi", "UCF-101/Archery/v_A_g08_c01.avi"])
    listing = listed("ucf101", root, annotations=annotations)
    assert labelled(listing) == {
        "UCF-101/Archery/v_A_g08_c01.avi": "Archery",
        "UCF-101/baseballpitch/v_B_g08_c01.avi": "BaseballPitch",
    }
    assert "2 found in another folder than the list says" in listing.notes[0]


def test_ucf101_without_a_test_split(root: Path, annotations: Path) -> None:
    write(annotations, UCF | {"testlist01.txt": ""})
    touch(root, ["Archery/v_A_g08_c01.avi"])
    assert listed("ucf101", root, annotations=annotations).names == ("Archery/v_A_g08_c01.avi",)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("trainlist01.txt", "Archery/v_A_g08_c01.avi 2\n", 1),
        ("trainlist01.txt", "Archery/v_A_g08_c01.avi 1\nBowling/v_A_g08_c01.avi 1\n", 2),
        ("classInd.txt", "0 Archery\n1 BaseballPitch\n", 1),
        ("classInd.txt", "1 Archery\n\n3 BaseballPitch\n", 3),
    ],
)
def test_ucf101_refuses_lists_that_disagree(
    root: Path, annotations: Path, name: str, text: str, line: int
) -> None:
    write(annotations, UCF | {name: text})
    with pytest.raises(ValueError, match=rf"{name}, line {line}: "):
        listed("ucf101", root, annotations=annotations)


def test_hmdb51(root: Path, annotations: Path) -> None:
    touch(root, ["brush_hair/a b_nm_np1.avi", "brush_hair/c.avi", "wave/d.avi", "wave/#e.mp4"])
    write(
        annotations,
        {
            "brush_hair_test_split1.txt": "a b_nm_np1.avi 1 \nc.avi 2 \n",
            "wave_test_split1.txt": "d.avi 0 \n#e.avi 1 \n",
            "wave_test_split2.txt": "d.avi 1\n",
        },
    )
    train = listed("hmdb51", root, annotations=annotations)
    assert labelled(train) == {"brush_hair/a b_nm_np1.avi": "brush_hair", "wave/#e.mp4": "wave"}
    assert train.extra == ()
    assert labelled(listed("hmdb51", root, split="test", annotations=annotations)) == {
        "brush_hair/c.avi": "brush_hair"
    }
    write(annotations, {"wave_test_split1.txt": "d.avi 3\n"})
    with pytest.raises(ValueError, match=r"split1.txt, line 1: .* should be a video and 0, 1 or 2"):
        listed("hmdb51", root, annotations=annotations)


def test_diving48(root: Path, annotations: Path) -> None:
    touch(root, ["-a_00001.mp4", "rgb/b_00002.webm", "c_00003.mp4"])
    vocab = [["Back", "15som", "05Twis", "FREE"], ["Forward", "35som", "NoTwis", "PIKE"]]
    train = [{"vid_name": "-a_00001", "label": 1, "start_frame": 0, "end_frame": 9}]
    test = [{"vid_name": "b_00002", "label": 0}]
    files = {"vocab": vocab, "V2_train": train, "V2_test": test}
    write(annotations, {f"Diving48_{name}.json": json.dumps(v) for name, v in files.items()})
    listing = listed("diving48", root, annotations=annotations)
    assert labelled(listing) == {"-a_00001.mp4": "Forward-35som-NoTwis-PIKE"}
    assert listing.extra == ("c_00003.mp4",)
    assert labelled(listed("diving48", root, split="test", annotations=annotations)) == {
        "rgb/b_00002.webm": "Back-15som-05Twis-FREE"
    }
    bad = json.dumps([*test, {"vid_name": "b", "label": 48}], indent=1)
    write(annotations, {"Diving48_V2_test.json": bad})
    with pytest.raises(ValueError, match=r"Diving48_V2_test.json, line 6: .*label below 2"):
        listed("diving48", root, split="test", annotations=annotations)


SSV2 = {
    "labels": {"Approaching something with your camera": "0", "Poking a hole into something": "1"},
    "train": [
        {"id": "78687", "label": "poking", "template": "Poking a hole into [something]"},
        {"id": 42, "template": "Approaching [something] with your camera", "placeholders": ["x"]},
    ],
    "validation": [{"id": "7", "template": "Poking a hole into [something]"}],
    "test": [{"id": "8"}],
}


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_something_something_v2(root: Path, annotations: Path, prefix: str) -> None:
    write(annotations, {f"{prefix}{name}.json": json.dumps(rows) for name, rows in SSV2.items()})
    touch(root, [f"20bn-something-something-v2/{name}.webm" for name in (78687, 42, 7, 8, 9)])
    train = listed("ssv2", root, annotations=annotations)
    assert {Path(name).stem: label for name, label in labelled(train).items()} == {
        "78687": "Poking a hole into something",
        "42": "Approaching something with your camera",
    }
    assert [Path(name).stem for name in train.extra] == ["9"]
    test = listed("ssv2", root, split="test", annotations=annotations)
    assert set(labelled(test).values()) == {"none"} and train.class_names == test.class_names


def test_jester_as_published(root: Path, annotations: Path) -> None:
    write(
        annotations,
        {
            "jester-v1-labels.csv": "Swiping Left\nDoing other things\n",
            "jester-v1-train.csv": "34870;Doing other things\n56557;Swiping Left\n",
            "jester-v1-validation.csv": "9223;Swiping Left\n",
            "jester-v1-test.csv": "7\n",
        },
    )
    touch(root, [f"20bn-jester-v1/{name}/00001.jpg" for name in (34870, 56557, 9223, 7, 1)])
    fields = {"annotations": annotations, "frames_folders": True}
    train = listed("jester", root, **fields)
    assert labelled(train) == {
        "20bn-jester-v1/34870": "Doing other things",
        "20bn-jester-v1/56557": "Swiping Left",
    }
    assert train.class_names == ("Swiping Left", "Doing other things")
    assert train.extra == ("20bn-jester-v1/1",)
    assert listed("jester", root, split="test", **fields).labels == (-1,)


def test_jester_with_headers_and_videos(root: Path, annotations: Path) -> None:
    rows = "video_id,label,frames,label_id,shape,format\n"
    write(
        annotations,
        {
            "Train.csv": f'{rows}1,Swiping Left,37,1,"(176, 100)",jpg\n2,No gesture,37,0,x,jpg\n',
            "Validation.csv": f"{rows}3,Swiping Left,37,1,x,jpg\n",
        },
    )
    touch(root, ["Train/1.mp4", "Train/2.mp4", "Validation/3.mp4"])
    train = listed("jester", root, annotations=annotations)
    assert labelled(train) == {"Train/1.mp4": "Swiping Left", "Train/2.mp4": "No gesture"}
    assert train.extra == ()


def test_what_is_not_there_is_named(root: Path, annotations: Path) -> None:
    for dataset, split, fold, missing in (
        ("ucf101", "train", 1, "classInd.txt"),
        ("hmdb51", "train", 1, "CLASS_test_split1.txt"),
        ("diving48", "train", 1, "Diving48_vocab.json"),
        ("k400", "val", 1, "no list of val: val.csv"),
        ("ssv2", "val", 1, "no list of labels: labels.json"),
        ("jester", "train", 1, "no list of train: train.csv"),
        ("ucf101", "val", 1, "not 'val'"),
        ("hmdb51", "test", 4, "not 4"),
        ("diving48", "train", 2, "no folds"),
        ("k400", "dev", 1, "not 'dev'"),
    ):
        with pytest.raises(ValueError, match=missing):
            listed(dataset, root, split=split, fold=fold, annotations=annotations)
    with pytest.raises(ValueError, match="ucf101 needs its official annotations"):
        listed("ucf101", root)
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        listed("folder", root / "nowhere")
