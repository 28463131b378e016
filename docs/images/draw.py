"""Draw the pictures of README and docs/method.md from procedural clips (run from the project's root: python docs/images/draw.py)."""

from pathlib import Path

import numpy as np
import torch

from fame.flow import map_clip, map_frames
from fame.foreground import top_fraction
from fame.preview import dim, enlarge, heat, tile, write_gif, write_png
from preprocess.world import WorldSpec, render
from scene import scenes

HERE = Path(__file__).parent
SPEC = WorldSpec(videos=12, frames=31, height=120, width=160, backgrounds=12, rho=0.0, camera_motion=True, seed=3)
METHODS, MAP = ("paper", "flow"), (30, 40)


def compare(clips_NTHW3: np.ndarray, truths_NHW: np.ndarray) -> np.ndarray:
    rows = []
    for clip_THW3, truth_HW in zip(clips_NTHW3, truths_NHW, strict=True):
        image = clip_THW3[8]
        panels = [image, dim(image, truth_HW)]
        for method in METHODS:
            score = enlarge(map_clip(method, clip_THW3, height=MAP[0], width=MAP[1]), *image.shape[:2])
            mask = top_fraction(torch.as_tensor(score)[None], 0.3)[0].numpy()
            panels += [heat(image, score), dim(image, mask)]
        rows.append(panels)
    return tile(rows, ("frame", "truth, this frame", "paper map", "paper, beta 0.3", "flow map", "flow, beta 0.3"))


if __name__ == "__main__":
    from PIL import Image

    videos = [render(SPEC, i) for i in range(6)]
    clips = np.stack([video.frames_THWC[::2] for video in videos])
    Image.fromarray(compare(clips, np.stack([video.mask_THW[16] for video in videos]))).save(HERE / "maps.png")
    clips = scenes()
    maps = np.stack([map_frames("flow", clip, every=1, height=38, width=50) for clip in clips])
    write_png(HERE / "merge.png", clips, maps, beta=0.17, sources_N=np.array([1, 2, 0]), frames=[8])
    write_png(HERE / "merge-frames.png", clips, maps, beta=0.17, sources_N=np.array([1, 2, 0]))
    write_gif(HERE / "merge.gif", clips[:2], maps[:2], beta=0.17, sources_N=np.array([1, 0]))
