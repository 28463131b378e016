"""Pretraining: momentum contrast on clips whose foregrounds and backgrounds were merged.

Shapes: B clips of this process, C channels, T frames, S crop size, D feature dim.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fame.checkpoint import Expected, Schema, expected
from fame.clipstore import ClipStore, StorePath
from fame.moco import NOBODY, MoCo, shuffle
from fame.models import Backbone, build_encoder, set_activation_checkpointing, set_norm_group
from fame.progress import Progress
from fame.transfer import send
from fame.weights import Weights
from train.config import PretrainConfig
from train.data import PairDataset, Pairs, store_identity
from train.evaluate.monitor import knn_accuracy, labelled_videos
from train.opening import opening_lines
from train.run.checkpoint import load_optimizer_, optimizer_schema, optimizer_state
from train.run.log import one_writer
from train.run.loop import Resume, RunResult, train
from train.run.peers import Peers, choose_device, process_group
from train.run.schedule import key_momentum
from train.run.task import EpochEnd, Task
from train.start import start_from_
from train.views import draw_views, picture, reads_maps, render

_ABOUT_ONE = 1.01  # a coordinate of a unit vector, rounded


def pretrain(
    config: PretrainConfig,
    *,
    stores: Sequence[StorePath],
    run_dir: Path,
    resume: Resume = "auto",
    knn_store: StorePath | None = None,
    proportion: Sequence[float] | None = None,
    progress: Progress | None = None,
    init: Weights | None = None,
) -> RunResult:
    """Train on ``stores`` into ``run_dir``; see :func:`train.run.loop.train` for how it stops and
    resumes.

    Under torchrun or Ray every process calls this with the same arguments. ``knn_store`` is the
    labelled store that ``config.knn_every`` asks for, ``proportion`` mixes the stores as
    :class:`fame.ClipDataset` does, ``init`` are weights to start from: ``config`` names their
    network. Raise ``ValueError`` (one clear line) for stores, configs and checkpoints that do not
    fit.
    """
    device = choose_device(config.device)
    with process_group(device) as peers, one_writer(run_dir, peers):
        task = PretrainTask(
            config,
            stores=[config.opened(path) for path in stores],
            peers=peers,
            device=device,
            knn_store=config.opened(knn_store) if knn_store else None,
            proportion=proportion,
            init=init,
        )
        return train(task, run_dir, peers=peers, resume=resume, progress=progress)


class PretrainTask(Task[PretrainConfig]):
    """Momentum contrast on merged clips."""

    def __init__(
        self,
        config: PretrainConfig,
        *,
        stores: Sequence[ClipStore],
        peers: Peers | None = None,
        device: torch.device,
        knn_store: ClipStore | None = None,
        proportion: Sequence[float] | None = None,
        init: Weights | None = None,
    ) -> None:
        groups = {"bn_group": config.bn_group}
        if config.merges:
            groups["merge_group"] = config.merge_group
        moco = build_moco(config)
        self._start = [start_from_(moco, init, config.head_options)] if init else []
        self.moco = moco.to(device)
        dataset = PairDataset(
            stores,
            seed=config.seed,
            window=config.window,
            maps=reads_maps(config),
            frame_maps=config.mask == "frames",
            on_corrupt=config.on_corrupt,
            proportion=proportion,
        )
        super().__init__(
            config,
            dataset=dataset,
            network=self.moco.encoder_q,
            groups=groups,
            model={
                "name": config.encoder,
                "options": config.encoder_options,
                "head": config.head_options,
            },
            data=_identities(dataset, init),
            peers=peers,
            device=device,
        )
        self.knn_store = knn_store
        _check_knn(config, knn_store)
        _check_shuffle(config, self.share)
        self._last: tuple[Pairs, int] | None = None

    def opening(self) -> list[str]:
        """Return three lines, each with its warnings after it, and what the run starts from."""
        spec = self.dataset.stores[0].spec
        lines = opening_lines(
            self.config,
            device=self.device,
            processes=self.peers.world,
            videos=len(self.dataset),
            steps_per_epoch=self.steps_per_epoch,
            frame=(spec.height, spec.width),
            mixture=self.dataset.mixture,
            remote=any(store.remote for store in self.dataset.stores),
        )
        return [*lines, *self._start]

    def backward(self, step: int, batch: Pairs) -> Mapping[str, Tensor | float]:
        """Compute the symmetric loss of two views of each video, and its gradients."""
        config, moco = self.config, self.moco
        epoch = step // self.steps_per_epoch
        # Every draw below is addressed by epoch and step, so a resumed run repeats them.
        momentum = key_momentum(config, step=step, steps_per_epoch=self.steps_per_epoch)
        moco.train()
        draws = draw_views(batch, config, epoch=epoch, step=step, rank=self.peers.rank)
        view_1, view_2 = render(
            batch.clip_B2THWC, batch.score_B2hw, send(draws, batch.clip_B2THWC.device), config
        )
        # As in the reference, the key encoder moves before it encodes, towards the weights of the
        # step before.
        moco.update_key_encoder_(momentum)
        # Shuffled within processes, keys need not travel, and each process shuffles as many as it
        # holds.
        shares = self.peers.world if config.shuffle == "process" else 1
        shuffles = [
            shuffle(
                config.batch, seed=config.seed, epoch=epoch, step=step, view=view, shares=shares
            )
            for view in (1, 2)
        ]
        video_B = batch.sample_B % len(self.dataset)  # a video may be shown twice in an epoch
        result = moco.step(
            view_1,
            view_2,
            shuffles=(shuffles[0], shuffles[1]),
            sample_B=video_B if config.negatives == "others" else None,
            enqueue=config.enqueue,
            accumulate=config.accumulate,
            collectives=self.peers,
        )
        self._last = (batch, step)
        norm = moco.queue.norm(dim=0).mean()
        return {**result._asdict(), "queue_norm": norm, "momentum": momentum}

    def end_epoch(self, epoch: int) -> EpochEnd:
        """Return a picture of the epoch's last merged clips, and every k epochs the kNN accuracy;
        rank 0 does the work.
        """
        config = self.config
        if self.peers.rank or self._last is None:
            return EpochEnd()
        metrics: dict[str, float] = {}
        if self.knn_store and (epoch + 1) % config.knn_every == 0:
            metrics["knn_accuracy"] = knn_accuracy(
                cast(Backbone, self.moco.encoder_q),
                self.knn_store,
                window=config.window,
                crop=config.crop,
                k=config.knn_k,
                device=self.device,
                workers=config.workers,
            )
        batch, at = self._last
        return EpochEnd(
            metrics=metrics, pictures={"merged": picture(batch, config, epoch=epoch, step=at)}
        )

    def state(self) -> dict[str, Any]:
        """Return both encoders, queue and optimiser. No generator is saved: every draw has an
        address.
        """
        state = self.moco.state_dict()
        parts = {name: _part(state, name) for name in ("encoder_q", "encoder_k")}
        return {
            **parts,
            "queue": state["queue"],
            "queue_ptr": state["queue_ptr"],
            "queue_sample": state["queue_sample"],
            "optimizer": optimizer_state(self.optimizer),
        }

    def schema(self) -> Mapping[str, Schema]:
        """Return the schema of a state of this run. The queue holds unit vectors."""
        state = self.moco.state_dict()
        samples, keys = len(self.dataset), self.moco.queue.shape[1]
        return {
            **{name: expected(_part(state, name)) for name in ("encoder_q", "encoder_k")},
            "queue": Expected(like=state["queue"], low=-_ABOUT_ONE, high=_ABOUT_ONE),
            "queue_ptr": Expected(like=state["queue_ptr"], low=0, high=keys - 1),
            "queue_sample": Expected(like=state["queue_sample"], low=NOBODY, high=samples - 1),
            "optimizer": optimizer_schema(self.optimizer),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        for name in ("encoder_q", "encoder_k"):
            getattr(self.moco, name).load_state_dict(state[name])
        self.moco.queue.copy_(state["queue"])
        self.moco.queue_ptr.copy_(state["queue_ptr"])
        self.moco.queue_sample.copy_(state["queue_sample"])
        load_optimizer_(self.optimizer, state["optimizer"])


def build_moco(config: PretrainConfig) -> MoCo:
    """Return the encoders and the queue of a config, on the CPU, initial weights drawn by
    its seed.
    """
    build = partial(
        build_encoder,
        config.encoder,
        head=config.head_options,
        options=config.encoder_options,
        seed=config.seed,
    )
    moco = MoCo(
        build,
        dim=config.dim,
        queue=config.queue,
        temperature=config.temperature,
        seed=config.seed,
        bf16=config.precision == "bf16",
        # Checkpointed, one view after the other needs less memory: a stage is computed again for
        # half as many clips.
        one_forward=config.precision == "bf16" or not config.checkpoint_activations,
    )
    set_norm_group(moco, config.bn_group)
    set_activation_checkpointing(moco.encoder_q, config.checkpoint_activations)
    if config.channels_last:
        moco.to(memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]
    if config.compile:
        # After the weights are drawn, and in place: names in the state stay those of an uncompiled
        # network.
        moco.encoder_q.compile()
        moco.encoder_k.compile()
    return moco


def _identities(dataset: PairDataset, init: Weights | None) -> list[str]:
    """Return the data that a resumed run must use again: stores, their mixture, first weights."""
    shown = [f", {count} shown in an epoch" for _, count in dataset.mixture or ()]
    stores = [store_identity(store) for store in dataset.stores]
    # Without a proportion there is no mixture, and nothing to add to the identity of a store.
    mixed = [store + words for store, words in zip(stores, shown or repeat(""), strict=False)]
    return [*mixed, f"weights {init.digest}"] if init else mixed


def _check_shuffle(config: PretrainConfig, share: int) -> None:
    group = config.bn_group or share
    if config.shuffle == "process" and share < 2 * group:
        raise ValueError(
            f"shuffle=process mixes batch-norm groups within a process, but its {share} clips are "
            f"one group of {group}: every key would see its query's statistics; give "
            "--shuffle batch, a larger --batch or a smaller --bn-group"
        )


def _check_knn(config: PretrainConfig, store: ClipStore | None) -> None:
    if bool(config.knn_every) != (store is not None):
        raise ValueError(
            f"a kNN store and knn_every go together: the store is {store}, knn_every "
            f"{config.knn_every}"
        )
    if store is not None:
        labelled_videos(store)


def _part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(name + "."): value
        for key, value in state.items()
        if key.startswith(name + ".")
    }
