"""The offline stage: its speed against a bare loop, Ray against serial, memory, and a plan of 10
million videos.

Claims (each ratio from one run, both sides interleaved; the best of the rounds counts, and where
other work may share the machine the ratio of CPU seconds stands beside that of the clock):

* ``speed``: frames per second and core are >= 80 % of a bare OpenCV loop that decodes, resizes and
  encodes the same frames, without maps, processes, checksums or files (the store is in memory);
* ``parallel``: Ray with 2 workers makes >= 1.8 times the videos per second of the serial executor,
  on two free cores, with shards of one video, where a task is 40 ms, and of eight;
* ``memory``: an hour of video takes what ten seconds take, within 20 %, and 1,000 videos what the
  first 100 take;
* ``scale``: what the driver takes at 240,000 and at 10 million videos; ``tasks``: a whole run of
  240,000 videos through Ray with a decoder that invents its frames.

Run: ``python -m benchmarks.offline_stage [CLAIM ...]``; results: ``results/offline_stage.json``.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import psutil

from benchmarks.harness import FOOTAGE, cpu_seconds, in_fresh_process, options, peak_mib, update
from fame.clipstore import StoreHeader, StoreSpec, create, missing_shards, sized_for
from fame.clipstore.jpeg import encode_tall_jpeg
from preprocess import decode, plan
from preprocess.config import PreprocessConfig
from preprocess.executors import serial
from preprocess.report import Snapshot
from preprocess.run import preprocess
from preprocess.selection import Sampling
from preprocess.task import ShardResult, ShardTask, Work

FAKE_DECODER = (sys.executable, __file__, "--decoder")
ROUNDS = 3
BARE_OPEN = [cv2.CAP_PROP_N_THREADS, 1, cv2.CAP_PROP_HW_ACCELERATION, cv2.VIDEO_ACCELERATION_NONE]
MEMORY_DISK = (
    "/dev/shm" if Path("/dev/shm").is_dir() else None
)  # others may be keeping the disk busy
LARGE = ("001_001_001.mp4", "testsrc2.mp4", "nasa_13013.mp4", "bt709_full_range.mp4")
UCF = ("v_ApplyEyeMakeup_g01_c01.avi", "v_BaseballPitch_g01_c01.avi")


def main() -> None:
    if sys.argv[1:2] == ["--decoder"]:
        decode.decode = invented
        decode.serve(int(sys.argv[2]), int(sys.argv[3]), Sampling(**json.loads(sys.argv[4])))
        return
    claims = {
        "speed": speed,
        "cost": cost,
        "parallel": parallel,
        "memory": memory,
        "scale": scale,
        "tasks": tasks,
    }
    parser = options(__doc__)
    parser.add_argument(
        "claims", nargs="*", metavar="claim", help=f"of {', '.join(claims)}; default: all"
    )
    for claim in parser.parse_args().claims or claims:
        update("offline_stage", {claim: claims[claim]()})


@contextmanager
def stopwatch() -> Iterator[dict[str, float]]:
    """Wall and CPU seconds, those of ended children included."""
    spent: dict[str, float] = {}
    wall, cpu = time.monotonic(), cpu_seconds()
    yield spent
    spent |= {"wall": time.monotonic() - wall, "cpu": cpu_seconds() - cpu}


@contextmanager
def videos_of(paths: list[Path], *, count: int) -> Iterator[Path]:
    """A folder of ``count`` copies of the videos."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            source = paths[number % len(paths)]
            shutil.copyfile(source, Path(folder) / f"{number:05d}{source.suffix}")
        yield Path(folder)


def config_of(videos: Path, store: Path, spec: StoreSpec, **fields: object) -> PreprocessConfig:
    return PreprocessConfig(
        dataset="folder", split="train", videos=videos, store=store, spec=spec, **fields
    )


def bare(videos: Path, spec: StoreSpec) -> int:
    """Decode, resize and encode the kept frames with nothing around; returns source frames read."""
    read, sampling = 0, Work(store=videos, videos=videos, spec=spec, time_limit=1).sampling
    for path in sorted(videos.iterdir()):
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, BARE_OPEN)
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        kept = sampling.kept(-(-count // spec.keep))
        used = {spec.keep * place for stretch in kept for place in stretch}
        for index in range(count):
            capture.grab()
            if index in used:
                frame_HW3 = decode.fit(capture.retrieve()[1], sampling)
                encode_tall_jpeg(frame_HW3[None], quality=spec.quality)
        read += count
    return read


def staged(videos: Path, spec: StoreSpec) -> int:
    """The same by the stage, on the serial executor: processes, checks, checksums, files and
    all.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder:
        return preprocess(
            config_of(videos, Path(folder) / "store", spec, executor="serial")
        ).frames_read


def speed() -> dict[str, object]:
    cv2.setNumThreads(1)
    sets = {
        "128 px, 1-6 s": ([*sorted((FOOTAGE / "overhead-actions").rglob("*.mp4"))[::4]], 118),
        "UCF101, 320x240": ([FOOTAGE / "robustness" / name for name in UCF], 60),
        "180 to 1080 px": ([FOOTAGE / "robustness" / name for name in LARGE], 12),
    }
    spec, results = StoreSpec(foreground="none"), {}
    for name, (paths, count) in sets.items():
        with videos_of(paths, count=count) as videos:
            results[name] = _compare(lambda: bare(videos, spec), lambda: staged(videos, spec))
    return results


def _compare(reference: Callable[[], int], stage: Callable[[], int]) -> dict[str, float]:
    """Best frames per second of each, by the clock and by CPU seconds."""
    rates: dict[str, list[float]] = {"wall": [], "cpu": [], "bare wall": [], "bare cpu": []}
    for _ in range(ROUNDS):
        for prefix, run in (("bare ", reference), ("", stage)):
            with stopwatch() as spent:
                frames = run()
            for clock, seconds in spent.items():
                rates[f"{prefix}{clock}"].append(frames / seconds)
    best = {name: max(values) for name, values in rates.items()}
    return {
        "bare_frames_per_cpu_s": round(best["bare cpu"], 1),
        "stage_frames_per_cpu_s": round(best["cpu"], 1),
        "ratio_cpu": round(best["cpu"] / best["bare cpu"], 3),
        "ratio_wall": round(best["wall"] / best["bare wall"], 3),
    }


def cost() -> dict[str, object]:
    """CPU seconds and bytes of a 13 s video of 325 frames (h264, 320x180) with the default recipe,
    map by map.
    """
    costs = {}
    with videos_of([FOOTAGE / "robustness" / "nasa_13013.mp4"], count=8) as videos:
        for foreground in ("none", "flow"):
            with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder, stopwatch() as spent:
                spec = StoreSpec(foreground=foreground)
                report = preprocess(
                    config_of(videos, Path(folder) / "store", spec, executor="serial")
                )
            costs[foreground] = {
                "cpu_s_per_video": round(spent["cpu"] / 8, 2),
                "bytes": report.stored_bytes // 8,
            }
    return costs


def parallel() -> dict[str, object]:
    """Videos per second from the third finished shard to the last but one, so that starting Ray
    does not count.

    Beside it, what two free cores can give at most by the CPU seconds that each executor spends on
    a video, all of Ray's own processes included: that holds on a machine that is busy with other
    work too.
    """
    import ray

    # Ray's workers yield to other programs by default, the serial executor does not: let both be
    # equal.
    os.environ |= {
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    with videos_of([FOOTAGE / "robustness" / name for name in UCF], count=96) as videos:
        measured = {f"{size} videos a shard": _raced(videos, size) for size in (1, 8)}
    ray.shutdown()
    return measured


def _raced(videos: Path, size: int) -> dict[str, object]:
    """Both executors in turn on shards of ``size`` videos."""
    executors = {"serial": {"executor": "serial"}, "ray": {"executor": "ray", "workers": 2}}
    rates: dict[str, list[float]] = {name: [] for name in executors}
    costs: dict[str, list[float]] = {name: [] for name in executors}
    for _ in range(ROUNDS):
        for name, fields in executors.items():
            before = _session_cpu_seconds()
            rates[name].append(round(_steady_rate(videos, fields | {"videos_per_shard": size}), 2))
            costs[name].append(round((_session_cpu_seconds() - before) / 96, 4))
    return {
        "videos_per_s": rates,
        "cpu_s_per_video": costs,
        "ratio_wall_of_best": round(max(rates["ray"]) / max(rates["serial"]), 2),
        "ratio_on_two_free_cores_by_cpu": round(2 * min(costs["serial"]) / min(costs["ray"]), 2),
    }


def _session_cpu_seconds() -> float:
    """CPU seconds so far of this process and all below it, ended ones included."""
    this = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in (this, *this.children(recursive=True)))


def _steady_rate(videos: Path, fields: dict[str, object]) -> float:
    spec = StoreSpec(foreground="none")
    stands: list[tuple[float, int]] = []

    def note(snapshot: Snapshot) -> None:
        stands.append((time.monotonic(), snapshot.videos_done))

    with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder:
        preprocess(config_of(videos, Path(folder) / "store", spec, **fields), progress=note)
    (begin, first), (end, last) = stands[2], stands[-2]
    return (last - first) / (end - begin)


def memory() -> dict[str, object]:
    """Peak resident MiB of a worker and its decoder, each time in fresh processes."""
    spec = StoreSpec(foreground="none", height=128, width=170, seconds=4.0, videos_per_shard=20)
    peaks: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, seconds in (("10 s", 10), ("1 h", 3600)):
            videos = Path(folder) / name
            videos.mkdir()
            _write_long_video(videos / "video.avi", seconds * 25)
            peaks |= {name: in_fresh_process(_peaks_while_making, videos, spec, (1,))[0]}
    with videos_of(sorted((FOOTAGE / "overhead-actions").rglob("*.mp4")), count=1000) as videos:
        first, last = in_fresh_process(_peaks_while_making, videos, spec, (100, 1000))
    return {
        "peak_mib": peaks | {"100 videos": first, "1000 videos": last},
        "ratio_hour": round(sum(peaks["1 h"].values()) / sum(peaks["10 s"].values()), 3),
        "ratio_1000_videos": round(sum(last.values()) / sum(first.values()), 3),
    }


def _write_long_video(path: Path, frames: int) -> None:
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"XVID"), 25.0, (320, 240)
    )
    ramp_HW = np.tile(np.arange(320, dtype=np.uint8), (240, 1))
    pictures = [cv2.cvtColor(np.roll(ramp_HW, 8 * i, 1), cv2.COLOR_GRAY2BGR) for i in range(40)]
    for index in range(frames):
        writer.write(pictures[index % len(pictures)])
    writer.release()


def _peaks_while_making(
    videos: Path, spec: StoreSpec, at: tuple[int, ...]
) -> list[dict[str, float]]:
    """Peaks of this process and its decoder when these numbers of videos are done."""
    names = sorted(path.name for path in videos.iterdir())
    peaks, done = [], 0
    with tempfile.TemporaryDirectory() as folder:
        work = Work(store=Path(folder) / "store", videos=videos, spec=spec, time_limit=300)
        _begin_store(work.store, spec, names)
        shards = plan.tasks(
            names, missing_shards(work.store), videos_per_shard=spec.videos_per_shard
        )
        for result in serial.execute(work, shards):
            done += result.videos
            if done in at:
                (child,) = psutil.Process().children()
                peaks.append({"worker": peak_mib(), "decoder": peak_mib(child.pid)})
    return peaks


def _begin_store(store: Path, spec: StoreSpec, names: list[str]) -> None:
    header = StoreHeader(dataset="folder", split="train", class_names=("a",), spec=spec)
    create(store, header, names=names, labels=[0] * len(names))


def scale() -> dict[str, object]:
    """What the driver takes for everything but the shards themselves."""
    return {
        f"{videos} videos": in_fresh_process(_drive, videos, False)
        for videos in (240_000, 10_000_000)
    }


def tasks() -> dict[str, object]:
    """A whole run of 240,000 videos through Ray."""
    return {"240000 videos": in_fresh_process(_drive, 240_000, True)}


def _drive(videos: int, made: bool) -> dict[str, float]:
    """Create a store of that many videos and pass every task through the driver; the frames are
    invented.
    """
    shard = sized_for(StoreSpec(), videos).videos_per_shard  # as for real frames
    spec = StoreSpec(
        foreground="none", height=16, width=16, seconds=0.1, stretch=2, videos_per_shard=shard
    )
    names = [f"some kind of action/{number:011d}_000010_000020.mp4" for number in range(videos)]
    figures = {"names_mib": peak_mib()}
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder:
        work = Work(
            store=Path(folder) / "store",
            videos=Path(folder),
            spec=spec,
            time_limit=60,
            decoder=FAKE_DECODER,
        )
        started = time.monotonic()
        _begin_store(work.store, spec, names)
        todo = missing_shards(work.store)
        figures |= {"shards": len(todo), "create_s": round(time.monotonic() - started, 1)}
        shards = plan.tasks(names, todo, videos_per_shard=spec.videos_per_shard)
        results = (_made_by_ray if made else _made_of_nothing)(work, shards)
        stand = Snapshot(videos=videos, videos_done=0).after(next(results), seconds=1)
        started = time.monotonic()  # Ray and its workers are up
        for result in results:
            assert not result.error, result.error
            stand = stand.after(result, seconds=1)
        assert stand.videos_done == videos
        figures |= {"tasks_per_s": round(len(todo) / (time.monotonic() - started), 1)}
        if made:
            started = time.monotonic()
            assert not missing_shards(work.store)
            figures |= {"check_records_s": round(time.monotonic() - started, 1)}
            figures |= {"record_bytes": (work.store / "records/0.json").stat().st_size}
    return figures | {"driver_peak_mib": peak_mib()}


def _made_of_nothing(work: Work, shards: Iterator[ShardTask]) -> Iterator[ShardResult]:
    return (ShardResult(shard=task.shard, videos=len(task.names)) for task in shards)


def _made_by_ray(work: Work, shards: Iterator[ShardTask]) -> Iterator[ShardResult]:
    from preprocess.executors import ray

    return ray.execute(work, shards, workers=2)


def invented(path: str, sampling: Sampling, frames_FHW3: np.ndarray) -> decode.Decoded:
    """Stands for `preprocess.decode.decode`: a 300-frame video of nothing."""
    frames_FHW3[:] = 0
    return decode.Decoded(
        source=((0, 0),) * sampling.slots, stretches=1, cut=True, frame_count=300, frames_read=300
    )


if __name__ == "__main__":
    main()
