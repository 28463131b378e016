"""What the benchmarks share: things measured in turns, and results with the facts of the machine.

    seconds = in_turns({"ours": ours, "theirs": theirs}, rounds=7)
    ratio(seconds, "theirs", "ours")          # ours is so many times as fast
    write("listing", {"links": 240_000, ...}) # results/listing.json, printed too

A machine that other work slows down slows all that takes turns within a round, and CPU seconds
leave out the time that other work had. So a ratio is taken within each round, and the median of
the rounds is what counts.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
FOOTAGE = ROOT.parent / "shared/data"  # real videos; where they are missing, a script says so
PACKAGES = ("torch", "numpy", "opencv-python-headless", "av", "zarr", "numcodecs", "simplejpeg")
Seconds = dict[str, list[float]]  # name -> the seconds of every round


def options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help shows a module's docstring as it is written."""
    raw = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=description, formatter_class=raw)


def in_turns(
    jobs: Mapping[str, Callable[[int], object]],
    *,
    rounds: int,
    warm: int = 0,
    clock: Callable[[], float] = time.process_time,
) -> Seconds:
    """Call every job once a round and return the seconds of each call, by job.

    Args:
        jobs: what is measured; each is called with the number of the round, from 0.
        rounds: rounds that count.
        warm: rounds before them that do not count.
        clock: what tells the seconds: the CPU time of this process, or one of the others here.
    """
    seconds: Seconds = {name: [] for name in jobs}
    for number in range(warm + rounds):
        for name, job in jobs.items():
            started = clock()
            job(number)
            if number >= warm:
                seconds[name].append(clock() - started)
    return seconds


def cpu_seconds() -> float:
    """Return the CPU seconds so far of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median over the rounds, by job."""
    return {name: statistics.median(each) for name, each in seconds.items()}


def ratio(values: Mapping[str, Sequence[float]], over: str, under: str) -> float:
    """Return the median over the rounds of the ratio of two jobs within a round."""
    pairs = zip(values[over], values[under], strict=True)
    return round(statistics.median(a / b for a, b in pairs), 3)


def peak_mib(pid: int | None = None) -> float:
    """Return the most memory that a process (default: this one) has held, MiB."""
    status = Path(f"/proc/{pid or os.getpid()}/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return round(kib / 1024, 1)


def in_fresh_process(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function in a process of its own, whose memory is then the function's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def machine() -> dict[str, Any]:
    """Return what of this machine and its packages decides a figure."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "processor": next(names, platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := installed(name))},
    }


def installed(package: str) -> str | None:
    """Return the version of a package, ``None`` where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def read(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """Return the results of a benchmark, nothing where it never ran."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write(
    name: str, results: Mapping[str, Any], *, table: str = "", folder: Path = RESULTS
) -> None:
    """Write and print ``NAME.json`` with the facts of the machine, and ``table`` as ``NAME.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine(), **results}, indent=1, default=float)
    (folder / f"{name}.json").write_text(text + "\n")
    if table:
        (folder / f"{name}.md").write_text(table)
    print(table or text)


def update(name: str, parts: Mapping[str, Mapping[str, Any]], *, folder: Path = RESULTS) -> None:
    """Put parts, each with the facts of the machine, beside those that were measured before."""
    measured = {part: {**values, "machine": machine()} for part, values in parts.items()}
    print(json.dumps(measured, indent=1, default=float), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**read(name, folder), **measured}, indent=1, default=float)
    (folder / f"{name}.json").write_text(text + "\n")


def markdown(heads: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """Return a table in Markdown."""
    names = [str(head) for head in heads]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join(lines) + "\n"
