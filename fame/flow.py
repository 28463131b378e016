"""Foreground maps for the store: what moves on its own, whatever the camera does.

`flow_maps` estimates dense optical flow between neighbouring frames, fits the camera's motion to
it so that moving objects do not count, and keeps what the camera does not explain. How it was
arrived at, with figures: docs/method.md.

Shapes: L frames of a stretch, G maps of them, T frames of a clip, H W source pixels, h w map, a b
the small frames that flow is computed on, P pairs of frames, N pixels that the camera is fitted on.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from fame.maps import mean_map

Method = Literal["flow", "paper", "difference", "none"]

_PATCH, _PATCH_STEP = 8, 4
_MIN_SIDE = 4 * _PATCH  # so that the coarsest level still holds a patch
_FIT_STEP = 6  # the camera is fitted on every 6th row and column
_FIT_ROUNDS = 5
_STIFFNESS = 0.1  # how much the fit is held back from the bilinear term, as a share of the data
# A map is rounded to multiples of this: a quarter of the bytes, and the mean over a clip has the
# levels between. On DAVIS the clip's map is as good to the third digit.
_ROUNDED = 15
_BLOCK = 16  # frames that share a map of the paper's kinds, which are made for whole clips


@dataclass(frozen=True, kw_only=True)
class FlowParameters:
    """How flow becomes a score. The defaults sit on plateaus (docs/method.md), not on peaks.

    Args:
        size: flow is computed on frames of about size x size pixels, at the clip's aspect.
        levels: of the flow's pyramid, the finest at full resolution. Fewer lose fast motion: see
            docs/method.md.
        noise: residual, in those pixels, that a perfectly still camera may leave.
        smoothing: standard deviation over which the residual is averaged as a vector, in
            multiples of ``size``: ripples of water cancel, a mover does not.
        saturation: residual, in units of the pair's typical one, that scores one half: one wild
            pair must not rule.
        centre: how much less a pixel at the border counts than one in the middle, 0 to 1.
    """

    size: int = 96
    levels: int = 3
    noise: float = 0.1
    smoothing: float = 0.05
    saturation: float = 3.0
    centre: float = 0.3

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for values that give no map."""
        if self.size < _MIN_SIDE or not 1 <= self.levels <= 3:
            raise ValueError(
                f"size must be at least {_MIN_SIDE} and levels 1..3, "
                f"got {self.size} and {self.levels}"
            )
        if self.noise <= 0 or self.saturation <= 0 or self.smoothing < 0:
            raise ValueError(
                "noise and saturation must be above 0 and smoothing at least 0, got"
                f" {self.noise}, {self.saturation} and {self.smoothing}"
            )
        if not 0 <= self.centre <= 1:
            raise ValueError(f"centre must lie in 0..1, got {self.centre}")


def map_frames(
    method: str,
    frames_LHWC: np.ndarray,
    *,
    every: int,
    height: int,
    width: int,
    parameters: FlowParameters = FlowParameters(),
) -> UInt8[np.ndarray, "g mh mw"]:
    """Return the foreground map of every ``every``-th frame by the method a store names, ``height``
    x ``width``, on one thread.

    0..255 on a scale that is the same for all frames, so that the mean of a clip's maps is the
    clip's. A single frame has no motion: its map is 0. ``paper`` and ``difference`` are those of
    `fame.foreground`, computed at the size of the map, one for each 16 frames; ``none`` is all 0.
    Raise ``ValueError`` for an unknown method or a bad shape or dtype.
    """
    _check(frames_LHWC, height, width)
    if method not in get_args(Method):
        raise ValueError(f"method must be flow, paper, seed or none, got {method!r}")
    places, last = range(0, len(frames_LHWC), every), len(frames_LHWC) - 1
    if method == "none" or last == 0:
        return np.zeros((len(places), height, width), np.uint8)
    if method == "flow":
        # The last frame has no next one and takes the pair before it: 5 frames at every=2 have maps
        # at 0, 2, 4 of the pairs 0-1, 2-3, 3-4.
        pairs = [min(place, last - 1) for place in places]
        return flow_maps(frames_LHWC, pairs, height=height, width=width, parameters=parameters)
    # Of 40 frames, those from 0 on share the map of frames 0-15, those from 16 on that of 16-31,
    # and those from 32 on that of the last 16 frames, 24-39.
    length = min(_BLOCK, last + 1)
    firsts = [min(place // length * length, last + 1 - length) for place in places]
    return _library_maps(method, frames_LHWC, firsts, length=length, height=height, width=width)


def map_clip(
    method: str,
    frames_THWC: np.ndarray,
    *,
    height: int,
    width: int,
    every: int = 2,
    parameters: FlowParameters = FlowParameters(),
) -> UInt8[np.ndarray, "mh mw"]:
    """Return the foreground map of one clip, as a store of its frames gives it. Raise as
    :func:`map_frames`, and for fewer than 2 frames.
    """
    _check(frames_THWC, height, width, least=2)
    map_Ghw = map_frames(
        method, frames_THWC, every=every, height=height, width=width, parameters=parameters
    )
    # One map for each frame: maps 0 1 2 of 5 frames at every=2 become 0 0 1 1 2.
    return mean_map(map_Ghw.repeat(every, axis=0)[: len(frames_THWC)])


def flow_score(
    frames_THWC: np.ndarray,
    *,
    height: int,
    width: int,
    every: int = 2,
    parameters: FlowParameters = FlowParameters(),
) -> UInt8[np.ndarray, "mh mw"]:
    """Return the optical flow of a clip that the camera's motion does not explain, the mean over
    every ``every``-th pair of neighbouring frames; 0..255 in each clip.

    All 0 where nothing moves on its own. Raise ``ValueError`` for a bad shape or dtype.
    """
    return map_clip(
        "flow", frames_THWC, height=height, width=width, every=every, parameters=parameters
    )


def flow_maps(
    frames_LHWC: UInt8[np.ndarray, "l h w 3"],
    firsts: Sequence[int],
    *,
    height: int,
    width: int,
    parameters: FlowParameters = FlowParameters(),
) -> UInt8[np.ndarray, "p mh mw"]:
    """Return the optical flow that the camera's motion does not explain, of the pair of neighbours
    from each of ``firsts`` on; 255 is more than there can be.

    All 0 where nothing moves. The same bytes for the same frames on one machine, whatever the
    number of threads.
    """
    with _one_thread():
        unexplained_Pab = _unexplained(_flow(frames_LHWC, firsts, parameters), parameters)
        # From 0 to 1, half at ``saturation``: one wild pair cannot dominate the mean of a clip.
        score_Pab = unexplained_Pab / (unexplained_Pab + parameters.saturation)
        score_Pab *= 1 - parameters.centre * _off_centre(*score_Pab.shape[1:]) ** 2
        maps = [
            cv2.resize(_blur(score_ab), (width, height), interpolation=cv2.INTER_AREA)
            for score_ab in score_Pab
        ]
        # 17 steps of 15 reach 255.
        return np.rint(np.stack(maps) * (255 / _ROUNDED)).astype(np.uint8) * np.uint8(_ROUNDED)


def _check(frames_LHWC: np.ndarray, height: int, width: int, *, least: int = 1) -> None:
    dtype, shape = frames_LHWC.dtype, frames_LHWC.shape
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape or shape[0] < least:
        raise ValueError(
            f"frames must be uint8 [T, H, W, 3] with T >= {least}, got {dtype} {list(shape)}"
        )
    if height < 1 or width < 1:
        raise ValueError(f"a map has at least one pixel, got {height} x {width}")


@contextmanager
def _one_thread() -> Generator[None]:
    """Limit OpenCV to one thread within this context: shards are the unit of parallelism."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _flow(
    frames_LHWC: np.ndarray, firsts: Sequence[int], parameters: FlowParameters
) -> Float32[np.ndarray, "p a b 2"]:
    """Return the flow of each pair on small frames."""
    engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    # The presets start at a quarter of the resolution and pick the levels from the width: at 112
    # pixels just one is left, at 28 pixels, and anything fast is lost.
    engine.setFinestScale(0)
    engine.setCoarsestScale(parameters.levels - 1)
    engine.setPatchSize(_PATCH)
    engine.setPatchStride(_PATCH_STEP)
    engine.setGradientDescentIterations(12)
    engine.setVariationalRefinementIterations(3)
    # A frame that two pairs share is shrunk once.
    shown = sorted({t for first in firsts for t in (first, first + 1)})
    small = {t: _small_grey(frames_LHWC[t], parameters.size) for t in shown}
    nothing = np.zeros((*small[shown[0]].shape, 2), np.float32)
    # The third argument is the first guess, and the result is written into it: hence the copy.
    return np.stack([engine.calc(small[t], small[t + 1], nothing.copy()) for t in firsts])


def _small_grey(frame_HWC: np.ndarray, size: int) -> UInt8[np.ndarray, "a b"]:
    height, width = frame_HWC.shape[:2]
    # A frame of 340 x 256 pixels has 295 x 295 in area: at size 96 it becomes 111 x 83.
    scale = size / np.sqrt(height * width)
    shape = max(_MIN_SIDE, round(width * scale)), max(_MIN_SIDE, round(height * scale))
    return cv2.resize(
        cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY), shape, interpolation=cv2.INTER_AREA
    )


def _unexplained(flow_Pab2: np.ndarray, parameters: FlowParameters) -> Float32[np.ndarray, "p a b"]:
    """Return the length of the flow that the camera leaves over, in units of what it typically
    leaves in that pair.
    """
    pairs, rows, columns, _ = flow_Pab2.shape
    y_a, x_b = (
        np.linspace(-1, 1, rows, dtype=np.float32),
        np.linspace(-1, 1, columns, dtype=np.float32),
    )
    # The camera moves a pixel by p + q y + r x + s x y in each direction. p is a pan, q and r are
    # zoom and turn, s is a little perspective.
    terms = np.broadcast_arrays(np.float32(1), y_a[:, None], x_b, y_a[:, None] * x_b)
    term_ab4 = np.stack(terms, axis=-1)
    # Rows and columns 3, 9, 15, ...
    thin = np.s_[_FIT_STEP // 2 :: _FIT_STEP, _FIT_STEP // 2 :: _FIT_STEP]
    camera_P42, typical_P = _fit_camera(
        flow_Pab2[(slice(None), *thin)].reshape(pairs, -1, 2),
        term_ab4[thin].reshape(-1, 4),
        trust_N=(0.01 + _off_centre(rows, columns)[thin] ** 3).ravel(),
    )
    left_Pab2 = flow_Pab2 - (term_ab4.reshape(-1, 4) @ camera_P42).reshape(flow_Pab2.shape)
    if sigma := parameters.smoothing * parameters.size:
        left_Pab2 = np.stack([cv2.GaussianBlur(left, (0, 0), sigma) for left in left_Pab2])
    left_Pab = np.linalg.norm(left_Pab2, axis=-1)
    return left_Pab / (typical_P + np.float32(parameters.noise))[:, None, None]


def _fit_camera(
    flow_PN2: np.ndarray, term_N4: np.ndarray, *, trust_N: np.ndarray
) -> tuple[Float32[np.ndarray, "p 4 2"], Float32[np.ndarray, "p"]]:
    """Return the bilinear motion of the camera for each pair, by least squares with Geman-McClure
    weights, and the median residual.

    ``trust_N`` weighs every round: people film what moves in the middle, so the border shows more
    of the camera's motion, most of all where a mover fills half of the frame.
    """
    weight_PN = np.broadcast_to(trust_N, flow_PN2.shape[:2])
    camera_P42, left_PN = _fit_weighted(flow_PN2, term_N4, weight_PN)
    for _ in range(_FIT_ROUNDS - 1):
        # A residual like the typical one counts a quarter, one of three times that a hundredth.
        weight_PN = trust_N / (1 + (left_PN / _typical(left_PN)[:, None]) ** 2) ** 2
        camera_P42, left_PN = _fit_weighted(flow_PN2, term_N4, weight_PN)
    return camera_P42, _typical(left_PN)


def _fit_weighted(
    flow_PN2: np.ndarray, term_N4: np.ndarray, weight_PN: np.ndarray
) -> tuple[Float32[np.ndarray, "p 4 2"], Float32[np.ndarray, "p n"]]:
    """Return the motion, and what it leaves over at each pixel."""
    weighted_PN4 = term_N4 * weight_PN[..., None]
    # Weighted normal equations, (X' W X) camera = X' W flow. The 1e-5 keeps them solvable.
    normal_P44 = term_N4.T @ weighted_PN4 + 1e-5 * np.eye(4, dtype=np.float32)
    normal_P44[:, 3, 3] += _STIFFNESS * weight_PN.sum(1)
    camera_P42 = np.linalg.solve(normal_P44, weighted_PN4.transpose(0, 2, 1) @ flow_PN2)
    return camera_P42, np.linalg.norm(flow_PN2 - term_N4 @ camera_P42, axis=-1)


def _typical(left_PN: np.ndarray) -> Float32[np.ndarray, "p"]:
    # The 0.01 keeps a pair that the camera explains fully from a division by 0.
    return np.median(left_PN, axis=1) + np.float32(0.01)


def _off_centre(rows: int, columns: int) -> Float32[np.ndarray, "a b"]:
    """Return the distance from the centre: 0 in the middle, 1 at the border."""
    y_a, x_b = (
        np.linspace(-1, 1, rows, dtype=np.float32),
        np.linspace(-1, 1, columns, dtype=np.float32),
    )
    return np.maximum(np.abs(y_a)[:, None], np.abs(x_b))


def _blur(score_ab: np.ndarray) -> np.ndarray:
    kernel = int(0.1 * min(score_ab.shape)) // 2 * 2 + 1  # the paper's: a tenth of the frame
    return cv2.GaussianBlur(score_ab, (kernel, kernel), kernel / 3)


def _library_maps(
    method: str,
    frames_LHWC: np.ndarray,
    firsts: Sequence[int],
    *,
    length: int,
    height: int,
    width: int,
) -> UInt8[np.ndarray, "g mh mw"]:
    """Return the library's score of the ``length`` frames from each of ``firsts`` on, computed once
    for those that are equal.
    """
    import torch  # seconds to import, and the default method needs none of it

    from fame.foreground import motion_score, paper_score

    with _one_thread():
        small = [
            cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
            for frame in frames_LHWC
        ]
    small_CLhw = torch.from_numpy(np.stack(small)).permute(3, 0, 1, 2).float() / 255
    score = paper_score if method == "paper" else motion_score
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        maps = {t: score(small_CLhw[None, :, t : t + length])[0] for t in set(firsts)}
    finally:
        torch.set_num_threads(threads)
    return torch.stack([maps[t] for t in firsts]).mul(255).round().to(torch.uint8).numpy()
