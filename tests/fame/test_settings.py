"""A declaration gives the check, the reading of text and JSON, and words for what is allowed."""

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from fame.settings import Setting, Settings

Rate = Annotated[float, Setting("Rate.", above=0)]


@dataclass(frozen=True, kw_only=True)
class Inner(Settings):
    depth: Annotated[int, Setting("Depth.", low=1)] = 1


@dataclass(frozen=True, kw_only=True)
class Outer(Settings):
    count: Annotated[int, Setting("Count.", low=1)] = 2
    share: Annotated[float, Setting("Share.", above=0, high=1)] = 0.5
    angle: Annotated[float, Setting("Angle.", low=0, below=360)] = 0
    any_number: Annotated[float, Setting("Any number.")] = -1.5
    rate: Rate = 0.1
    group: Annotated[int | None, Setting("Group.", low=2, high=9)] = None
    kind: Annotated[Literal["a", "b"], Setting("Kind.")] = "a"
    fast: Annotated[bool, Setting("Fast.")] = False
    steps: Annotated[tuple[int, ...], Setting("Steps.", low=1)] = ()
    roots: Annotated[tuple[Path, ...], Setting("Roots.")] = ()
    folder: Annotated[Path | None, Setting("Folder.")] = None
    store: Annotated[Path | str | None, Setting("Store.")] = None
    inner: Annotated[Inner, Setting("Inner.")] = Inner()


@dataclass(frozen=True, kw_only=True)
class Faster(Outer):
    rate: Rate = 0.9


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count must be a whole number of at least 1, got 0"),
        ({"count": True}, "count must be a whole number of at least 1, got True"),
        ({"count": 1.0}, "count must be a whole number of at least 1, got 1.0"),
        ({"share": 0}, "share must be a number above 0 and at most 1, got 0"),
        ({"share": "x"}, "share must be a number above 0 and at most 1, got 'x'"),
        ({"angle": 360}, "angle must be a number of at least 0 and below 360, got 360"),
        ({"any_number": float("nan")}, "any_number must be a number, got nan"),
        ({"rate": float("inf")}, "rate must be a number above 0, got inf"),
        ({"group": 1}, "group must be a whole number from 2 to 9, or none, got 1"),
        ({"kind": "c"}, "kind must be one of a, b, got 'c'"),
        ({"kind": ["a"]}, "kind must be one of a, b, got ['a']"),
        ({"fast": 1}, "fast must be true or false, got 1"),
        ({"steps": (0,)}, "steps must be whole numbers of at least 1, got (0,)"),
        ({"roots": ("a",)}, "roots must be paths, got ('a',)"),
        ({"folder": 3}, "folder must be a path, or none, got 3"),
    ],
)
def test_a_value_that_is_not_allowed_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        Outer.from_dict(values)
    assert str(error.value) == message


def test_text_is_read_by_the_type_of_the_field() -> None:
    settings = Outer().override(
        ["group=3", "share=1e-1", "fast=true", "steps=60,120", "kind=b", "folder=none"]
    )
    assert (settings.group, settings.share, settings.fast) == (3, 0.1, True)
    assert (settings.steps, settings.kind, settings.folder) == ((60, 120), "b", None)
    assert settings.override(["group=none"]).group is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count=2.5", "count must be a whole number of at least 1, got '2.5'"),
        ("fast=maybe", "fast must be true or false, got 'maybe'"),
        ("steps=a,b", "steps must be whole numbers of at least 1, got 'a,b'"),
        ("cuont=1", "Outer has no field 'cuont'; did you mean 'count'?"),
        ("count", "a setting is key=value, got 'count'"),
    ],
)
def test_text_that_cannot_be_read_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        Outer().override([text])
    assert str(error.value) == message


def test_settings_survive_json() -> None:
    given = {"steps": (1, 2), "roots": (Path("a"), Path("b")), "inner": Inner(depth=4)}
    settings = Outer(folder=Path("x/y"), store=Path("z"), **given)
    again = Outer.from_dict(json.loads(json.dumps(settings.to_dict())))
    assert again == Outer(folder=Path("x/y"), store="z", **given)
    assert Outer().override(["roots=a:b"]).roots == given["roots"]


def test_a_subclass_may_change_a_default_only() -> None:
    assert Faster.field("rate").setting == Outer.field("rate").setting
    assert Faster().rate == 0.9
    with pytest.raises(ValueError, match="rate must be a number above 0"):
        Faster(rate=0)


def test_a_field_without_a_declaration_is_a_mistake() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Bare(Settings):
        size: int = 3

    with pytest.raises(TypeError, match="size is not declared"):
        Bare()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Outer().count = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_modules_of_settings_are_light() -> None:
    modules = "fame.settings, fame.store_spec"
    code = f"import sys, {modules}; print({{'numpy', 'torch', 'zarr'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
