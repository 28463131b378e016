"""A part of a video: the frames that a list names, and what the part is called in a store."""

import re
from typing import NamedTuple

_NAMED = re.compile(r"(.+)\[([0-9]{1,9}):([0-9]{1,9})?\]", re.DOTALL)


class Part(NamedTuple):
    """The frames from ``start``, counted from 0, up to the one before ``stop`` (None: the last)."""

    start: int = 0
    stop: int | None = None

    def named(self, file: str) -> str:
        """Return what a store calls this part of a file: ``walk/x.mp4[30:90]``; a whole video has
        the name of its file.
        """
        if self == WHOLE:
            return file
        return f"{file}[{self.start}:{'' if self.stop is None else self.stop}]"


WHOLE = Part()


def part_of(name: str) -> tuple[str, Part]:
    """Return the file and the part that a name in a store means. A file may have such a name
    itself: the caller checks the disk.
    """
    found = _NAMED.fullmatch(name)
    if not found:
        return name, WHOLE
    file, start, stop = found.groups()
    return file, Part(int(start), int(stop) if stop else None)
