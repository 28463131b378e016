"""Pretraining: momentum contrast on clips whose foregrounds and backgrounds were merged.

Shapes: B clips of this process, C channels, T frames, S crop size, D feature dim.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from fame.checkpoint import Expected, Maybe, Schema, expected
from fame.clipstore import ClipStore, StorePath
from fame.moco import NOBODY, MoCo, shuffle
from fame.models import Backbone, build_encoder, set_activation_checkpointing, set_norm_group
from fame.transfer import send
from train.config import PretrainConfig
from train.data import PairDataset, Pairs, steps_per_epoch, stream
from train.evaluate.monitor import knn_accuracy, labelled_videos
from train.run.checkpoint import load_optimizer_, optimizer_schema, optimizer_state
from train.run.log import one_writer
from train.run.loop import EpochEnd, RunResult, train
from train.run.optimizer import make_optimizer, set_precision
from train.run.peers import Alone, choose_device, gradients, process_group, share_of
from train.run.schedule import key_momentum, learning_rate
from train.views import draw_views, picture, reads_maps, render

_ABOUT_ONE = 1.01  # a coordinate of a unit vector, rounded


def pretrain(
    config: PretrainConfig,
    *,
    stores: Sequence[StorePath],
    run_dir: Path,
    resume: Literal["auto", "never"] | Path = "auto",
    knn_store: StorePath | None = None,
) -> RunResult:
    """Train on ``stores`` into ``run_dir``; see :func:`train.run.loop.train` for how it stops and
    resumes.

    Under torchrun or Ray every process calls this with the same arguments. ``knn_store`` is the
    labelled store that ``config.knn_every`` asks for. Raises ``ValueError`` (one clear line) for
    stores, configs and checkpoints that do not fit.
    """
    device = choose_device(config.device)
    with process_group(device) as peers, one_writer(run_dir, peers):
        task = PretrainTask(
            config,
            stores=[ClipStore.open(path) for path in stores],
            peers=peers,
            device=device,
            knn_store=ClipStore.open(knn_store) if knn_store else None,
        )
        return train(task, run_dir, peers=peers, resume=resume)


class PretrainTask:
    """One training step, its data and its state, as :class:`train.run.loop.Task` asks for them."""

    def __init__(
        self,
        config: PretrainConfig,
        *,
        stores: Sequence[ClipStore],
        peers: Alone | None = None,
        device: torch.device,
        knn_store: ClipStore | None = None,
    ) -> None:
        self.config, self.device, self.peers = config, device, peers or Alone()
        self.dataset = PairDataset(
            stores,
            seed=config.seed,
            window=config.window,
            maps=reads_maps(config),
            frame_maps=config.mask == "frames",
            on_corrupt=config.on_corrupt,
        )
        self.steps_per_epoch = steps_per_epoch(samples=len(self.dataset), batch=config.batch)
        self.clips_per_step = 2 * config.batch
        groups = {
            "bn_group": config.bn_group,
            "merge_group": config.merge_group if config.merges else None,
        }
        self.share = share_of(
            config.batch, world=self.peers.world, groups=groups, accumulate=config.accumulate
        )
        self.data = [store_identity(store) for store in stores]
        self.model = {
            "name": config.encoder,
            "options": config.encoder_options,
            "head": config.head_options,
        }
        set_precision(config)
        self.moco = build_moco(config).to(device)
        self.optimizer = make_optimizer(config, list(self.moco.encoder_q.parameters()))
        self.knn_store = knn_store
        _check_knn(config, knn_store)
        _warn_of_long_queue(config, keys=self.clips_per_step * self.steps_per_epoch)
        self._last: tuple[Pairs, int] | None = None

    def batches(self, start: int, stop: int) -> Iterator[Pairs]:
        """Pairs of clips, decoded by workers."""
        rank, world = self.peers.rank, self.peers.world
        return stream(
            self.dataset,
            self.config,
            start=start,
            stop=stop,
            device=self.device,
            rank=rank,
            world=world,
        )

    def step(self, step: int, batch: Pairs) -> Mapping[str, Tensor | float]:
        """One symmetric step."""
        config, moco = self.config, self.moco
        at = {"step": step, "steps_per_epoch": self.steps_per_epoch}
        epoch = step // self.steps_per_epoch
        lr, momentum = learning_rate(config, **at), key_momentum(config, **at)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        moco.train()
        draws = draw_views(batch, config, epoch=epoch, step=step, rank=self.peers.rank)
        view_1, view_2 = render(
            batch.clip_B2THWC, batch.score_B2hw, send(draws, batch.clip_B2THWC.device), config
        )
        moco.update_key_encoder_(momentum)
        self.optimizer.zero_grad(set_to_none=True)
        shuffles = [
            shuffle(config.batch, seed=config.seed, epoch=epoch, step=step, view=view)
            for view in (1, 2)
        ]
        result = moco.step(
            view_1,
            view_2,
            shuffles=(shuffles[0], shuffles[1]),
            sample_B=batch.sample_B if config.negatives == "others" else None,
            enqueue=config.enqueue,
            accumulate=config.accumulate,
            collectives=self.peers,
        )
        slopes = gradients(moco.encoder_q)
        self.peers.average_(slopes)
        self.optimizer.step()
        self._last = (batch, step)
        return {
            **result._asdict(),
            "grad_norm": torch.nn.utils.get_total_norm(slopes),
            "queue_norm": moco.queue.norm(dim=0).mean(),
            "lr": lr,
            "momentum": momentum,
            "skipped": float(batch.skipped),
        }

    def end_epoch(self, epoch: int) -> EpochEnd:
        """A picture of the epoch's last merged clips, and every k epochs the kNN accuracy; rank 0
        does the work.
        """
        config = self.config
        if self.peers.rank or self._last is None:
            return EpochEnd()
        figures: dict[str, float] = {}
        if self.knn_store and (epoch + 1) % config.knn_every == 0:
            figures["knn_accuracy"] = knn_accuracy(
                cast(Backbone, self.moco.encoder_q),
                self.knn_store,
                window=config.window,
                crop=config.crop,
                k=config.knn_k,
                device=self.device,
            )
        batch, at = self._last
        return EpochEnd(
            figures=figures, pictures={"merged": picture(batch, config, epoch=epoch, step=at)}
        )

    def state(self) -> dict[str, Any]:
        """Both encoders, queue, optimiser. Nothing about randomness: every draw has an address."""
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
        """What a state of this run looks like. The queue holds unit vectors."""
        state = self.moco.state_dict()
        samples, keys = len(self.dataset), self.moco.queue.shape[1]
        return {
            **{name: expected(_part(state, name)) for name in ("encoder_q", "encoder_k")},
            "queue": Expected(like=state["queue"], low=-_ABOUT_ONE, high=_ABOUT_ONE),
            "queue_ptr": Expected(like=state["queue_ptr"], low=0, high=keys - 1),
            # Older checkpoints did not say whose keys they hold.
            "queue_sample": Maybe(
                Expected(like=state["queue_sample"], low=NOBODY, high=samples - 1)
            ),
            "optimizer": optimizer_schema(self.optimizer),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave."""
        for name in ("encoder_q", "encoder_k"):
            getattr(self.moco, name).load_state_dict(state[name])
        self.moco.queue.copy_(state["queue"])
        self.moco.queue_ptr.copy_(state["queue_ptr"])
        if state["queue_sample"] is not None:
            self.moco.queue_sample.copy_(state["queue_sample"])
        load_optimizer_(self.optimizer, state["optimizer"])


def build_moco(config: PretrainConfig) -> MoCo:
    """The encoders and the queue of a config, on the CPU, initial weights drawn by its seed."""
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
    )
    set_norm_group(moco, config.bn_group)
    set_activation_checkpointing(moco.encoder_q, config.checkpoint_activations)
    if config.channels_last:
        moco.to(memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]
    if config.compile:
        moco.encoder_q.compile()
        moco.encoder_k.compile()
    return moco


def _check_knn(config: PretrainConfig, store: ClipStore | None) -> None:
    if bool(config.knn_every) != (store is not None):
        raise ValueError(
            f"a kNN store and knn_every go together: the store is {store}, knn_every "
            f"{config.knn_every}"
        )
    if store is not None:
        labelled_videos(store)


def _warn_of_long_queue(config: PretrainConfig, *, keys: int) -> None:
    if config.queue > keys:
        warnings.warn(
            f"queue {config.queue} is longer than the {keys} keys of an epoch: it holds several "
            f"keys of each video, the oldest {config.queue / keys:.1f} epochs old; "
            f"set queue={keys} or less",
            stacklevel=3,
        )


def _part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(name + "."): value
        for key, value in state.items()
        if key.startswith(name + ".")
    }


def store_identity(store: ClipStore) -> str:
    """What a store must have in common with the one that a run was begun on, wherever it lies
    now.
    """
    header, valid = store.header, int(store.valid_V.sum())
    videos = f"{valid} of {store.num_videos} videos, {int(store.length_V.sum())} frames"
    about = f"{header.dataset}/{header.split}: {videos}, recipe {store.spec.digest}"
    return f"{about}, content {store.digest[:16]}"
