"""The settings of the evaluations. Light to import."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fame.settings import (
    DATA,
    LARGEST_CROP,
    MOST_APART,
    MOST_CLIPS,
    MOST_FRAMES,
    MOST_WORKERS,
    SPEED,
    Setting,
    Settings,
)
from fame.store_spec import StorePath

Batch = Annotated[int, SPEED("Clips that the network takes at a time.", low=1)]
Beta = Annotated[
    float, Setting("Share of a clip that is foreground: the top of its map.", above=0, high=1)
]
Clips = Annotated[int, Setting("Evenly spaced clips of each video.", low=1, high=MOST_CLIPS)]
Frames = Annotated[
    int | None,
    Setting("Frames of a clip (default: those of the training).", low=1, high=MOST_FRAMES),
]
Step = Annotated[
    int | None,
    Setting(
        "Kept frames from one frame of a clip to the next (default: that of the training).",
        low=1,
        high=MOST_APART,
    ),
]
Crop = Annotated[
    int | None,
    Setting(
        "Side of the centre crop, pixels (default: that of the training).",
        low=1,
        high=LARGEST_CROP,
        metavar="PIXELS",
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], SPEED("Where to run; auto takes a GPU if there is one.")
]
Workers = Annotated[
    int,
    SPEED("Processes that decode clips; 0 decodes in the main process.", low=0, high=MOST_WORKERS),
]
TestStore = Annotated[StorePath, DATA("Store of labelled test videos.", metavar="STORE")]
Normalisation = Annotated[
    Literal["kinetics", "imagenet"],
    Setting(
        "Frames whose mean and deviation are taken out of the colours; the reference's retrieval "
        "takes ImageNet's."
    ),
]
WeightDecay = Annotated[
    float | None,
    Setting(
        "Weight decay of the linear probe (default: chosen on held-out training videos).", low=0
    ),
]


@dataclass(frozen=True, kw_only=True)
class EncodingConfig(Settings):
    """Settings of the encoding of videos."""

    cache: Annotated[Path, Setting("Folder in which features are kept.", option="")]
    clips: Clips = 10
    frames: Frames = None
    step: Step = None
    crop: Crop = None
    batch: Batch = 16
    workers: Workers = 0
    device: Device = "auto"
    random_init: Annotated[bool, Setting("Also measure the untrained network, as a baseline.")] = (
        False
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(EncodingConfig):
    """Settings of the stores, and of the way from a clip to a feature."""

    train_store: Annotated[StorePath, DATA("Store of labelled training videos.", metavar="STORE")]
    test_store: TestStore
    normalisation: Normalisation = "kinetics"
    per_clip_l2: Annotated[
        bool,
        Setting(
            "Scale the feature of each clip to length 1 before the mean, as the reference's "
            "retrieval does."
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class KnnConfig(Settings):
    """The vote of the nearest training videos."""

    k: Annotated[int, Setting("Training videos that vote.", low=1)] = 20
    temperature: Annotated[float, Setting("A vote counts exp(cosine / temperature).", above=0)] = (
        0.07
    )


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(Settings):
    """The search for similar training videos."""

    centre: Annotated[
        bool, Setting("Subtract the mean feature of each store first, as the reference does.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class LinearConfig(Settings):
    """The linear probe."""

    weight_decay: WeightDecay = None
    seed: Annotated[int, Setting("Decides which videos are held out.", low=0)] = 0


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(Settings):
    """Settings of the test of fine-tuned classifiers."""

    store: TestStore
    out: Annotated[Path, DATA("Folder of the results.")]
    clips: Clips = 10
    crops: Annotated[
        int, Setting("Squares of each clip, along its longer side.", low=1, high=100)
    ] = 1
    skip_short: Annotated[
        bool, Setting("Leave out videos shorter than a clip, as the reference does, not loop them.")
    ] = False
    predictions: Annotated[
        Path | None, DATA("CSV file to write the prediction for each video to.", metavar="FILE")
    ] = None
    per_clip: Annotated[
        bool, Setting("Write a row for each crop of each clip into it, not one for each video.")
    ] = False
    frames: Frames = None
    step: Step = None
    crop: Crop = None
    batch: Batch = 16
    workers: Workers = 0
    device: Device = "auto"

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for rows of clips that no file would take."""
        super().__post_init__()
        if self.per_clip and self.predictions is None:
            raise ValueError("per_clip needs a file to write to: --predictions FILE")


@dataclass(frozen=True, kw_only=True)
class ActivationConfig(Settings):
    """Settings of activation maps, of the middle clips of videos spread over the store.

    The foreground of a clip is the top ``beta`` of its stored map, or of its frame differences in
    a store without maps.
    """

    store: Annotated[StorePath, DATA("Store of the clips.", metavar="STORE")]
    out: Annotated[Path, DATA("Folder of the pictures.")]
    clips: Annotated[int, Setting("Videos that are measured, one clip of each.", low=1)] = 64
    rows: Annotated[int, Setting("How many of them are drawn.", low=1)] = 4
    beta: Beta = 0.5
    crop: Crop = None
    batch: Batch = 8
    device: Device = "auto"


@dataclass(frozen=True, kw_only=True)
class BiasConfig(EncodingConfig):
    """Settings of the bias report: which parts are exchanged between which videos."""

    test_store: Annotated[
        StorePath, DATA("Store of labelled test videos with maps.", option="store", metavar="STORE")
    ]
    train_store: Annotated[
        StorePath | None,
        DATA(
            "Store of labelled training videos; without it no probe, and test videos vote.",
            metavar="STORE",
        ),
    ] = None
    backgrounds: Annotated[
        Path | None,
        DATA("CSV file with columns video and background: the true one of each test video."),
    ] = None
    beta: Annotated[
        float, Setting("Share of a clip within which its foreground lies.", above=0, below=1)
    ] = 0.5
    seed: Annotated[
        int, Setting("Decides which videos exchange parts, and the orders of frames.", low=0)
    ] = 0
    weight_decay: WeightDecay = None
