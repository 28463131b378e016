"""Which frames are kept, against a slow oracle and by example."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from preprocess.selection import Sampling, slots_of


def sampling(**changes: object) -> Sampling:
    fields = {"slots": 150, "keep": 2, "fps": None, "stretch": 48, "aligned": 2}
    size = {"height": 24, "width": 32, "geometry": "cover"}
    return Sampling(**(fields | size | changes))


def slow_wanted(wanted: Sampling, seconds: list[float]) -> list[int]:
    """The number of each wanted frame, one by one, of a video with frames at these times."""
    if wanted.fps is None:
        return list(range(0, len(seconds), wanted.keep))
    numbers: list[int] = []
    while True:
        due = (len(numbers) - 0.25) / wanted.fps
        number = next((n for n, time in enumerate(seconds) if time >= due), None)
        if number is None:
            return numbers
        numbers.append(number)


def slow_kept(wanted: Sampling, count: int) -> list[list[int]]:
    """The places of the kept frames among ``count`` wanted ones, by stretch."""
    if count <= wanted.slots:
        return [list(range(count))]
    stretches = max(1, min(round(count / wanted.slots), wanted.slots // wanted.stretch))
    length = wanted.slots // stretches
    while stretches > 1 and length % wanted.aligned:
        length -= 1
    if stretches == 1:
        return [list(range((count - length) // 2, (count - length) // 2 + length))]
    starts = [i * (count - length) // (stretches - 1) for i in range(stretches)]
    return [list(range(start, start + length)) for start in starts]


@given(st.integers(1, 5000), st.integers(1, 200), st.integers(2, 60), st.integers(1, 2))
def test_kept_frames_are_evenly_spaced_stretches(
    count: int, slots: int, stretch: int, aligned: int
) -> None:
    wanted = sampling(slots=slots, stretch=stretch, aligned=aligned)
    kept = wanted.kept(count)
    assert [list(run) for run in kept] == slow_kept(wanted, count)
    assert len({len(run) for run in kept}) == 1
    assert sum(map(len, kept)) <= min(count, slots)
    assert all(one.stop <= two.start for one, two in pairwise(kept))
    if len(kept) > 1:
        assert kept[0].start == 0 and kept[-1].stop == count
        assert len(kept[0]) >= stretch - 1 and len(kept[0]) % aligned == 0


@given(st.integers(1, 300), st.integers(1, 40), st.data())
def test_slots_are_filled_once_and_in_order(count: int, slots: int, data: st.DataObject) -> None:
    kept = sampling(slots=slots, stretch=2).kept(count)
    cuts = sorted({0, count, *data.draw(st.lists(st.integers(0, count), max_size=9))})
    filled = [slot for a, b in pairwise(cuts) for slot in slots_of(kept, a, b)]
    assert filled == list(range(sum(map(len, kept))))


def test_a_little_too_long_is_cut_in_the_middle_and_much_too_long_in_three() -> None:
    assert sampling().kept(150) == (range(150),)
    assert sampling().kept(151) == (range(150),)
    assert sampling().kept(155) == (range(2, 152),)
    assert sampling().kept(300) == (range(74), range(226, 300))
    assert sampling().kept(54_000) == (range(50), range(26_975, 27_025), range(53_950, 54_000))


def test_times_choose_the_frame_that_is_due() -> None:
    """The example of the docstring: 15 frames a second of a video at 25, and of one at 10."""
    wanted = sampling(fps=15.0)
    assert slow_wanted(wanted, [n / 25 for n in range(10)]) == [0, 2, 3, 5, 7, 8]
    assert slow_wanted(wanted, [n / 10 for n in range(4)]) == [0, 1, 2, 2, 3]
    assert [wanted.wanted(n, n / 10) for n in range(4)] == [1, 2, 4, 5]
