"""PyAV (`preprocess.video`) against OpenCV's FFmpeg: the same files, one thread, frame for frame.

Both decode every frame, turn every second one into RGB and resize it as the stage does. Rounds are
interleaved and CPU seconds counted; the best round of each side counts. ``decoded`` is that alone,
``with_jpeg`` adds the JPEG of every kept frame, as the stage makes it. Claim: frames per CPU second
``with_jpeg`` >= 0.95 of OpenCV's on the three sets of ``offline_stage.py``.

Run: ``python -m benchmarks.decoders``; results: ``results/decoders.json``.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from benchmarks.harness import FOOTAGE, in_turns, write
from benchmarks.offline_stage import BARE_OPEN, LARGE, UCF
from fame.clipstore.jpeg import encode_tall_jpeg
from preprocess.decode import fit
from preprocess.selection import Sampling
from preprocess.video import open_video

ROUNDS, KEEP = 7, 2
SAMPLING = Sampling(
    slots=1, keep=KEEP, fps=None, stretch=1, aligned=1, height=256, width=340, geometry="cover"
)
SETS = {
    "128 px, 1-6 s": sorted((FOOTAGE / "overhead-actions").rglob("*.mp4"))[::12],
    "UCF101, 320x240": [FOOTAGE / "robustness" / name for name in UCF] * 3,
    # not nasa_13013.mp4: of its two streams OpenCV takes the first, PyAV the one that is shown
    "180 to 1080 px": [FOOTAGE / "robustness" / name for name in LARGE if "nasa" not in name],
}


Keep = Callable[[np.ndarray], object]


def as_jpeg(frame_HW3: np.ndarray) -> object:
    return encode_tall_jpeg(frame_HW3[None], quality=90)


def by_opencv(path: Path, keep: Keep) -> int:
    capture, frames = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, BARE_OPEN), 0
    while capture.grab():
        if frames % KEEP == 0:
            keep(cv2.cvtColor(fit(capture.retrieve()[1], SAMPLING), cv2.COLOR_BGR2RGB))
        frames += 1
    return frames


def by_pyav(path: Path, keep: Keep) -> int:
    frames = 0
    with open_video(str(path)) as video:
        for frame in video:
            if frame.index % KEEP == 0:
                keep(fit(frame.rgb(), SAMPLING))
            frames += 1
    return frames


def ratio(paths: list[Path], keep: Keep) -> float:
    """Return frames per CPU second by PyAV over those by OpenCV, the best round of each."""
    jobs = {
        read.__name__: lambda _, read=read: [read(path, keep) for path in paths]
        for read in (by_opencv, by_pyav)
    }
    seconds = in_turns(jobs, rounds=ROUNDS)
    return round(min(seconds["by_opencv"]) / min(seconds["by_pyav"]), 3)


def main() -> None:
    cv2.setNumThreads(1)
    results = {}
    for name, paths in SETS.items():
        assert all(by_opencv(path, len) == by_pyav(path, len) for path in paths)
        results[name] = {"decoded": ratio(paths, len), "with_jpeg": ratio(paths, as_jpeg)}
        print(name, results[name], flush=True)
    write("decoders", results)


if __name__ == "__main__":
    main()
