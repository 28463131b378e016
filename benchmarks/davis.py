"""Quality and cost of every foreground map on real footage with moving cameras (DAVIS 2016,
`../shared/data/davis`).

    python -m benchmarks.davis                 # prints the table, writes results/davis.json and results/davis.md
    python -m benchmarks.davis --sheet s.png   # also draws six clips with their paper and flow maps (not to be shared)

Protocol: windows of 16 frames at stride 2, one every 16 source frames; frames resized to 224x224;
the truth is the object in at least half of the frames; pixels are ranked by the map, resized to
224x224. Figures are means over windows, then over sequences. Costs are medians on one core, with
those of decoding and JPEG-encoding the same clip.

Shapes: T frames, H W pixels (S, S here), C = 3 RGB.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.harness import FOOTAGE, in_turns, markdown, medians, options, write
from fame.flow import FlowParameters, flow_score, map_clip
from fame.foreground import gauss_score, motion_score, paper_score, top_fraction
from fame.preview import dim, enlarge, heat, tile
from preprocess.decode import decode
from preprocess.selection import Sampling

FRAMES, STRIDE, STEP, SIZE, MAP = 16, 2, 16, 224, 56
DAVIS = FOOTAGE / "davis"
Method = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Window:
    """16 frames of a sequence and where the object is in each."""

    sequence: str
    frames_THWC: np.ndarray
    truth_THW: np.ndarray

    @property
    def truth_HW(self) -> np.ndarray:  # noqa: N802 (the name states the shape)
        """Where the object is in at least half of the frames."""
        return self.truth_THW.mean(0) >= 0.5


def with_object(clips: Iterable[Window]) -> tuple[list[Window], int]:
    """The windows that show the object anywhere for half of their time, and how many do not."""
    all_clips = list(clips)
    kept = [clip for clip in all_clips if clip.truth_HW.any()]
    return kept, len(all_clips) - len(kept)


def windows(
    root: Path = DAVIS,
    *,
    height: int = SIZE,
    width: int = SIZE,
    frames: int = FRAMES,
    stride: int = STRIDE,
) -> Iterator[Window]:
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        pictures, masks = (
            sorted((folder / "frames").glob("*.jpg")),
            sorted((folder / "masks").glob("*.png")),
        )
        for start in range(0, len(pictures) - (frames - 1) * stride, STEP):
            chosen = slice(start, start + frames * stride, stride)
            images = [
                cv2.resize(_read(path), (width, height), interpolation=cv2.INTER_AREA)
                for path in pictures[chosen]
            ]
            truth_THW = [
                cv2.resize(
                    cv2.imread(str(path), 0), (width, height), interpolation=cv2.INTER_NEAREST
                )
                > 127
                for path in masks[chosen]
            ]
            yield Window(
                sequence=folder.name,
                frames_THWC=np.stack(images),
                truth_THW=np.stack(truth_THW),
            )


def _read(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def measure(score_hw: np.ndarray, truth_HW: np.ndarray) -> dict[str, float]:
    """Recall of the top half and 30 %, area under the ROC curve, and the best IoU over all
    thresholds.
    """
    height, width = truth_HW.shape
    score_HW = cv2.resize(
        score_hw.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR
    )
    order = np.argsort(-score_HW.ravel(), kind="stable")
    hits = np.cumsum(truth_HW.ravel()[order])
    pixels, positives = hits.size, int(hits[-1])
    union = positives + np.arange(1, pixels + 1) - hits
    ranks = np.empty(pixels)
    ranks[np.argsort(score_HW.ravel(), kind="stable")] = np.arange(1, pixels + 1)
    wins = ranks[truth_HW.ravel()].sum() - positives * (positives + 1) / 2
    return {
        "recall@.5": hits[pixels // 2 - 1] / positives,
        "recall@.3": hits[int(0.3 * pixels) - 1] / positives,
        "auc": wins / (positives * (pixels - positives)),
        "best IoU": float((hits / union).max()),
    }


def paper(frames_THWC: np.ndarray, *, hue: str) -> np.ndarray:
    return paper_score(_clip(frames_THWC), hue=hue)[0].numpy()


def seed(frames_THWC: np.ndarray) -> np.ndarray:
    return motion_score(_clip(frames_THWC))[0].numpy()


def gauss(frames_THWC: np.ndarray) -> np.ndarray:
    return gauss_score(_clip(frames_THWC))[0].numpy()


def _clip(frames_THWC: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames_THWC).permute(3, 0, 1, 2)[None].float() / 255


METHODS: dict[str, Method] = {
    "paper, reference hue": lambda frames: paper(frames, hue="reference"),
    "paper, correct hue": lambda frames: paper(frames, hue="correct"),
    f"paper at {MAP}x{MAP}": lambda frames: map_clip("paper", frames, height=MAP, width=MAP),
    "seed (frame difference)": seed,
    f"difference at {MAP}x{MAP}": lambda frames: map_clip(
        "difference", frames, height=MAP, width=MAP
    ),
    "gauss (centre prior)": gauss,
    "flow": lambda frames: map_clip("flow", frames, height=MAP, width=MAP),
    "flow, no centre weight": lambda frames: _flow(frames, centre=0.0),
    "flow, residual not smoothed": lambda frames: _flow(frames, smoothing=0.0),
    "flow, 80-pixel frames": lambda frames: _flow(frames, size=80),
    "flow, 112-pixel frames": lambda frames: _flow(frames, size=112),
    "flow, every 4th frame": lambda frames: _flow(frames, every=4),
    "flow, every frame": lambda frames: _flow(frames, every=1),
    "flow, two levels": lambda frames: _flow(frames, levels=2),
    "flow, one level": lambda frames: _flow(frames, levels=1),
}


def _flow(frames_THWC: np.ndarray, *, every: int = 2, **parameters: float) -> np.ndarray:
    return flow_score(
        frames_THWC, height=MAP, width=MAP, every=every, parameters=FlowParameters(**parameters)
    )


def evaluate(method: Method, clips: list[Window]) -> dict[str, dict[str, float]]:
    """Measures of every sequence, each the mean of its windows."""
    by_sequence: dict[str, list[dict[str, float]]] = {}
    for clip in clips:
        by_sequence.setdefault(clip.sequence, []).append(
            measure(method(clip.frames_THWC), clip.truth_HW)
        )
    return {
        name: {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        for name, rows in by_sequence.items()
    }


def mean_over(sequences: dict[str, dict[str, float]]) -> dict[str, float]:
    rows = list(sequences.values())
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def held_out(clips: list[Window]) -> dict[str, float]:
    """Each sequence measured with the settings that are best (recall + AUC) on the nine others,
    then the mean.
    """
    grid = [
        {"size": size, "saturation": saturation, "smoothing": smoothing}
        for size in (80, 96, 112)
        for saturation in (1.5, 3.0, 6.0)
        for smoothing in (0.0, 0.05, 0.08)
    ]
    tables = [
        evaluate(lambda frames, p=parameters: _flow(frames, **p), clips) for parameters in grid
    ]

    def without(name: str, table: dict[str, dict[str, float]]) -> float:
        rest = mean_over({other: row for other, row in table.items() if other != name})
        return rest["recall@.5"] + rest["auc"]

    return mean_over(
        {name: max(tables, key=lambda table: without(name, table))[name] for name in tables[0]}
    )


def costs(repeats: int = 5) -> dict[str, float]:
    """CPU ms for a clip on one core, medians over sequences and turns; decoding is the offline
    stage's own.

    The first 31 frames of each sequence as MPEG-4 at DAVIS's own 427x240, brought to the store's
    256x340.
    """
    sampling = Sampling(
        slots=FRAMES,
        keep=STRIDE,
        fps=None,
        stretch=FRAMES,
        aligned=1,
        height=256,
        width=340,
        geometry="cover",
    )
    frames_THW3 = np.empty(sampling.shape, np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        videos = [
            _write_video(Path(folder) / f"{path.name}.mp4", path)
            for path in sorted(DAVIS.iterdir())
        ]
        quality = [cv2.IMWRITE_JPEG_QUALITY, 90]
        steps = {  # a round for each video, which is decoded first
            "decode": lambda n: decode(str(videos[n % len(videos)]), sampling, frames_THW3),
            "JPEG encode": lambda _: [cv2.imencode(".jpg", f, quality) for f in frames_THW3],
            **{
                f"{name} map": lambda _, name=name: map_clip(name, frames_THW3, height=64, width=85)
                for name in ("flow", "paper", "difference")
            },
        }
        seconds = in_turns(steps, rounds=len(videos) * repeats)
    return {name: 1e3 * median for name, median in medians(seconds).items()}


def _write_video(path: Path, sequence: Path) -> Path:
    """MPEG-4: what every OpenCV build can write, and cheaper to decode than most of what a dataset
    holds.
    """
    frames = [
        cv2.imread(str(image))
        for image in sorted((sequence / "frames").glob("*.jpg"))[: 2 * FRAMES - 1]
    ]
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, frames[0].shape[1::-1]
    )
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def draw(clips: list[Window], path: Path) -> None:
    """Six clips: middle frame, truth, and heat and mask at beta 0.5 of the paper's and the flow
    map.
    """
    first = list({clip.sequence: clip for clip in reversed(clips)}.values())[::-1]
    rows = []
    for clip in first[:: max(1, len(first) // 6)][:6]:
        image = clip.frames_THWC[FRAMES // 2]
        scores = [
            enlarge(map_clip(method, clip.frames_THWC, height=MAP, width=MAP), SIZE, SIZE)
            for method in ("paper", "flow")
        ]
        masks = top_fraction(torch.from_numpy(np.stack(scores)), 0.5).numpy()
        rows.append(
            [
                image,
                dim(image, clip.truth_HW),
                *(
                    p
                    for s, m in zip(scores, masks, strict=True)
                    for p in (heat(image, s), dim(image, m))
                ),
            ]
        )
    captions = ("frame", "truth", "paper map", "paper, beta 0.5", "flow map", "flow, beta 0.5")
    cv2.imwrite(str(path), cv2.cvtColor(tile(rows, captions), cv2.COLOR_RGB2BGR))


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--sheet", type=Path, help="draw six clips here and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    clips, without = with_object(windows())
    print(f"{len(clips)} windows; {without} without the object left out")
    if arguments.sheet:
        draw(clips, arguments.sheet)
        return
    tables = {name: evaluate(method, clips) for name, method in METHODS.items()}
    wide, _ = with_object(windows(height=256, width=340))
    tables["flow, at the store's 256x340"] = evaluate(
        lambda frames: map_clip("flow", frames, height=64, width=85), wide
    )
    rows = {name: mean_over(table) for name, table in tables.items()}
    rows["flow, settings chosen on the other nine"] = held_out(clips)
    cost = costs()
    ratio = cost["flow map"] / (cost["decode"] + cost["JPEG encode"])
    result = {
        "windows": len(clips),
        "windows without the object, left out": without,
        "mean over sequences": rows,
        "flow by sequence": tables["flow"],
        "ms per clip at 256x340": cost,
    }
    result["flow map / (decode + JPEG encode)"] = ratio
    write("davis", result, table=table_text(rows, cost, ratio))


def table_text(rows: dict[str, dict[str, float]], cost: dict[str, float], ratio: float) -> str:
    keys = list(next(iter(rows.values())))
    maps = ([name, *(f"{row[key]:.3f}" for key in keys)] for name, row in rows.items())
    costs = ([name, f"{value:.1f}"] for name, value in cost.items())
    return "\n".join(
        [
            markdown(["map", *keys], maps),
            markdown(["step, one clip at 256x340", "CPU ms"], costs),
            f"flow map / (decode + JPEG encode) = {ratio:.2f}\n",
        ]
    )


if __name__ == "__main__":
    main()
