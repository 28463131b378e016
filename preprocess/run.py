"""The offline stage from end to end: list the videos, plan the shards, make the missing ones,
finalise, report.
"""

import errno
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from fame.clipstore import (
    StoreError,
    StoreHeader,
    StorePath,
    StoreSpec,
    absolute,
    create,
    drop_failed,
    finalise,
    is_finished,
    locate,
    lock,
    missing_shards,
    store_info,
)
from fame.flow import FlowParameters
from fame.processes import endings_as_ctrl_c
from preprocess import plan
from preprocess.config import PreprocessConfig
from preprocess.datasets import Listing
from preprocess.decode import DecodeError
from preprocess.executors import serial
from preprocess.isolation import DECODER
from preprocess.report import REPORT_SUFFIX, Report, Snapshot, write_report
from preprocess.task import ShardResult, ShardTask, Work, make_shard

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
SAMPLED_VIDEOS = 8  # that a dry run decodes


def preprocess(
    config: PreprocessConfig,
    *,
    listing: Listing | None = None,
    progress: Callable[[Snapshot], None] = lambda snapshot: None,
    decoder: tuple[str, ...] = DECODER,
) -> Report:
    """Make the clip store, or as much of it as is still missing, and report.

    Killed at any moment, the same call goes on where it was. SIGTERM and SIGHUP are as Ctrl-C.

    Args:
        config: what to make.
        listing: its videos, if they were listed before.
        progress: called with a snapshot of the run after each shard.
        decoder: command of the decoder process, for instance with a sandbox in front.

    Raises:
        ValueError: the config does not fit the files, or (StoreError) another store is there,
            another run holds it, or it cannot be written; the message names the remedy.
    """
    listing = listing or plan.list_videos(config)
    spec = plan.settle(config, len(listing.names))
    work = Work(
        store=absolute(config.store),
        videos=config.videos.absolute(),
        spec=spec,
        time_limit=config.time_limit,
        memory_limit=round(config.memory_per_worker * 2**30),
        decoder=decoder,
    )
    with endings_as_ctrl_c():
        listing = _settled(listing, work)
        report = Report(
            dataset=config.dataset,
            split=config.split,
            store=config.store,
            listing=listing,
            empty_classes=listing.empty_classes,
            shards=-(-len(listing.names) // spec.videos_per_shard),
        )
        if config.dry_run:
            return replace(report, estimate=_estimate(config, listing, work))
        with _lock_unless_finished(work.store):
            return _made(config, work, report, progress)


def _made(
    config: PreprocessConfig, work: Work, report: Report, progress: Callable[[Snapshot], None]
) -> Report:
    """Make what is missing of the store and write the report beside it."""
    listing = report.listing
    create(
        work.store, _header(config, listing, work.spec), names=listing.names, labels=listing.labels
    )
    if config.retry_failed:
        drop_failed(work.store)
    if is_finished(work.store):
        report = replace(report, already_finished=True)
    else:
        report = _make(config, listing, work, report, progress)
    report = _judged(_tallied(report), config)
    if not (report.already_finished and locate(report.store).has_beside(REPORT_SUFFIX)):
        write_report(report)
    return report


def _settled(listing: Listing, work: Work) -> Listing:
    """Choose one file for each video that has several: the first that can be decoded."""
    if not listing.others:
        return listing
    with work.open_decoder() as decoder:

        def why_not(name: str) -> str:
            try:
                decoder.decode(str(work.videos / name))
            except DecodeError as error:
                return str(error)
            return ""

        return listing.settled(why_not)


@contextmanager
def _lock_unless_finished(store: StorePath) -> Generator[None]:
    """Hold the store; a finished one on a disk that takes no writes needs no holding."""
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(store))
        except StoreError as error:
            cause = error.__cause__
            read_only = isinstance(cause, OSError) and cause.errno in _READ_ONLY
            if not (read_only and is_finished(store)):
                raise
        yield


def _header(config: PreprocessConfig, listing: Listing, spec: StoreSpec) -> StoreHeader:
    return StoreHeader(
        dataset=config.dataset,
        split=config.split,
        class_names=listing.class_names,
        spec=spec,
        foreground_parameters=asdict(FlowParameters()) if spec.foreground == "flow" else {},
    )


def _make(
    config: PreprocessConfig,
    listing: Listing,
    work: Work,
    report: Report,
    progress: Callable[[Snapshot], None],
) -> Report:
    """Make the missing shards and, if none failed, seal the store."""
    todo, size, started = missing_shards(work.store), work.spec.videos_per_shard, time.monotonic()
    tasks = plan.tasks(listing.names, todo, videos_per_shard=size)
    todo_videos = sum(min(size, len(listing.names) - shard * size) for shard in todo)
    stand = Snapshot(videos=len(listing.names), videos_done=len(listing.names) - todo_videos)
    errors: list[str] = []
    progress(stand)
    for result in _execute(config, work, tasks):
        if result.error:
            errors.append(f"shard {result.shard} was not made: {result.error}")
        else:
            stand = stand.after(result, seconds=time.monotonic() - started)
        progress(stand)
    if not errors:
        finalise(work.store)
    return replace(
        report,
        shards_made=len(todo) - len(errors),
        frames_read=stand.frames_read,
        seconds=time.monotonic() - started,
        problems=tuple(errors),
    )


def _execute(
    config: PreprocessConfig, work: Work, tasks: Iterable[ShardTask]
) -> Iterator[ShardResult]:
    if config.executor == "serial":
        return serial.execute(work, tasks)
    from preprocess.executors import (
        ray,
    )  # here, because the serial executor works where Ray is not installed

    return ray.execute(
        work,
        tasks,
        workers=config.num_workers,
        address=config.address,
        memory_per_worker=work.memory_limit,
    )


def _tallied(report: Report) -> Report:
    """Add up the records of every shard, of this run and of those before."""
    info = store_info(report.store)
    return replace(
        report,
        **info.statuses,
        stored_bytes=sum(info.array_bytes.values()),
        failures=info.failures,
        damaged=info.damaged,
        still=info.still,
        empty_classes=tuple(name for name, videos in info.classes.items() if not videos),
    )


def _judged(report: Report, config: PreprocessConfig) -> Report:
    """Add the problem of too many failed videos."""
    if report.failed <= config.max_failed * len(report.listing.names):
        return report
    problem = (
        f"{report.failed} of {len(report.listing.names)} videos failed, "
        f"above the {config.max_failed:.1%} allowed"
    )
    return replace(report, problems=(*report.problems, problem))


def _estimate(config: PreprocessConfig, listing: Listing, work: Work) -> plan.Estimate:
    """Make a store of a few videos in a temporary folder, and scale up what it took."""
    sampled = [listing.names[i] for i in plan.spread(len(listing.names), SAMPLED_VIDEOS)]
    spec, work = work.spec, replace(work, spec=replace(work.spec, videos_per_shard=SAMPLED_VIDEOS))
    with tempfile.TemporaryDirectory() as folder, work.open_decoder() as decoder:
        work = replace(work, store=Path(folder) / "sample")
        create(
            work.store,
            _header(config, listing, work.spec),
            names=sampled,
            labels=[-1] * len(sampled),
        )
        sample = make_shard(work, ShardTask(shard=0, names=tuple(sampled)), decoder)
    if sample.error:
        raise ValueError(f"the sample could not be made: {sample.error}")
    return plan.extrapolate(
        sample, videos=len(listing.names), spec=spec, workers=config.num_workers
    )
