"""Pictures of what merging does: frames, the soft map of each as heat, the clip's map and mask at
beta and the merged clip, one row a clip.

Shapes: N clips, T frames, H W height and width of the clips, h w of the maps, the last 3 RGB, P Q a
whole picture.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from fame.files import whole
from fame.foreground import top_fraction
from fame.maps import mean_map

_GAP, _CAPTION, _SECOND_LINE = 6, 24, 16  # pixels
_NARROW = 112  # panels below this width are enlarged by a whole factor
_WIDE = 200  # panels from this width on are reduced by a whole factor where a row has many
_KEY = 160  # pixels along the bar of colours
_LABEL_FONT = ImageFont.load_default(14)
_PAPER, _INK = (255, 255, 255), (20, 20, 20)
_FRAME_MILLISECONDS = 120
_HEAT = np.array(
    [[0, 0, 0], [120, 0, 90], [230, 50, 30], [255, 170, 0], [255, 255, 160]], np.float32
)  # at 0, 1/4, ... 1


def sheet(
    clips_NTHW3: UInt8[np.ndarray, "n t h w 3"],
    maps_NThw: UInt8[np.ndarray, "n t mh mw"],
    *,
    beta: float,
    sources_N: Integer[np.ndarray, " n"],
    frames: Sequence[int] | None = None,
) -> UInt8[np.ndarray, "p q 3"]:
    """Return one picture of all clips: some frames (default: first, middle and last), the map of
    each, and what the clip as a whole is cut by and becomes; clip i is merged over clip
    ``sources_N[i]``.

    Raise ``ValueError`` for a beta outside (0, 1], a frame or source that is not there, or no clips
    at all.
    """
    if frames is None:
        last = clips_NTHW3.shape[1] - 1
        frames = sorted({0, (last + 1) // 2, last})
    return _Panels(clips_NTHW3, maps_NThw, beta, sources_N).draw(frames)


def write_png(
    path: Path,
    clips_NTHW3: UInt8[np.ndarray, "n t h w 3"],
    maps_NThw: UInt8[np.ndarray, "n t mh mw"],
    *,
    beta: float,
    sources_N: Integer[np.ndarray, " n"],
    frames: Sequence[int] | None = None,
) -> None:
    """Write the :func:`sheet` of some frames. Raise as it does, and ``OSError``."""
    drawn = sheet(clips_NTHW3, maps_NThw, beta=beta, sources_N=sources_N, frames=frames)
    picture = Image.fromarray(drawn)
    with whole(path) as partial:
        picture.save(partial, "PNG")


def write_gif(
    path: Path,
    clips_NTHW3: UInt8[np.ndarray, "n t h w 3"],
    maps_NThw: UInt8[np.ndarray, "n t mh mw"],
    *,
    beta: float,
    sources_N: Integer[np.ndarray, " n"],
) -> None:
    """Write the :func:`sheet` of every frame as an endless animation. Raise as it does, and
    ``OSError``.
    """
    panels = _Panels(clips_NTHW3, maps_NThw, beta, sources_N)
    animate(path, [panels.draw([t]) for t in range(clips_NTHW3.shape[1])])


def animate(path: Path, moments: Sequence[UInt8[np.ndarray, "p q 3"]]) -> None:
    """Write pictures of one size as an endless GIF. Raise ``OSError``."""
    pictures = [Image.fromarray(moment) for moment in moments]
    palette = pictures[len(pictures) // 2].quantize(
        256
    )  # one palette, so that still parts do not flicker
    frames = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    film: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "loop": 0}
    with whole(path) as partial:
        frames[0].save(partial, "GIF", duration=_FRAME_MILLISECONDS, **film)


class _Panels:
    """The masks and captions of the sheet, which are the same for all its frames."""

    def __init__(
        self, clips_NTHW3: np.ndarray, maps_NThw: np.ndarray, beta: float, sources_N: np.ndarray
    ) -> None:
        clips, frames, height, width, _ = clips_NTHW3.shape
        if clips == 0 or maps_NThw.shape[:2] != (clips, frames) or len(sources_N) != clips:
            raise ValueError(
                f"{clips} clips of {frames} frames, maps of {maps_NThw.shape[:2]} frames and "
                f"{len(sources_N)} sources: there must be as many"
            )
        if sources_N.min() < 0 or sources_N.max() >= clips:
            raise ValueError(f"sources must lie in 0..{clips - 1}, got {sources_N.tolist()}")
        self.clips_NTHW3, self.sources_N = clips_NTHW3, sources_N
        self.maps_NThw = maps_NThw
        self.scores = [enlarge(mean_map(map_Thw), height, width) for map_Thw in maps_NThw]
        self.masks_NHW = top_fraction(torch.as_tensor(np.stack(self.scores)), beta).numpy()
        self.mask_caption = f"mask, beta {beta:g}"

    def draw(self, frames: Sequence[int]) -> np.ndarray:
        """Return the sheet of these frames: of a single one without the clip's map."""
        last, several = self.clips_NTHW3.shape[1] - 1, len(frames) > 1
        for frame in frames:
            if not 0 <= frame <= last:
                raise ValueError(f"frame must lie in 0..{last}, got {frame}")
        rows = [self._row(clip, frames) for clip in range(len(self.clips_NTHW3))]
        captions = ["frame", "foreground map"]
        if several:
            captions = [text for t in frames for text in (f"frame {t + 1}", f"map {t + 1}")]
            captions.append("map of the clip")
        return tile(rows, [*captions, self.mask_caption, "merged clip"])

    def _row(self, clip: int, frames: Sequence[int]) -> list[np.ndarray]:
        """Return the panels of one clip: its frames with their maps, then mask and merged clip at
        the middle one.
        """
        clip_THW3, map_Thw = self.clips_NTHW3[clip], self.maps_NThw[clip]
        height, width = clip_THW3.shape[1:3]
        # The strongest motion of each clip is the brightest.
        strength, row = np.float32(255 / max(1, int(map_Thw.max()))), list[np.ndarray]()
        for t in frames:
            score_HW = enlarge(map_Thw[t], height, width) * strength
            row += [clip_THW3[t], heat(clip_THW3[t], score_HW)]
        middle = frames[len(frames) // 2]
        image_HW3, mask_HW = clip_THW3[middle], self.masks_NHW[clip]
        if len(frames) > 1:
            row.append(heat(image_HW3, self.scores[clip]))
        behind_HW3 = self.clips_NTHW3[self.sources_N[clip], middle]
        row += [dim(image_HW3, mask_HW), np.where(mask_HW[..., None], image_HW3, behind_HW3)]
        return [_reduced(panel) for panel in row] if len(frames) > 1 else row


def _reduced(panel_HW3: np.ndarray) -> np.ndarray:
    """Return a panel made smaller by a whole factor where many of its width are too wide."""
    factor = panel_HW3.shape[1] // _WIDE + 1
    return np.asarray(Image.fromarray(panel_HW3).reduce(factor))


def tile(
    rows: Sequence[Sequence[UInt8[np.ndarray, "h w 3"]]],
    captions: Sequence[str],
    *,
    labels: Sequence[str] = (),
    key: tuple[str, str] | None = None,
) -> UInt8[np.ndarray, "p q 3"]:
    """Return equal panels in rows and columns, a caption over each column; small panels are
    enlarged.

    Args:
        rows: the panels.
        captions: text over each column.
        labels: text to the left of each row, broken at its slashes.
        key: what both ends of a bar of :func:`heat`'s colours mean, which is drawn below.

    Raise ``ValueError`` for a ragged grid, or labels that are not as many as the rows.
    """
    _check_grid(rows, captions, labels)
    # Rounded up: panels of 48 pixels are enlarged 3 times, to 144.
    scale = -(-_NARROW // rows[0][0].shape[1])
    height, width = (scale * side for side in rows[0][0].shape[:2])
    captions, font = _fitted(captions, width)
    top = _CAPTION + (_SECOND_LINE if any("\n" in caption for caption in captions) else 0)
    broken = [label.replace("/", "/\n") for label in labels]
    words = [line for label in broken for line in label.splitlines()]
    edge = round(max(map(_LABEL_FONT.getlength, words), default=-2 * _GAP)) + 2 * _GAP
    size = (
        edge + _GAP + len(captions) * (width + _GAP),
        top + _GAP + len(rows) * (height + _GAP) + (_CAPTION if key else 0),
    )
    picture = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(picture)
    for column, caption in enumerate(captions):
        left = edge + _GAP + column * (width + _GAP)
        middle = (left + width / 2, top / 2 + 2)
        draw.multiline_text(middle, caption, fill=_INK, font=font, anchor="mm", align="center")
        for r, row in enumerate(rows):
            panel = row[column].repeat(scale, axis=0).repeat(scale, axis=1)
            picture.paste(Image.fromarray(panel), (left, top + r * (height + _GAP)))
    for r, label in enumerate(broken):
        middle_of_row = top + r * (height + _GAP) + height / 2
        draw.multiline_text((_GAP, middle_of_row), label, fill=_INK, font=_LABEL_FONT, anchor="lm")
    if key:
        _draw_key(picture, key, left=edge + _GAP)
    return np.asarray(picture)


def _check_grid(
    rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str], labels: Sequence[str]
) -> None:
    if not rows or any(len(row) != len(captions) for row in rows):
        raise ValueError(
            f"every row needs {len(captions)} panels, got {[len(row) for row in rows]}"
        )
    if labels and len(labels) != len(rows):
        raise ValueError(f"{len(rows)} rows need as many labels, got {len(labels)}")


def _draw_key(picture: Image.Image, key: tuple[str, str], *, left: int) -> None:
    """Draw the colours of :func:`heat` along the lower edge, over a middle grey, with both ends."""
    low, high = key
    shown = np.linspace(0, 1, _KEY, dtype=np.float32)[None].repeat(_CAPTION // 2, 0)
    bar = heat(np.full((*shown.shape, 3), 128, np.uint8), shown)
    draw, middle = ImageDraw.Draw(picture), picture.height - _CAPTION // 2
    start = left + round(_LABEL_FONT.getlength(low)) + _GAP
    draw.text((left, middle), low, fill=_INK, font=_LABEL_FONT, anchor="lm")
    picture.paste(Image.fromarray(bar), (start, middle - _CAPTION // 4))
    end = start + _KEY + _GAP
    draw.text((end, middle), high, fill=_INK, font=_LABEL_FONT, anchor="lm")


def enlarge(
    map_hw: UInt8[np.ndarray, "mh mw"], height: int, width: int
) -> Float32[np.ndarray, "h w"]:
    """Return a stored map at the size of its clip, in 0..1."""
    picture = Image.fromarray(map_hw.astype(np.float32)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    return np.asarray(picture) / np.float32(255)


def heat(
    image_HW3: UInt8[np.ndarray, "h w 3"], score_HW: Float32[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the score as heat (black, red, yellow) over the grey image."""
    position = np.linspace(0, 1, len(_HEAT))
    channels = [np.interp(score_HW, position, _HEAT[:, c]) for c in range(3)]
    colour_HW3 = np.stack(channels, axis=-1)
    grey_HW1 = image_HW3.mean(-1, keepdims=True)
    return (0.35 * grey_HW1 + 0.65 * colour_HW3).astype(np.uint8)


def dim(
    image_HW3: UInt8[np.ndarray, "h w 3"], mask_HW: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image with everything outside the mask darkened to a blue grey."""
    outside_HW3 = image_HW3.mean(-1, keepdims=True) * 0.25 + np.array([10, 15, 45], np.float32)
    return np.where(mask_HW[..., None], image_HW3, outside_HW3.astype(np.uint8))


def _fitted(
    captions: Sequence[str], width: int
) -> tuple[Sequence[str], ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """Return the captions and the largest of a few fonts at which each fits its column; captions
    that would have to be small are broken at their first space.
    """
    for size, broken in ((16, False), (14, False), *((size, True) for size in (14, 12, 10))):
        font = ImageFont.load_default(size)
        words = [text.replace(" ", "\n", 1) for text in captions] if broken else captions
        if max(font.getlength(line) for text in words for line in text.split("\n")) <= width:
            return words, font
    return [text.replace(" ", "\n", 1) for text in captions], ImageFont.load_default(8)
