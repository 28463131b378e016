"""The task of fine-tuning: an encoder and a classifier, trained together on labelled videos.

Shapes: B clips of this process, C channels, T frames, S crop size, D feature dim, K classes, V
videos.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fame.augment import uniforms
from fame.checkpoint import Maybe, Number, Schema, expected
from fame.clipstore import ClipStore
from fame.metrics import topk_accuracy
from fame.models import Backbone, build_encoder, set_activation_checkpointing, set_norm_group
from fame.weights import Weights
from train.config import FinetuneConfig
from train.data import Pairs, store_identity
from train.evaluate.classifiers import Scores, classify
from train.evaluate.features import check_clips
from train.evaluate.frozen import check_comparable
from train.finetune_data import (
    LabelledClips,
    held_out_videos,
    make_view,
    picture,
    reads_maps,
    unseen_classes,
)
from train.run.checkpoint import load_optimizer_, optimizer_schema, optimizer_state
from train.run.peers import Peers
from train.run.task import EpochEnd, Task


class FinetuneTask(Task[FinetuneConfig]):
    """Cross-entropy of a classifier on one clip of each labelled video."""

    def __init__(
        self,
        config: FinetuneConfig,
        *,
        train_store: ClipStore,
        test_store: ClipStore,
        weights: Weights | None,
        peers: Peers | None = None,
        device: torch.device,
    ) -> None:
        check_comparable(train_store, test_store)
        for store in (train_store, test_store):
            check_clips(store, config.window, config.crop)
        self.train_store, self.test_store = train_store, test_store
        self.held_V = (
            held_out_videos(train_store, config) if config.select == "validation" else None
        )
        self.clips = LabelledClips(
            train_store,
            seed=config.seed,
            window=config.window,
            maps=reads_maps(config),
            on_corrupt=config.on_corrupt,
            without=self.held_V,
        )
        self.unseen_classes = unseen_classes(train_store, self.clips)
        names = train_store.header.class_names
        head = {"kind": "classifier", "classes": len(names), "dropout": config.dropout}
        self.classifier = build_classifier(config, head, weights).to(device)
        origin = f"weights {weights.digest}" if weights else "untrained"
        super().__init__(
            config,
            dataset=self.clips,
            network=self.classifier,
            groups={"bn_group": config.bn_group}
            | ({"merge_group": config.merge_group} if config.merge else {}),
            model={
                "name": config.encoder,
                "options": config.encoder_options,
                "head": head,
                "class_names": list(names),
            },
            data=[store_identity(train_store), store_identity(test_store), origin],
            peers=peers,
            device=device,
        )
        features = self.classifier.features
        self._features = torch.compile(features) if config.compile else features
        self.best: dict[str, Any] | None = None
        self._last: tuple[Pairs, int] | None = None

    def backward(self, step: int, batch: Pairs) -> Mapping[str, Tensor | float]:
        """Compute the cross-entropy of one view of each clip, and its gradients."""
        config = self.config
        epoch = step // self.steps_per_epoch
        self.network.train()
        with torch.no_grad():
            view = make_view(batch, config, epoch=epoch, step=step, rank=self.peers.rank)
        label_B = self.clips.label_S[batch.sample_B].to(self.device, non_blocking=True)
        keep_BD = self._kept(batch.sample_B.tolist(), epoch)
        parts: list[Tensor] = []
        for part in torch.arange(len(label_B)).chunk(config.accumulate):
            # 16 clips in 2 parts are the rows 0-8 and 8-16 of the view.
            rows = slice(int(part[0]), int(part[-1]) + 1)
            loss, right = self._loss(view[rows], keep_BD[rows], label_B[rows])
            # The parts are of equal size, so the mean of their gradients is that of the whole.
            (loss / config.accumulate).backward()
            parts.append(torch.stack([loss.detach(), right]))
        if config.merge and self.peers.rank == 0:
            self._last = (batch, step)
        loss, right = torch.stack(parts).mean(0)
        return {"loss": loss, "accuracy": right}

    def end_epoch(self, epoch: int) -> EpochEnd:
        """Return a picture of the epoch's last merged clips. Select weights: test them every k
        epochs and after the last, and keep the best.
        """
        config, done = self.config, epoch + 1
        pictures = {}
        if self._last is not None:
            batch, at = self._last
            pictures["merged"] = picture(batch, config, epoch=epoch, step=at)
        if config.select == "last" or (done % config.select_every and done != config.epochs):
            return EpochEnd(pictures=pictures)
        scores = self._judge()
        accuracy = topk_accuracy(scores.score_VK, scores.label_V, k=1)
        # The first of several equally good epochs stays.
        if self.best is None or accuracy > self.best["accuracy"]:
            weights = {
                name: value.detach().cpu().clone()
                for name, value in self.classifier.state_dict().items()
            }
            self.best = {"epoch": done, "accuracy": accuracy, "classifier": weights}
        return EpochEnd(metrics={f"{config.select}_accuracy": accuracy}, pictures=pictures)

    def select_(self) -> str:
        """Load the weights that are the result of the run. Return in words how they were chosen."""
        epochs = self.config.epochs
        if self.best is None:
            return (
                f"the weights after the last epoch, {epochs}: "
                "no test video had a part in choosing them"
            )
        self.classifier.load_state_dict(self.best["classifier"])
        epoch, accuracy = self.best["epoch"], 100 * self.best["accuracy"]
        if self.config.select == "validation":
            assert self.held_V is not None
            held = f"{int(self.held_V.sum())} training videos held out for that ({accuracy:.2f} %)"
            return (
                f"the weights after epoch {epoch} of {epochs}, the best on {held}: "
                "no test video had a part in it"
            )
        return (
            f"the weights after epoch {epoch} of {epochs}, THE BEST ON THE TEST VIDEOS "
            "THEMSELVES, as the reference "
            "chooses: the metrics are optimistic, compare them only with metrics chosen so"
        )

    @property
    def clips_to_test(self) -> int:
        """Return about how many clips this process tests."""
        return int(self.test_store.valid_V.sum()) * self.config.clips // self.peers.world

    def test(self, *, crops: int, on_clips: Callable[[int], None] = lambda count: None) -> Scores:
        """Test on all clips of the test videos."""
        return self._classify(self.test_store, crops=crops, on_clips=on_clips)

    def state(self) -> dict[str, Any]:
        """Return network, optimiser and the best weights so far. No generator is saved: every draw
        has an address.
        """
        return {
            "classifier": self.classifier.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "best": self.best,
        }

    def schema(self) -> Mapping[str, Schema]:
        """Return the schema of a state of this run."""
        weights = expected(self.classifier.state_dict())
        best = {
            "epoch": Number(low=1, high=self.config.epochs),
            "accuracy": Number(low=0, high=1, real=True),
            "classifier": weights,
        }
        return {
            "classifier": weights,
            "optimizer": optimizer_schema(self.optimizer),
            "best": None if self.config.select == "last" else Maybe(best),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state` returned."""
        self.classifier.load_state_dict(state["classifier"])
        load_optimizer_(self.optimizer, state["optimizer"])
        self.best = state["best"]

    def _kept(self, samples: list[int], epoch: int) -> Tensor:
        """Return dropout as a factor [B, D]. Each sample has draws of its own, whatever its batch,
        part or process.
        """
        p = self.config.dropout
        draw_BD = uniforms(
            self.classifier.feature_dim,
            seed=self.config.seed,
            epoch=epoch,
            indices=samples,
            purpose="dropout",
        )
        # Scaled, so that the mean of a feature stays as in the test, which drops nothing.
        return ((draw_BD >= p).float() / (1 - p)).to(self.device, non_blocking=True)

    def _loss(self, view: Tensor, keep_BD: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy, and the share of clips that were recognised."""
        head = self.classifier.get_submodule("fc").eval()  # dropout was drawn above, by address
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        ):
            log_BK = head(self._features(view) * keep_BD)
        return F.nll_loss(log_BK.float(), label_B), (log_BK.argmax(1) == label_B).float().mean()

    def _judge(self) -> Scores:
        if self.held_V is None:
            return self._classify(self.test_store)
        return self._classify(self.train_store, videos=np.flatnonzero(self.held_V).tolist())

    def _classify(self, store: ClipStore, **options: Any) -> Scores:
        config = self.config
        self._share_statistics()
        return classify(
            self.classifier,
            store,
            window=config.window,
            clips=config.clips,
            crop=config.crop,
            workers=config.workers,
            peers=self.peers,
            **options,
        )

    def _share_statistics(self) -> None:
        """Copy the running statistics of the first process, which are the ones saved, to every
        process.
        """
        if self.peers.world == 1:
            return
        own = [buffer for buffer in self.classifier.buffers() if buffer.is_floating_point()]
        # Zeros everywhere else: the mean of the processes is then the first one's value over their
        # number.
        first = [
            buffer.clone() if self.peers.rank == 0 else torch.zeros_like(buffer) for buffer in own
        ]
        self.peers.average_(first)
        if self.peers.rank:
            for mine, theirs in zip(own, first, strict=True):
                mine.copy_(theirs * self.peers.world)


def build_classifier(
    config: FinetuneConfig, head: dict[str, Any], weights: Weights | None
) -> Backbone:
    """Build the network of a config with a new classifier, on the CPU; copy the backbone's
    ``weights`` if given.
    """
    network = build_encoder(
        config.encoder, head=head, options=config.encoder_options, seed=config.seed
    )
    if weights:
        weights.load_backbone_into_(network)
    set_norm_group(network, config.bn_group)
    set_activation_checkpointing(network, config.checkpoint_activations)
    return network
