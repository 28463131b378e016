"""Datasets: pure functions from a source to the videos of one split, and what each needs."""

from collections.abc import Callable
from dataclasses import dataclass

from preprocess.datasets.diving48 import diving48
from preprocess.datasets.files import Source
from preprocess.datasets.folder import folder
from preprocess.datasets.hmdb51 import hmdb51
from preprocess.datasets.jester import jester
from preprocess.datasets.kinetics import k400, k600, k700
from preprocess.datasets.listing import Listing
from preprocess.datasets.ssv2 import ssv2
from preprocess.datasets.ucf101 import ucf101

__all__ = ["DATASETS", "Dataset", "Listing", "Source", "read"]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The way to list a dataset. ``splits`` is empty if any name is allowed. ``annotations`` is
    ``True`` if the official ones are needed, ``False`` if there are none, ``None`` if they may be
    left out.
    """

    listing: Callable[[Source], Listing]
    splits: tuple[str, ...] = ()
    folds: bool = False
    annotations: bool | None = True

    def check(self, name: str, source: Source) -> None:
        """Raise ``ValueError`` unless the source has what this dataset needs, and no more."""
        if self.splits and source.split not in self.splits:
            raise ValueError(
                f"{name} has the splits {', '.join(self.splits)}, not {source.split!r}"
            )
        if source.fold not in ((1, 2, 3) if self.folds else (1,)):
            raise ValueError(
                f"{name} has {'the folds 1, 2 and 3' if self.folds else 'no folds'}, "
                f"not {source.fold}"
            )
        if self.annotations is True and source.annotations is None:
            raise ValueError(f"{name} needs its official annotations")
        if self.annotations is False and source.annotations is not None:
            raise ValueError(f"{name} takes a list of videos, not annotations")
        if self.annotations is not False and (source.list_file or source.class_file):
            raise ValueError(f"{name} has its own lists: list_file and class_file are for folder")


_TRAIN_VAL = ("train", "val", "test")
_TRAIN_TEST = ("train", "test")
DATASETS = {
    "k400": Dataset(listing=k400, splits=_TRAIN_VAL, annotations=None),
    "k600": Dataset(listing=k600, splits=_TRAIN_VAL, annotations=None),
    "k700": Dataset(listing=k700, splits=_TRAIN_VAL, annotations=None),
    "ssv2": Dataset(listing=ssv2, splits=_TRAIN_VAL),
    "jester": Dataset(listing=jester, splits=_TRAIN_VAL),
    "ucf101": Dataset(listing=ucf101, splits=_TRAIN_TEST, folds=True),
    "hmdb51": Dataset(listing=hmdb51, splits=_TRAIN_TEST, folds=True),
    "diving48": Dataset(listing=diving48, splits=_TRAIN_TEST),
    "folder": Dataset(listing=folder, annotations=False),
}


def read(name: str, source: Source) -> Listing:
    """Return the videos of one split of a dataset.

    Raise ``ValueError`` for a source that does not fit the dataset, and for files that cannot be
    read as it expects. Raise ``OSError`` for what the file system refuses.
    """
    DATASETS[name].check(name, source)
    return DATASETS[name].listing(source)
