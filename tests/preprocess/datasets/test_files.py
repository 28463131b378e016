"""Reading a tree: links of every kind, names that no store can take, folders of frames."""

import os
from pathlib import Path

import pytest

from preprocess.datasets.files import scan, stem_of
from tests.preprocess.datasets.trees import labelled, listed, touch


def test_links_may_stay_inside_but_not_leave(root: Path, tmp_path: Path) -> None:
    touch(root, ["a/1.mp4"])
    (root / "a" / "inside.mp4").symlink_to(root / "a" / "1.mp4")
    (root / "a" / "relative.mp4").symlink_to("../a/./inside.mp4")
    assert listed("folder", root).names == ("a/1.mp4", "a/inside.mp4", "a/relative.mp4")
    (tmp_path / "alias").symlink_to(root)
    assert listed("folder", tmp_path / "alias").names == listed("folder", root).names, (
        "the root itself may be a link"
    )
    (root / "a" / "out.mp4").symlink_to(touch(tmp_path, ["secret.mp4"]) / "secret.mp4")
    assert scan(root).outside.keys() == {"a/out.mp4"}
    with pytest.raises(ValueError, match=r"'a/out.mp4' .* leads out .*--allow-links /"):
        listed("folder", root)


def test_a_linked_folder_is_read_like_any_other(root: Path) -> None:
    touch(root, ["all/archery/a.mp4", "train/walking/w.mp4"])
    (root / "train" / "archery").symlink_to("../all/archery")
    assert labelled(listed("k400", root)) == {
        "train/archery/a.mp4": "archery",
        "train/walking/w.mp4": "walking",
    }


def test_a_linked_class_out_of_the_root_is_refused_until_it_is_allowed(
    root: Path, tmp_path: Path
) -> None:
    touch(root, ["train/walking/w.mp4"])
    touch(tmp_path, ["big/archery/a.mp4", "other/b.mp4"])
    (root / "train" / "archery").symlink_to(tmp_path / "big" / "archery")
    with pytest.raises(ValueError, match=rf"archery/' .*--allow-links {tmp_path}/big"):
        listed("k400", root)
    with pytest.raises(ValueError, match="--allow-links"):
        listed("k400", root, allow_links=(tmp_path / "other",))
    listing = listed("k400", root, allow_links=(tmp_path / "other", tmp_path / "big"))
    assert labelled(listing)["train/archery/a.mp4"] == "archery"


def test_a_snapshot_of_links_to_blobs(tmp_path: Path) -> None:
    snapshot = tmp_path / "datasets--x--y" / "snapshots" / "0123abc"
    touch(tmp_path / "datasets--x--y" / "blobs", ["aa11", "bb22"])
    (snapshot / "walk").mkdir(parents=True)
    (snapshot / "walk" / "1.mp4").symlink_to("../../../blobs/aa11")
    (snapshot / "walk" / "2.mp4").symlink_to("../../../blobs/bb22")
    with pytest.raises(ValueError, match=r"\(2 links do\); --allow-links .*/blobs"):
        listed("folder", snapshot)
    allowed = listed("folder", snapshot, allow_links=(tmp_path / "datasets--x--y" / "blobs",))
    assert allowed.names == ("walk/1.mp4", "walk/2.mp4")


def test_a_link_that_a_list_names_stays_refused(root: Path, annotations: Path) -> None:
    touch(root, ["a/1.mp4"])
    (root / "a" / "out.mp4").symlink_to("/etc/passwd")
    (annotations / "list").write_text("a/1.mp4\n")
    assert listed("folder", root, list_file=annotations / "list").names == ("a/1.mp4",), (
        "what no list names does no harm"
    )
    (annotations / "list").write_text("a/1.mp4\na/out.mp4\n")
    with pytest.raises(ValueError, match=r"list, line 2: 'a/out.mp4' .* leads out of it"):
        listed("folder", root, list_file=annotations / "list")


def test_a_list_that_names_what_lies_in_a_linked_folder(
    root: Path, annotations: Path, tmp_path: Path
) -> None:
    touch(tmp_path, ["big/archery/a.mp4"])
    touch(root, ["walking/w.mp4"])
    (root / "archery").symlink_to(tmp_path / "big" / "archery")
    (annotations / "list").write_text("walking/w.mp4\narchery/a.mp4\n")
    with pytest.raises(ValueError, match=r"line 2: .*--allow-links"):
        listed("folder", root, list_file=annotations / "list")


def test_what_cannot_be_read_costs_that_video(root: Path) -> None:
    touch(root, ["a/good.mp4", "a/back\\slash.mp4", "a/new\nline.mp4"])
    Path(os.fsdecode(os.fsencode(root) + b"/a/latin-\xe9.mp4")).touch()
    (root / "a" / "dangling.mp4").symlink_to(root / "nowhere.mp4")
    (root / "a" / "itself.mp4").symlink_to("itself.mp4")
    (root / "a" / "back").symlink_to("..")
    os.mkfifo(root / "a" / "pipe.mp4")
    listing = listed("folder", root)
    assert listing.names == ("a/good.mp4",)
    assert dict(listing.reasons) == {
        "a/back\\slash.mp4": (name := "its name holds a backslash, control characters or bytes")
        + " that are not UTF-8",
        "a/new\nline.mp4": f"{name} that are not UTF-8",
        "a/latin-\udce9.mp4": f"{name} that are not UTF-8",
        "a/dangling.mp4": "the link leads nowhere",
        "a/itself.mp4": "the link leads to itself",
        "a/back": "the link leads back to a folder that holds it",
        "a/pipe.mp4": "it is no regular file",
    }
    assert set(listing.missing) == set(dict(listing.reasons)), "they count as missing"


@pytest.mark.parametrize("dataset", ["folder", "k400"])
def test_a_class_folder_whose_name_cannot_be_shown_costs_its_videos(
    root: Path, dataset: str
) -> None:
    below = root / "train" if dataset == "k400" else root
    touch(below, ["walk/a.mp4", "new\nline/b.mp4"])
    latin = os.fsencode(below) + b"/caf\xe9"
    Path(os.fsdecode(latin)).mkdir()
    Path(os.fsdecode(latin), "c.mp4").touch()
    listing = listed(dataset, root)
    assert listing.class_names == ("walk",)
    assert (len(listing.names), len(listing.missing), len(listing.reasons)) == (1, 2, 2)


def test_links_that_multiply_are_refused(root: Path) -> None:
    """Ten folders, each with two links to the next: 1,024 ways to the last one."""
    for level in range(10):
        (root / f"f{level}").mkdir()
        for side in "lr":
            (root / f"f{level}" / side).symlink_to(f"../f{level + 1}")
    touch(root, ["f10/x.mp4"])
    with pytest.raises(ValueError, match=r"more than 64 ways lead through links to .*/f\d+"):
        scan(root)


def test_folders_of_frames(root: Path, tmp_path: Path) -> None:
    touch(root, ["walk/v1/img_00001.jpg", "walk/v1/img_00002.jpg", "sit/v2/00001.png", "a.mp4"])
    touch(root, ["top.jpg"])
    listing = listed("folder", root, frames_folders=True)
    assert labelled(listing) == {"sit/v2": "sit", "walk/v1": "walk"}
    (root / "sit" / "v2" / "00002.png").symlink_to("nowhere.png")
    listing = listed("folder", root, frames_folders=True)
    assert (listing.names, listing.missing) == (("walk/v1",), ("sit/v2",))
    assert listing.reasons == (("sit/v2", "00002.png: the link leads nowhere"),)
    (root / "walk" / "v1" / "img_3.jpg").symlink_to(touch(tmp_path, ["x.jpg"]) / "x.jpg")
    with pytest.raises(ValueError, match=r"'walk/v1' .* leads out of it, to .*/x.jpg"):
        listed("folder", root, frames_folders=True)


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a/x.mp4", "x"), ("x.mp4.MKV", "x"), ("x.y.avi", "x.y"), ("x.txt", "x.txt"), ("a.b/x", "x")],
)
def test_stems(name: str, stem: str) -> None:
    assert stem_of(name) == stem


@pytest.mark.parametrize("suffix", ["asf", "divx", "f4v", "m2ts", "vob", "mxf", "AVI", "Mp4"])
def test_suffixes_of_videos(root: Path, suffix: str) -> None:
    assert scan(touch(root, [f"x.{suffix}", "x.txt"])).videos == {f"x.{suffix}"}
    assert scan(root).others == {"txt": 1}
