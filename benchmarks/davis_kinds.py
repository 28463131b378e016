"""Flow maps on what DAVIS's ten sequences do not show: windows of them made harder, kind by kind.

    python -m benchmarks.davis_kinds        # prints the table, writes results/davis_kinds.{json,md}

The ten sequences are what the flow map was chosen on, and it is near its ceiling there. So every
window is also shown as footage that defeats a map: ``zoom`` lets the object fill most of the frame,
``corner`` puts it away from the middle, ``fast`` takes every 4th frame (11 of them), ``blur``
averages three frames and smears them, ``water`` makes the lower half of the background ripple.
The row "flow of the first release" was measured once with the code of commit ffc6bef.
"held out" measures each sequence with the settings that are best on the nine others, over all
kinds. Figures are those of ``davis.py``; a window whose truth fills the frame is left out.

Shapes: T frames, H W pixels, S = 224 the side of a frame.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import cv2
import numpy as np

from benchmarks.davis import DAVIS, MAP, SIZE, Window, measure, windows, with_object
from benchmarks.harness import markdown, read, write
from fame.flow import FlowParameters, flow_score
from fame.randomness import numpy_generator

Table = dict[str, dict[str, dict[str, float]]]  # kind -> sequence -> figure -> value
FIGURES = ("recall@.5", "auc", "best IoU")
FIRST = "flow of the first release"
GRID = [
    {"saturation": saturation, "smoothing": smoothing, "centre": centre}
    for saturation in (1.5, 3.0, 6.0)
    for smoothing in (0.0, 0.03, 0.05, 0.08)
    for centre in (0.2, 0.3, 0.4)
]


def zoom(clip: Window) -> Window:
    """Crop to the object and an eighth around it."""
    top, bottom, left, right = _box(clip)
    side = min(SIZE, round(1.15 * max(bottom - top, right - left)))
    return _crop(clip, (top + bottom - side) // 2, (left + right - side) // 2, side)


def corner(clip: Window, number: int) -> Window:
    """Crop two thirds, the object's middle a quarter of the crop away from two of its borders."""
    top, bottom, left, right = _box(clip)
    side = round(0.65 * SIZE)
    down, across = ((0.25, 0.75)[number % 2], (0.25, 0.75)[number // 2 % 2])
    return _crop(
        clip,
        round((top + bottom) / 2 - down * side),
        round((left + right) / 2 - across * side),
        side,
    )


def blur(clip: Window) -> Window:
    """Mean of three frames, smeared along the rows, as a long exposure is."""
    frames = clip.frames_THWC
    shown = np.pad(frames, ((1, 1), (0, 0), (0, 0), (0, 0)), mode="edge").astype(np.float32)
    mean_THWC = (shown[:-2] + 2 * shown[1:-1] + shown[2:]) / 4
    return replace(
        clip, frames_THWC=np.stack([cv2.blur(f, (5, 1)) for f in mean_THWC]).astype(np.uint8)
    )


def water(clip: Window, number: int) -> Window:
    """Five travelling waves, up to 2 pixels high each, move the lower half of the background."""
    rng = numpy_generator(0, 0, number, "davis/water")
    y_HW, x_HW = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    waves = [
        (*rng.uniform((0, 14, 4, 0, 0.8), (2 * np.pi, 40, 9, 6, 2)),) for _ in range(5)
    ]  # direction, length in pixels, period in frames, phase, height in pixels
    frames = []
    for t, (frame, mask) in enumerate(zip(clip.frames_THWC, clip.truth_THW, strict=True)):
        x_shift, y_shift = np.zeros_like(x_HW), np.zeros_like(y_HW)
        for angle, length, period, phase, height in waves:
            along = x_HW * np.cos(angle) + y_HW * np.sin(angle)
            shift = height * np.sin(2 * np.pi * (along / length + t / period) + phase)
            x_shift += (shift * np.cos(angle)).astype(np.float32)
            y_shift += (shift * np.sin(angle)).astype(np.float32)
        wet = (~mask & (y_HW > SIZE / 2)).astype(np.float32)
        wet = cv2.GaussianBlur(wet, (0, 0), 3)
        frames.append(
            cv2.remap(
                frame,
                x_HW + x_shift * wet,
                y_HW + y_shift * wet,
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REFLECT,
            )
        )
    return replace(clip, frames_THWC=np.stack(frames))


def cases() -> Iterator[tuple[str, Window]]:
    """Every window as it is and in every kind; those without object or background left out."""
    clips, _ = with_object(windows(DAVIS))
    for number, clip in enumerate(clips):
        yield "as it is", clip
        yield "zoom", zoom(clip)
        yield "corner", corner(clip, number)
        yield "blur", blur(clip)
        yield "water", water(clip, number)
    for clip in with_object(windows(DAVIS, frames=11, stride=4))[0]:
        yield "fast", clip


def table(clips: list[tuple[str, Window]], score: Callable[[np.ndarray], np.ndarray]) -> Table:
    """Figures of every kind and sequence, each the mean of its windows."""
    rows: dict[str, dict[str, list[dict[str, float]]]] = {}
    for kind, clip in clips:
        if 0 < clip.truth_HW.mean() < 1:
            figures = measure(score(clip.frames_THWC), clip.truth_HW)
            rows.setdefault(kind, {}).setdefault(clip.sequence, []).append(figures)
    return {
        kind: {
            name: {key: float(np.mean([row[key] for row in each])) for key in FIGURES}
            for name, each in sequences.items()
        }
        for kind, sequences in rows.items()
    }


def held_out(tables: list[Table]) -> Table:
    """Each sequence from the table that is best, in recall + AUC over all kinds, on the others."""
    names = sorted(tables[0]["as it is"])

    def without(name: str, made: Table) -> float:
        rest = (row for kind in made.values() for other, row in kind.items() if other != name)
        return float(np.mean([row["recall@.5"] + row["auc"] for row in rest]))

    best = {name: max(tables, key=lambda made: without(name, made)) for name in names}
    return {
        kind: {name: best[name][kind][name] for name in sequences}
        for kind, sequences in tables[0].items()
    }


def means(made: Table) -> dict[str, dict[str, float]]:
    """Kind -> figure, the mean over sequences."""
    return {
        kind: {key: float(np.mean([row[key] for row in rows.values()])) for key in FIGURES}
        for kind, rows in made.items()
    }


def _box(clip: Window) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(clip.truth_HW)
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1


def _crop(clip: Window, top: int, left: int, side: int) -> Window:
    top, left = (int(np.clip(start, 0, SIZE - side)) for start in (top, left))
    cut = (slice(None), slice(top, top + side), slice(left, left + side))
    frames = [
        cv2.resize(f, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) for f in clip.frames_THWC[cut]
    ]
    masks = [
        cv2.resize(m.astype(np.uint8), (SIZE, SIZE), interpolation=cv2.INTER_NEAREST) > 0
        for m in clip.truth_THW[cut]
    ]
    return replace(clip, frames_THWC=np.stack(frames), truth_THW=np.stack(masks))


def main() -> None:
    cv2.setNumThreads(1)
    clips = list(cases())

    def flow(**settings: float) -> Table:
        parameters = FlowParameters(**settings)
        return table(
            clips, lambda frames: flow_score(frames, height=MAP, width=MAP, parameters=parameters)
        )

    rows = {
        FIRST: read("davis_kinds")[FIRST],
        "flow": means(flow()),
        "flow, residual not smoothed": means(flow(smoothing=0.0)),
        "flow, no centre weight": means(flow(centre=0.0)),
        "flow, held out": means(held_out([flow(**settings) for settings in GRID])),
    }
    kinds = list(rows["flow"])
    cells = (
        [name, *(" / ".join(f"{row[kind][key]:.3f}" for key in FIGURES) for kind in kinds)]
        for name, row in rows.items()
    )
    text = "Recall at beta 0.5 / AUC / best IoU, means over ten sequences.\n\n"
    write("davis_kinds", rows, table=text + markdown(["map", *kinds], cells))


if __name__ == "__main__":
    main()
