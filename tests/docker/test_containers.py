"""The container files, read without a container engine: what an engine would tell only at run time,
or never.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
SERVICES = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
NOBODY = 65534


def stages() -> dict[str, str]:
    """Each stage of the Dockerfile by its name, with the continued lines joined."""
    joined = DOCKERFILE.replace("\\\n", " ")
    parts = re.findall(
        r"^FROM \S+(?: AS (\S+))?\n(.*?)(?=^FROM |\Z)", joined, re.MULTILINE | re.DOTALL
    )
    return dict(parts)


def copied(body: str) -> list[str]:
    """What a stage takes from the build context."""
    sources = [
        line.split()[1:-1]
        for line in body.splitlines()
        if line.startswith("COPY ") and "--from=" not in line
    ]
    return [word for words in sources for word in words if not word.startswith("--")]


def admitted() -> set[str]:
    """Top-level names that .dockerignore lets into the build context."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "*", (
        "the list must begin by refusing everything"
    )
    return {line[1:] for line in lines if line.startswith("!")}


# The image ----------------------------------------------------------------------------------------


def test_torch_is_the_version_that_was_tested() -> None:
    (torch,) = re.findall(r"^ARG TORCH=(.+)$", DOCKERFILE, re.MULTILINE)
    assert f"torch=={torch}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_python_of_the_base_satisfies_the_project() -> None:
    (base,) = re.findall(r"^ARG BASE=python:(\d+)\.(\d+)\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert tuple(map(int, base)) >= tuple(map(int, oldest.removeprefix(">=").split(".")))


def test_code_does_not_reinstall_torch() -> None:
    order = list(stages())
    assert copied(stages()["dependencies"]) == ["constraints.txt"]
    assert "constraints.txt" not in stages()["dependencies"].split("torch==")[0]
    assert order.index("dependencies") < order.index("wheel")
    final = stages()["fame"]
    assert final.index("--from=dependencies") < final.index("--from=wheel")


def test_every_package_of_the_project_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    names = [pattern.rstrip("*") for pattern in settings["packages"]["find"]["include"]]
    names += [f"{name}.py" for name in settings["py-modules"]]
    assert [
        name
        for name in names
        if not any(fnmatch(name, source) for source in copied(stages()["wheel"]))
    ] == []


@pytest.mark.parametrize("stage", ["fame", "test"])
def test_image_does_not_run_as_root(stage: str) -> None:
    assert re.findall(r"^USER (\S+)$", stages()[stage], re.MULTILINE)[-1] == "1000:1000"


def test_plain_build_gives_the_image_without_tests() -> None:
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)[-1] == "fame"


# The build context --------------------------------------------------------------------------------


def test_everything_copied_is_in_the_build_context() -> None:
    needed = {
        Path(path).parts[0] for body in stages().values() for path in copied(body) if path != "."
    }
    assert needed <= admitted()


@pytest.mark.parametrize(
    "name", ["data", "runs", "demo", "shared", ".git", ".venv", ".env", "checkpoint.pt"]
)
def test_data_and_secrets_stay_out_of_the_build_context(name: str) -> None:
    assert not any(fnmatch(name, pattern) for pattern in admitted())


# The services -------------------------------------------------------------------------------------


def test_bare_up_is_the_ray_cluster() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {
        "ray-head",
        "ray-worker",
    }


def test_gpu_is_reserved_for_training() -> None:
    (device,) = SERVICES["fame-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and "gpu" in device["capabilities"]
    assert SERVICES["fame-gpu"]["build"]["args"]["DEVICE"] == "cuda"
    assert SERVICES["fame"]["build"]["args"]["DEVICE"] == "cpu"
    assert SERVICES["fame-gpu"]["image"] != SERVICES["fame"]["image"]


@pytest.mark.parametrize("name", SERVICES)
def test_files_belong_to_the_user(name: str) -> None:
    assert SERVICES[name]["user"] == "${FAME_UID:-1000}:${FAME_GID:-1000}"


@pytest.mark.parametrize("name", SERVICES)
def test_missing_folder_is_an_error(name: str) -> None:
    for volume in SERVICES[name]["volumes"]:
        assert volume["type"] == "bind"
        assert volume["bind"]["create_host_path"] is False


@pytest.mark.parametrize("name", ["fame", "fame-gpu", "ray-head", "ray-worker"])
def test_videos_cannot_be_written(name: str) -> None:
    writable = {
        volume["target"] for volume in SERVICES[name]["volumes"] if not volume.get("read_only")
    }
    assert writable == {"/data/stores", "/data/runs"}


@pytest.mark.parametrize("name", SERVICES)
def test_no_port_is_open_to_the_network(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", ["tensorboard", "ray-head", "ray-worker"])
def test_long_running_service_has_a_health_check(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


def test_default_folders_come_with_a_clone() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = subprocess.run(
        ["git", "ls-files", "data"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {f"data/{name}/.gitkeep" for name in ("videos", "stores", "runs")} <= set(
        tracked.stdout.split()
    )


@pytest.fixture(scope="module")
def compose() -> list[str]:
    for command in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(command[0])
            and subprocess.run([*command, "version"], capture_output=True).returncode == 0
        ):
            return command
    pytest.skip("no Docker Compose")


@pytest.mark.parametrize(
    ("environment", "stores"),
    [
        ({}, str(ROOT / "data/stores")),
        ({"FAME_ROOT": "/mnt/big"}, "/mnt/big/stores"),
        ({"FAME_ROOT": "/mnt/big", "FAME_STORES": "/ssd/stores"}, "/ssd/stores"),
    ],
)
def test_compose_mounts_the_folders_of_the_environment(
    compose: list[str], environment: dict[str, str], stores: str
) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FAME_")}
    command = [*compose, "--profile", "*", "--env-file", os.devnull, "config", "--format", "json"]
    shown = subprocess.run(
        command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=True
    )
    services = json.loads(shown.stdout)["services"]
    assert set(services) == set(SERVICES)
    mounted = {volume["target"]: volume["source"] for volume in services["fame-gpu"]["volumes"]}
    assert mounted["/data/stores"] == stores
    assert services["fame"]["build"]["context"] == str(ROOT)


# The entrypoint -----------------------------------------------------------------------------------


@pytest.fixture
def container() -> Iterator[Path]:
    """A folder that plays the container: bin/ with a `fame` and a `mountpoint`, and data/. Open to
    any user.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        for folder in ("videos", "stores", "runs"):
            (root / "data" / folder).mkdir(parents=True)
            (root / "data" / folder).chmod(0o777)
        write_command(root / "bin/fame", 'printf "<%s>" "$@"')
        yield root


def write_command(path: Path, body: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def enter(
    container: Path, *arguments: str, mounts: tuple[str, ...]
) -> subprocess.CompletedProcess[str]:
    """Run the entrypoint where the ``mounts``, below data/, are mount points."""
    patterns = "|".join(str(container / "data" / mount).rstrip("/") for mount in mounts) or "none"
    write_command(container / "bin/mountpoint", f'case "$2" in {patterns}) exit 0;; esac; exit 1')
    script = container / "entrypoint.sh"
    shutil.copy(ROOT / "docker/entrypoint.sh", script)
    return subprocess.run(
        [script, *arguments],
        env={
            "PATH": f"{container / 'bin'}:{os.environ['PATH']}",
            "FAME_ROOT": str(container / "data"),
        },
        user=NOBODY if os.geteuid() == 0 else None,  # to root every folder is writable
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("mounts", [("videos", "stores", "runs"), ("",)])
def test_entrypoint_runs_the_command_as_typed(container: Path, mounts: tuple[str, ...]) -> None:
    done = enter(
        container, "preprocess", "folder", "--videos", "/data/videos/my own", mounts=mounts
    )
    assert (done.returncode, done.stdout) == (
        0,
        "<preprocess><folder><--videos></data/videos/my own>",
    )


@pytest.mark.parametrize("missing", ["videos", "stores", "runs"])
def test_entrypoint_refuses_a_folder_that_is_not_mounted(container: Path, missing: str) -> None:
    mounts = tuple({"videos", "stores", "runs"} - {missing})
    done = enter(container, "demo", mounts=mounts)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fame: no folder is mounted at {container}/data/{missing}.")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("locked", ["stores", "runs"])
def test_entrypoint_refuses_a_folder_it_may_not_write(container: Path, locked: str) -> None:
    folder = container / "data" / locked
    folder.chmod(0o555)
    done = enter(container, "pretrain", mounts=("",))
    assert done.returncode == 2
    assert (
        f"may not write to {folder}, which belongs to user {folder.stat().st_uid}." in done.stderr
    )
    assert "FAME_UID" in done.stderr


def test_entrypoint_accepts_videos_that_cannot_be_written(container: Path) -> None:
    (container / "data/videos").chmod(0o555)
    assert enter(container, "preprocess", "k400", mounts=("",)).returncode == 0


@pytest.mark.parametrize(
    "arguments", [("--help",), ("preprocess", "--help"), ("preprocess", "-h"), ("--version",)]
)
def test_entrypoint_helps_without_any_folder(container: Path, arguments: tuple[str, ...]) -> None:
    assert enter(container, *arguments, mounts=()).returncode == 0
