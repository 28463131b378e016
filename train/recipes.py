"""Named recipes of pretraining: each function returns a config, its docstring says what that
reproduces and costs. The first line is what ``fame pretrain --help`` shows.

A cost in FLOP is arithmetic (27.8 GMAC per I3D forward at 16x224x224, eight forwards per pair);
measured rates are in ``benchmarks/results``.
"""

import difflib
from collections.abc import Callable
from dataclasses import replace

from train.config import PretrainConfig


def reference_k400() -> PretrainConfig:
    """I3D on Kinetics-400 as the paper trained it.

    Command: ``fame pretrain STORE --recipe reference-k400`` (a store of 256x340). Cost: 2.1e19 FLOP
    in fp32. Published: UCF101 88.6 / HMDB51 61.1 / Diving48 72.9 after fine-tuning.
    """
    return PretrainConfig(
        bn_group=8,
        merge_group=8,
        mask="online",
        sources="permutation",
        enqueue="between",
        negatives="all",
        lr_update="epoch",
        jitter_kind="paper",
    )


def reference_ucf101() -> PretrainConfig:
    """I3D on UCF101 as the paper trained it.

    Split 1; a queue of 2,048, the rest as on Kinetics. Command: ``fame pretrain STORE --recipe
    reference-ucf101``. Cost: 8.5e17 FLOP in fp32, 200 epochs of 9,537 videos. Published: UCF101
    81.2 (beta 0.5; 82.0 with ``--beta 0.3``), 75.8 with ``--background none``; Diving48 67.8.
    """
    return replace(reference_k400(), queue=2048)


def r2plus1d() -> PretrainConfig:
    """R(2+1)D-18 on Kinetics-400 as the paper trained it.

    At 112 pixels. Command: ``fame pretrain STORE --recipe r2plus1d`` (a store of 128x170). The head
    of two layers computes what the reference's does. Published: UCF101 84.8 / HMDB51 53.5 after
    fine-tuning, 72.2 / 42.2 with a linear probe; retrieval R@1 on UCF101 64.6.
    """
    return replace(reference_k400(), encoder="r2plus1d_18", crop=112)


def fame_k400() -> PretrainConfig:
    """The default: I3D on Kinetics-400 with flow maps, in bf16.

    Command: ``fame pretrain STORE``. Of the store's maps, that of every frame is taken: on real
    hands it trained better than one map per clip on each of nine pairs of seed and fold, and where
    movers are small; where they are large the two are level (docs/evidence.md). One view is merged:
    with good maps both cost 8 points of the probe. Adaptive masks lose, or collapse where movers
    are small. Beta is the paper's; less may do better, as half a frame is mostly background. Three
    seeds at scale in which another choice wins kNN and probe would change it. bf16, channels last,
    compiled. The batch, its groups and the schedule are the reference's, so that results
    compare. Cost: 2.1e19 FLOP. Published figure: none yet for this variant; compare with
    reference-k400.
    """
    return PretrainConfig(
        bn_group=8,
        merge_group=8,
        mask="frames",
        precision="bf16",
        channels_last=True,
        compile=True,
        workers=16,
    )


def small_cpu() -> PretrainConfig:
    """A small network for small videos: minutes on one CPU core.

    Command: ``fame pretrain STORE --recipe small-cpu`` (a store of 36x48 or more, 128 videos). For
    demonstrations, tests of a set-up and the experiments in ``benchmarks/evidence``, where a run of
    500 steps takes about 3 minutes. Colours are left alone: with them changed, a network of this
    size learns nothing in that time. Masks are made on the crop, a quarter of every frame: masks as
    large as the mover (``cut=adaptive``) are more exact, and learn less in three seeds and nothing
    where movers are small (docs/evidence.md). Published: nothing.
    """
    return PretrainConfig(
        encoder="c3d_small",
        frames=8,
        crop=28,
        min_area=0.5,
        gray=0.0,
        jitter=0.0,
        blur=0.0,
        beta=0.25,
        mask="median",
        bn_group=8,
        merge_group=8,
        epochs=60,
        batch=16,
        optimizer="adamw",
        lr=3e-3,
        ema=0.99,
        ema_schedule="cosine",
        dim=64,
        queue=256,
        workers=0,
        checkpoint_every=5,
    )


RECIPES: dict[str, Callable[[], PretrainConfig]] = {
    "fame-k400": fame_k400,
    "reference-k400": reference_k400,
    "reference-ucf101": reference_ucf101,
    "r2plus1d": r2plus1d,
    "small-cpu": small_cpu,
}


def recipe(name: str) -> PretrainConfig:
    """Return the config of a recipe. Raise ``ValueError`` naming the nearest for another name."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.0)
        raise ValueError(
            f"no recipe {name!r}; did you mean {near[0]!r}? There are {', '.join(RECIPES)}"
        )
    return RECIPES[name]()
