"""Generate a controlled world: labelled videos with a motion as the class and a background that may
give it away.

Each video shows one textured object moving in one of six ways over a textured background. With
probability ``rho`` the background is the one that belongs to the class, else it is drawn at random:
at ``rho=1`` a network may look at the background alone, at ``rho=0`` the background carries no
information. Ground-truth masks and background numbers are written beside the videos. Every video is
a pure function of (spec, index).

Shapes: T frames, H W height and width in pixels, C channels (RGB).
"""

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from fame.files import utf8
from fame.randomness import numpy_generator
from preprocess.config import MOTIONS, WorldSpec

_CYCLE_FRAMES = (
    24  # one period of every motion: a window of 16 frames at stride 2 always sees a whole one
)
# The background is this much larger than the frame, so that a moving camera never sees its edge
_MARGIN = 1.5


@dataclass(frozen=True, kw_only=True)
class WorldVideo:
    """One rendered video and the truth about it."""

    name: str
    split: str
    motion: str
    background: int
    frames_THWC: UInt8[np.ndarray, "t h w 3"]
    mask_THW: Bool[np.ndarray, "t h w"]


def render(spec: WorldSpec, index: int) -> WorldVideo:
    """Draw video ``index`` of the world. Raise ``ValueError`` when there is no such video."""
    if not 0 <= index < spec.videos:
        raise ValueError(f"video index must lie in 0..{spec.videos - 1}, got {index}")
    rng = numpy_generator(spec.seed, 0, index, "world/video")
    motion = index % len(MOTIONS)
    split = "test" if index >= spec.videos - spec.num_test else "train"
    background = index if spec.backgrounds is None else _choose_background(spec, motion, split, rng)
    scene_HWC = _background(spec, background)
    looks = (
        rng
        if spec.objects is None
        else numpy_generator(spec.seed, 0, int(rng.integers(spec.objects)), "world/object")
    )
    object_HWC, alpha_HW = _object(spec, looks)
    place = _placement(spec, MOTIONS[motion], rng)
    camera = _camera(spec, rng)
    frames, masks = [], []
    for t in range(spec.frames):
        frame_HWC, mask_HW = _compose(
            scene_HWC, object_HWC, alpha_HW, camera=camera(t), pose=place(t), spec=spec
        )
        frames.append(frame_HWC)
        masks.append(mask_HW)
    return WorldVideo(
        name=f"{MOTIONS[motion]}/{index:05d}.mp4",
        split=split,
        motion=MOTIONS[motion],
        background=background,
        frames_THWC=np.stack(frames),
        mask_THW=np.stack(masks),
    )


def write_world(
    spec: WorldSpec, folder: Path, *, on_video: Callable[[int], None] = lambda done: None
) -> None:
    """Write the world into ``folder``: ``videos/<motion>/*.mp4``, ``masks/<motion>/*.npz``, lists,
    ``videos.csv``.

    A mask file holds ``mask`` (packed bits of [T, H, W]) and ``shape``. ``on_video(done)`` is
    called after each video. Raise ``OSError`` where a video cannot be written.
    """
    rows: list[tuple[str, str, str, int]] = []
    for index in range(spec.videos):
        video = render(spec, index)
        _encode(folder / "videos" / video.name, video.frames_THWC, fps=spec.fps)
        mask_path = (folder / "masks" / video.name).with_suffix(".npz")
        mask_path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(mask_path, mask=np.packbits(video.mask_THW), shape=video.mask_THW.shape)
        rows.append((video.name, video.split, video.motion, video.background))
        on_video(index + 1)
    for split in ("train", "test"):
        names = [name for name, its_split, *_ in rows if its_split == split]
        (folder / f"{split}.txt").write_text("\n".join(names) + "\n")
    with (folder / "videos.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("video", "split", "motion", "background"))
        writer.writerows(rows)


def read_mask(path: Path) -> Bool[np.ndarray, "t h w"]:
    """Read a ground-truth mask written by :func:`write_world`."""
    with np.load(path, allow_pickle=False) as file:
        shape = tuple(int(n) for n in file["shape"])
        return np.unpackbits(file["mask"], count=math.prod(shape)).reshape(shape).astype(bool)


def _choose_background(spec: WorldSpec, index: int, split: str, rng: np.random.Generator) -> int:
    """Return the class's own background with probability rho, else any; test backgrounds are
    numbered after training's. Where each video has its own, the number is the video's.
    """
    if spec.backgrounds is None:
        return index
    rho = spec.test_rho if split == "test" and spec.test_rho is not None else spec.rho
    own = rng.random() < rho
    # Of 12 backgrounds motion 1 of the six owns 1 and 7.
    choices = (
        np.arange(index % len(MOTIONS), spec.backgrounds, len(MOTIONS))
        if own
        else np.arange(spec.backgrounds)
    )
    return int(rng.choice(choices)) + (spec.backgrounds if split == "test" else 0)


def _noise(
    rng: np.random.Generator, height: int, width: int, *, cells: int
) -> Float32[np.ndarray, "h w 3"]:
    """Return the smooth colour noise in 0..1: random grids at three octaves, resized and summed."""
    noise_HWC = np.zeros((height, width, 3), np.float32)
    # From 3 cells on: grids of 3, 6 and 12 cells, with weights 1, 1/2 and 1/4.
    for octave in range(3):
        grid = rng.random((cells << octave, cells << octave, 3), dtype=np.float32)
        noise_HWC += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / (
            1 << octave
        )
    low, high = noise_HWC.min(), noise_HWC.max()
    return (noise_HWC - low) / (high - low)


def _background(spec: WorldSpec, number: int) -> Float32[np.ndarray, "bh bw 3"]:
    """Draw background ``number``: coloured noise under a grating whose direction and pitch are its
    own, 0..255.
    """
    rng = numpy_generator(spec.seed, 0, number, "world/background")
    height, width = math.ceil(spec.height * _MARGIN), math.ceil(spec.width * _MARGIN)
    angle, waves = rng.uniform(0, np.pi), rng.uniform(3, 9)
    y_H1, x_1W = np.mgrid[0:height, 0:width].astype(np.float32) / height
    grating_HW = np.sin(2 * np.pi * waves * (x_1W * np.cos(angle) + y_H1 * np.sin(angle)))
    tint_C = rng.uniform(0.6, 1.0, 3).astype(np.float32)
    noise_HWC = _noise(rng, height, width, cells=3)
    pale_HWC = (noise_HWC + noise_HWC.mean(2, keepdims=True)) / 2
    noise, grating = 0.4 * spec.contrast, 0.08 * spec.contrast
    scene_HWC = (
        pale_HWC * noise + (0.5 - noise / 2) + grating * grating_HW[..., None].astype(np.float32)
    )
    return np.clip(scene_HWC * tint_C, 0, 1) * 255


def _object(spec: WorldSpec, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a textured shape: colours [S, S, 3] in 0..255 and soft alpha [S, S] in 0..1, centred
    in its square.
    """
    size = round(min(spec.height, spec.width) * rng.uniform(spec.smallest, spec.largest))
    y_SS, x_SS = np.mgrid[0:size, 0:size].astype(np.float32) * 2 / (size - 1) - 1
    radius_SS, angle_SS = np.hypot(x_SS, y_SS), np.arctan2(y_SS, x_SS)
    lobes, depth = int(rng.integers(2, 6)), rng.uniform(0.15, 0.35)
    edge_SS = (0.95 - depth) + depth * np.cos(lobes * angle_SS)
    # The edge falls from 1 to 0 over one pixel.
    alpha_SS = np.clip((edge_SS - radius_SS) * size / 2 + 0.5, 0, 1).astype(np.float32)
    stripes_SS = np.sin(rng.uniform(5, 9) * x_SS + rng.uniform(0, 2 * np.pi)) > 0
    colours = rng.uniform(0, 1, (2, 3)).astype(np.float32)
    texture_SSC = np.where(stripes_SS[..., None], colours[0], colours[1])
    texture_SSC = 0.7 * texture_SSC + 0.3 * _noise(rng, size, size, cells=2)
    return (texture_SSC * 255).astype(np.float32), alpha_SS


Affine = Float32[np.ndarray, "3 3"]


def _affine(x: float, y: float, *, scale: float = 1.0, angle: float = 0.0) -> Affine:
    """Return the map that rotates by ``angle`` (radians) and scales about the origin, then moves it
    to (x, y) pixels.
    """
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[c, -s, x], [s, c, y], [0, 0, 1]], np.float32)


def _placement(spec: WorldSpec, motion: str, rng: np.random.Generator) -> Callable[[int], Affine]:
    """Return the object's pose in the world at frame t: a motion around a random resting place."""
    short = min(spec.height, spec.width)
    reach = short * rng.uniform(0.18, 0.26)
    rest_x = spec.width / 2 + rng.uniform(-1, 1) * (spec.width / 2 - 0.4 * short)
    rest_y = spec.height / 2 + rng.uniform(-1, 1) * (spec.height / 2 - 0.4 * short)
    start, turn, tilt = rng.uniform(0, 2 * np.pi), rng.choice((-1, 1)), rng.uniform(0, 2 * np.pi)
    lean = rng.choice((-1, 1)) * math.sqrt(0.5)

    def pose(t: int) -> Affine:
        phase = start + turn * 2 * np.pi * t / _CYCLE_FRAMES
        along, across = reach * math.cos(phase), reach * math.sin(phase)
        dx, dy = {
            "circle": (along, across),
            "diagonal": (along * abs(lean), along * lean),
            "horizontal": (along, 0.0),
            "vertical": (0.0, along),
        }.get(motion, (0.0, 0.0))
        scale = 1 + 0.4 * math.cos(phase) if motion == "pulse" else 1.0
        angle = tilt + (phase if motion == "spin" else 0.0)
        return _affine(rest_x + dx, rest_y + dy, scale=scale, angle=angle)

    return pose


def _camera(spec: WorldSpec, rng: np.random.Generator) -> Callable[[int], Affine]:
    """Return the map from world to image at frame t: the identity, or a smooth pan with a little
    roll and zoom about the centre.
    """
    sway = 0.5 * (_MARGIN - 1) * min(spec.height, spec.width) * 0.6
    frequency, start = rng.uniform(0.5, 1.5, 4), rng.uniform(0, 2 * np.pi, 4)
    centre = _affine(spec.width / 2, spec.height / 2)
    back = _affine(-spec.width / 2, -spec.height / 2)

    def view(t: int) -> Affine:
        if not spec.camera_motion:
            return _affine(0, 0)
        pan_x, pan_y, roll, zoom = np.sin(start + 2 * np.pi * frequency * t / (2 * _CYCLE_FRAMES))
        moved = _affine(sway * pan_x, sway * pan_y, scale=1 + 0.06 * zoom, angle=0.06 * roll)
        return centre @ moved @ back

    return view


def _compose(
    scene_HWC: np.ndarray,
    object_HWC: np.ndarray,
    alpha_HW: np.ndarray,
    *,
    camera: Affine,
    pose: Affine,
    spec: WorldSpec,
) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """Return one frame: the scene and the object as the camera shows them, and where the object
    covers the scene.
    """
    size = (spec.width, spec.height)
    scene_offset = _affine(
        (spec.width - scene_HWC.shape[1]) / 2, (spec.height - scene_HWC.shape[0]) / 2
    )
    object_offset = _affine(-object_HWC.shape[1] / 2, -object_HWC.shape[0] / 2)
    # Maps apply from right to left: centre the object, move it in the world, then the camera.
    to_scene, to_object = (camera @ scene_offset)[:2], (camera @ pose @ object_offset)[:2]
    seen_HWC = cv2.warpAffine(scene_HWC, to_scene, size, borderMode=cv2.BORDER_REFLECT)
    colour_HWC = cv2.warpAffine(object_HWC, to_object, size, borderMode=cv2.BORDER_REPLICATE)
    cover_HW = cv2.warpAffine(alpha_HW, to_object, size)
    frame_HWC = seen_HWC + cover_HW[..., None] * (colour_HWC - seen_HWC)
    return np.clip(frame_HWC + 0.5, 0, 255).astype(np.uint8), cover_HW > 0.5


def _encode(path: Path, frames_THWC: UInt8[np.ndarray, "t h w 3"], *, fps: int) -> None:
    """Write an MPEG-4 file, the one codec that every OpenCV build can write into .mp4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames_THWC.shape[1:3]
    writer = cv2.VideoWriter(
        utf8(path), cv2.VideoWriter.fourcc(*"mp4v"), float(fps), (width, height)
    )
    if not writer.isOpened():
        raise OSError(f"{path}: this OpenCV build cannot write MPEG-4 video")
    for frame_HWC in frames_THWC:
        writer.write(cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2BGR))
    writer.release()
