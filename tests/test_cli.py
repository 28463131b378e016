"""The command line: its frozen shape, what it says to bad input, and what it does not import."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from PIL import Image
from typer.testing import CliRunner

from cli import app
from tests.stores import flip_bit, make_store

SHAPE = Path(__file__).with_name("cli_shape.txt")


def shape(command: Any, path: str = "fame") -> list[str]:
    """One line per command: its path, arguments in capitals, options; groups before what they
    hold.
    """
    parameters = [p for p in command.params if p.name != "help"]
    arguments = [p.name.upper() for p in parameters if p.param_type_name == "argument"]
    options = sorted(max(p.opts, key=len) for p in parameters if p.param_type_name == "option")
    lines = [" ".join((path, *arguments, *options))]
    for name, child in sorted(getattr(command, "commands", {}).items()):
        lines += shape(child, f"{path} {name}")
    return lines


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments, prog_name="fame")


def test_the_shape_is_frozen(request: pytest.FixtureRequest) -> None:
    """A new option is a deliberate change of ``cli_shape.txt`` (and a line in the guide)."""
    actual = "\n".join(shape(typer.main.get_command(app))) + "\n"
    if request.config.getoption("--update-golden"):
        SHAPE.write_text(actual)
    assert actual == SHAPE.read_text()


def test_every_option_says_what_it_is() -> None:
    def check(command: Any) -> None:
        assert command.help, command.name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{command.name}: {parameter.name} has no help"
        for child in getattr(command, "commands", {}).values():
            check(child)

    check(typer.main.get_command(app))


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, runpy; sys.argv = ['fame', '--help']\n"
        "try: import cli; cli.app()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'ray', 'zarr', 'cv2', 'numpy', 'kornia', "
        "'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "preprocess" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_version_is_the_distributions() -> None:
    assert run("--version").output.startswith("fame 0.")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["preprocess", "k400", "--root", "nowhere"], "nowhere/videos/k400"),
        (["preprocess", "ucf101", "--root", "nowhere"], "nowhere/videos/ucf101/annotations"),
        (["preprocess", "folder", "--videos", "nowhere"], "nowhere"),
        (["preprocess", "folder", "--codec", "png"], "'jpeg'"),
        (["preprocess", "folder", "--keep", "many"], "--keep"),
        (["preprocess", "folder", "--kepe", "3"], "--keep"),
        (["preproces"], "preprocess"),
        (["preprocess", "kinetics"], "preprocess --help` shows what there is"),
        (["preprocess", "folder", "x"], "preprocess folder --help` shows what there is"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(arguments: list[str], told: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("fame: ")
    assert told in line


def test_debug_shows_the_traceback() -> None:
    result = run("--debug", "preprocess", "k400", "--root", "nowhere")
    assert isinstance(result.exception, ValueError)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("stores") / "tiny.zarr", videos=6, failed=[3])


def test_info_says_what_a_store_holds(store: Path) -> None:
    result = run("store", "info", str(store), "--failures")
    assert result.exit_code == 0
    for told in (
        "6: 5 ok, 0 cut, 1 failed",
        "60, every frame, at most 12 of a video, 36x48",
        "difference 9x12 of every frame",
        "jpeg quality 90",
        "right/003: broken",
        "finished",
    ):
        assert told in result.stdout


def test_info_as_json_and_the_page_of_a_store(store: Path, tmp_path: Path) -> None:
    found = json.loads(run("store", "info", str(store), "--json").output)
    assert (found["num_videos"], found["statuses"]["failed"], found["finished"]) == (6, 1, True)
    assert found["failures"] == [{"video": "right/003", "reason": "broken"}]
    assert found["header"]["dataset"] == "tiny" and sum(found["classes"].values()) == 5
    result = run("store", "browse", str(store), "--out", str(tmp_path / "page.html"))
    assert result.output == f"{tmp_path / 'page.html'}: 5 clips\n"
    assert run("store", "browse", str(store), "--clips", "501").exit_code != 0


def test_verify_finds_a_flipped_bit_and_repair_drops_the_shard(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store, copy)
    assert run("store", "verify", str(copy)).exit_code == 0
    flip_bit(copy)
    damaged = run("store", "verify", str(copy))
    assert damaged.exit_code == 1
    assert "shard 0" in damaged.stdout
    assert run("store", "verify", str(copy), "--repair").exit_code == 1
    assert "unfinished: 1 of 2 shards" in run("store", "info", str(copy)).stdout


@pytest.mark.parametrize(("suffix", "kind"), [(".png", "PNG"), (".gif", "GIF")])
def test_preview_draws_clips(store: Path, tmp_path: Path, suffix: str, kind: str) -> None:
    out = tmp_path / "new" / f"sheet{suffix}"
    assert run("store", "preview", str(store), "--clips", "3", "--out", str(out)).exit_code == 0
    with Image.open(out) as picture:
        assert picture.format == kind
        assert picture.size[0] > 4 * 48
        assert getattr(picture, "n_frames", 1) == (16 if kind == "GIF" else 1)


def test_preview_draws_clips_of_so_many_frames(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.gif"
    command = ("store", "preview", str(store), "--clips", "2", "--frames", "5", "--out", str(out))
    assert run(*command).exit_code == 0
    with Image.open(out) as picture:
        assert picture.n_frames == 5  # type: ignore[attr-defined]


def test_preview_says_when_there_are_too_few_clips(store: Path, tmp_path: Path) -> None:
    result = run(
        "store", "preview", str(store), "--clips", "6", "--out", str(tmp_path / "sheet.png")
    )
    assert result.exit_code == 2
    assert "5 of its videos" in result.stderr


def test_the_demo_can_write_its_videos_alone(tmp_path: Path) -> None:
    result = run("demo", "--out", str(tmp_path), "--videos", "12", "--dataset-only")
    assert result.exit_code == 0
    assert len(list((tmp_path / "world" / "videos").glob("*/*.mp4"))) == 12


@pytest.mark.parametrize(
    ("streams", "code"),
    [
        ("0<&- 1>&- 2>&-", 0),
        ("2>&- 1>/dev/full", 2),
        ("1>/dev/full", 2),
        ("2>/dev/full", 0),
    ],
)
def test_streams_that_are_closed_or_full(tmp_path: Path, streams: str, code: int) -> None:
    """The store's first file would become the standard output where that is closed."""
    make_store(tmp_path / "s.zarr", videos=2)
    command = f"exec {shlex.quote(sys.executable)} -P -m fame store info s.zarr {streams}"
    environment = os.environ | {"PYTHONPATH": str(SHAPE.parents[1])}
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == code, done.stderr
    assert done.stderr in ("", "fame: No space left on device\n")


@pytest.mark.parametrize("out", ["file", "file/x", "folder"])
def test_the_demo_names_a_file_in_the_way(tmp_path: Path, out: str) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder/world"):
        (tmp_path / name).touch()
    result = run("demo", "--out", str(tmp_path / out))
    way = tmp_path / ("folder/world" if out == "folder" else "file")
    assert result.exit_code == 2
    assert result.stderr == (
        f"fame: {way} is a file, but --out needs a folder there; give another --out\n"
    )
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments", [["store", "info", "STORE", "--json"], ["store", "info", "STORE"], ["--help"]]
)
def test_a_reader_that_leaves_is_no_error(tmp_path: Path, arguments: list[str]) -> None:
    store = str(make_store(tmp_path / "s.zarr"))
    command = [
        sys.executable,
        "-P",
        "-m",
        "fame",
        *(word.replace("STORE", store) for word in arguments),
    ]
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writes)
    assert done.stderr == "" and done.returncode in (1, 128 + signal.SIGPIPE)
