"""Words of strangers (names of files and classes, messages of other programs) as they are shown."""

import reprlib

_MOST = 2000  # letters of a line
_END = 200  # of them at the end of what is cut, where a message says what to do

# A value of a file may be a text of megabytes, or a small one that refers to itself; a message has
# room for one line.
_shorten = reprlib.Repr()
_shorten.maxstring = _shorten.maxother = _shorten.maxlong = 80


def plain(text: object, *, most: int = _MOST) -> str:
    r"""Return the text as one printable line: what a terminal would obey or not show becomes
    ``\x1b``, ``\n`` and so on, and what is longer than ``most`` letters is cut in the middle.
    """
    words = str(text)
    if len(words) > most:
        words = f"{words[: most - _END]}... ({len(words)} letters) ...{words[-_END:]}"
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in words
    )


def shown(value: object) -> str:
    """Return any value of a file as short text on one line, for a message."""
    if isinstance(value, str) and value.isprintable() and len(value) < 80:
        return value
    return quoted(value)


def quoted(value: object) -> str:
    """Return any value as Python writes it, short and on one line."""
    text = _shorten.repr(value)
    return text if len(text) < 120 else f"{text[:100]}..."
