"""Options of earlier versions: scripts that use them go on working, and a warning names the new
option.
"""

import sys
from collections.abc import Sequence

from fame.settings import SEED

_RUNS = {"--run": "--run-dir", "--num-workers": "--processes"}
_STORES = {"--stride": "--keep", "--frames": "", "--clips": ""}  # "" for what a store no longer has
_VALUES = {"--mask": SEED, "--foreground": SEED}
RENAMED = {"pretrain": _RUNS, "finetune": _RUNS, "preprocess": _STORES}


def renamed(path: str, args: Sequence[str]) -> list[str]:
    """Return the arguments of a command with the names that its options have now.

    ``--stride 4`` of ``fame preprocess`` becomes ``--keep 4``. Its ``--frames 16`` and
    ``--clips 10`` are left out: a store keeps frames, and whoever reads it chooses its clips.
    """
    names = next((RENAMED[word] for word in path.split() if word in RENAMED), {})
    found: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name in _VALUES and (value or "".join(rest[:1])) in _VALUES[name]:
            old = value or rest.pop(0)
            rest[:0] = [name, _VALUES[name][old]]
            _tell(f"{name} {old} is called {_VALUES[name][old]} now")
            continue
        new = names.get(name)
        if new is None:
            found.append(word)
        elif new:
            _tell(f"{name} is called {new} now")
            found.append(new + equals + value)
        else:
            _tell(f"{name} is left out: a store keeps frames; clips are chosen when it is read")
            if not equals and rest:
                rest.pop(0)
    return found


def _tell(text: str) -> None:
    print("fame:", text, file=sys.stderr)
