"""The run folder and the display of a run.

config.json        the resolved config
environment.json   software, device, git revision, stores
metrics.jsonl      one line per step; cut back to the resumed step, so that every step is there once
tensorboard/       the same metrics in groups, and a picture of merged clips every epoch
checkpoints/       last.pt, epoch-0010.pt ...
"""

import json
import math
import platform
import subprocess
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fame.files import sweep, whole
from fame.lock import hold
from fame.progress import Progress, duration
from fame.reading import read_json_lines
from train.run.loggers import BESIDE, Logger, TensorBoard, grouped
from train.run.peers import Peers
from train.run.waiting import Waits

TRAINING, DATA_WAIT = "training", "waiting for data"  # phases
_STEADY = 2  # log entries; the first one's time holds compiling, and workers that start


class DivergedError(ValueError):
    """The loss is no longer a number; the message names the last good checkpoint."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is whole or not there."""
    with whole(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n")


def environment(device: torch.device) -> dict[str, Any]:
    """Return the environment that the metrics of a run depend on, beside its config."""
    return {
        "git": _revision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def truncate_metrics(path: Path, step: int) -> None:
    """Drop the lines of ``step`` and later, and a half-written last line."""
    if not path.exists():
        return
    kept: list[str] = []
    for _, text, line in read_json_lines(path):
        at = cast("dict[str, Any]", line).get("step") if isinstance(line, dict) else None
        if type(at) is not int:
            break
        if at < step:
            kept.append(text + "\n")
    with whole(path) as partial:
        partial.write_text("".join(kept))


@contextmanager
def one_writer(folder: Path, peers: Peers) -> Generator[None]:
    """Hold the run folder against other runs. Raise ``ValueError`` in every process if it is taken.

    What a killed run left half-written is swept away.
    """
    with ExitStack() as stack:
        refused: ValueError | None = None
        if peers.rank == 0:
            try:
                stack.enter_context(hold(folder, what="run folder"))
                for place in (folder, folder / "checkpoints"):
                    sweep(place)
            except ValueError as error:
                refused = error
        if peers.any(refused is not None):
            raise refused or ValueError(f"{folder}: the first process cannot hold this run folder")
        yield


class RunLog:
    """Metrics of a run, kept on the device until asked for, then averaged over processes and
    written by rank 0.

    Use as a context. ``first`` and ``total`` are steps; ``per_epoch`` the steps of an epoch;
    ``clips`` the clips of a step over all processes; ``progress`` where the command shows its own;
    ``config`` the settings, which name a logger beside TensorBoard.
    """

    def __init__(
        self,
        folder: Path,
        *,
        first: int,
        total: int,
        per_epoch: int,
        clips: int,
        peers: Peers,
        device: torch.device,
        progress: Progress | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.clips, self.peers, self.device = folder, clips, peers, device
        self.first, self.total, self.per_epoch = first, total, per_epoch
        self.progress = progress or Progress(show=peers.rank == 0)
        self._pending: list[tuple[int, dict[str, Tensor | float]]] = []
        self.waits, self._since = Waits(device), time.monotonic()
        self._flushes = 0
        self._writes = peers.rank == 0
        if self._writes:
            truncate_metrics(folder / "metrics.jsonl", first)
            truncate_metrics(folder / "epochs.jsonl", first + 1)  # an epoch's end is the next step
            with ExitStack() as stack:
                stack.enter_context(_disk_errors_once())
                self._loggers: list[Logger] = [TensorBoard(folder, first=first)]
                if config and (beside := BESIDE.get(config["logger"])):
                    self._loggers.append(beside(folder, config))
                for logger in self._loggers:
                    stack.callback(logger.close)
                self._lines = stack.enter_context((folder / "metrics.jsonl").open("a"))
                # All could be opened: from here on, `__exit__` closes them.
                self._files = stack.pop_all()

    def __enter__(self) -> Self:
        self.progress.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self.say(self.progress.took())
        self.progress.__exit__(*exception)
        if self._writes:
            self._files.close()

    def record(self, step: int, metrics: Mapping[str, Tensor | float]) -> None:
        """Keep a step's metrics; nothing waits for the device."""
        self._pending.append((step, dict(metrics)))
        if step == self.first:  # the time left is estimated without the first step, which compiles
            self.progress.phase(TRAINING, total=self.total, done=step + 1)

    def flush(self) -> None:
        """Write the kept steps. Raise :class:`DivergedError` at the first one whose loss is not
        finite.
        """
        if not self._pending:
            return
        lines = self._averaged()  # the device has done these steps, so that the waits can be read
        waits, elapsed = self.waits.take(), time.monotonic() - self._since
        # The wait for the first batch is a phase of its own.
        first = int(lines[0]["step"] == self.first)
        self.progress.waited(math.fsum(waits[first:]), DATA_WAIT)
        speed: dict[str, float] = {
            "clips_per_second": self.clips * len(lines) / max(elapsed, 1e-9),
            "data_wait": math.fsum(waits) / max(elapsed, 1e-9),
        }
        if self.device.type == "cuda":
            speed["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        self._pending, self._since = [], time.monotonic()
        for line in lines:
            # Gradients that are not finite make the next weights so, while this loss still is.
            for name in ("loss", "grad_norm"):
                if not math.isfinite(line.get(name, 0.0)):
                    what = "the loss" if name == "loss" else "the norm of the gradients"
                    raise DivergedError(f"{what} is {line[name]} at step {int(line['step'])}")
            if self._writes:
                self._write(line | speed)
        if self._writes:
            self._lines.flush()
            self._show(lines[-1] | speed)
            self._flushes += 1
            if self._flushes == _STEADY:
                self._estimate(done=int(lines[-1]["step"]) + 1, rate=speed["clips_per_second"])

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write metrics that belong to an epoch, such as a kNN score, to ``epochs.jsonl`` and the
        loggers.
        """
        if self._writes and metrics:
            with (self.folder / "epochs.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, **metrics}) + "\n")
            tags = {f"test/{name}": value for name, value in metrics.items()}
            for logger in self._loggers:
                logger.scalars(step, tags)

    def picture(self, step: int, name: str, image_HWC: np.ndarray) -> None:
        """Send a picture to the loggers and keep the latest as a PNG."""
        if self._writes:
            for logger in self._loggers:
                logger.picture(step, f"pictures/{name}", image_HWC)
            with whole(self.folder / f"{name}.png") as partial:
                Image.fromarray(image_HWC).save(partial)

    def say(self, text: str) -> None:
        """Print a line above the display."""
        self.progress.say(text)

    def _estimate(self, *, done: int, rate: float) -> None:
        """Print how long the remaining steps will take."""
        if left := self.total - done:
            took = duration(left * self.clips / max(rate, 1e-9))
            self.say(f"estimate: {took} for the {left} steps that are left, at {rate:.1f} clips/s")

    def _averaged(self) -> list[dict[str, float]]:
        """Return the kept steps as plain numbers, in one transfer from the device and one reduction
        over processes.
        """
        names = list(self._pending[0][1])
        rows = [
            [torch.as_tensor(line[name], device=self.device).float() for name in names]
            for _, line in self._pending
        ]
        # A row for each step and a column for each metric; `tolist` is the only wait for the
        # device.
        table = torch.stack([torch.stack(row) for row in rows])
        self.peers.average_([table])
        steps = [step for step, _ in self._pending]
        return [
            {"step": step, **dict(zip(names, row, strict=True))}
            for step, row in zip(steps, table.tolist(), strict=True)
        ]

    def _write(self, line: dict[str, float]) -> None:
        self._lines.write(json.dumps(line) + "\n")
        tags = grouped({name: value for name, value in line.items() if name != "step"})
        for logger in self._loggers:
            logger.scalars(int(line["step"]), tags)

    def _show(self, line: dict[str, float]) -> None:
        done = int(line["step"]) + 1
        # Rounded up: after step 101 of 100 an epoch it is epoch 2.
        epoch, epochs = -(-done // self.per_epoch), self.total // self.per_epoch
        speed = f"{line['clips_per_second']:.1f} clips/s"
        notes = f"epoch {epoch}/{epochs}, loss {line['loss']:.4f}, {speed}"
        self.progress.at(done, notes, now=done == self.total)


@contextmanager
def _disk_errors_once() -> Generator[None]:
    """Silence the traceback that Python prints for an ``OSError`` in TensorBoard's thread: the next
    call of its writer raises the error.
    """
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not isinstance(failed.exc_value, OSError):
            before(failed)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _revision() -> str | None:
    """Return the commit that this code is at, or ``None`` outside a repository."""
    here = Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        answer = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    except OSError:
        return None
    return answer.stdout.strip() or None
