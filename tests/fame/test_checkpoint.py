"""The format: what is written is read again, damage is found, and nothing crafted gets through."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fame
from fame.archive import CheckpointError, open_archive
from fame.checkpoint import Expected, Maybe, Number, checksum, expected, open_checkpoint, save
from fame.export import save_weights
from fame.models import build_encoder
from tests import crafted

HEAD = {"kind": "linear", "dim": 8}
MODEL = {"name": "c3d_small", "options": {}, "head": HEAD}


@cache
def weights() -> dict[str, Tensor]:
    return build_encoder("c3d_small", head=HEAD, seed=3).state_dict()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "last.pt"
    state = {"encoder_q": weights(), "other": torch.ones(3)}
    config = {"crop": 32, "beta": 0.3, "milestones": [1, 2]}
    save(path, {"model": MODEL, "config": config, "state": state, "progress": {"step": 1}})
    return path


@pytest.fixture(scope="module")
def exported(good: Path) -> Path:
    path = good.with_name("encoder.safetensors")
    save_weights(fame.load(good), path)
    return path


def outcome(path: Path) -> str:
    """How loading ended: ``refused`` in one line, ``same`` as the good file; anything else is a
    failure and says what it was.
    """
    try:
        state = fame.load(path).network.state_dict()
    except CheckpointError as error:
        text = str(error)
        assert text.startswith(f"{path}: ")
        plain = text.isprintable() and len(text) < 500 + len(str(path))
        return "refused" if plain else f"not one plain line: {text!r}"
    except BaseException as error:
        return f"raised {type(error).__name__}: {error}"
    if all(torch.equal(state[name], value) for name, value in weights().items()):
        return "same"
    return "other weights"


def test_what_is_saved_is_read(good: Path) -> None:
    with open_checkpoint(good) as saved:
        assert saved.model == MODEL
        assert saved.config == {"crop": 32, "beta": 0.3, "milestones": [1, 2]}
        assert saved.progress == {"step": 1}
        assert saved.parts == ["encoder_q", "other"]
        read = saved.read({"encoder_q": expected(weights())})
    assert outcome(good) == "same"
    for name, value in weights().items():
        assert torch.equal(read["encoder_q"][name], value)
    assert torch.load(good, weights_only=True)["format"] == "fame-checkpoint/2"


def test_a_file_is_opened_once(good: Path) -> None:
    opened: list[str] = []

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and watching:
            opened.append(str(arguments[0]))

    watching = True
    sys.addaudithook(note)
    fame.load(good)
    watching = False
    assert opened.count(str(good)) == 1


def test_a_flipped_bit_of_a_weight_is_damage(good: Path, exported: Path, tmp_path: Path) -> None:
    raw = weights()["block2.0.weight"].contiguous().numpy().tobytes()
    for source in (good, exported):
        data = bytearray(source.read_bytes())
        data[data.find(raw[:64]) + 3] ^= 0x40
        path = tmp_path / source.name
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"^[^\n]*damaged[^\n]*$"):
            fame.load(path)


def test_a_bit_that_only_the_checksum_finds(good: Path, tmp_path: Path) -> None:
    content = torch.load(good, weights_only=True)
    content["state"]["encoder_q"]["block2.0.weight"][0, 0] += 1e-3
    torch.save(content, tmp_path / "repacked.pt")
    with pytest.raises(CheckpointError, match=r"damaged: encoder_q .*its checksum differs"):
        fame.load(tmp_path / "repacked.pt")
    content["format"] = "fame-checkpoint/1"  # which had none
    torch.save(content, tmp_path / "repacked.pt")
    assert outcome(tmp_path / "repacked.pt") == "other weights"


@pytest.mark.parametrize("checksums", [True, False])
def test_crafted_checkpoints(good: Path, tmp_path: Path, checksums: bool) -> None:
    content = torch.load(good, weights_only=True)
    path = tmp_path / "crafted.pt"
    made = list(crafted.changes_of_weights(content, "encoder_q"))
    assert len(made) > 100
    wrong: dict[str, str] = {}
    for name, change in made:
        path.write_bytes(crafted.changed(content, change, checksums=checksums))
        if (ended := outcome(path)) not in ("refused", "same"):
            wrong[name] = ended
    assert not wrong


def test_odd_files(good: Path, tmp_path: Path) -> None:
    proof = tmp_path / "owned"
    for name, data in crafted.odd_files(good.read_bytes(), proof).items():
        for suffix in ("pt", "safetensors"):
            path = tmp_path / f"odd.{suffix}"
            path.write_bytes(data)
            assert outcome(path) == "refused", name
    assert not proof.exists()


@pytest.mark.parametrize("kind", ["good", "exported", "old"])
def test_mutants(good: Path, exported: Path, tmp_path: Path, kind: str) -> None:
    source = good if kind == "good" else exported
    if kind == "old":  # format 1: the CRC of the zip alone
        source = tmp_path / "old.pt"
        content = torch.load(good, weights_only=True)
        source.write_bytes(crafted.changed(content, lambda _: None, checksums=False))
    ends: dict[str, int] = {}
    path = tmp_path / f"mutant{source.suffix}"
    for data in crafted.mutants(source.read_bytes(), 80, seed=7):
        path.write_bytes(data)
        ended = outcome(path)
        ends[ended] = ends.get(ended, 0) + 1
    assert ends.keys() <= {"refused", "same"}, ends


def test_a_claim_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "claims.pt"
    torch.save({"state_dict": {"x": torch.ones(1).expand(1 << 50)}}, path)
    with (
        pytest.raises(CheckpointError, match="claims more numbers than it has"),
        open_archive(path),
    ):
        pass


@pytest.mark.parametrize(
    ("schema", "value", "words"),
    [
        (Number(low=0, high=4), 5, "state.x is 5, it lies in 0..4"),
        (Number(low=0, high=4), True, "it lies in"),
        (Number(low=0, high=4), 1.0, "it lies in"),
        (Number(low=0, high=1, real=True), float("nan"), "it lies in"),
        (None, 3, "nothing belongs there"),
        (Maybe({"a": Number(low=0, high=1)}), {"b": 1}, "lacks a .* has the unknown b"),
        (Expected(like=torch.ones(2), high=1), torch.full((2,), 2.0), "holds 2"),
        (Expected(like=torch.ones(2)), torch.ones(2).bool(), "is torch.bool, not torch.float32"),
    ],
)
def test_a_schema_says_what_is_wrong(
    tmp_path: Path, schema: object, value: object, words: str
) -> None:
    parts = {"model": {}, "config": {}, "progress": {}, "state": {"state": {"x": value}}}
    save(tmp_path / "x.pt", parts)
    with pytest.raises(CheckpointError, match=words), open_checkpoint(tmp_path / "x.pt") as saved:
        saved.read({"state": {"x": schema}})


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree["a"].__setitem__(0, 2),
        lambda tree: tree.__setitem__("c", tree.pop("b")),
        lambda tree: tree["b"].view(-1).__setitem__(0, 2.0),
        lambda tree: tree.__setitem__("b", tree["b"].T),
        lambda tree: tree.__setitem__("b", tree["b"].double()),
        lambda tree: tree.__setitem__("a", {}),
    ],
)
def test_the_checksum_depends_on_everything(change: Callable[[dict[str, object]], object]) -> None:
    def tree() -> dict[str, object]:
        return {"a": [1, "x", None], "b": torch.ones(2, 3)}

    changed = tree()
    change(changed)
    assert checksum(changed) != checksum(tree())
    assert checksum(dict(reversed(tree().items()))) == checksum(tree())
