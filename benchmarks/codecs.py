"""What each codec of the clip store costs and keeps: bytes per clip, PSNR, clips encoded and
decoded per CPU second.

Run: ``python -m benchmarks.codecs``; it reads ``../shared/data`` and writes ``results/codecs.json``
and ``codecs.md``. Clips are 16 frames at stride 2, resized to cover the frame and cropped. PSNR is
against the resized frames, over all clips of the footage. A chunk's checksum is counted in bytes
and in time.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from benchmarks.harness import FOOTAGE as DATA
from benchmarks.harness import in_turns, markdown, medians, write
from fame.clipstore import StoreHeader, StoreSpec
from fame.clipstore.chunk import decode_chunk, encode_chunk
from fame.clipstore.layout import Layout

LARGE, SMALL = (
    StoreSpec(height=256, width=340, foreground="none"),
    StoreSpec(height=128, width=170, foreground="none"),
)
FOOTAGE = {
    "DAVIS (moving camera, 427x240 JPEG frames)": ("davis/*/frames/00000.jpg", 10, LARGE),
    "exercise-typing (phone videos)": ("exercise-typing/*/*.mp4", 20, LARGE),
    "UCF101 (two original avi)": ("robustness/v_*.avi", 2, LARGE),
    "overhead-actions (h264, 128 px)": ("overhead-actions/*/*.mp4", 40, SMALL),
}
SPAN = 32  # source frames of a clip: 16 frames, every second one
VARIANTS = [("jpeg", 75), ("jpeg", 85), ("jpeg", 90), ("jpeg", 95), ("lz4", 90), ("zstd", 90)]


def frames_of(source: Path, spec: StoreSpec) -> np.ndarray | None:
    """Sixteen RGB frames from the middle of a video or of a folder of pictures, none where it is
    too short.
    """
    if source.suffix == ".jpg":
        frames = [cv2.imread(str(picture)) for picture in sorted(source.parent.iterdir())]
    else:
        capture, frames = cv2.VideoCapture(str(source)), []
        while (read := capture.read())[0]:
            frames.append(read[1])
    first = (len(frames) - SPAN) // 2
    if first < 0:
        return None
    chosen = frames[first : first + SPAN : 2]
    return np.stack([cover(frame, spec) for frame in chosen])


def cover(frame: np.ndarray, spec: StoreSpec) -> np.ndarray:
    scale = max(spec.height / frame.shape[0], spec.width / frame.shape[1])
    size = (
        max(spec.width, round(frame.shape[1] * scale)),
        max(spec.height, round(frame.shape[0] * scale)),
    )
    resized = cv2.resize(
        frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    top, left = (resized.shape[0] - spec.height) // 2, (resized.shape[1] - spec.width) // 2
    return cv2.cvtColor(
        resized[top : top + spec.height, left : left + spec.width], cv2.COLOR_BGR2RGB
    )


def clips_of(pattern: str, count: int, spec: StoreSpec) -> list[np.ndarray]:
    """Clips of ``count`` sources spread over those that match."""
    sources = sorted(DATA.glob(pattern))
    chosen = [
        sources[i] for i in np.linspace(0, len(sources) - 1, min(count, len(sources))).astype(int)
    ]
    return [clip for source in chosen if (clip := frames_of(source, spec)) is not None]


def rows() -> Iterator[dict[str, object]]:
    for name, (pattern, count, spec) in FOOTAGE.items():
        clips = clips_of(pattern, count, spec)
        for codec, quality in VARIANTS:
            layout = Layout(
                header=StoreHeader(
                    dataset="",
                    split="",
                    class_names=(),
                    spec=dataclasses.replace(spec, codec=codec, quality=quality),
                ),
                num_videos=1,
                videos_sha256="",
            )
            yield {
                "footage": name,
                "clips": len(clips),
                "size": f"16x{spec.height}x{spec.width}",
            } | measured(layout, clips)


def measured(layout: Layout, clips: list[np.ndarray]) -> dict[str, object]:
    spec, frames = layout.header.spec, [frame for clip in clips for frame in clip]

    def encode(_: int = 0) -> list[np.ndarray]:
        return [np.frombuffer(encode_chunk(layout, "frames", f), np.uint8) for f in frames]

    chunks = encode()

    def decode(_: int = 0) -> list[np.ndarray]:
        return [decode_chunk(layout, "frames", chunk) for chunk in chunks]

    decoded = decode()
    seconds = medians(in_turns({"encode": encode, "decode": decode}, rounds=3))
    error = np.mean(
        [np.mean((a.astype(np.float32) - b) ** 2) for a, b in zip(frames, decoded, strict=True)]
    )
    size = 16 * float(np.mean([len(chunk) for chunk in chunks]))
    return {
        "codec": f"jpeg q{spec.quality}" if spec.codec == "jpeg" else spec.codec,
        "bytes_per_clip": round(size),
        "share_of_raw": round(size / (16 * spec.frame_bytes), 3),
        "psnr_db": round(float(10 * np.log10(255**2 / error)), 1) if error else None,
        "encoded_per_cpu_s": round(len(clips) / seconds["encode"], 1),
        "decoded_per_cpu_s": round(len(clips) / seconds["decode"], 1),
    }


def main() -> None:
    cv2.setNumThreads(1)
    results = list(rows())
    heads = (column.replace("_", " ") for column in results[0])
    cells = (["lossless" if v is None else v for v in row.values()] for row in results)
    write("codecs", {"codecs": results}, table=markdown(heads, cells))


if __name__ == "__main__":
    main()
