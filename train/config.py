"""The settings of training runs, which decide everything that a run computes. Light to import.

``to_dict`` of a config is written beside every run and inside every checkpoint.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fame.settings import (
    CONTRAST,
    DATA,
    LARGEST_CROP,
    LAUNCH,
    MERGING,
    MOST_APART,
    MOST_CLIPS,
    MOST_FRAMES,
    MOST_WORKERS,
    NETWORK,
    OPTIMISER,
    RUN,
    SEED,
    SPEED,
    Settings,
)

if TYPE_CHECKING:
    from fame.clipstore import ClipStore, StorePath, Window

ENCODERS = ("i3d", "r2plus1d_18", "c3d_small", "pytorch_i3d")
_FOREIGN = "Networks of other projects are hf:FOLDER, torchvision:NAME, package.module:function"
Batch = Annotated[int, OPTIMISER("Videos per step, over all processes.", low=1, metavar="VIDEOS")]
Jitter = Annotated[
    Literal["current", "paper"],
    DATA(
        "Colour change as today's libraries make it, or as those of the paper's date did: "
        "brightness added, contrast without the mean, saturation in HSV."
    ),
]
Beta = Annotated[
    float, MERGING("Share of each crop that is foreground: the top of its map.", above=0, high=1)
]
MergeGroup = Annotated[
    int | None,
    MERGING(
        "Clips that exchange backgrounds (none: all that a process holds).", low=2, metavar="CLIPS"
    ),
]
Blur = Annotated[float, DATA("Probability of blurring a clip.", low=0, high=1)]
Epochs = Annotated[int, OPTIMISER("Passes over the videos.", low=1)]
LearningRate = Annotated[float, OPTIMISER("Learning rate.", above=0)]
Milestones = Annotated[
    tuple[int, ...],
    OPTIMISER(
        "Epochs after which schedule=steps divides the learning rate by 10, e.g. 60,120.",
        low=1,
        metavar="EPOCHS",
    ),
]
Schedule = Annotated[
    Literal["cosine", "steps", "constant"],
    OPTIMISER("Course of the learning rate after the warm-up."),
]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Settings):
    """The settings that pretraining and fine-tuning share."""

    seed: Annotated[int, RUN("Decides initial weights, order and every draw.", low=0)] = 0
    encoder: Annotated[
        str,
        NETWORK(
            "i3d, r2plus1d_18, c3d_small, or another project's: hf:FOLDER, torchvision:NAME, or "
            "package.module:function, which runs that code.",
            metavar="NAME",
        ),
    ] = "i3d"
    width: Annotated[float, NETWORK("Multiplies the channels of I3D.", above=0)] = 1.0
    bn_group: Annotated[
        int | None,
        NETWORK(
            "Clips that share the statistics of a batch norm (none: all that a process holds).",
            low=1,
            metavar="CLIPS",
        ),
    ] = None

    frames: Annotated[int, DATA("Frames of a clip.", low=1, high=MOST_FRAMES, metavar="FRAMES")] = (
        16
    )
    step: Annotated[
        int,
        DATA(
            "Kept frames of the store from one frame of a clip to the next.",
            low=1,
            high=MOST_APART,
        ),
    ] = 1
    span: Annotated[
        float | None,
        DATA("Share of its video over which a clip is spread, instead of a step.", above=0, high=1),
    ] = None

    epochs: Epochs = 200
    batch: Batch = 64
    accumulate: Annotated[
        int,
        SPEED(
            "Parts into which a process splits its batch, to save memory.", low=1, metavar="PARTS"
        ),
    ] = 1
    optimizer: Annotated[Literal["sgd", "adamw"], OPTIMISER("Optimiser.")] = "sgd"
    lr: LearningRate = 0.01
    momentum: Annotated[float, OPTIMISER("Momentum of SGD.", low=0, high=1)] = 0.9
    weight_decay: Annotated[float, OPTIMISER("Weight decay.", low=0)] = 1e-4
    schedule: Schedule = "cosine"
    milestones: Milestones = ()
    warmup_epochs: Annotated[
        float, OPTIMISER("Epochs in which the learning rate rises linearly from 0.", low=0)
    ] = 0.0
    lr_update: Annotated[
        Literal["step", "epoch"], OPTIMISER("How often the learning rate changes.")
    ] = "step"

    device: Annotated[
        Literal["auto", "cpu", "cuda"], SPEED("Where to train; auto takes a GPU if there is one.")
    ] = "auto"
    precision: Annotated[Literal["fp32", "tf32", "bf16"], SPEED("Arithmetic of the network.")] = (
        "fp32"
    )
    compile: Annotated[bool, SPEED("Compile the network.")] = False
    channels_last: Annotated[bool, SPEED("Keep channels last in memory.")] = False
    checkpoint_activations: Annotated[
        bool, SPEED("Recompute activations in the backward pass, to save memory.")
    ] = False

    workers: Annotated[
        int,
        SPEED(
            "Decoding processes of each training process; 0 decodes in the training process.",
            low=0,
            high=MOST_WORKERS,
        ),
    ] = 4
    prefetch: Annotated[
        int, SPEED("Batches that each decoding process prepares ahead.", low=1, high=1024)
    ] = 2
    decode: Annotated[
        Literal["workers", "device"],
        SPEED(
            "What decodes the frames of a jpeg store: the workers, or the GPU with torchcodec; "
            "its colours differ a little."
        ),
    ] = "workers"
    cache: Annotated[
        Path | None,
        SPEED(
            "Folder of the local cache of stores in buckets, shared by all runs (default: none).",
            metavar="FOLDER",
        ),
    ] = None
    cache_gb: Annotated[float, SPEED("Most that this folder holds, in GB.", above=0, high=1e6)] = (
        100.0
    )
    on_corrupt: Annotated[
        Literal["stop", "skip"], DATA("What to do at a damaged chunk of a store.")
    ] = "stop"

    log_every: Annotated[int, RUN("Steps from one log entry to the next.", low=1)] = 10
    logger: Annotated[
        Literal["tensorboard", "wandb", "mlflow"],
        RUN("TensorBoard only, or also Weights & Biases or MLflow."),
    ] = "tensorboard"
    checkpoint_every: Annotated[int, RUN("Epochs from one kept checkpoint to the next.", low=1)] = (
        10
    )
    keep: Annotated[
        int | None,
        RUN("How many of these checkpoints to keep, the newest ones (default: all).", low=1),
    ] = None
    save_seconds: Annotated[
        float, RUN("Longest time in seconds that a killed run can lose.", low=0)
    ] = 600.0

    crop: Annotated[
        int, DATA("Side of the training crop, pixels.", low=8, high=LARGEST_CROP, metavar="PIXELS")
    ] = 224
    min_area: Annotated[
        float, DATA("Smallest share of the frame that a crop covers.", above=0, high=1)
    ] = 0.2
    flip: Annotated[float, DATA("Probability of mirroring a clip.", low=0, high=1)] = 0.5
    gray: Annotated[float, DATA("Probability of removing the colours.", low=0, high=1)] = 0.2
    jitter: Annotated[float, DATA("Probability of changing the colours.", low=0, high=1)] = 0.8
    jitter_kind: Jitter = "current"
    blur: Blur = 0.5

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for values that no run can have."""
        super().__post_init__()
        if self.encoder not in ENCODERS and ":" not in self.encoder:
            near = difflib.get_close_matches(self.encoder, ENCODERS, n=1, cutoff=0.0)[0]
            raise ValueError(f"no encoder {self.encoder!r}; did you mean {near}? {_FOREIGN}")
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate must divide batch {self.batch}, got {self.accumulate}")
        if self.schedule == "steps" and not self.milestones:
            raise ValueError(
                "schedule=steps needs milestones (the epochs after which the learning rate is "
                "divided by 10), got none"
            )

    @property
    def window(self) -> "Window":
        """Return the window of a clip."""
        from fame.clipstore import Window

        return Window(frames=self.frames, step=self.step, span=self.span)

    def opened(self, store: "StorePath") -> "ClipStore":
        """Open a store, with the cache where there is one. Raise ``ValueError`` as
        ``ClipStore.open``, and for a folder in which nothing can be kept.
        """
        from fame.clipstore import Cache, ClipStore

        if self.cache is None:
            return ClipStore.open(store)
        cache = Cache(folder=self.cache.absolute(), limit=int(self.cache_gb * 1e9))
        cache.begin()
        return ClipStore.open(store, cache=cache)

    @property
    def encoder_options(self) -> dict[str, Any]:
        """Return the options of the backbone beyond its name."""
        return {"width": self.width} if self.encoder == "i3d" else {}


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """Momentum contrast with merged foregrounds and backgrounds. The defaults are the reference's
    on Kinetics-400.
    """

    beta: Beta = 0.5
    views: Annotated[Literal["single", "both"], MERGING("Merge one view or both.")] = "single"
    background: Annotated[
        Literal["inter", "intra", "none"],
        MERGING("Background from another video, from the video's other clip, or no merging."),
    ] = "inter"
    mask: Annotated[
        Literal["stored", "frames", "online", "median", "gauss", "grid", "difference"],
        MERGING(
            "Foreground: the store's map of the clip or of each of its frames, the paper's score "
            "of the crop, a map for every frame of the crop (median), or a variant of the paper's "
            "ablation.",
            formerly=SEED,
        ),
    ] = "stored"
    cut: Annotated[
        Literal["frame", "clip", "adaptive"],
        MERGING(
            "Take beta of every map, of all frames of a clip together, or let each clip choose a "
            "share up to beta."
        ),
    ] = "frame"
    hue: Annotated[Literal["reference", "correct"], MERGING("Colours that mask=online uses.")] = (
        "reference"
    )
    sources: Annotated[
        Literal["derangement", "permutation"],
        MERGING("Whether a clip may draw its own background (permutation, as the reference)."),
    ] = "derangement"
    merge_group: MergeGroup = None

    head: Annotated[
        Literal["projection", "linear"], CONTRAST("Two layers or one after the encoder.")
    ] = "projection"
    dim: Annotated[int, CONTRAST("Size of the embedding.", low=1)] = 128
    queue: Annotated[int, CONTRAST("Keys that the queue holds.", low=1, metavar="KEYS")] = 65536
    temperature: Annotated[float, CONTRAST("Temperature of the loss.", above=0)] = 0.1
    ema: Annotated[float, CONTRAST("Momentum of the key encoder.", low=0, high=1)] = 0.999
    ema_schedule: Annotated[
        Literal["constant", "cosine"],
        CONTRAST("Keep that momentum constant, or raise it to 1 along a cosine."),
    ] = "constant"
    enqueue: Annotated[
        Literal["between", "after"],
        CONTRAST(
            "Whether keys of view 2 enter the queue between the two directions of the loss (as in "
            "the reference) or after both."
        ),
    ] = "after"
    shuffle: Annotated[
        Literal["batch", "process"],
        CONTRAST(
            "Mix the keys' batch-norm groups over the whole batch, or within each process, which "
            "sends no clips but makes results depend on the number of processes."
        ),
    ] = "batch"
    negatives: Annotated[
        Literal["others", "all"],
        CONTRAST(
            "Leave a video's own older keys out of its negatives, or take the whole queue (as the "
            "reference)."
        ),
    ] = "others"

    knn_every: Annotated[
        int, RUN("Epochs from one kNN test on --knn-store to the next; 0 for none.", low=0)
    ] = 0
    knn_k: Annotated[int, RUN("Neighbours of that kNN test.", low=1)] = 20

    @property
    def head_options(self) -> dict[str, Any]:
        """Return the head as :func:`fame.models.build_encoder` takes it."""
        return {"kind": self.head, "dim": self.dim}

    @property
    def merges(self) -> bool:
        """Return whether any view is merged."""
        return self.background != "none"


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TrainingConfig):
    """Supervised fine-tuning. The defaults are the reference's on UCF101 (published: 88.6 from
    Kinetics-400); the reference blurs in pretraining only.
    """

    epochs: Epochs = 150
    batch: Batch = 128
    lr: LearningRate = 0.025
    schedule: Schedule = "steps"
    milestones: Milestones = (60, 120)
    jitter_kind: Jitter = "paper"
    blur: Blur = 0.0
    dropout: Annotated[
        float, NETWORK("Share of the features dropped before the classifier.", low=0, high=0.99)
    ] = 0.7
    clips: Annotated[
        int, DATA("Evenly spaced clips by which a test video is judged.", low=1, high=MOST_CLIPS)
    ] = 10

    merge: Annotated[
        float,
        MERGING(
            "Probability that a clip gets the background of another; its label stays that of its "
            "foreground.",
            low=0,
            high=1,
        ),
    ] = 0.0
    beta: Beta = 0.5
    mask: Annotated[
        Literal["difference", "online", "stored"],
        MERGING(
            "Foreground: the frame differences of the crop, the paper's score of the crop, or the "
            "store's map of the clip.",
            formerly=SEED,
        ),
    ] = "difference"
    merge_group: MergeGroup = None

    select: Annotated[
        Literal["last", "validation", "test"],
        RUN(
            "Weights that are tested: of the last epoch, the best on held-out training videos, or "
            "the best on the test videos themselves (as the reference; the report says so)."
        ),
    ] = "last"
    val_share: Annotated[
        float,
        RUN("Share of each class held out from training for select=validation.", above=0, high=0.5),
    ] = 0.1
    select_every: Annotated[int, RUN("Epochs from one test for select to the next.", low=1)] = 10

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for settings of merging without merging."""
        super().__post_init__()
        for name in ("beta", "mask", "merge_group"):
            if not self.merge and getattr(self, name) != self.field(name).default:
                raise ValueError(f"{name} needs merging: set merge above 0, 1 to merge every clip")


@dataclass(frozen=True, kw_only=True)
class LaunchConfig(Settings):
    """Settings of the launch of the training processes."""

    launcher: Annotated[
        Literal["here", "ray"],
        LAUNCH(
            "Train in this process (one of several under torchrun), or in processes that Ray "
            "starts."
        ),
    ] = "here"
    processes: Annotated[
        int, LAUNCH("Training processes that Ray starts, one GPU each.", low=1)
    ] = 1
    cpus_per_process: Annotated[int, LAUNCH("Cores that Ray reserves for each of them.", low=1)] = 1
    max_failures: Annotated[int, LAUNCH("Times that Ray restarts them after a failure.", low=0)] = 3

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for settings of Ray without Ray."""
        super().__post_init__()
        if self.launcher == "here":
            for name, field in self.fields().items():
                if getattr(self, name) != field.default:
                    raise ValueError(f"{name} needs launcher=ray; torchrun has options of its own")
