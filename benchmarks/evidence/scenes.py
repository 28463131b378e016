"""Clip stores of the real footage that is not the project's (``../shared/data``): pointing hands in
folds by scene, tennis strokes split at random and by source, and all the rest to pretrain on.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from worlds import preprocessed

from fame.clipstore import is_finished

# Name of a split -> its lists. In the biased one, a scene shows other figures in the test.
HANDS = {f"fold{n}": (f"fold{n}_train.txt", f"fold{n}_test.txt") for n in (1, 2, 3)}
HANDS["biased"] = ("bias_train.txt", "bias_conflict.txt")
# Two splits of the same clips: sources shared by training and test, and sources of their own.
TENNIS = {"random": ("random_train.txt", "random_test.txt"), "source": ("train.txt", "test.txt")}
REST = ("overhead-actions", "exercise-typing")


@dataclass(frozen=True, kw_only=True)
class Stores:
    """Makes stores below ``work`` where they are not there yet, with frames of ``size``.

    ``hands`` is the folder of the pointing hands; the other footage lies beside it.
    """

    hands: Path
    work: Path
    size: tuple[int, int]

    @property
    def scenes(self) -> Path:
        """The table of the scene of every pointing hand, as the bias report reads it."""
        path = self.work / "scenes.csv"
        if not path.exists():
            with (self.hands / "clips.csv").open(newline="") as file:
                rows = [(_below(row["path"]), row["scene"]) for row in csv.DictReader(file)]
            self.work.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="") as file:
                csv.writer(file).writerows([("video", "background"), *rows])
        return path

    def pointing(self, split: str) -> tuple[Path, Path]:
        """Training and test store of pointing hands."""
        return self._pair("pointing", self.hands, split, HANDS[split])

    def tennis(self, split: str) -> tuple[Path, Path]:
        """Training and test store of tennis strokes."""
        return self._pair("tennis", self.hands.parent / "tennis-strokes", split, TENNIS[split])

    def rest(self) -> Path:
        """A store to pretrain on: all footage but the pointing hands, without the strokes that
        either split tests.
        """
        data, tennis = self.hands.parent, self.hands.parent / "tennis-strokes"
        tested = {name for _, test in TENNIS.values() for name in _names(tennis / test)}
        trained = {name for train, _ in TENNIS.values() for name in _names(tennis / train)}
        names = [f"tennis-strokes/videos/{name}" for name in sorted(trained - tested)]
        for folder in REST:
            found = sorted((data / folder).rglob("*.mp4"))
            names += [str(path.relative_to(data)) for path in found]
        return self._store("rest", data, "train", names)

    def _pair(
        self, name: str, folder: Path, split: str, lists: tuple[str, str]
    ) -> tuple[Path, Path]:
        train, test = (
            self._store(f"{name}-{split}", folder / "videos", part, _names(folder / listed))
            for part, listed in zip(("train", "test"), lists, strict=True)
        )
        return train, test

    def _store(self, name: str, videos: Path, part: str, names: Iterable[str]) -> Path:
        store, listed = self.work / f"{name}-{part}.zarr", self.work / f"{name}-{part}.txt"
        if not is_finished(store):
            self.work.mkdir(parents=True, exist_ok=True)
            listed.write_text("".join(f"{line}\n" for line in names))
            height, width = map(str, self.size)
            options = ("--keep", "1", "--height", height, "--width", width)
            preprocessed(name, part, store, videos=videos, listed=listed, options=options)
        return store


def _names(listed: Path) -> list[str]:
    """The videos of a list, below ``videos/``."""
    return [_below(line.split()[0]) for line in listed.read_text().splitlines() if line.strip()]


def _below(path: str) -> str:
    return path.removeprefix("videos/")
