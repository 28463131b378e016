"""The story of a kill test, for people to read.

FAME_KILL_LOG=benchmarks/results/kill_tests.md python -m pytest tests/preprocess -k killed_drivers
--timeout 1800
"""

from pathlib import Path

HEADING = """\
# Kill tests

A run of the offline stage over 12 videos (6 shards) is killed with SIGKILL at a random moment, alone or with its whole
process group, and the same command is started again, until the store is finished; then the next store. After each kill:
the records (shards that are done), the drafts (files in the making, which the next run drops) and whether the seal is
there. Every finished store was compared with one made by a single serial run: all bytes were the same. Written by
`tests/preprocess/kill_log.py`.
"""
TABLE = """
## {executor}

A run that nobody kills took {seconds:.1f} s.

| kill | store | after, s | killed | records | drafts | then |
|---|---|---|---|---|---|---|
"""


class KillLog:
    """What was there after each kill, and how it went on."""

    def __init__(self, executor: str, seconds: float) -> None:
        self._text, self._kills, self._stores = (
            TABLE.format(executor=executor, seconds=seconds),
            0,
            1,
        )
        self._before = ""

    def killed(self, store: Path, moment: float, *, whom: str) -> None:
        """Tell of one kill."""
        records, drafts = (
            len(list(store.glob(pattern))) for pattern in ("records/*.json", ".partial/*")
        )
        begun = (store / "zarr.json").exists()
        self._end_row("resumed")
        self._kills += 1
        there = f"{records} of 6" if begun else "no store yet"
        if (store / "seal.json").exists():
            there += ", sealed"
        self._before = (
            f"| {self._kills} | {self._stores} | {moment:.2f} | {whom} | {there} | {drafts} |"
        )

    def finished(self, shards: int) -> None:
        """Tell that a store was finished."""
        self._end_row(f"resumed and finished: {shards} of {shards} shards, same bytes")
        self._stores += 1

    def append_to(self, path: Path) -> None:
        """Add the table to the log, which is begun if need be."""
        if not path.exists():
            path.write_text(HEADING)
        with path.open("a") as file:
            file.write(self._text)

    def _end_row(self, told: str) -> None:
        if self._before:
            self._text += f"{self._before} {told} |\n"
            self._before = ""
