"""The settings of the offline stage and of the demonstration. Light to import."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from fame.settings import DATA, RUN, Setting, Settings
from fame.store_spec import StorePath, StoreSpec
from preprocess.datasets import DATASETS, Source
from preprocess.datasets.files import ListNumbers

Dataset = Literal[
    "k400", "k600", "k700", "ssv2", "jester", "ucf101", "hmdb51", "diving48", "folder"
]
MOTIONS = ("circle", "diagonal", "horizontal", "pulse", "spin", "vertical")


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig(Settings):
    """The settings of the offline stage. `preprocess.datasets` describes the files of a dataset."""

    dataset: Annotated[Dataset, Setting("Dataset.", option="")]
    split: Annotated[str, Setting("Split: train, val or test; any name for folder.", option="")]
    videos: Annotated[Path, DATA("Folder of the videos.")]
    store: Annotated[
        StorePath,
        DATA(
            "Store to make or to continue: a folder, or s3://bucket/path (gs://, az://).",
            metavar="STORE",
        ),
    ]
    annotations: Annotated[
        Path | None, DATA("Official annotation files: their folder, or the one of the split.")
    ] = None
    fold: Annotated[int, DATA("Which of the three official splits.", low=1, high=3)] = 1
    list_file: Annotated[
        Path | None, DATA("Only these videos, one a line, with or without a label.", option="list")
    ] = None
    list_numbers: Annotated[
        ListNumbers,
        DATA(
            "What the two numbers between a listed name and its label are: first frame and end, or "
            "first frame and how many."
        ),
    ] = "start-end"
    class_file: Annotated[
        Path | None,
        DATA(
            "Class names in order, one a line (default: the subfolders, sorted).", option="classes"
        ),
    ] = None
    allow_links: Annotated[
        tuple[Path, ...],
        DATA("Folder that links among the videos may lead to; may be repeated.", metavar="FOLDER"),
    ] = ()
    frames_folders: Annotated[bool, DATA("Folders of pictures, one a frame, are the videos.")] = (
        False
    )
    spec: Annotated[StoreSpec, Setting("Recipe of the store.", option="")] = field(
        default_factory=StoreSpec
    )
    videos_per_shard: Annotated[
        int | None,
        Setting("Videos in one shard (none: as many as suit the dataset).", low=1, option=""),
    ] = None
    executor: Annotated[
        Literal["serial", "ray"],
        RUN("Shards one by one in this process, or in parallel under Ray."),
    ] = "ray"
    workers: Annotated[
        int | None, RUN("Shards made at a time, one core each (default: all cores).", low=1)
    ] = None
    address: Annotated[str, RUN("Ray cluster: local, auto or the address of one.")] = "local"
    memory_per_worker: Annotated[
        float,
        RUN(
            "Memory of a worker and its decoder, GiB; 0 is no limit.",
            low=0,
            high=1e6,
            metavar="GIB",
        ),
    ] = 0.0
    time_limit: Annotated[
        float,
        RUN("Seconds after which a video counts as failed.", above=0, high=1e6, metavar="SECONDS"),
    ] = 300.0
    retry_failed: Annotated[bool, RUN("Try the failed videos again, also in a finished store.")] = (
        False
    )
    max_missing: Annotated[
        float, RUN("Share of listed videos that may be missing.", low=0, high=1)
    ] = 0.2
    max_failed: Annotated[float, RUN("Share of videos that may fail to decode.", low=0, high=1)] = (
        0.05
    )
    dry_run: Annotated[bool, RUN("Print the plan, measured on a sample; write nothing.")] = False

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for values that do not go together."""
        super().__post_init__()
        if self.executor == "serial" and (self.workers not in (None, 1) or self.address != "local"):
            raise ValueError("workers and address need executor=ray")
        DATASETS[self.dataset].check(self.dataset, self.source)

    @property
    def source(self) -> Source:
        """Return where the split is described and where its videos are."""
        return Source(
            root=self.videos,
            split=self.split,
            annotations=self.annotations,
            fold=self.fold,
            list_file=self.list_file,
            list_numbers=self.list_numbers,
            class_file=self.class_file,
            allow_links=self.allow_links,
            frames_folders=self.frames_folders,
        )

    @property
    def num_workers(self) -> int:
        """Return the number of shards that are made at a time."""
        return 1 if self.executor == "serial" else self.workers or len(os.sched_getaffinity(0))


@dataclass(frozen=True, kw_only=True)
class WorldSpec(Settings):
    """Everything that decides the videos that `preprocess.world` draws."""

    videos: Annotated[
        int, Setting("Videos to draw; the last of them are for testing.", low=2, high=1_000_000)
    ] = 96
    frames: Annotated[int, Setting("Frames of a video.", low=2)] = 48
    height: Annotated[int, Setting("Height in pixels.", low=16)] = 96
    width: Annotated[int, Setting("Width in pixels.", low=16)] = 128
    fps: Annotated[int, Setting("Frames per second.", low=1)] = 16
    rho: Annotated[
        float,
        Setting(
            "Probability that a training video has the background of its class.", low=0, high=1
        ),
    ] = 0.8
    test_rho: Annotated[
        float | None, Setting("The same of the test videos (none: rho).", low=0, high=1)
    ] = None
    backgrounds: Annotated[
        int | None,
        Setting(
            "Backgrounds of the training videos; the test videos have as many others (none: each "
            "video has its own).",
            low=len(MOTIONS),
        ),
    ] = 12
    contrast: Annotated[
        float, Setting("How much backgrounds stand out, 1 for pale ones.", low=0, high=2.5)
    ] = 1.0
    smallest: Annotated[
        float, Setting("Least size of an object, as a share of the smaller side.", low=0.1, high=1)
    ] = 0.30
    largest: Annotated[
        float, Setting("Largest size of an object, as such a share.", low=0.1, high=1)
    ] = 0.42
    objects: Annotated[
        int | None, Setting("Objects to choose from (none: each video has its own).", low=1)
    ] = None
    camera_motion: Annotated[bool, Setting("Move the camera.")] = False
    test_share: Annotated[
        float, Setting("Share of the videos that are for testing.", above=0, below=1)
    ] = 0.25
    seed: Annotated[int, Setting("Decides the videos.", low=0)] = 0

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for values that do not go together."""
        super().__post_init__()
        if self.smallest > self.largest:
            raise ValueError(
                f"smallest must be at most largest, got {self.smallest} and {self.largest}"
            )
        if self.backgrounds is None and (self.rho > 0 or (self.test_rho or 0) > 0):
            raise ValueError(
                "rho must be 0 where each video has a background of its own: there is none that "
                "belongs to a class"
            )
        if not 1 <= self.num_test < self.videos:
            raise ValueError(
                f"test_share {self.test_share} of {self.videos} videos leaves a split empty"
            )

    @property
    def num_test(self) -> int:
        """Return the number of videos of the test split; they come last."""
        return round(self.videos * self.test_share)
