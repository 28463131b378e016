"""Select the frames of a video to keep: pure functions of the numbers and times of its frames.

A *wanted* frame is one that the recipe asks for: every ``keep``-th, or the one on screen ``fps``
times a second. All wanted frames are kept where there are slots for them; of a longer video evenly
spaced stretches are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kept = tuple[range, ...]  # of wanted frames, one range for each stretch


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The frames that each video gives: at most ``slots`` of ``height`` x ``width``.

    A longer video keeps stretches of at least ``stretch`` frames, several only where their length
    is a multiple of ``aligned``.
    """

    slots: int
    keep: int
    fps: float | None
    stretch: int
    aligned: int
    height: int
    width: int
    geometry: Literal["cover", "squash"]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return the shape of the memory for the frames of one video, [F, H, W, 3]."""
        return (self.slots, self.height, self.width, 3)

    @property
    def num_bytes(self) -> int:
        """Return the bytes of the frames of one video."""
        return math.prod(self.shape)

    def wanted(self, number: int, seconds: float) -> int:
        """Return how many frames are wanted up to frame ``number``, which is shown ``seconds``
        after the first.

        By times, frame w is wanted at w / fps seconds: the first frame that comes no more than a
        quarter of 1 / fps before. At 15 a second those of a video at 25 a second (40 ms apart) are
        0, 2, 3, 5, 7, ...: at 80 ms for 67, 120 for 133, 200 for 200, 280 for 267.
        """
        if self.fps is None:
            return number // self.keep + 1
        return math.floor(seconds * self.fps + 0.25) + 1

    def kept(self, wanted: int) -> Kept:
        """Return which of ``wanted`` frames are kept: all as far as there are slots, else evenly
        spaced stretches of equal length, the first at the first frame and the last ending on the
        last.

        As many stretches as the slots hold times the video, rounded: a video of 151 wanted frames
        and 150 slots loses one of them, not the 15 starts of a clip at a border.
        """
        if wanted <= self.slots:
            return (range(wanted),)
        # 30 wanted frames in 12 slots, with stretches of at least 4: 2 stretches of 6, frames 0-5
        # and 24-29. A single stretch is the middle of the video.
        count = max(1, min(round(wanted / self.slots), self.slots // self.stretch))
        length = self.slots // count
        length -= length % self.aligned if count > 1 else 0
        last = wanted - length
        starts = [last // 2] if count == 1 else [i * last // (count - 1) for i in range(count)]
        return tuple(range(start, start + length) for start in starts)


def slots_of(kept: Kept, first: int, stop: int) -> Sequence[int]:
    """Return the slots that the wanted frames ``first``..``stop`` go into, those of ``kept`` in
    order.
    """
    # Of the stretches 0-5 and 24-29, frames 24 and 25 go into slots 6 and 7: ``base`` counts the
    # slots of the stretches before.
    slots: list[int] = []
    base = 0
    for stretch in kept:
        begin, end = max(first, stretch.start), min(stop, stretch.stop)
        slots += range(base + begin - stretch.start, base + end - stretch.start)
        base += len(stretch)
    return slots
