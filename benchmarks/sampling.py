"""What training can show of a store: starts, pairs of clips, the gap between the two of a pair, how
many overlap, and how many of the kept frames are ever shown.

Measured from a store, with the draws of the training loader itself: the two clips of every video in
each of ``--epochs`` epochs. Beside it, in the same terms, what format 1 gave (ten evenly spaced
windows) and what the reference can draw from the source video (any two of its starts, uniform and
independent), both computed for the store's longest video.

Run: ``python -m benchmarks.sampling [STORE]``; without one, ten drawn seconds at 30 frames a second
are stored with the default recipe. Results: ``results/sampling.json``.
"""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.harness import RESULTS, options, write
from fame.clipstore import ClipStore, StoreSpec, Window
from tests.stores import make_store
from train.data import PairDataset


def measured(store: ClipStore, window: Window, epochs: int) -> dict[str, float]:
    """Figures of the longest video, in frames of the source."""
    video = int(store.length_V.argmax())
    data = PairDataset([store], seed=0, window=window, maps=False)
    sample = int(np.flatnonzero(data.video_S2[:, 1] == video)[0])
    number_L = store.source(video)[:, 0]
    start_E2 = np.array([data.starts_of(epoch, sample) for epoch in range(epochs)])
    shown = np.unique(window.offsets(len(number_L)) + np.unique(start_E2)[:, None])
    starts = len(store.starts(video, window))
    reach = int(number_L[window.offsets(len(number_L))[-1]]) + 1
    return {
        "starts": starts,
        "pairs": starts * (starts - 1) // 2,
        "pairs_drawn": len({tuple(sorted(pair)) for pair in start_E2.tolist()}),
        **_of_gaps(np.abs(np.diff(number_L[start_E2], axis=1)[:, 0]), reach),
        "source_frames_shown": len(shown) / (number_L[-1] + 1),
    }


def computed(start_S: np.ndarray, window: Window, stride: int, frames: int) -> dict[str, float]:
    """The same of all pairs of distinct starts in a source of so many frames."""
    gap_P = np.abs(start_S[:, None] - start_S)[np.triu_indices(len(start_S), 1)]
    shown = np.unique(start_S[:, None] + stride * np.arange(window.frames))
    reach = stride * (window.frames - 1) + 1
    return {
        "starts": len(start_S),
        "pairs": len(gap_P),
        **_of_gaps(gap_P, reach),
        "source_frames_shown": len(shown) / frames,
    }


def _of_gaps(gap_P: np.ndarray, reach: int) -> dict[str, float]:
    return {"mean_gap": float(gap_P.mean()), "overlapping": float((gap_P < reach).mean())}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("store", nargs="?", type=Path)
    parser.add_argument("--epochs", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    window, stride = Window(frames=16), 2
    with tempfile.TemporaryDirectory() as folder:
        if arguments.store is None:
            spec = StoreSpec(height=18, width=24, foreground="none", videos_per_shard=1)
            path = make_store(Path(folder) / "store", videos=1, spec=spec)
        else:
            path = arguments.store
        store = ClipStore.open(path)
        frames = int(store.source(int(store.length_V.argmax()))[-1, 0]) + store.spec.keep
        last = frames - stride * (window.frames - 1) - 1
        report = {
            "video": f"{frames} frames, {store.spec.kept} kept; clips of {window}",
            "this store": measured(store, window, arguments.epochs),
            "format 1": computed(np.arange(10) * last // 9, window, stride, frames),
            "reference": computed(np.arange(last), window, stride, frames),
        }
    ours, reference = report["this store"], report["reference"]
    report["ratios to the reference"] = {
        name: round(ours[name] / reference[name], 3) for name in ("mean_gap", "overlapping")
    }
    write("sampling", report, folder=arguments.out)


if __name__ == "__main__":
    main()
