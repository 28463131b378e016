"""Files of tensors, described before they are read: torch's own reader is the oracle."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fame.archive import CheckpointError, Claim, open_archive

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


def tensors() -> dict[str, Tensor]:
    base = torch.arange(12, dtype=torch.float32)
    return {
        **{str(dtype): (torch.arange(6) % 2).to(dtype).view(2, 3) for dtype in DTYPES},
        "empty": torch.empty(0, 4),
        "number": torch.tensor(2.5),
        "whole": base,
        "end of the same storage": base[3:],
        "turned view of the same storage": base.view(3, 4).T,
        "every second number": base[1::2],
        "parameter": nn.Parameter(torch.ones(2, 2)),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_every_kind_of_tensor_is_that_of_torch(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "file.pt"
    torch.save({"state": tensors()}, path, _use_new_zipfile_serialization=zipped)
    wanted = torch.load(path, weights_only=True)["state"]
    with open_archive(path) as archive:
        claims: dict[str, Claim] = archive.values["state"]
        assert claims.keys() == wanted.keys()
        for name, claim in claims.items():
            assert (claim.dtype, claim.shape) == (wanted[name].dtype, tuple(wanted[name].shape))
            assert torch.equal(archive.read(claim), wanted[name].detach()), name


def test_safetensors_are_those_that_were_written(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    given = {str(dtype): torch.tensor([[0, 1, 1]]).to(dtype) for dtype in DTYPES}
    save_file(given, path, metadata={"key": "value"})
    with open_archive(path) as archive:
        assert archive.metadata == {"key": "value"}
        assert all(torch.equal(archive.read(archive.values[name]), given[name]) for name in given)


def test_a_type_that_no_network_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_file({"weight": torch.zeros(2).to(torch.float8_e4m3fn)}, path)
    with (
        pytest.raises(CheckpointError, match="weight is of type F8_E4M3, which no"),
        open_archive(path),
    ):
        pass


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None], **options: Any) -> Path:
    """A copy of a zip with other entries."""
    with zipfile.ZipFile(path) as given:
        entries = {name: given.read(name) for name in given.namelist()}
    change(entries)
    copy = path.with_name("changed.pt")
    with zipfile.ZipFile(copy, "w", **options) as changed:
        for name, data in entries.items():
            changed.writestr(name, data)
    return copy


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.save({"state": {"weight": torch.arange(64.0)}}, tmp_path / "file.pt")
    return tmp_path / "file.pt"


def test_the_entries_may_be_written_by_another_zip_program(saved: Path) -> None:
    with open_archive(rewritten(saved, lambda entries: None)) as archive:
        assert torch.equal(archive.read(archive.values["state"]["weight"]), torch.arange(64.0))


@pytest.mark.parametrize(
    ("change", "options", "found"),
    [
        (lambda entries: None, {"compression": zipfile.ZIP_DEFLATED}, "compressed or encrypted"),
        (lambda entries: entries.update({"file/byteorder": b"big"}), {}, "another byte order"),
        (lambda entries: entries.update({"b/data.pkl": b"N."}), {}, "zip without one data.pkl"),
        (lambda entries: entries.pop("file/data.pkl"), {}, "zip without one data.pkl"),
        (lambda entries: entries.pop("file/data/0"), {}, "claims more bytes than it has"),
        (lambda entries: entries.update({"file/data/0": b"short"}), {}, "claims more bytes than"),
        (lambda entries: entries.update({"file/data.pkl": b"N"}), {}, "truncated, damaged or not"),
    ],
    ids=["compressed", "byte order", "two pickles", "no pickle", "no bytes", "few bytes", "cut"],
)  # fmt: skip
def test_a_zip_that_torch_never_writes_is_refused(
    saved: Path, change: Any, options: dict[str, Any], found: str
) -> None:
    path = rewritten(saved, change, **options)
    with pytest.raises(CheckpointError, match=found) as caught, open_archive(path):
        pass
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_damaged_bytes_are_found_when_they_are_read(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    place = data.index(torch.arange(64.0).numpy().tobytes())
    data[place + 8] ^= 1
    saved.write_bytes(data)
    with open_archive(saved) as archive:
        claim = archive.values["state"]["weight"]
        with pytest.raises(CheckpointError, match="truncated, damaged or not a checkpoint"):
            archive.read(claim)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_that_is_cut_is_refused(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "file.pt"
    torch.save({"weight": torch.arange(8.0)}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    for length in range(0, len(data), 37):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError), open_archive(path) as archive:
            archive.read(archive.values["weight"])


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    for path, found in ((tmp_path, "is a folder, neither"), (tmp_path / "none.pt", "no such file")):
        with pytest.raises(CheckpointError, match=found), open_archive(path):
            pass


def test_a_run_folder_is_its_last_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    torch.save({"step": 3}, tmp_path / "checkpoints" / "last.pt")
    with open_archive(tmp_path) as archive:
        assert archive.values == {"step": 3}
