"""Recipes and headers: what is refused, what survives JSON, what a digest tells apart."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fame.clipstore import StoreError, StoreHeader, StoreSpec, estimate_video_bytes, sized_for
from fame.clipstore.layout import Layout
from fame.clipstore.schema import canonical_json, parse_json_object
from tests.fame.clipstore import small


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"keep": 0}, "keep"),
        ({"keep": True}, "keep"),
        ({"fps": 0.0}, "fps"),
        ({"seconds": -1.0}, "seconds"),
        ({"stretch": 1}, "stretch 1 must be at least foreground_every 2"),
        ({"height": 1.5}, "height"),
        ({"width": "340"}, "width"),
        ({"codec": "png"}, "codec"),
        ({"geometry": "stretch"}, "geometry"),
        ({"foreground": "magic"}, "foreground"),
        ({"quality": 101}, "quality"),
        ({"height": 65_501}, "65500"),
        ({"seconds": 1e5}, "shard"),
        ({"codec": "lz4", "height": 2**21}, "bytes"),
        ({"videos_per_shard": 2**20}, "shard"),
    ],
)
def test_bad_specs_are_refused_by_name(change: dict, word: str):
    with pytest.raises(
        (ValueError, TypeError), match=word
    ):  # a TypeError from the annotations, which run in tests
        StoreSpec(**change)


@pytest.mark.parametrize(
    ("changes", "slots", "words"),
    [
        ({}, 150, "1 of 2 frames"),
        ({"keep": 1}, 300, "every frame"),
        ({"fps": 15.0}, 150, "15 frames a second"),
        ({"fps": 12.5, "seconds": 3.0}, 38, "12.5 frames a second"),
        ({"seconds": 0.01}, 1, "1 of 2 frames"),
    ],
)
def test_slots_are_known_from_the_recipe(changes: dict, slots: int, words: str):
    spec = StoreSpec(**changes)
    assert (spec.slots, spec.kept) == (slots, words)


@given(st.sampled_from([f.name for f in dataclasses.fields(StoreSpec)]))
def test_digest_changes_with_every_field(name: str):
    others = {"geometry": "squash", "codec": "zstd", "foreground": "paper"}
    others |= {"seconds": 7.0, "fps": 7.0}
    value = others.get(name, 7)
    assert dataclasses.replace(StoreSpec(), **{name: value}).digest != StoreSpec().digest


def test_header_survives_json():
    header = small.header(
        foreground_parameters={"hue": True, "sigma": 2.5, "kernel": 3, "kind": "dis"}
    )
    found = StoreHeader.from_json(json.loads(canonical_json(header.to_json())))
    assert found == header
    assert found.software == header.software


def test_another_format_is_named_clearly():
    data = small.header().to_json() | {"version": 1}
    found = r"format 1; this software reads format 2: .*make it again with `fame preprocess`"
    with pytest.raises(StoreError, match=found):
        StoreHeader.from_json(data)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b'{"a": NaN}', b'"\xff"', b'{"a": "\\ud800"}', b"[" * 10**5]
)
def test_what_is_no_json_object_is_refused(data: bytes):
    with pytest.raises(StoreError, match="it"):
        parse_json_object(data, "it")


def mangled_values() -> st.SearchStrategy:
    numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    return st.none() | st.booleans() | numbers | st.text() | st.just([]) | st.just({})


@given(data=st.data(), value=mangled_values())
def test_a_mangled_root_is_refused_or_changes_nothing(data: st.DataObject, value: object):
    layout = Layout(header=small.header(), num_videos=5, videos_sha256="ab")
    root = json.loads(layout.root_json())
    node = root
    while True:
        key = data.draw(
            st.sampled_from(sorted(node))
            if isinstance(node, dict)
            else st.integers(0, len(node) - 1)
        )
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = value
    try:
        found = Layout.from_root_json(canonical_json(root))
    except StoreError:
        return
    assert found.root_json() == canonical_json(root)


def test_shards_are_sized_by_bytes_for_large_sets_and_by_count_for_small_ones():
    kinetics = sized_for(StoreSpec(), 240_000)
    shard_bytes = estimate_video_bytes(kinetics) * kinetics.videos_per_shard
    assert 2**27 < shard_bytes <= 2**28
    assert -(-471 // sized_for(StoreSpec(), 471).videos_per_shard) == 59
    assert sized_for(StoreSpec(), 3).videos_per_shard == 1
    assert sized_for(StoreSpec(codec="lz4", seconds=1000.0), 10**6).videos_per_shard == 1
