"""A clip as a choice: which of a video's kept frames it shows.

T frames of a clip, L kept frames of a video, R frames of one stretch of it, S starts.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64


@dataclass(frozen=True, kw_only=True)
class Window:
    """T = ``frames`` frames, ``step`` kept frames apart; with ``span``, that share of the video's
    stretch instead.

    For example 16 frames at step 2 reach over 31 kept frames. With a span of 0.5, the 16 frames of
    a video of 150 kept frames are 75 / 16 = 4.7 apart, rounded down: 0, 4, 9, 14, ...
    """

    frames: int = 16
    step: int = 1
    span: float | None = None

    def __post_init__(self) -> None:
        if self.frames < 1 or self.step < 1:
            raise ValueError(
                f"frames and step of a clip must be at least 1, not {self.frames} and {self.step}"
            )
        if self.span is not None and not 0 < self.span <= 1:
            raise ValueError(f"span, a share of the video, must lie in (0, 1], not {self.span}")

    def __str__(self) -> str:
        apart = f"at step {self.step}" if self.span is None else f"over {self.span:g} of the video"
        return f"{self.frames} frames {apart}"

    def offsets(self, room: int) -> Int64[np.ndarray, " t"]:
        """Return the offset of each frame of the clip from its start, in kept frames, in a stretch
        of ``room`` frames.
        """
        number_T = np.arange(self.frames)
        if self.span is None:
            return number_T * self.step
        return (number_T * (self.span * room / self.frames)).astype(np.int64)

    def fits(self, length: int, stretches: int) -> bool:
        """Return whether a stretch of a video is long enough to show the window without a loop."""
        room = length // stretches
        return int(self.offsets(room)[-1]) < room

    def starts(self, length: int, stretches: int) -> Int64[np.ndarray, " s"]:
        """Return every start in a video of ``length`` kept frames in ``stretches`` runs.

        A video shorter than the window is looped, from any frame of it on.
        """
        # A clip of 3 frames at step 2 spans 5 frames: offsets 0 2 4. A video of 16 kept frames in 2
        # stretches has 8 frames in each, so a clip may begin at the first 4 of them:
        #     stretch 0           stretch 1
        #     S S S S . . . .     S  S  S  S  .  .  .  .
        #     0 1 2 3 4 5 6 7     8  9 10 11 12 13 14 15
        room = length // stretches
        fitting = room - int(self.offsets(room)[-1])
        begin_S1 = np.arange(0, length, room)[:, None]
        return (begin_S1 + np.arange(fitting if fitting > 0 else room)).reshape(-1)

    def spread(self, length: int, stretches: int, count: int) -> tuple[int, ...]:
        """Return ``count`` starts, evenly spaced: the first at the first frame, the last ending on
        the last one; a single one in the middle.
        """
        start_S = self.starts(length, stretches)
        # 3 of the starts 0..9 are 0, 4 and 9: i * last // (count - 1) for i = 0, 1, 2.
        last = len(start_S) - 1
        places = [last // 2] if count == 1 else [i * last // (count - 1) for i in range(count)]
        return tuple(start_S[places].tolist())

    def numbers(self, start: int, *, length: int, stretches: int) -> Int64[np.ndarray, " t"]:
        """Return the kept frames of the clip at ``start``; past the end of a short video they wrap
        round, within the stretch.
        """
        # Looped, where a stretch is shorter than the clip: 4 frames, offsets 0 2 4, from frame 1 on
        # are frames 1, 3 and (1 + 4) % 4 = 1 again.
        room = length // stretches
        begin = start // room * room
        return begin + (start - begin + self.offsets(room)) % room
