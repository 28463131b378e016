"""Whatever is killed, whenever: the same command goes on, and the finished store is the one that
was never killed.
"""

import os
import signal
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest

from fame.clipstore import is_finished
from fame.randomness import numpy_generator
from preprocess.run import preprocess
from tests.preprocess.conftest import Configure, tree, wait_until
from tests.preprocess.drivers import start
from tests.preprocess.kill_log import KillLog
from tests.preprocess.test_isolation import ROGUE
from tests.preprocess.videos import write_video

KILLS = {
    "serial": 20,
    "ray": 6,
}  # the driver's code is the same; a session of Ray takes seconds to start
KILL_LOG = os.environ.get(
    "FAME_KILL_LOG"
)  # where to tell of 20 kills of each; see tests/preprocess/kill_log.py


def kill_one(driver: BaseProcess) -> None:
    os.kill(driver.pid, signal.SIGKILL)


def kill_group(driver: BaseProcess) -> None:
    if os.getpgid(driver.pid) == driver.pid:
        os.killpg(driver.pid, signal.SIGKILL)
    else:  # it has just begun: it leads no group yet and has no children
        kill_one(driver)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a dozen runs, and a busy machine takes its time to start Ray
def test_killed_drivers_leave_the_same_store(
    configure: Configure, executor: dict[str, Any], reference: dict[str, bytes], tmp_path: Path
) -> None:
    random, name = numpy_generator(0, 0, 0, "kill"), executor["executor"]
    for attempt in range(2):  # the first one starts what later ones find running
        started = time.monotonic()
        driver = start(configure(store=tmp_path / f"warm_{attempt}", **executor), decoder=ROGUE)
        driver.join()
    whole_run, kills, stores = time.monotonic() - started, 0, 0
    log = KillLog(name, whole_run)
    while kills < (20 if KILL_LOG else KILLS[name]) or stores < 2:
        config, stores = configure(store=tmp_path / f"store_{stores}", **executor), stores + 1
        reach = whole_run
        while not is_finished(config.store):
            driver, moment = start(config, decoder=ROGUE), random.uniform(0, reach)
            reach *= 1.1  # a machine that got busier since would never be let finish
            driver.join(moment)
            if driver.exitcode is None:
                kill = kill_group if kills % 2 else kill_one
                kill(driver)
                kills += 1
                log.killed(
                    config.store,
                    moment,
                    whom="driver and children" if kill is kill_group else "driver",
                )
            driver.join()
            assert driver.exitcode in (0, -signal.SIGKILL)
        report = preprocess(config)
        assert tree(config.store) == reference
        log.finished(report.shards)
    if KILL_LOG:
        log.append_to(Path(KILL_LOG))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_stops_and_goes_on(
    configure: Configure,
    executor: dict[str, Any],
    reference: dict[str, bytes],
    number: signal.Signals,
) -> None:
    config = configure(**executor)
    driver = start(config, decoder=ROGUE)
    wait_until(lambda: list(config.store.glob("records/*.json")))
    os.kill(driver.pid, number)
    driver.join()  # the suite's own limit ends a hang
    assert driver.exitcode == 128 + number
    preprocess(config)
    assert tree(config.store) == reference


def test_interrupting_a_hanging_decoder_does_not_wait_for_it(
    configure: Configure, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "videos" / "hang.mkv", 9)
    driver = start(configure(executor="serial", videos=tmp_path / "videos"), decoder=ROGUE)
    wait_until(Path(f"{path}.hangs").exists)
    os.kill(driver.pid, signal.SIGINT)
    driver.join()  # the suite's own limit ends a hang
    assert driver.exitcode == 128 + signal.SIGINT


@pytest.mark.slow
def test_killed_workers_are_replaced(
    configure: Configure, ray_address: str, reference: dict[str, bytes]
) -> None:
    config = configure(executor="ray", workers=2, address=ray_address)
    driver = start(config, decoder=ROGUE)
    kills = 0
    while driver.exitcode is None:
        for worker in shard_workers():
            if kills < 3 and len(list(config.store.glob("records/*.json"))) > kills:
                worker.kill()
                kills += 1
        driver.join(0.01)
    assert kills == 3 and driver.exitcode == 0
    assert tree(config.store) == reference


def may_write(process: psutil.Process) -> bool:
    """Whether it is a decoder or a worker of Ray, busy or idle; Ray's agents, which end later,
    write no store.
    """
    line = " ".join(cmdline(process))
    return "ray::_make_shard" in line or "ray::IDLE" in line or ROGUE[1] in line


def shard_workers() -> list[psutil.Process]:
    """Ray's workers that are making a shard now."""
    return [
        p
        for p in psutil.Process().children(recursive=True)
        if "_make_shard" in " ".join(cmdline(p))
    ]


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.slow
def test_a_video_that_always_kills_its_worker_costs_its_shard(
    configure: Configure, ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preprocess.executors.ray.RETRIES", 1)
    for name in ("a", "b", "c", "assassin", "y", "z"):
        write_video(tmp_path / "videos" / f"{name}.mkv", 9)
    (tmp_path / "videos" / "assassin.mkv").rename(tmp_path / "videos" / "c_assassin.mkv")
    config = configure(videos=tmp_path / "videos", executor="ray", workers=2, address=ray_address)
    report = preprocess(config, decoder=ROGUE)
    assert report.shards_made == 2 and report.ok == 4
    (problem,) = report.problems
    assert problem.startswith("shard 1 was not made: its worker died")
    assert not is_finished(config.store)
    assert preprocess(config).problems == ()


@pytest.mark.slow
def test_a_session_of_its_own_dies_with_its_driver(
    configure: Configure, reference: dict[str, bytes]
) -> None:
    config = configure(executor="ray", workers=1, address="local")
    driver = start(config, decoder=ROGUE)
    wait_until(lambda: list(config.store.glob("records/*.json")))
    started = psutil.Process(driver.pid).children(recursive=True)
    writers = [p for p in started if may_write(p)]
    assert len(writers) >= 2, "a worker and its decoder"
    kill_one(driver)
    driver.join()
    wait_until(
        lambda: not [p for p in writers if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    )
    preprocess(replace(config, executor="serial", workers=None))
    assert tree(config.store) == reference
