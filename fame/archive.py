"""The tensors in a file of ``torch.save`` or of safetensors, described before they are read.

Opening a file gives plain values with a :class:`Claim` in the place of every tensor: its dtype and
shape as the file claims them, held against the bytes that are there. Memory is taken when a claim
is read. Nothing in a file is run (:mod:`fame.pickled`).
"""

import io
import math
import struct
import zipfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from fame.pickled import Name, PickleError, refusal, unpickle
from fame.words import plain

RUN_CHECKPOINT = Path("checkpoints", "last.pt")  # in a run folder
DAMAGED = "truncated, damaged or not a checkpoint"
_LONGEST_PICKLE = 64 << 20  # bytes; that of an I3D with its optimiser has 0.2 MB
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # what torch wrote before 1.6 begins with this number
# What people take for weights, by its first bytes.
_NO_WEIGHTS = {
    b"<": "a page of HTML: the download gave a page and not the file",
    b"version https://git-lfs": "a pointer of Git LFS: `git lfs pull` fetches the file itself",
    b"\x1f\x8b": "compressed by gzip: unpack it",
    b"\x89HDF": "an HDF5 file, of Keras for instance",
}
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_SAFE_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the reason in one line."""


@dataclass(frozen=True, eq=False)
class Claim:
    """A tensor of an archive that has not been read: ``key`` names the storage that holds it."""

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...] = ()
    offset: int = 0


class Archive(ABC):
    """An open file: ``values`` with claims in them, ``metadata`` beside them (of safetensors)."""

    values: Any
    metadata: dict[str, str]

    @abstractmethod
    def read(self, claim: Claim) -> Tensor:
        """Return the tensor. Raise :class:`CheckpointError` where its bytes are damaged."""


@contextmanager
def open_archive(path: Path) -> Generator[Archive]:
    """Open a file of any of the three kinds; a run folder is taken as its last checkpoint.

    Raise :class:`CheckpointError`; those that are raised within the context get the file's name.
    """
    try:
        with ExitStack() as stack:
            yield _open(path, stack)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _open(path: Path, stack: ExitStack) -> Archive:
    if path.is_dir() and (last := path / RUN_CHECKPOINT).is_file():
        path = last
    if path.is_dir():
        hint = f"; name it hf:{path}" if (path / "config.json").is_file() else ""
        raise CheckpointError(
            f"is a folder, neither a checkpoint nor a run with {RUN_CHECKPOINT}{hint}"
        )
    if not path.is_file():
        raise CheckpointError("no such file")
    with _damage():
        file = stack.enter_context(path.open("rb"))
        if path.suffix == ".safetensors" or _is_safetensors(file):
            return _Safetensors(stack.enter_context(safetensors.safe_open(path, framework="pt")))
        _check_kind(file)
        return _Zip(file) if zipfile.is_zipfile(file) else _Legacy(file)


def _is_safetensors(file: io.BufferedReader) -> bool:
    """Return whether a file of any name begins as safetensors do: the length of a JSON object in 8
    bytes, and the object.
    """
    head = file.peek(9)[:9]
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < _LONGEST_PICKLE


def _check_kind(file: io.BufferedReader) -> None:
    """Raise :class:`CheckpointError` naming what a file is that people take for weights."""
    begin = file.peek(264)[:264]
    if what := next((_NO_WEIGHTS[key] for key in _NO_WEIGHTS if begin.startswith(key)), None):
        raise CheckpointError(f"not a checkpoint but {what}")
    if begin[257:262] == b"ustar":  # a zip that is the last in it would be taken for the whole
        raise CheckpointError("not a checkpoint but a tar archive: unpack it")


@contextmanager
def _damage() -> Generator[None]:
    """Turn what reading ran into into one line."""
    try:
        yield
    except CheckpointError:
        raise
    except PickleError as error:
        raise CheckpointError(str(error)) from None
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"not a readable safetensors file ({one_line(error)})") from None
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror or one_line(error)})") from None
    except (
        zipfile.BadZipFile, struct.error, EOFError, NotImplementedError, LookupError, ValueError,
        OverflowError, RuntimeError,
    ):  # fmt: skip
        raise CheckpointError(DAMAGED) from None


class _Safetensors(Archive):
    """A safetensors file: one flat mapping of tensors."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened
        self.metadata = dict(opened.metadata() or {})
        self.values = {name: self._claim(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)

    def _claim(self, name: str) -> Claim:
        described = self._opened.get_slice(name)
        dtype = _SAFE_DTYPES.get(str(described.get_dtype()))
        if dtype is None:
            raise CheckpointError(
                f"{name} is of type {described.get_dtype()}, which no network has"
            )
        return Claim(key=name, dtype=dtype, shape=tuple(described.get_shape()))

    def read(self, claim: Claim) -> Tensor:
        """Copy the tensor out of the file."""
        with _damage():
            return self._opened.get_tensor(claim.key).clone().reshape(claim.shape)


class _Pickled(Archive):
    """The common part of both kinds of ``torch.save`` files: a pickle, and storages outside it."""

    def __init__(self) -> None:
        self.metadata = {}
        self._bytes_of: dict[str, int] = {}
        self._claims = Counter[str]()
        self._kept: dict[str, bytes] = {}

    @abstractmethod
    def _storage(self, key: str) -> bytes:
        """Return the bytes of a storage."""

    def read(self, claim: Claim) -> Tensor:
        """Read the claim's storage, once for all claims that share it."""
        # Such a tensor has no bytes, and `torch.frombuffer` refuses an empty buffer.
        if 0 in claim.shape:
            return torch.empty(claim.shape, dtype=claim.dtype)
        with _damage():
            content = self._kept.get(claim.key) or self._storage(claim.key)
            # Tensors may share a storage, as tied weights do: it is then read once and kept.
            if self._claims[claim.key] > 1:
                self._kept[claim.key] = content
            count = len(content) // claim.dtype.itemsize
            # A bytearray, since a tensor needs memory that can be written.
            flat = torch.frombuffer(bytearray(content), dtype=claim.dtype, count=count)
            return torch.as_strided(flat, claim.shape, claim.stride, claim.offset)

    def _persistent(self, identity: Any) -> Claim:
        """Return the whole storage that a pickle refers to: ``("storage", type, key, location,
        size)``.
        """
        match identity:
            case ("storage", Name(text=name), str(key), str(), int(size), *view) if (
                name.startswith("torch ") and name.removeprefix("torch ") in _DTYPES
                and size >= 0 and not any(view)
            ):  # fmt: skip
                dtype = _DTYPES[name.removeprefix("torch ")]
                self._check_storage(key, size * dtype.itemsize)
                return Claim(key=key, dtype=dtype, shape=(size,))
            case ("module", Name(text=name), *_):  # a network as torch before 1.6 saved it
                raise PickleError(refusal(name))
            case _:
                raise PickleError("damaged (its pickle refers to what is no storage of tensors)")

    def _check_storage(self, key: str, size: int) -> None:
        """Raise where a storage is claimed to have more bytes than there are."""
        if size > self._bytes_of.get(key, -1):
            raise PickleError(f"{DAMAGED} (it claims more bytes than it has)")

    def _rebuild(self, name: str, arguments: tuple[Any, ...]) -> Claim | None:
        if name == "torch._utils _rebuild_parameter" and isinstance(arguments[0], Claim):
            return arguments[0]
        if name not in ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"):
            return None
        match arguments:
            case (Claim() as whole, int(offset), tuple(shape), tuple(stride), *_) if len(
                shape
            ) == len(stride) and _natural([offset, *shape, *stride]):
                # The index of the last number in use: shape (2, 3), stride (3, 1) and offset 4
                # reach 4 + 1 * 3 + 2 * 1 = 9.
                last = offset + sum(
                    (count - 1) * step for count, step in zip(shape, stride, strict=True)
                )
                # A stride of 0 makes much of little: [10**9] of one number. Nobody saves that.
                if 0 not in shape and (last >= whole.shape[0] or math.prod(shape) > whole.shape[0]):
                    raise PickleError("damaged (a tensor claims more numbers than it has)")
                self._claims[whole.key] += 1
                return Claim(whole.key, whole.dtype, shape, stride, offset)
            case _:
                raise PickleError("damaged (a tensor in its pickle is described wrongly)")


class _Zip(_Pickled):
    """A file of torch since 1.6: a zip whose entries are not compressed.

    Python's ``zipfile`` holds every entry that is read against its CRC.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        super().__init__()
        self._zip = zipfile.ZipFile(file)
        entries = self._zip.infolist()
        size = file.seek(0, io.SEEK_END)
        if any("/code/" in entry.filename for entry in entries):
            raise CheckpointError("refused: a TorchScript program; save its state_dict() instead")
        if any(
            e.compress_type or e.flag_bits & 1 or e.file_size != e.compress_size for e in entries
        ):
            raise CheckpointError(
                "refused: a compressed or encrypted zip, which torch never writes"
            )
        # Entries that overlap give more bytes together than the file has: a small file could fill
        # the memory.
        names = {entry.filename for entry in entries}
        if len(names) < len(entries) or sum(entry.file_size for entry in entries) > size:
            raise CheckpointError("refused: a zip whose entries overlap")
        # torch puts everything below one folder: NAME/data.pkl, NAME/data/0, NAME/data/1, ...
        found = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(found) != 1:
            raise CheckpointError("not a checkpoint: a zip without one data.pkl")
        self._root = found[0].removesuffix("data.pkl")
        self._bytes_of = {
            entry.filename.removeprefix(f"{self._root}data/"): entry.file_size
            for entry in entries
            if entry.filename.startswith(f"{self._root}data/")
        }
        if f"{self._root}byteorder" in names and self._entry("byteorder") != b"little":
            raise CheckpointError("refused: written on a machine of another byte order")
        pickle = io.BytesIO(self._entry("data.pkl"))
        self.values = unpickle(pickle, rebuild=self._rebuild, persistent=self._persistent)

    def _entry(self, name: str) -> bytes:
        entry = self._zip.getinfo(self._root + name)
        if not name.startswith("data/") and entry.file_size > _LONGEST_PICKLE:
            raise CheckpointError(f"refused: its {name} has {entry.file_size:,} bytes")
        return self._zip.read(entry)

    def _storage(self, key: str) -> bytes:
        return self._entry(f"data/{key}")


class _Legacy(_Pickled):
    """A file of torch before 1.6: five pickles, then every storage with its length before it.

    There is no checksum in such a file.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        super().__init__()
        self._file = file
        self._size = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = io.BytesIO(file.read(_LONGEST_PICKLE))
        if self._next(head) != _LEGACY_MAGIC:
            raise CheckpointError(DAMAGED)
        # Protocol, the machine's byte order and sizes, the values, keys of storages in file order.
        _protocol, _machine, self.values, keys = (self._next(head) for _ in range(4))
        self._start_of: dict[str, int] = {}
        self._find(keys, head.tell())

    def _next(self, head: io.BytesIO) -> Any:
        return unpickle(head, rebuild=self._rebuild, persistent=self._persistent)

    def _check_storage(self, key: str, size: int) -> None:
        # The pickle comes first, so the size is taken from it and compared with the file in
        # `_find`.
        self._bytes_of[key] = max(size, self._bytes_of.get(key, 0))
        if size > self._size:
            raise PickleError(f"{DAMAGED} (it claims more bytes than it has)")

    def _find(self, keys: Any, at: int) -> None:
        """Record where each storage begins: behind the 8 bytes that hold the number of its
        elements.
        """
        # Storages of 40 and 8 bytes behind byte 100: their counts are at 100 and 148, their bytes
        # at 108 to 148 and at 156 to 164.
        for key in keys if isinstance(keys, list) else ():
            if not isinstance(key, str) or key not in self._bytes_of:
                raise CheckpointError(DAMAGED)
            self._start_of[key] = at + 8
            at += 8 + self._bytes_of[key]
        if at > self._size or self._start_of.keys() != self._bytes_of.keys():
            raise CheckpointError(f"{DAMAGED} (it claims more bytes than it has)")

    def _storage(self, key: str) -> bytes:
        self._file.seek(self._start_of[key])
        return self._file.read(self._bytes_of[key])


def _natural(numbers: list[Any]) -> bool:
    """Return whether all of them are whole numbers that a tensor's size can be."""
    return all(type(number) is int and 0 <= number < 1 << 62 for number in numbers)


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, printable and cut where it is long; its type
    where there is none.
    """
    return plain((str(error).strip().splitlines() or [""])[0][:160]) or type(error).__name__
