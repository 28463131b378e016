"""Masks held against the object of every single frame of DAVIS: one mask per clip, and one per frame.

    python -m benchmarks.davis_frames              # prints the table, writes results/davis_frames.{json,md}
    python -m benchmarks.davis_frames --sheet s.png    # only draws masks beside each other (not to be shared)

Protocol: the windows of ``davis.py`` (16 frames at stride 2, 224x224). A mask of the clip stands for
all of its frames. Kept: share of the object's pixels that the mask holds, over the frames of a
window. Of the mask: share of it that is object. IoU of the same. Share: how much of the frame the
mask takes. Means over windows, then over sequences; frames without the object count as background.
Cost: CPU time of map and mask, medians on one core.

Shapes: T frames, H W pixels, C = 3 RGB.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.davis import MAP, Window, windows, with_object
from benchmarks.harness import markdown, options, write
from fame.flow import map_clip, map_frames
from fame.foreground import foreground_mask, median_score, paper_score
from fame.preview import dim, tile

FIGURES = ("kept", "of the mask", "IoU", "share")


def _clip(frames_THWC: np.ndarray) -> Tensor:
    return torch.from_numpy(frames_THWC).permute(3, 0, 1, 2)[None].float() / 255


def _flow(frames_THWC: np.ndarray) -> Tensor:
    """The map of the clip, brought to the size of its frames."""
    map_hw = map_clip("flow", frames_THWC, height=MAP, width=MAP).astype(np.float32)
    return torch.from_numpy(cv2.resize(map_hw, frames_THWC.shape[2:0:-1]))[None]


def _flow_frames(frames_THWC: np.ndarray) -> Tensor:
    """The map of every second frame, as a store keeps them, for it and the next."""
    maps = map_frames("flow", frames_THWC, every=2, height=MAP, width=MAP).astype(np.float32)
    size = frames_THWC.shape[2:0:-1]
    large = np.stack([cv2.resize(map_hw, size) for map_hw in maps])
    return torch.from_numpy(large.repeat(2, axis=0)[: len(frames_THWC)])[None]


METHODS: dict[str, Callable[[np.ndarray], Tensor]] = {
    "paper's map, beta 0.5": lambda frames: foreground_mask(paper_score(_clip(frames)), 0.5),
    "flow map, beta 0.5": lambda frames: foreground_mask(_flow(frames), 0.5),
    "flow map, adaptive": lambda frames: foreground_mask(_flow(frames), 0.5, cut="adaptive"),
    "flow, a map per frame, beta 0.5": lambda frames: foreground_mask(_flow_frames(frames), 0.5),
    "flow, a map per frame, adaptive": lambda frames: foreground_mask(
        _flow_frames(frames), 0.5, cut="adaptive"
    ),
    "median, a map per frame, beta 0.5": lambda frames: foreground_mask(
        median_score(_clip(frames)), 0.5
    ),
    "median, a map per frame, adaptive": lambda frames: foreground_mask(
        median_score(_clip(frames)), 0.5, cut="adaptive"
    ),
}


def figures(mask_THW: np.ndarray, truth_THW: np.ndarray) -> dict[str, float]:
    """How a mask and the object overlap over the frames of a window."""
    both = float((mask_THW & truth_THW).sum())
    return {
        "kept": both / truth_THW.sum(),
        "of the mask": both / mask_THW.sum(),
        "IoU": both / (mask_THW | truth_THW).sum(),
        "share": float(mask_THW.mean()),
    }


def evaluate(method: Callable[[np.ndarray], Tensor], clips: list[Window]) -> dict[str, float]:
    """Means over windows, then over sequences, and the median cost."""
    rows: dict[str, list[dict[str, float]]] = {}
    times = []
    for clip in clips:
        start = time.process_time()
        mask = method(clip.frames_THWC)[0].numpy()
        times.append(1e3 * (time.process_time() - start))
        mask_THW = np.broadcast_to(mask, clip.truth_THW.shape)
        rows.setdefault(clip.sequence, []).append(figures(mask_THW, clip.truth_THW))
    means = {
        name: float(np.mean([np.mean([row[name] for row in each]) for each in rows.values()]))
        for name in FIGURES
    }
    return means | {"CPU ms": float(np.median(times))}


def draw(clips: Sequence[np.ndarray], path: Path, *, frames: Sequence[int] = (2, 8, 14)) -> None:
    """A picture of what each mask keeps of some frames of clips [T, H, W, 3], a row a frame."""
    rows = []
    for clip_THWC in clips:
        masks = (method(clip_THWC)[0].numpy() for method in METHODS.values())
        whole = [np.broadcast_to(mask, clip_THWC.shape[:3]) for mask in masks]
        rows += [
            [clip_THWC[t], *(dim(clip_THWC[t], mask_THW[t]) for mask_THW in whole)] for t in frames
        ]
    picture = tile(rows, ["frame", *METHODS])
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--sheet", type=Path, help="draw one clip of every sequence here and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    clips, without = with_object(windows())
    if arguments.sheet:
        first = {clip.sequence: clip.frames_THWC for clip in reversed(clips)}
        draw(list(first.values()), arguments.sheet)
        return
    made = {name: evaluate(method, clips) for name, method in METHODS.items()}
    columns = [*FIGURES, "CPU ms"]
    rows = (
        [name, *(f"{row[key]:.3f}" for key in FIGURES), f"{row['CPU ms']:.0f}"]
        for name, row in made.items()
    )
    text = f"{len(clips)} windows; {without} without the object left out.\n\n"
    text += markdown(["mask", *columns], rows)
    result = {"windows": len(clips), "without the object": without, "masks": made}
    write("davis_frames", result, table=text)


if __name__ == "__main__":
    main()
