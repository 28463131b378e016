"""Reading pickles without running them: Python's own unpickler is the oracle for plain values."""

import argparse
import io
import os
import pickle
import random
from collections import OrderedDict, defaultdict
from typing import Any

import pytest

from fame import pickled
from fame.pickled import PickleError, Record, unpickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def read(data: bytes) -> Any:
    return unpickle(
        io.BytesIO(data), rebuild=lambda name, arguments: None, persistent=lambda i: ("outside", i)
    )


def plain_value(draw: random.Random, depth: int = 0) -> Any:
    """A random tree of what JSON could hold, and tuples of any length."""
    if depth == 4 or draw.random() < 0.3:
        words = ["", "word", "Zeile\n", "\u2603"]
        numbers = [None, True, False, 0, -1, 255, 65_536, -(2**31), 2**62, 0.5, -1e300]
        return draw.choice([*words, *numbers])
    parts = [plain_value(draw, depth + 1) for _ in range(draw.randrange(6))]
    if draw.random() < 0.5:
        return tuple(parts) if draw.random() < 0.5 else parts
    return {draw.choice([f"key {number}", number]): part for number, part in enumerate(parts)}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_are_those_of_python(protocol: int) -> None:
    draw = random.Random(protocol)
    for _ in range(150):
        value = plain_value(draw)
        data = pickle.dumps(value, protocol)
        assert read(data) == value == pickle.loads(data)


def test_a_pickle_of_endless_instructions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "_MOST_STEPS", 100)
    assert read(b"\x80\x02(" + b"N" * 90 + b"l.") == [None] * 90
    with pytest.raises(PickleError, match="more than 100 instructions"):
        read(b"\x80\x02(" + b"N" * 100 + b"l.")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_value_that_stands_twice_is_one_value(protocol: int) -> None:
    twice: list[int] = [1, 2]
    first, second = read(pickle.dumps([twice, {"again": twice}], protocol))
    assert first == [1, 2] and second["again"] is first


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_ordered_dictionary_is_a_dictionary(protocol: int) -> None:
    found = read(pickle.dumps(OrderedDict(b=1, a=[2]), protocol))
    assert type(found) is dict and list(found.items()) == [("b", 1), ("a", [2])]


def test_an_ordered_dictionary_of_python_2_is_read() -> None:
    assert read(b"ccollections\nOrderedDict\n((l(lS'a'\naI1\naatR.") == {"a": 1}


def test_what_is_popped_is_gone() -> None:
    data = b"K\x01K\x020."
    assert read(data) == pickle.loads(data) == 1


def test_what_lies_outside_comes_from_the_reader() -> None:
    class Outside(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return "identity" if isinstance(obj, complex) else None

    file = io.BytesIO()
    Outside(file, 2).dump([1, 2j])
    assert read(file.getvalue()) == [1, ("outside", "identity")]


@pytest.mark.parametrize(
    ("value", "name", "held"),
    [
        (argparse.Namespace(lr=1), "argparse Namespace", []),
        ({7}, "builtins set", [7]),
    ],
)
def test_harmless_objects_become_records(value: object, name: str, held: list[Any]) -> None:
    found = read(pickle.dumps(value, 4))
    assert isinstance(found, Record) and (found.of, found.held) == (name, held)


def test_a_dictionary_with_a_default_becomes_a_plain_one() -> None:
    found = read(pickle.dumps(defaultdict(int, a=1), 4))
    assert type(found) is dict and found == {"a": 1}


class Command:
    """A value whose pickle runs a command when Python reads it."""

    def __reduce__(self) -> Any:
        return os.system, ("exit 3",)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_could_run_code_is_refused_by_name(protocol: int) -> None:
    with pytest.raises(PickleError, match=r"^refused: it holds '\w+\.system', an object that"):
        read(pickle.dumps({"weights": [Command()]}, protocol))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"(ios\nsystem\n.", "refused: the pickle instruction INST"),
        (pickle.dumps(frozenset([1]), 4), "refused: the pickle instruction FROZENSET"),
        (b"I1\n)R.", "refused: its pickle calls what is no name"),
        (b"\x80\x02K\x01)\x81.", "refused: its pickle makes what has no name"),
        (b"\x80\x02K\x01}b.", "refused: its pickle changes what is no record"),
        (b"\x80\x04K\x01K\x02\x93.", "a name in its pickle is no text"),
        (b"K\x01K\x02a.", "appends to what is no list"),
        (b"K\x01K\x02K\x03s.", "sets an item of what is no dictionary"),
        (pickle.dumps({(1,): 2}), "keys are neither words nor numbers"),
        (pickle.dumps(1 << 200), "a number of too many digits"),
        (b"]a.", "takes more than it has|truncated"),
        (b"t.", "truncated, damaged or not a checkpoint"),
        (b"h\x05.", "truncated, damaged or not a checkpoint"),
        (b"K", "truncated, damaged or not a checkpoint"),
        (b"", "truncated, damaged or not a checkpoint"),
        (b"no pickle at all", "truncated, damaged or not a checkpoint|refused"),
    ],
)
def test_damage_and_tricks_end_in_one_line(data: bytes, found: str) -> None:
    with pytest.raises(PickleError, match=found) as caught:
        read(data)
    assert "\n" not in str(caught.value)


def test_a_pickle_that_is_cut_anywhere_is_refused() -> None:
    data = pickle.dumps({"a": [1, 2.5, "word"], "b": (None, True)}, 2)
    for length in range(len(data)):
        with pytest.raises(PickleError):
            read(data[:length])
