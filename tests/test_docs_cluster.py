"""What the page on clusters shows is well-formed: scripts pass shellcheck, manifests parse, their
commands exist.

Nothing here has a SLURM or a Kubernetes to run on.
"""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.markdown import ROOT, fenced
from tests.test_docs_commands import descend

PAGE = (ROOT / "docs" / "cluster.md").read_text()
SHELLCHECK = Path(sys.executable).with_name("shellcheck")


@pytest.mark.parametrize("script", fenced(PAGE, "sh"))
def test_scripts_pass_shellcheck(script: str) -> None:
    checked = subprocess.run(
        [SHELLCHECK, "--shell=bash", "-"], input=script, text=True, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


@pytest.fixture
def job() -> dict[str, Any]:
    (manifest,) = fenced(PAGE, "yaml")
    return yaml.safe_load(manifest)


def test_the_job_calls_a_command_that_exists(job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    command, arguments = descend(shlex.split(job["spec"]["entrypoint"])[1:])
    given = command.make_context(command.name, arguments).params
    workers = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert int(given["workers"]) == workers["replicas"] * int(workers["rayStartParams"]["num-cpus"])


def test_pods_mount_what_they_declare(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        declared = {volume["name"] for volume in pod["volumes"]}
        assert {
            mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]
        } == declared
