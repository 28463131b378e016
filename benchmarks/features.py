"""Feature extraction from a clip store against the encoder alone on clips that are in memory
already.

Claim: extraction, decoding included, reaches >= 90 % of the encoder's own rate on synthetic input.
Both run in turns in one process on one thread, per second of its CPU time, so that other work on
the machine does not count: decoding is then not hidden behind the encoder, as it is with
``workers`` or on a GPU. The video is drawn: a blurred texture that pans, harder on the codec than
most footage.

Run: ``python -m benchmarks.features``.
"""

import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.harness import RESULTS, in_turns, medians, options, ratio, write
from fame.clipstore import (
    ClipStore,
    StoreHeader,
    StoreSpec,
    VideoFrames,
    Window,
    create,
    finalise,
    write_shard,
)
from fame.models import build_backbone
from fame.randomness import numpy_generator
from fame.weights import Card, Encoder
from train.evaluate.features import SquareClips, extract_features

BATCH, WINDOW, SECONDS = 4, Window(frames=16), 16 / 15  # 16 slots
CASES = {
    "i3d": (256, 340, 224),
    "r2plus1d_18": (128, 170, 112),
}  # encoder -> height and width of the store, crop


def make_store(path: Path, *, height: int, width: int, videos: int) -> ClipStore:
    """A jpeg store of videos of one clip."""
    spec = StoreSpec(
        seconds=SECONDS, height=height, width=width, videos_per_shard=videos, foreground="none"
    )
    header = StoreHeader(dataset="drawn", split="test", class_names=("one",), spec=spec)
    create(path, header, names=[f"{video:03d}" for video in range(videos)], labels=[0] * videos)
    write_shard(path, 0, [drawn_video(spec, video) for video in range(videos)])
    finalise(path)
    return ClipStore.open(path)


def drawn_video(spec: StoreSpec, video: int) -> VideoFrames:
    """A window that moves over a blurred texture."""
    noise = numpy_generator(0, 0, video, "texture").integers(
        0, 256, (spec.height + spec.slots, spec.width + spec.slots, 3), np.uint8
    )
    texture = cv2.GaussianBlur(noise, (0, 0), 1.5)
    frames = [texture[t : t + spec.height, t : t + spec.width] for t in range(spec.slots)]
    return VideoFrames(
        frames=np.stack(frames), foreground=None, source=np.zeros((len(frames), 2), np.int32)
    )


def case(name: str, folder: Path, *, clips: int, rounds: int) -> dict[str, object]:
    """The rates of one encoder, and the median over the rounds of their ratio within a round."""
    height, width, crop = CASES[name]
    store = make_store(folder / name, height=height, width=width, videos=clips)
    encoder = Encoder(build_backbone(name), Card(name=name))
    draw = numpy_generator(0, 0, 0, "clips")
    batches = [
        torch.from_numpy(draw.integers(0, 256, (BATCH, WINDOW.frames, crop, crop, 3), np.uint8))
        for _ in range(clips // BATCH)
    ]
    encoder.features(batches[0])
    shown = SquareClips(store, window=WINDOW, clips=1, crop=crop)
    jobs = {
        "encoder": lambda _: [encoder.features(batch) for batch in batches],
        "extraction": lambda _: extract_features(encoder, shown, batch=BATCH),
    }
    seconds = in_turns(jobs, rounds=rounds)
    rates = {name: round(clips / median, 3) for name, median in medians(seconds).items()}
    return {
        "store": f"{WINDOW.frames}x{height}x{width} jpeg, crop {crop}",
        "encoder_clips_per_cpu_second": rates["encoder"],
        "extraction_clips_per_cpu_second": rates["extraction"],
        "extraction / encoder (target 0.90)": ratio(seconds, "encoder", "extraction"),
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--clips", type=int, default=12, help=f"a multiple of {BATCH}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        cases = {
            name: case(name, Path(folder), clips=arguments.clips, rounds=arguments.rounds)
            for name in CASES
        }
    write("features", {"threads": 1, "cases": cases}, folder=arguments.out)


if __name__ == "__main__":
    main()
