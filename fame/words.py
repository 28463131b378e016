"""Words of strangers (names of files and classes, messages of other programs) as they are shown."""

_MOST = 2000  # letters of a line


def plain(text: object, *, most: int = _MOST) -> str:
    r"""Return the text as one printable line: what a terminal would obey or not show becomes
    ``\x1b``, ``\n`` and so on, and what is longer than ``most`` letters is cut.
    """
    words = str(text)
    if len(words) > most:
        words = f"{words[:most]}... ({len(words)} letters)"
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in words
    )
