"""What is given as a clip store and is none is one line that says what it is."""

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from commands.paths import existing
from commands.stores import _ROOT_KEY, existing_store, shares  # pyright: ignore[reportPrivateUsage]
from fame.clipstore.layout import ROOT_KEY
from tests.stores import make_store


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with one store."""
    folder = tmp_path_factory.mktemp("root")
    make_store(folder / "stores" / "world-train.zarr", videos=4)
    return folder


def test_a_store_and_an_address_are_taken(root: Path) -> None:
    store = root / "stores" / "world-train.zarr"
    assert existing_store(store, root=root) == store
    assert existing_store("s3://bucket/store", root=root) == "s3://bucket/store"
    assert _ROOT_KEY == ROOT_KEY


MAKERS = (
    "`fame preprocess k400` makes it",
    "`fame preprocess ucf101` makes it",
    "`fame preprocess` makes clip stores",
)


def refused(path: Path, root: Path) -> str:
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        existing_store(path, root=root, hint="name this one with --store")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


def test_a_store_that_is_not_there_lists_those_that_are(root: Path, tmp_path: Path) -> None:
    asks = "; name this one with --store"
    lists = f"{asks}; there are the stores {root}/stores/world-train.zarr"
    k400, ucf101, other = (f" is not there; {maker}" for maker in MAKERS)
    assert refused(root / "stores" / "k400-train.zarr", root) == k400 + lists
    assert refused(tmp_path / "ucf101-test1.zarr", root) == ucf101 + lists
    assert refused(tmp_path / "ucf101-test3.zarr", tmp_path) == (
        ucf101.replace("ucf101`", "ucf101 --fold 3`") + asks
    )
    assert refused(tmp_path / "gone", tmp_path) == other + asks
    assert refused(tmp_path / "mine-train.zarr", tmp_path) == other + asks


def test_a_store_that_is_not_there_lists_those_beside_it(root: Path, tmp_path: Path) -> None:
    store = root / "stores" / "world-train.zarr"
    beside = tmp_path / "mine.zarr"
    shutil.copytree(store, beside)
    asks = f" is not there; {MAKERS[2]}; name this one with --store"
    assert refused(tmp_path / "other.zarr", root) == f"{asks}; there are the stores {beside}"
    # An array within a store is none of them.
    assert refused(beside / "gone", root) == f"{asks}; there are the stores {store}"


def test_a_data_root_lists_its_stores(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "data")
    (tmp_path / "data" / "videos").mkdir()
    (tmp_path / "data" / "videos" / "a.mp4").touch()
    stores = f"{tmp_path}/data/stores/world-train.zarr"
    assert refused(tmp_path / "data", root) == f" is no clip store; there are the stores {stores}"


def test_of_many_stores_the_first_are_named(root: Path, tmp_path: Path) -> None:
    for index in range(10):
        (tmp_path / "stores").mkdir(exist_ok=True)
        shutil.copytree(root / "stores" / "world-train.zarr", tmp_path / "stores" / f"{index}.zarr")
    assert refused(tmp_path / "gone", tmp_path).endswith("7.zarr and 2 more")


def test_a_folder_of_videos_names_the_command_that_makes_a_store(tmp_path: Path) -> None:
    (tmp_path / "my videos" / "jump").mkdir(parents=True)
    (tmp_path / "my videos" / "jump" / "a.MP4").touch()
    make = f"`fame preprocess folder --videos '{tmp_path}/my videos'` makes one of it"
    assert refused(tmp_path / "my videos", tmp_path) == (
        f" is a folder of videos and no clip store; {make}"
    )


def test_files_and_other_folders_are_named_for_what_they_are(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.mp4").touch()
    assert refused(tmp_path / "empty", root).startswith(" is a folder without a clip store; `fame")
    assert refused(tmp_path / "a.mp4", root).startswith(" is a file, but a clip store is a folder")
    assert refused(root / "stores", root).startswith(" is no clip store; there are the stores ")


def test_shares_stand_behind_the_stores(tmp_path: Path) -> None:
    odd = tmp_path / "fps=25"
    odd.mkdir()
    assert shares(["a", "s3://b/c"]) == (["a", "s3://b/c"], None)
    assert shares(["a=0.7", "s3://b/c=3"]) == (["a", "s3://b/c"], [0.7, 3.0])
    assert shares([str(odd), "x=y"]) == ([str(odd), "x=y"], None)  # names with an =
    assert shares([f"{odd}=2"]) == ([str(odd)], [2.0])
    with pytest.raises(ValueError, match="b has no share: write STORE=SHARE for"):
        shares(["a=0.7", "b"])


@pytest.mark.parametrize("command", ["info", "verify", "preview", "browse"])
def test_the_commands_of_stores_say_what_is_there_instead(command: str, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    done = CliRunner().invoke(app, ["store", command, str(tmp_path)])
    assert done.exit_code == 2
    assert done.stderr.startswith(
        f"fame: {tmp_path} is a folder of videos and no clip store; `fame"
    )


def test_an_address_or_a_function_is_no_path_to_look_for(tmp_path: Path) -> None:
    for named in ("hf:lab/network", "hf://lab/encoder@v1", "mine.py:network", "s3://b/store"):
        assert existing(named, made_by="") == named
    with pytest.raises(ValueError, match=r"gone\.pt is not there; make it$"):
        existing(tmp_path / "gone.pt", made_by="make it")
