"""Matching names with files, against a slow oracle."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.datasets.files import Files, stem_of
from preprocess.datasets.listing import Entry, Listing, checked_name, match
from preprocess.datasets.rows import Line

HERE = Line(Path("list"), 7)


def files(*names: str) -> Files:
    return Files(root=Path("videos"), videos=frozenset(names))


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../a.mp4",
        "a/../../b.mp4",
        "a\\b.mp4",
        "",
        ".",
        "a\nb.mp4",
        "a\0.mp4",
        "a\udcff.mp4",
    ],
)
def test_names_that_leave_the_root_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"list, line 7: .*(not the name|control characters)"):
        checked_name(name, HERE)


@given(st.text(min_size=1))
def test_a_name_that_passes_stays_below_the_root(name: str) -> None:
    try:
        checked = checked_name(name)
    except ValueError:
        return
    assert (
        Path("/root", checked).resolve().is_relative_to("/root/")
        and checked_name(checked) == checked
    )


def test_one_video_under_two_classes_is_refused() -> None:
    entries = [Entry("a", 0, Line(Path("list"), 3)), Entry("./a", 1, HERE)]
    with pytest.raises(ValueError, match=r"line 7: 'a' .* classes, 0 and 1 \(before on line 3\)"):
        match(entries, files=files("a"), class_names="xy")


@given(st.lists(st.sampled_from("abcdefgh")), st.sets(st.sampled_from("abcdefgh")))
def test_every_listed_video_is_found_or_missing(listed: list[str], on_disk: set[str]) -> None:
    there = files(*(f"{name}.mp4" for name in on_disk))
    listing = match(
        (Entry(f"{name}.mp4", 0, HERE) for name in listed), files=there, class_names=["x"]
    )
    assert set(listing.names) | set(listing.missing) == {f"{name}.mp4" for name in listed}
    assert set(listing.extra) == there.videos - {f"{name}.mp4" for name in listed}
    assert set(listing.doubled) == {f"{name}.mp4" for name in listed if listed.count(name) > 1}
    assert list(listing.names) == sorted(set(listing.names))


_NAMES = st.sampled_from(
    [f"{f}{s}.{e}" for f in ("a/", "b/", "") for s in "xy" for e in ("avi", "mp4")]
)


@given(st.sets(_NAMES), st.sets(_NAMES), st.booleans())
def test_matching_by_place_and_stem(listed: set[str], on_disk: set[str], anywhere: bool) -> None:
    """The oracle: its own name; then the same folder and stem, unless listed; then, ``anywhere``,
    the same stem where no entry has a better claim.
    """
    listing = match(
        (Entry(n, 0, HERE, (stem_of(n),) if anywhere else ()) for n in listed),
        files=files(*on_disk),
        class_names=["x"],
    )

    def place(name: str) -> tuple[str, str]:
        return name.rpartition("/")[0], stem_of(name)

    def near(name: str) -> list[str]:
        beside = sorted(f for f in on_disk - listed if place(f) == place(name))
        return [name] * (name in on_disk) + beside

    claimed = {file for name in listed for file in near(name)}
    expected = set[str]()
    for name in listed:
        far = sorted(f for f in on_disk - claimed if stem_of(f) == stem_of(name))
        expected |= set((near(name) or far * anywhere)[:1])
        assert (name in listing.missing) == (not near(name) and not far * anywhere)
    assert set(listing.names) == expected


def test_further_files_of_a_video_are_kept_in_order() -> None:
    entry = Entry("train/ski/AAA", 0, HERE, stems=("AAA",))
    there = files("train/ski/AAA.mp4", "train/abc/AAA.mkv", "train/new/AAA.mp4", "b.mp4")
    listing = match([entry], files=there, class_names=["ski"])
    assert listing.names == ("train/ski/AAA.mp4",)
    assert listing.others == (("train/ski/AAA.mp4", ("train/abc/AAA.mkv", "train/new/AAA.mp4")),)
    assert listing.extra == ("b.mp4",)


def test_classes_without_a_video_are_told() -> None:
    listing = match([Entry("a", 1, HERE)], files=files("a"), class_names=["x", "y", "z"])
    assert listing.empty_classes == ("x", "z")


def test_the_videos_of_other_splits_are_not_extra_whatever_their_suffix() -> None:
    listing = match(
        [Entry("a.avi", 0, HERE)],
        files=files("a.mp4", "b.mp4", "c.mp4"),
        class_names=["x"],
        elsewhere=[Entry("b.avi", 0, HERE)],
    )
    assert (listing.names, listing.extra) == (("a.mp4",), ("c.mp4",))


@pytest.mark.parametrize(
    ("broken", "names"),
    [
        ("", ("a.mp4", "m.mp4")),
        ("a.mp4", ("m.mp4", "z.mp4")),
        ("a.mp4 z.mp4", ("m.mp4", "y.mp4")),
        ("a.mp4 z.mp4 y.mp4", ("a.mp4", "m.mp4")),
    ],
)
def test_of_several_files_the_first_that_opens_is_taken(broken: str, names: tuple[str]) -> None:
    listing = Listing(
        names=("a.mp4", "m.mp4"),
        labels=(5, 7),
        class_names=(),
        others=(("a.mp4", ("z.mp4", "y.mp4")),),
    ).settled(lambda name: "broken" if name in broken.split() else "")
    assert listing.names == names
    assert dict(zip(listing.names, listing.labels, strict=True))["m.mp4"] == 7
    ((taken, left),) = listing.choices
    assert {taken, *dict(left)} == {"a.mp4", "y.mp4", "z.mp4"} and taken in names
    assert [name for name, reason in left if reason] == [n for n in broken.split() if n != taken]
