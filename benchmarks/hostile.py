"""What comes from outside, kind by kind: how much was tried, and how much the system stood.

    python -m benchmarks.hostile                 # all, results in results/hostile.json and .md
    python -m benchmarks.hostile --only mutants

A crafted or damaged checkpoint is stood if reading it ends in one line that names it, or gives the
very weights of the good file: no traceback, no hang, no crash, no other weight. Each is tried in a
forked process with limits of memory and time. Other kinds are the tests that are named: each has to
pass. Linux.
"""

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import fame
from benchmarks import harness
from fame.archive import CheckpointError
from fame.checkpoint import checksum
from fame.clipstore import ClipStore
from fame.export import save_weights
from tests import crafted
from tests.stores import make_store
from tests.train.tiny import TINY, TUNED
from train.finetune import finetune
from train.finetune_task import FinetuneTask
from train.pretrain import PretrainTask, pretrain
from train.run.loop import resume_from
from train.run.task import Task

MEMORY, SECONDS = 2 << 30, 60  # of one reading, beyond what the process has
SMALL = ("encoder=c3d_small", "epochs=2", "checkpoint_every=1", "workers=0")
PYTEST = (
    sys.executable,
    "-m",
    "pytest",
    "--override-ini",
    "addopts=",
    "-q",
    "-p",
    "no:cacheprovider",
)
TESTS = {
    "code lying in the current folder, every command": ["tests/test_traps.py"],
    "two trainers in one folder, readers beside writers": ["tests/train/test_loading.py::test_a_second_run_in_one_folder_is_refused", "tests/fame/test_files.py"],
    "disk full: each write, sync and rename of five commands": ["tests/test_fault_plan.py"],
    "loader worker killed, /dev/shm full, few files": ["tests/train/test_loading.py", "tests/train/test_distributed.py::test_a_loss_in_one_process_ends_all_in_one_line"],
    "crafted stores and store bombs": ["tests/fame/clipstore/test_stranger.py"],
    "annotation files": ["tests/preprocess/datasets/test_rows.py"],
    "hostile videos": ["tests/preprocess/test_isolation.py", "tests/preprocess/test_decode.py"],
    "strings of strangers on the terminal": ["tests/fame/test_words.py"],
    "S3: 503, reset, lost and truncated answers, expired lease": ["tests/test_s3_faults.py"],
    "Ray sessions without a token": ["tests/fame/test_sessions.py"],
}  # fmt: skip


@dataclass
class Count:
    """How many were tried, and what became of those that were not stood, by name."""

    tried: int = 0
    fell: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def stood(self) -> int:
        """How many were stood."""
        return self.tried - len(self.fell)


def ending(read: Callable[[], bool], path: Path) -> str:
    """What became of reading a file in a forked process: "" if it was stood, else what happened.

    ``read`` returns whether it gave what the good file gives.
    """
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reader)
        try:
            said = _within_limits(read, path)
        except BaseException as error:
            said = f"raised {type(error).__name__}: {error}"
        os.write(writer, said.encode(errors="replace")[:2000] + b".")
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        said = answers.read().decode()
    _, status = os.waitpid(child, 0)
    return said[:-1] if said else f"killed by signal {os.WTERMSIG(status)}"


def _within_limits(read: Callable[[], bool], path: Path) -> str:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    try:
        return "" if read() else "taken, with other values"
    except CheckpointError as error:
        text = str(error)
        plain = (
            text.startswith(f"{path}: ") and text.isprintable() and len(text) < 500 + len(str(path))
        )
        return "" if plain else f"not one plain line: {text!r}"


def files(
    folder: Path,
    made: Iterable[tuple[str, bytes]],
    read: Callable[[Path], bool],
    suffix: str = ".pt",
) -> Count:
    """Try files, one after the other."""
    count, path = Count(), folder / f"tried{suffix}"
    for name, data in made:
        path.write_bytes(data)
        count.tried += 1
        if what := ending(lambda: read(path), path):
            count.fell[name] = what
    return count


def resumes(folder: Path) -> Count:
    """Crafted checkpoints through ``--resume``: of pretraining by SGD and AdamW, of fine-tuning."""
    store, total = make_store(folder / "store"), Count()
    cpu = torch.device("cpu")
    for kind in ("sgd", "adamw", "finetune"):
        run = folder / kind
        task: Task[Any]
        if kind == "finetune":
            tuning = replace(TUNED, crop=32, batch=4, bn_group=4, select="validation").override(
                SMALL
            )
            finetune(tuning, train_store=store, test_store=store, weights=None, run_dir=run)
            opened = ClipStore.open(store)
            task = FinetuneTask(
                tuning, train_store=opened, test_store=opened, weights=None, device=cpu
            )
        else:
            config = TINY.override([*SMALL, f"optimizer={kind}"])
            pretrain(config, stores=[store], run_dir=run)
            task = PretrainTask(config, stores=[ClipStore.open(store)], device=cpu)
        content = torch.load(run / "checkpoints" / "epoch-0001.pt", weights_only=True)
        good, part = checksum(content["state"]), "classifier" if kind == "finetune" else "encoder_q"
        step = content["progress"]["step"]

        def read(path: Path, task: Task[Any] = task, good: str = good, step: int = step) -> bool:
            return resume_from(task, path)[0] == step and checksum(task.state()) == good

        changes = [*crafted.changes_of_runs(content), *crafted.changes_of_weights(content, part)]
        made = [
            (f"{kind}: {name}", crafted.changed(content, change, checksums=False))
            for name, change in changes
        ]
        count = files(folder, made, read)
        total = Count(total.tried + count.tried, {**total.fell, **count.fell})
    return total


def good_files(folder: Path) -> dict[str, Path]:
    """A checkpoint of this format, its export, and one of the format without checksums."""
    store = make_store(folder / "store")
    pretrain(TINY.override([*SMALL, "epochs=1"]), stores=[store], run_dir=folder / "run")
    last, safe, old = (
        folder / "run/checkpoints/last.pt",
        folder / "encoder.safetensors",
        folder / "old.pt",
    )
    save_weights(fame.load(last), safe)
    content = torch.load(last, weights_only=True)
    old.write_bytes(crafted.changed(content, lambda _: None, checksums=False))
    return {".pt": last, ".safetensors": safe, ".pt, format 1": old}


def same_as(good: Path) -> Callable[[Path], bool]:
    """Whether a file gives the weights of a good one."""
    expected = checksum(fame.load(good).network.state_dict())
    return lambda path: checksum(fame.load(path).network.state_dict()) == expected


def loads(folder: Path) -> Count:
    """Crafted checkpoints through ``fame.load``, and files that are none."""
    good = good_files(folder)[".pt"]
    content, read, proof = torch.load(good, weights_only=True), same_as(good), folder / "proof"
    changes = list(crafted.changes_of_weights(content, "encoder_q"))
    made = [
        (f"{name}, checksums {kept}", crafted.changed(content, change, checksums=kept))
        for name, change in changes
        for kept in (True, False)
    ]
    count = files(folder, [*made, *crafted.odd_files(good.read_bytes(), proof).items()], read)
    if proof.exists():
        count.fell["code"] = "ran"
    return count


def mutants(folder: Path) -> Count:
    """Copies with bytes flipped, cut, doubled, blanked or exchanged: 200 of each kind of file."""
    total = Count()
    for kind, path in good_files(folder).items():
        made = (
            (f"{kind} {number}", data)
            for number, data in enumerate(crafted.mutants(path.read_bytes(), 200, seed=16))
        )
        count = files(folder, made, same_as(path), suffix=path.suffix)
        total = Count(total.tried + count.tried, {**total.fell, **count.fell})
    return total


def tests(names: list[str]) -> Count:
    """Run tests, slow ones too; each is one that was tried."""
    done = subprocess.run(
        [*PYTEST, "-rA", "--tb=no", "--show-capture=no", *names],
        cwd=harness.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.partition(" ") for line in done.stdout.splitlines()]
    passed = [name for what, _, name in lines if what == "PASSED"]
    fell = {name: what for what, _, name in lines if what in ("FAILED", "ERROR")}
    if not passed and not fell:
        fell["pytest"] = done.stdout[-300:] + done.stderr[-300:]
    return Count(len(passed) + len(fell), fell)


def main() -> None:
    """Try the kinds that were asked for, and write the table."""
    parser = harness.options(__doc__)
    parser.add_argument("--only", default="", help="kinds with this in their name")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    kinds: dict[str, tuple[str, Callable[[Path], Count]]] = {
        "crafted checkpoints through --resume": ("benchmarks/hostile.py", resumes),
        "crafted checkpoints and odd files through fame.load": ("benchmarks/hostile.py", loads),
        "byte mutants of checkpoints (.pt, .safetensors, format 1)": ("benchmarks/hostile.py", mutants),
        **{kind: (", ".join(names), lambda _, names=names: tests(names)) for kind, names in TESTS.items()},
    }  # fmt: skip
    results = {key: value for key, value in harness.read("hostile").items() if key != "machine"}
    for kind, (script, attempt) in kinds.items():
        if only in kind:
            with tempfile.TemporaryDirectory() as folder:
                count = attempt(Path(folder))
            results[kind] = {
                "script": script,
                "tried": count.tried,
                "stood": count.stood,
                "fell": count.fell,
            }
            print(f"{kind}: {count.stood} of {count.tried} {count.fell or ''}", flush=True)
    rows = [(kind, row["tried"], row["stood"], row["script"]) for kind, row in results.items()]
    harness.write(
        "hostile", results, table=harness.markdown(("kind", "tried", "stood", "script"), rows)
    )


if __name__ == "__main__":
    main()
