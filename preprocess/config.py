"""What a run of the offline stage is asked for, and the videos that this names."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from fame.clipstore import StorePath, StoreSpec, sized_for
from preprocess import datasets
from preprocess.datasets import Listing

Dataset = Literal["k400", "ucf101", "hmdb51", "diving48", "folder"]
_NEEDS_ANNOTATIONS = ("ucf101", "hmdb51", "diving48")


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """What to make a store of, and how. Invalid values raise ``ValueError`` on construction.

    Args:
        dataset: which dataset; see the function of that name in `preprocess.datasets` for the tree
            it expects.
        split: train, val or test; for ``folder`` any name.
        videos: root of the videos.
        store: the store to make or to go on with: a folder, or ``s3://bucket/path``.
        annotations: folder of the official annotations.
        fold: 1, 2 or 3, of UCF101 and HMDB51.
        list_file: of ``folder``: only these videos.
        class_file: of ``folder``: class names in index order.
        spec: the recipe.
        videos_per_shard: instead of that of the spec; None for as many as suit the dataset.
        executor: ``serial`` is the reference; ``ray`` gives the same bytes with several workers.
        workers: shards in flight; by default one for each core that this process may use.
        address: of Ray: ``local``, ``auto`` or a cluster's address.
        memory_per_worker: bytes set aside by Ray for a worker and the most that its decoder may
            hold; 0: no limit.
        time_limit: seconds that one video may take before it is given up as failed.
        max_missing: share of the listed videos that may be missing on disk.
        max_failed: share of the videos that may fail.
        dry_run: only estimate, from a sample of the videos.
    """

    dataset: Dataset
    split: str
    videos: Path
    store: StorePath
    annotations: Path | None = None
    fold: int = 1
    list_file: Path | None = None
    class_file: Path | None = None
    spec: StoreSpec = field(default_factory=StoreSpec)
    videos_per_shard: int | None = None
    executor: Literal["serial", "ray"] = "ray"
    workers: int | None = None
    address: str = "local"
    memory_per_worker: int = 0
    time_limit: float = 300.0
    max_missing: float = 0.2
    max_failed: float = 0.05
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.dataset not in get_args(Dataset):
            raise ValueError(
                f"dataset must be one of {', '.join(get_args(Dataset))}, not {self.dataset!r}"
            )
        if self.executor not in ("serial", "ray"):
            raise ValueError(f"executor must be serial or ray, not {self.executor!r}")
        if self.executor == "serial" and (self.workers not in (None, 1) or self.address != "local"):
            raise ValueError(
                "the serial executor has one worker, here: give workers and address to ray"
            )
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, not {self.workers}")
        if self.time_limit <= 0 or self.memory_per_worker < 0:
            raise ValueError("time_limit must be above 0 and memory_per_worker at least 0")
        for name in ("max_missing", "max_failed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, not {getattr(self, name)}")
        if self.spec.frames < 2 and self.spec.foreground != "none":
            raise ValueError(
                "motion shows between frames: clips of one frame have the foreground none"
            )
        self._check_annotations()

    def _check_annotations(self) -> None:
        if self.dataset in _NEEDS_ANNOTATIONS and self.annotations is None:
            raise ValueError(f"{self.dataset} needs its official annotations")
        if self.dataset == "folder" and self.annotations is not None:
            raise ValueError("folder takes a list of videos, not annotations")
        if self.dataset != "folder" and (self.list_file or self.class_file):
            raise ValueError(
                f"{self.dataset} has its own lists: list_file and class_file are for folder"
            )

    def spec_for(self, num_videos: int) -> StoreSpec:
        """The recipe, with the size of its shards settled."""
        if self.videos_per_shard is None:
            return sized_for(self.spec, num_videos)
        return replace(self.spec, videos_per_shard=self.videos_per_shard)

    @property
    def num_workers(self) -> int:
        """Shards in flight."""
        return 1 if self.executor == "serial" else self.workers or len(os.sched_getaffinity(0))


def list_videos(config: PreprocessConfig) -> Listing:
    """The videos of the split. Raises ``ValueError`` for bad annotations or more missing videos
    than allowed.
    """
    root, split, annotations = config.videos, config.split, config.annotations
    if config.dataset == "folder":
        listing = datasets.folder(root, list_file=config.list_file, class_file=config.class_file)
    elif config.dataset == "k400":
        listing = datasets.k400(root, split=split, annotations=annotations)
    else:
        assert annotations is not None
        listing = {
            "ucf101": lambda: datasets.ucf101(
                root, split=split, annotations=annotations, fold=config.fold
            ),
            "hmdb51": lambda: datasets.hmdb51(
                root, split=split, annotations=annotations, fold=config.fold
            ),
            "diving48": lambda: datasets.diving48(root, split=split, annotations=annotations),
        }[config.dataset]()
    if listing.missing_share > config.max_missing:
        raise ValueError(
            f"{len(listing.missing)} of {len(listing.missing) + len(listing.names)} "
            "listed videos are missing below"
            f" {root}, above the {config.max_missing:.0%} allowed; the first is "
            f"{listing.missing[0]!r}"
        )
    if not listing.names:
        raise ValueError(f"{root} holds no video of {config.dataset} {split}")
    return listing
