"""The plain values in a pickle, read without running any of it.

Python's own unpickler calls what a file names. Here nothing is ever called: the stream's
instructions are followed on a stack of plain values, the few other objects that checkpoints usually
hold become records of what was there, and any other name ends the reading.
"""

import io
import pickletools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

# Values that other projects leave beside the weights. They are harmless because they are not made.
_HARMLESS = re.compile(
    r"argparse Namespace|types SimpleNamespace|datetime \w+|uuid UUID|decimal Decimal"
    r"|pathlib(\._local)? (Pure)?(Posix|Windows)?Path"
    r"|(pytorch_lightning|lightning_fabric|lightning\.fabric)\.utilities\.\w+ AttributeDict"
    r"|(yacs|fvcore\.common)\.config CfgNode|easydict EasyDict|(box|box\.box) Box"
    r"|omegaconf\.\w+ \w+|typing Any|mmengine\.config\.config ConfigDict"
    r"|mmengine\.logging\.history_buffer HistoryBuffer"
    r"|(collections|builtins|__builtin__) "
    r"(Counter|OrderedDict|defaultdict|set|frozenset|dict|list|tuple|int|float|str|bool)"
    r"|_codecs encode"
    r"|numpy (dtype|ndarray|bool_|(float|int|uint)\d+)|numpy\.dtypes \w+DType"
    r"|numpy\._?core\.(multiarray (scalar|_reconstruct)|numeric _frombuffer)"
    r"|torch (device|Size|float\d+|bfloat16|double|float|half|u?int\d+|long|int|bool)"
)
_MOST_BITS = 128
_MOST_STEPS = 5_000_000  # of one pickle; they take seconds. That of a run of I3D has 40,000
_PUSHED = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Record("builtins set"),
}
_SAVED = {"PUT", "BINPUT", "LONG_BINPUT"}
_RECALLED = {"GET", "BINGET", "LONG_BINGET"}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class PickleError(ValueError):
    """A pickle that is damaged, or holds more than plain values."""


@dataclass(eq=False)
class Name:
    """The name of a class or function as the pickle has it, ``module name``."""

    text: str


@dataclass(eq=False)
class Record:
    """A harmless object that was in the pickle: the name of its class, and what it held."""

    of: str
    held: list[Any] = field(default_factory=list[Any], repr=False)


Rebuild = Callable[[str, tuple[Any, ...]], Any]
Persistent = Callable[[Any], Any]


def unpickle(file: io.BytesIO, *, rebuild: Rebuild, persistent: Persistent) -> Any:
    """Return the value of the next pickle in ``file``.

    ``rebuild(name, arguments)`` returns the value of a supported call and ``None`` for others;
    ``persistent(identity)`` returns what lies outside the pickle. Raise :class:`PickleError`.
    """
    try:
        return _Machine(rebuild, persistent).run(file)
    except PickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise PickleError("truncated, damaged or not a checkpoint") from error


def refusal(name: str) -> str:
    """Return the message about an object of the class ``name``, ``module name``."""
    # As Python writes a name: os.system, not "os system".
    return (
        f"refused: it holds {'.'.join(name.split(' ', 1))[:80]!r}, an object that could run code; "
        "save tensors and plain values only, as model.state_dict() has them"
    )


class _Machine:
    """One reading of one pickle."""

    def __init__(self, rebuild: Rebuild, persistent: Persistent) -> None:
        self._rebuild, self._persistent = rebuild, persistent
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: io.BytesIO) -> Any:
        """Follow the instructions to the end."""
        steps: Iterator[tuple[Any, Any, Any]] = pickletools.genops(file)
        for number, (opcode, argument, _) in enumerate(steps):
            if number > _MOST_STEPS:
                raise PickleError(f"refused: its pickle has more than {_MOST_STEPS:,} instructions")
            name: str = opcode.name
            if name in _PUSHED:
                if isinstance(argument, int) and argument.bit_length() > _MOST_BITS:
                    raise PickleError("damaged (a number of too many digits)")
                self._stack.append(argument)
            elif name in _SAVED:
                self._memo[argument] = self._stack[-1]
            elif name in _RECALLED:
                self._stack.append(self._memo[argument])
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name]())
            elif count := _SHORT_TUPLES.get(name, 0):
                self._stack.append(tuple(self._take(count)))
            else:
                self._less_usual(name, argument)
        (value,) = self._stack
        return value

    def _less_usual(self, name: str, argument: Any) -> None:
        """Follow an instruction that is rarer than those for plain values. Raise
        :class:`PickleError` for one that is not supported.
        """
        step = getattr(self, f"_{name.lower()}", None)
        if step is None:
            raise PickleError(f"refused: the pickle instruction {name}, which could run code")
        step(argument)

    def _take(self, count: int) -> list[Any]:
        if count > len(self._stack):
            raise PickleError("damaged (its pickle takes more than it has)")
        taken = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return taken

    def _since_mark(self) -> list[Any]:
        return self._take(len(self._stack) - self._marks.pop())

    def _proto(self, _: Any) -> None: ...

    def _frame(self, _: Any) -> None: ...

    def _stop(self, _: Any) -> None:
        self._stack = self._take(1)

    def _mark(self, _: Any) -> None:
        # A mark is a height of the stack: all above the latest mark belongs together.
        self._marks.append(len(self._stack))

    def _memoize(self, _: Any) -> None:
        # This instruction has no argument: values are numbered in order.
        self._memo[len(self._memo)] = self._stack[-1]

    def _pop(self, _: Any) -> None:
        self._take(1)

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._since_mark()))

    def _list(self, _: Any) -> None:
        self._stack.append(self._since_mark())

    def _dict(self, _: Any) -> None:
        items = self._since_mark()
        self._stack.append({})
        self._fill(items)

    def _append(self, _: Any) -> None:
        self._extend(self._take(1))

    def _appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _additems(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _setitem(self, _: Any) -> None:
        self._fill(self._take(2))

    def _setitems(self, _: Any) -> None:
        self._fill(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Record):
            target = target.held
        if not isinstance(target, list):
            raise PickleError("damaged (its pickle appends to what is no list)")
        target.extend(items)

    def _fill(self, items: list[Any]) -> None:
        target = self._stack[-1]
        pairs = zip(items[::2], items[1::2], strict=True)
        if isinstance(target, Record):
            target.held.extend(pairs)
            return
        if not isinstance(target, dict):
            raise PickleError("damaged (its pickle sets an item of what is no dictionary)")
        for key, value in pairs:
            if not isinstance(key, str | int):
                raise PickleError("holds a dictionary whose keys are neither words nor numbers")
            target[key] = value

    def _global(self, argument: str) -> None:
        self._stack.append(Name(argument))

    def _stack_global(self, _: Any) -> None:
        module, name = self._take(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise PickleError("damaged (a name in its pickle is no text)")
        self._stack.append(Name(f"{module} {name}"))

    def _binpersid(self, _: Any) -> None:
        (identity,) = self._take(1)
        self._stack.append(self._persistent(identity))

    def _reduce(self, _: Any) -> None:
        called, arguments = self._take(2)
        if not (isinstance(called, Name) and isinstance(arguments, tuple)):
            raise PickleError("refused: its pickle calls what is no name, which could run code")
        if called.text == "collections OrderedDict":
            self._stack.append({})
            if arguments:  # how Python 2 wrote it: one list of pairs
                (pairs,) = arguments
                self._fill([half for pair in pairs for half in pair])
            return
        if called.text == "collections defaultdict":
            self._stack.append({})
            return
        value = self._rebuild(called.text, arguments)
        self._stack.append(self._recorded(called) if value is None else value)

    def _newobj(self, _: Any) -> None:
        made, _arguments = self._take(2)
        if not isinstance(made, Name):
            raise PickleError("refused: its pickle makes what has no name, which could run code")
        self._stack.append(self._recorded(made))

    def _build(self, _: Any) -> None:
        """Ignore the state of a record, and the version numbers that torch attaches to a state
        dict.
        """
        self._take(1)
        if not isinstance(self._stack[-1], Record | dict):
            raise PickleError("refused: its pickle changes what is no record, which could run code")

    def _recorded(self, name: Name) -> Record:
        if not _HARMLESS.fullmatch(name.text):
            raise PickleError(refusal(name.text))
        return Record(name.text)
