"""What must be importable where: training without Ray, the package without anything heavy."""

import subprocess
import sys

RAY_IS_MISSING = "import sys; sys.modules['ray'] = None\n"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_and_its_commands_import_without_ray() -> None:
    modules = (
        "train.pretrain, train.evaluate.frozen, commands.training, cli, fame.export, preprocess.run"
    )
    run(RAY_IS_MISSING + f"import {modules}")


def test_nothing_of_ray_is_loaded_by_training() -> None:
    assert (
        run("import sys, train.pretrain, train.evaluate.frozen; print('ray' in sys.modules)")
        == "False\n"
    )


def test_importing_the_package_loads_no_torch() -> None:
    assert run("import sys, fame; print('torch' in sys.modules)") == "False\n"
