"""Kinetics as it is spread: class trees, flat trees, and its lists under all their names."""

from pathlib import Path

import pytest

from tests.preprocess.datasets.trees import labelled, listed, touch, write

ROW = "label,youtube_id,time_start,time_end,split\n"


def test_by_folders(root: Path) -> None:
    touch(root, ["train/b c/1.mp4", "train/a/2.mkv", "val/d/3.mp4", "train/loose.mp4"])
    listing = listed("k400", root)
    assert labelled(listing) == {"train/a/2.mkv": "a", "train/b c/1.mp4": "b c"}
    assert listing.extra == ("train/loose.mp4",)
    assert listing.class_names == listed("k400", root, split="val").class_names == ("a", "b c", "d")


def test_by_folders_as_mmaction2_calls_them(root: Path) -> None:
    touch(root, ["videos_train/a/1.mp4", "validation/b/2.mp4"])
    assert listed("k600", root).names == ("videos_train/a/1.mp4",)
    assert listed("k600", root, split="val").names == ("validation/b/2.mp4",)


def test_the_class_tree_of_cvdf_is_made_of_absolute_links(tmp_path: Path) -> None:
    clip = "AAAAAAAAAAA_000001_000011.mp4"
    touch(tmp_path, [f"k400/train/{clip}"])
    root = tmp_path / "k400" / "videos"
    (root / "train" / "abseiling").mkdir(parents=True)
    (root / "train" / "abseiling" / clip).symlink_to(tmp_path / "k400" / "train" / clip)
    with pytest.raises(ValueError, match=rf"--allow-links {tmp_path}/k400/train"):
        listed("k400", root)
    allowed = listed("k400", root, allow_links=(tmp_path / "k400",))
    assert labelled(allowed) == {f"train/abseiling/{clip}": "abseiling"}


def test_a_split_that_is_a_link_is_a_link_too(
    root: Path, annotations: Path, tmp_path: Path
) -> None:
    touch(tmp_path, ["big/train/ski/AAAAAAAAAAA_000001_000011.mp4"])
    (root / "train").symlink_to(tmp_path / "big" / "train")
    write(annotations, {"train.csv": ROW + "ski,AAAAAAAAAAA,1,11,train\n"})
    for fields in ({}, {"annotations": annotations}):
        with pytest.raises(ValueError, match=rf"'train/' .*--allow-links {tmp_path}/big"):
            listed("k400", root, **fields)
        allowed = listed("k400", root, allow_links=(tmp_path / "big",), **fields)
        assert labelled(allowed) == {"train/ski/AAAAAAAAAAA_000001_000011.mp4": "ski"}


@pytest.mark.parametrize(
    "tree",
    [
        "train/dancing ballet/{}.mp4",
        "train/dancing_ballet/{}.webm",
        "train/{}.mkv",
        "{}.mp4",
        "train/{}.mp4.mkv",
    ],
)
def test_a_csv_finds_clips_in_any_tree(root: Path, annotations: Path, tree: str) -> None:
    touch(
        root, [tree.format("-abcdefghij_000002_000012"), tree.format("ZZZZZZZZZZZ_000000_000010")]
    )
    train = (
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        "dancing ballet,-abcdefghij,2,12,train,0\n"
        "abseiling,BBBBBBBBBBB,33,43,train,0\n"
        "dancing ballet,-abcdefghij,2,12,train,0\n"
    )
    validate = "label,youtube_id,time_start,time_end\nabseiling,CCCCCCCCCCC,1,11\n"
    write(annotations, {"train.csv": train, "validate.csv": validate})
    listing = listed("k400", root, annotations=annotations)
    assert labelled(listing) == {tree.format("-abcdefghij_000002_000012"): "dancing ballet"}
    assert listing.missing == ("train/abseiling/BBBBBBBBBBB_000033_000043",)
    assert listing.doubled == listing.names and listing.missing_share == 0.5
    assert listing.extra == (tree.format("ZZZZZZZZZZZ_000000_000010"),)
    (root / "val").mkdir()
    assert listed("k400", root, split="val", annotations=annotations).class_names == (
        "abseiling",
        "dancing ballet",
    )


@pytest.mark.parametrize(
    "name",
    [
        "train.csv",
        "kinetics_train.csv",
        "kinetics-400_train.csv",
        "kinetics400/train.csv",
        "annotations/kinetics400/train.csv",
        "Train.txt",
    ],
)
def test_lists_under_the_names_that_people_have(root: Path, annotations: Path, name: str) -> None:
    touch(root, ["train/AAAAAAAAAAA_000001_000011.mp4"])
    write(annotations, {name: ROW + "ski,AAAAAAAAAAA,1.0,11.0,train\n"})
    write(annotations, {"kinetics600/train.csv": "not this one\n"})
    for given in (annotations, annotations / name):
        listing = listed("k400", root, annotations=given)
        assert labelled(listing) == {"train/AAAAAAAAAAA_000001_000011.mp4": "ski"}


def test_of_two_lists_that_may_be_meant_none_is_taken(root: Path, annotations: Path) -> None:
    write(annotations, {"a_train.csv": ROW, "b_train.csv": ROW})
    with pytest.raises(ValueError, match=r"a_train.csv and .*b_train.csv may both be"):
        listed("k400", root, annotations=annotations)


def test_a_file_of_another_split_is_refused(root: Path, annotations: Path) -> None:
    write(annotations, {"train.csv": ROW + "ski,AAAAAAAAAAA,1,11,train\n"})
    write(annotations, {"all.csv": ROW + "ski,AAAAAAAAAAA,1,11,train\nski,B,1,11,validate\n"})
    with pytest.raises(ValueError, match=r"train.csv is a list of train, not of val"):
        listed("k400", root, split="val", annotations=annotations / "train.csv")
    whole = annotations / "all.csv"
    assert len(listed("k400", root, annotations=whole).missing) == 1
    assert len(listed("k400", root, split="val", annotations=whole).missing) == 1
    with pytest.raises(ValueError, match="no row is of the split test"):
        listed("k400", root, split="test", annotations=whole)


def test_a_list_without_labels(root: Path, annotations: Path) -> None:
    touch(root, ["test/AAAAAAAAAAA_000001_000011.mp4"])
    text = "youtube_id,time_start,time_end,split\nAAAAAAAAAAA,1,11,test\n"
    write(annotations, {"test.csv": text})
    listing = listed("k400", root, split="test", annotations=annotations)
    assert labelled(listing) == {"test/AAAAAAAAAAA_000001_000011.mp4": "none"}
    assert len(listing.notes) == 2, "no training list, no labels"
    write(annotations, {"train.csv": ROW + "ski,BBBBBBBBBBB,1,11,train\n"})
    assert listed("k400", root, split="test", annotations=annotations).class_names == ("ski",)


def test_clips_named_by_the_video_alone(root: Path, annotations: Path) -> None:
    touch(root, ["train/AAAAAAAAAAA.mp4", "train/BBBBBBBBBBB.mp4"])
    text = "ski,AAAAAAAAAAA,1,11,train\nski,BBBBBBBBBBB,1,11,train\nski,BBBBBBBBBBB,50,60,train\n"
    write(annotations, {"train.csv": ROW + text})
    listing = listed("k400", root, annotations=annotations)
    assert listing.names == ("train/AAAAAAAAAAA.mp4",), "of two clips of B it may be either"
    assert len(listing.missing) == 2


def test_the_same_clip_twice_on_disk(root: Path, annotations: Path) -> None:
    clip = "AAAAAAAAAAA_000001_000011.mp4"
    repaired = f"replacement/replacement_for_corrupted_k400/{clip}"
    touch(root, [f"train/ski/{clip}", repaired])
    write(annotations, {"train.csv": ROW + "ski,AAAAAAAAAAA,1,11,train\n"})
    listing = listed("k400", root, annotations=annotations)
    assert listing.others == ((f"train/ski/{clip}", (repaired,)),)
    assert listing.extra == ()


def test_a_root_one_level_off_is_told(root: Path) -> None:
    touch(root, ["k/videos/train/a/1.mp4"])
    with pytest.raises(ValueError, match=rf"no folder train, but {root}/k/videos does: .*--videos"):
        listed("k400", root)
    with pytest.raises(ValueError, match="but is one: name the folder that holds it"):
        listed("k400", root / "k" / "videos" / "train")
    with pytest.raises(ValueError, match="holds no folder val; --split"):
        listed("k400", root, split="val")
