"""Which kept frames a clip has, against a search over all of them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fame.clipstore import Window

windows = st.builds(Window, frames=st.integers(1, 9), step=st.integers(1, 4)) | st.builds(
    Window, frames=st.integers(1, 9), span=st.floats(0.05, 1)
)
videos = st.tuples(st.integers(1, 30), st.integers(1, 3))  # frames of a stretch, stretches


def frames_of(window: Window, start: int, room: int) -> list[int]:
    """The frames of a clip from ``start`` on, as far as that goes, without a loop."""
    if window.span is None:
        return [start + window.step * t for t in range(window.frames)]
    return [start + int(t * (window.span * room / window.frames)) for t in range(window.frames)]


@given(windows, videos)
def test_starts_are_all_from_which_a_clip_fits_into_its_stretch(
    window: Window, video: tuple[int, int]
) -> None:
    room, stretches = video
    length = room * stretches
    fitting = [
        start
        for start in range(length)
        if frames_of(window, start, room)[-1] // room == start // room
    ]
    assert window.fits(length, stretches) == bool(fitting)
    expected = fitting or list(range(length))  # a video that is too short is looped from anywhere
    assert window.starts(length, stretches).tolist() == expected


@given(windows, videos, st.data())
def test_a_clip_never_leaves_its_stretch(
    window: Window, video: tuple[int, int], data: st.DataObject
) -> None:
    room, stretches = video
    length = room * stretches
    start = data.draw(st.sampled_from(window.starts(length, stretches).tolist()))
    numbers = window.numbers(start, length=length, stretches=stretches).tolist()
    assert len(numbers) == window.frames and numbers[0] == start
    assert {number // room for number in numbers} == {start // room}
    if window.fits(length, stretches):
        assert numbers == frames_of(window, start, room)
    else:
        begin = start // room * room
        looped = [begin + (n - begin) % room for n in frames_of(window, start, room)]
        assert numbers == looped


@given(windows, videos, st.integers(1, 12))
def test_spread_starts_are_in_order_and_reach_both_ends(
    window: Window, video: tuple[int, int], count: int
) -> None:
    room, stretches = video
    start_S = window.starts(room * stretches, stretches).tolist()
    spread = window.spread(room * stretches, stretches, count)
    assert len(spread) == count and list(spread) == sorted(spread) and set(spread) <= set(start_S)
    if count > 1:
        assert (spread[0], spread[-1]) == (start_S[0], start_S[-1])
        places = [start_S.index(start) for start in spread]
        gaps = np.diff(places)
        assert gaps.max() - gaps.min() <= 1
    else:
        assert spread[0] == start_S[(len(start_S) - 1) // 2]


def test_the_worked_examples() -> None:
    window = Window(frames=3, step=2)
    assert window.starts(16, 2).tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert window.numbers(1, length=4, stretches=1).tolist() == [1, 3, 1]
    assert Window(frames=1).spread(10, 1, 3) == (0, 4, 9)
    assert str(window) == "3 frames at step 2"
    assert str(Window(frames=3, span=0.5)) == "3 frames over 0.5 of the video"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"frames": 0}, "must be at least 1, not 0 and 1"),
        ({"frames": 2, "step": 0}, "must be at least 1, not 2 and 0"),
        ({"frames": 2, "span": 0.0}, r"must lie in \(0, 1\], not 0.0"),
        ({"frames": 2, "span": 1.1}, r"must lie in \(0, 1\], not 1.1"),
    ],
)
def test_a_window_that_cannot_be_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Window(**fields)
