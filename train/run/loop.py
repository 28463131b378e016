"""The training loop, shared by everything that trains: resume, step, report, save, stop.

A task defines a step; the loop handles neither clips nor losses beyond a metric called ``loss``. A
run's position is one number, the next step; together with the task's state it is all that a
checkpoint holds.
"""

import signal
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from fame.archive import RUN_CHECKPOINT, CheckpointError
from fame.checkpoint import open_checkpoint, save
from fame.files import real, write_errors
from fame.progress import Progress
from train.run import checkpoint
from train.run.loading import LoaderError
from train.run.log import DivergedError, RunLog, environment, write_json
from train.run.memory import memory_errors
from train.run.optimizer import sound_kernels
from train.run.peers import Peers
from train.run.task import Task

Resume = Literal["auto", "never"] | Path
_FIRST_STEP = {False: "first step", True: "compiling, first step"}  # phases


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The end of a run: at ``step`` of ``total``, finished or stopped by ``signal``, with its last
    ``checkpoint``.
    """

    status: Literal["finished", "interrupted"]
    step: int
    total: int
    checkpoint: Path
    signal: int | None = None

    @property
    def exit_code(self) -> int:
        """Return 0 when finished; 128 and the signal's number (130 after Ctrl-C, 143 after SIGTERM)
        when interrupted, so that ``fame pretrain && fame finetune`` does not go on.
        """
        return 128 + self.signal if self.signal else 0


def train(
    task: Task[Any],
    folder: Path,
    *,
    peers: Peers,
    resume: Resume = "auto",
    progress: Progress | None = None,
) -> RunResult:
    """Train ``task`` to its last epoch in the run folder, going on where its last checkpoint ends.

    ``resume="never"`` refuses a folder with a checkpoint; a path resumes from that checkpoint.
    SIGINT, SIGTERM and SIGHUP save and return; a loss that is not finite raises
    :class:`DivergedError`, a disk that is full :class:`~fame.files.WriteError`, and both leave the
    last good checkpoint in place. Where no batches come any more,
    :class:`~train.run.loading.LoaderError` is raised after saving, in every process. ``progress``
    is that of a command which shows one already.
    """
    begun, changes = _begin(task, folder, resume, peers)
    total = task.config.epochs * task.steps_per_epoch
    with (
        sound_kernels(task.config, task.device),
        caught_signals() as caught,
        write_errors(folder),
        RunLog(
            folder,
            first=begun,
            total=total,
            per_epoch=task.steps_per_epoch,
            clips=task.clips_per_step,
            peers=peers,
            device=task.device,
            progress=progress,
            config=task.config.to_dict(),
        ) as log,
    ):
        resumed = [f"resumed at step {begun} of {total}{changes}"] if begun else []
        log.say("\n".join((*task.opening(), *resumed)))
        return _Run(task, folder, peers, log, begun=begun, total=total).to_end(caught)


class _Run:
    """A run under way: ``step`` is the next one, ``saved`` the one that the last checkpoint has."""

    def __init__(
        self,
        task: Task[Any],
        folder: Path,
        peers: Peers,
        log: RunLog,
        *,
        begun: int,
        total: int,
    ) -> None:
        self.task, self.folder, self.peers, self.log = task, folder, peers, log
        self.begun, self.total = begun, total
        self.step = self.saved = begun
        self.saved_at = time.monotonic()
        self.last = folder / RUN_CHECKPOINT
        log.progress.phase("loading the first batch")
        self.feed = _Feed(task, begun, total)

    def to_end(self, caught: Sequence[int]) -> RunResult:
        """Train until the last step is done or a signal is ``caught``."""
        every, signal_number = self.task.config.log_every, 0
        while self.step < self.total and not signal_number:
            self._advance()
            ends_epoch = self.step % self.task.steps_per_epoch == 0
            signal_number = _stop(caught or self.feed.lost, self.peers, step=self.step, every=every)
            # Metrics stay on the device until here, so that steps between do not wait for it.
            if ends_epoch or signal_number or self.step % every == 0:
                self._settle(ends_epoch=ends_epoch, stops=bool(signal_number))
        interrupted = self.step < self.total
        if interrupted:
            self.feed.end_if_lost(self.step)
            self.log.say(
                f"stopped by {signal.Signals(signal_number).name}; saved at step {self.saved} of "
                f"{self.total}: {self.last}"
            )
        return RunResult(
            status="interrupted" if interrupted else "finished",
            step=self.step,
            total=self.total,
            checkpoint=self.last,
            signal=signal_number if interrupted else None,
        )

    def _advance(self) -> None:
        """Train on the next batch. Where none comes any more, save and raise."""
        try:
            with self.log.waits.span():
                batch = self.feed.next(self.step)
        except LoaderError:
            # At a step that is saved already there is nothing to add.
            if self.step > self.saved:
                self._flush()
                self._save()
            self.feed.end(self.step)
        if self.step == self.begun:
            self.log.progress.phase(_FIRST_STEP[self.task.config.compile])
        with memory_errors(self.task.device, ways=self.task.less_memory):
            metrics = self.task.step(self.step, batch)
        self.log.record(self.step, metrics)
        self.step += 1

    def _settle(self, *, ends_epoch: bool, stops: bool) -> None:
        """Write the metrics, measure at the end of an epoch, and save where it is time to."""
        # First of all: it raises for a loss that is not finite, before such weights are saved.
        self._flush()
        if ends_epoch:
            with self.log.progress.aside("ends of epochs"):
                self._end_epoch()
        seconds = time.monotonic() - self.saved_at
        overdue = self.peers.rank == 0 and seconds >= self.task.config.save_seconds
        # Clocks differ: the first process decides for all.
        if ends_epoch or stops or self.peers.any(overdue):
            with self.log.progress.aside("saving"):
                self._save()

    def _end_epoch(self) -> None:
        end = self.task.end_epoch(self.step // self.task.steps_per_epoch - 1)
        self.log.metrics(self.step, end.metrics)
        for name, picture in end.pictures.items():
            self.log.picture(self.step, name, picture)

    def _flush(self) -> None:
        try:
            self.log.flush()
        except DivergedError as error:
            there = f"the last good checkpoint is {self.last}"
            kept = there if self.last.exists() else "no checkpoint was saved yet"
            raise DivergedError(f"{error}: stopped; {kept}. A lower lr or fp32 may help") from None

    def _save(self) -> None:
        """Write ``last``, and a checkpoint that stays at every k-th epoch; remove all but the
        newest ``keep`` of these.
        """
        if self.peers.rank == 0:
            save_run(self.task, self.folder, self.step)
        self.peers.barrier()
        self.saved_at, self.saved = time.monotonic(), self.step


class _Feed:
    """The batches of a run. Where several processes train and the loader workers of one died, that
    one decodes in its main process until all have agreed to save and stop.
    """

    def __init__(self, task: Task[Any], step: int, total: int) -> None:
        self._task, self._total = task, total
        self._batches = task.batches(step, total)
        self._why = "the loader workers of another process died or cannot be reached"
        self.lost: list[int] = []  # the signal to stop by, where workers are lost

    def next(self, step: int) -> Any:
        """Return the batch of ``step``. Raise :class:`LoaderError` in a run of one process."""
        try:
            return next(self._batches)
        except LoaderError as error:
            self._why = str(error)
            if self._task.peers.world == 1:
                raise
            # The others do not know yet and go on, so this process must give batches until all stop
            # together.
            self.lost = [signal.SIGTERM]
            self._batches = self._task.batches(step, self._total, workers=0)
            return next(self._batches)

    def end_if_lost(self, step: int) -> None:
        """Raise :class:`LoaderError` in all processes where one has lost its workers."""
        if self._task.peers.any(bool(self.lost)):
            self.end(step)

    def end(self, step: int) -> NoReturn:
        """Raise :class:`LoaderError` with the reason and the step that the run has reached."""
        stands = f"the run stands at step {step} of {self._total}"
        raise LoaderError(f"{self._why}; {stands}, the same command goes on") from None


@contextmanager
def caught_signals() -> Generator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP in a list instead of dying; a second SIGINT interrupts at
    once.
    """
    caught: list[int] = []

    def catch(number: int, frame: object) -> None:
        # The first Ctrl-C saves; whoever presses it again does not want to wait for that.
        if number == signal.SIGINT and signal.SIGINT in caught:
            raise KeyboardInterrupt
        caught.append(number)

    try:
        before = {
            number: signal.signal(number, catch)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN  # nohup
        }
    except ValueError:  # not the main thread: whoever runs this thread handles signals
        yield caught
        return
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _begin(task: Task[Any], folder: Path, resume: Resume, peers: Peers) -> tuple[int, str]:
    """Load what there is to resume, write the run's config and environment, and return the first
    step and what changes there.
    """
    last = folder / RUN_CHECKPOINT
    if resume == "never" and last.exists():
        raise ValueError(
            f"{folder}: there is a run in this folder; resume it, or choose another folder"
        )
    # With "never" the file is absent here, so the run begins at step 0.
    source = last if resume in ("auto", "never") else Path(resume)
    fresh = source == last and not source.exists()
    elsewhere = not real(source).is_relative_to(real(folder))
    step, changes = (0, "") if fresh else resume_from(task, source, elsewhere=elsewhere)
    if peers.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", task.config.to_dict())
        write_json(
            folder / "environment.json",
            environment(task.device) | {"data": task.data, "processes": peers.world},
        )
    peers.barrier()
    return step, changes


def resume_from(task: Task[Any], path: Path, *, elsewhere: bool = False) -> tuple[int, str]:
    """Load a checkpoint into ``task``; return its step, and in words what changes where the run is
    made longer or, as a run in another folder may be, larger. Where it is not of this run, raise
    ``ValueError`` and leave the task as it was.
    """
    run = checkpoint.Run(
        config=task.config,
        model=task.model,
        data=task.data,
        steps_per_epoch=task.steps_per_epoch,
        schema=task.schema(),
        elsewhere=elsewhere,
    )
    with open_checkpoint(path) as saved:
        try:
            step, state = run.read(saved)
        except CheckpointError as error:
            raise CheckpointError(f"{error}{checkpoint.cure(saved)}") from error
        changes = run.changes(saved)
    task.load_state(state)
    return step, changes


def save_run(task: Task[Any], folder: Path, step: int) -> None:
    """Write the checkpoints that are due when ``step`` steps are done."""
    config, checkpoints = task.config, folder / "checkpoints"
    contents = {
        "model": task.model,
        "config": config.to_dict(),
        "state": task.state(),
        "progress": {"step": step, "steps_per_epoch": task.steps_per_epoch, "data": task.data},
    }
    save(folder / RUN_CHECKPOINT, contents)
    # Step 300 of 100 an epoch is the end of epoch 3; step 350 is saved as `last` only.
    epoch, within = divmod(step, task.steps_per_epoch)
    if within or epoch % config.checkpoint_every:
        return
    save(checkpoints / f"epoch-{epoch:04d}.pt", contents)
    kept = sorted(
        checkpoints.glob("epoch-[0-9]*.pt"),
        key=lambda path: (len(path.name), path.name),  # epoch-10000 is after epoch-9999
    )
    for old in kept[: -config.keep] if config.keep else ():
        old.unlink(missing_ok=True)


def _stop(caught: Sequence[int], peers: Peers, *, step: int, every: int) -> int:
    """Return the signal to stop for, 0 for none; several processes agree, at most every ``every``
    steps.
    """
    if peers.world == 1:
        return caught[0] if caught else 0
    # Processes agree at the same steps only, or one would wait for an answer that nobody gives.
    if step % every:
        return 0
    return (caught[0] if caught else signal.SIGTERM) if peers.any(bool(caught)) else 0
