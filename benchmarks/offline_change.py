"""The offline stage of this checkout against that of another one: the same files, one run.

Each side is a process that makes whole stores with the serial executor, in memory; rounds are
interleaved, CPU seconds of the process and of its decoder counted, and the best round of each side
counts. ``no maps``: the three sets of ``offline_stage.py`` (without ``nasa_13013.mp4``, of which
OpenCV reads another stream), both sides at their default recipe without foreground maps.
``all``: ten-second videos with maps, everything included.

Claims, against the first release (8a1a0d5: OpenCV's decoder, ten windows of 16 frames a video):
source frames per CPU second >= 0.95 of it without maps, >= 0.75 of it with everything.

Run: ``git worktree add /tmp/old 8a1a0d5; python benchmarks/offline_change.py /tmp/old [SET ...]``;
results: ``results/offline_change.json``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imageio_ffmpeg
from offline_stage import FOOTAGE, LARGE, UCF, videos_of

RESULTS = Path(__file__).parent / "results/offline_change.json"
ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5
# Works in either checkout: reads requests, one JSON a line, and answers with frames and seconds.
SIDE = """
import json, resource, sys, tempfile
from pathlib import Path
from fame.clipstore import StoreSpec
from preprocess.config import PreprocessConfig
from preprocess.run import preprocess
def spent():
    both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)
for line in sys.stdin:
    videos, fields = json.loads(line)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        before = spent()
        report = preprocess(PreprocessConfig(
            dataset="folder", split="train", videos=Path(videos), store=Path(folder) / "store",
            spec=StoreSpec(**fields), executor="serial"))
        print(json.dumps([report.frames_read, spent() - before, report.failed]), flush=True)
"""


class Side:
    """The stage of one checkout, in a process of its own."""

    def __init__(self, checkout: Path) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-c", SIDE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout)},
            text=True,
        )

    def rate(self, videos: Path, fields: dict[str, object]) -> float:
        """Source frames per CPU second."""
        process = self._process
        assert process.stdin and process.stdout
        print(json.dumps((str(videos), fields)), file=process.stdin, flush=True)
        frames, seconds, failed = json.loads(process.stdout.readline())
        assert frames and not failed
        return frames / seconds

    def close(self) -> None:
        """Let the process end."""
        self._process.communicate()


@contextmanager
def kinetics_like() -> Iterator[Path]:
    """Ten-second videos as CVDF's Kinetics are: h264, 340x256, 300 frames at 30 a second, here of
    DAVIS.
    """
    frames = sorted((FOOTAGE / "davis").glob("*/frames/*.jpg"))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(3):
            pictures = frames[number * 150 : number * 150 + 300]
            command = (imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "image2pipe")
            scale = ("-vf", "scale=340:256", "-pix_fmt", "yuv420p", "-c:v", "libx264")
            subprocess.run(
                (
                    *command,
                    "-r",
                    "30",
                    "-c:v",
                    "mjpeg",
                    "-i",
                    "-",
                    *scale,
                    f"{folder}/{number}.mp4",
                ),
                input=b"".join(picture.read_bytes() for picture in pictures),
                check=True,
            )
        yield Path(folder)


def sets() -> dict[str, tuple[list[Path], int, dict[str, object]]]:
    """Files, how many copies of them in all, and the recipe (else the default)."""
    bare = {"foreground": "none"}
    large = [FOOTAGE / "robustness" / name for name in LARGE if "nasa" not in name]
    phone = sorted((FOOTAGE / "exercise-typing").rglob("*.mp4"))[::9]
    return {
        "128 px, 1-6 s": (sorted((FOOTAGE / "overhead-actions").rglob("*.mp4"))[::4], 118, bare),
        "UCF101, 320x240": ([FOOTAGE / "robustness" / name for name in UCF], 30, bare),
        "180 to 1080 px": (large, 6, bare),
        "phones, all": (phone, len(phone), {}),
    }


def compared(old: Side, new: Side, videos: Path, fields: dict[str, object]) -> dict[str, Any]:
    rounds = [(old.rate(videos, fields), new.rate(videos, fields)) for _ in range(ROUNDS)]
    before, now = (max(rates) for rates in zip(*rounds, strict=True))
    return {
        "before_frames_per_cpu_s": round(before, 1),
        "now_frames_per_cpu_s": round(now, 1),
        "ratio": round(now / before, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("sets", nargs="*", help="default: all")
    given = parser.parse_args()
    old, new = Side(given.checkout), Side(ROOT)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, (paths, count, fields) in sets().items():
        if name in (given.sets or sets()):
            with videos_of(paths, count=count) as videos:
                results[name] = compared(old, new, videos, fields)
            print(name, results[name], flush=True)
    if "Kinetics, all" in (given.sets or ("Kinetics, all",)):
        with kinetics_like() as videos:
            results["Kinetics, all"] = compared(old, new, videos, {})
        print(results["Kinetics, all"])
    old.close()
    new.close()
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
