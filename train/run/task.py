"""A task of training has a network, its data and its loss; the optimisation step is here."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from fame.checkpoint import Schema
from train.config import TrainingConfig
from train.data import PairDataset, Pairs, steps_per_epoch, stream
from train.jpegs import check_decoder
from train.run.optimizer import make_optimizer, set_precision
from train.run.peers import Alone, Peers, fitting_batch, gradients, share_of
from train.run.schedule import learning_rate

C = TypeVar("C", bound=TrainingConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochEnd:
    """Metrics and pictures [H, W, 3] uint8 by name."""

    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    pictures: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


class Task(ABC, Generic[C]):
    """A network that is trained on a dataset.

    Args:
        config: the settings of the run.
        dataset: what it trains on.
        network: what the optimiser changes, on its device.
        groups: sizes of groups of clips by setting; the clips of a process must be whole groups.
        model: the card of the network ({"name", "options", "head"}), plain values.
        data: names of all that is read; a run resumes only on the same.
        peers: the processes that train together.
        device: where the network is.
    """

    def __init__(
        self,
        config: C,
        *,
        dataset: PairDataset,
        network: nn.Module,
        groups: dict[str, int | None],
        model: dict[str, Any],
        data: list[str],
        peers: Peers | None,
        device: torch.device,
    ) -> None:
        self.config, self.dataset, self.network = config, dataset, network
        self.model, self.data = model, data
        self.peers, self.device = peers or Alone(), device
        self._dealt: Any = {
            "world": self.peers.world,
            "groups": groups,
            "accumulate": config.accumulate,
        }
        self.share = share_of(config.batch, **self._dealt)
        self.steps_per_epoch = steps_per_epoch(
            samples=len(dataset),
            batch=config.batch,
            fitting=fitting_batch(len(dataset), **self._dealt),
        )
        if config.decode == "device":
            check_decoder(device, dataset.stores)
            dataset.encoded = True
        self.clips_per_step = dataset.views * config.batch  # over all processes
        set_precision(config)
        self.optimizer = make_optimizer(config, list(network.parameters()))

    def opening(self) -> list[str]:
        """Return the lines that describe the run."""
        return []

    def less_memory(self) -> list[str]:
        """Return the options with which a step needs less memory; the batch, which alone changes
        results, is the last.
        """
        config, group = self.config, self.config.bn_group or 1
        # 32 clips in batch-norm groups of 8, now in 1 part: 2 parts of 16 are the next that fit.
        parts = (
            parts
            for parts in range(config.accumulate + 1, self.share + 1)
            if self.share % parts == 0 and (self.share // parts) % group == 0
        )
        accumulate = next(parts, None)
        ways = [f"--accumulate {accumulate} (now {config.accumulate})"] if accumulate else []
        if not config.checkpoint_activations:
            ways.append("--checkpoint-activations")
        fewer = max(config.batch // 2, self.peers.world * config.accumulate)
        if fewer < config.batch:
            ways.append(f"a smaller {fitting_batch(fewer, **self._dealt)} (now {config.batch})")
        return ways or ["fewer --frames or a smaller --crop"]

    def batches(self, start: int, stop: int, *, workers: int | None = None) -> Iterator[Pairs]:
        """Yield what this process trains on in steps ``start``..``stop``, decoded by workers: the
        config's number unless given.
        """
        rank, world = self.peers.rank, self.peers.world
        config = self.config
        return stream(
            self.dataset,
            config if workers is None else dataclasses.replace(config, workers=workers),
            start=start,
            stop=stop,
            device=self.device,
            rank=rank,
            world=world,
        )

    def step(self, step: int, batch: Pairs) -> Mapping[str, Tensor | float]:
        """Change the network by one step and return metrics, ``loss`` among them.

        The metrics have the same names in every step and do not wait for the device.
        """
        lr = learning_rate(self.config, step=step, steps_per_epoch=self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        metrics = self.backward(step, batch)
        slopes = gradients(self.network)
        self.peers.average_(slopes)
        self.optimizer.step()
        # Of the averaged gradients, so that it is the same for any number of processes.
        norm = torch.nn.utils.get_total_norm(slopes)
        return {**metrics, "grad_norm": norm, "lr": lr, "skipped": float(batch.skipped)}

    @abstractmethod
    def backward(self, step: int, batch: Pairs) -> Mapping[str, Tensor | float]:
        """Compute the loss of this process's clips and its gradients, and return metrics."""

    @abstractmethod
    def end_epoch(self, epoch: int) -> EpochEnd:
        """Measure what is measured after an epoch (counted from 0)."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on, as tensors and plain values."""

    @abstractmethod
    def schema(self) -> Mapping[str, Schema]:
        """Return the schema of a state that this task can continue from."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a state that :meth:`schema` allows."""
