"""The base of every video backbone: a chain of stages from a clip to a feature map, and an optional
head on its average.

Shapes: B batch, C channels, T frames, H W height/width, t h w size of the feature map,
D feature dim, K outputs of a head.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fame.models.norm import frozen_statistics


class Backbone(nn.Module):
    """A stem and stages; subclasses register them as children in the order in which they run.

    Memory is channels-last throughout, whatever the caller's: pooling, batch norm and flat kernels
    are faster there. The head, if any, is one more child under the name that the reference gave it,
    so that the state dict of the whole has the reference's names.
    """

    feature_dim: int

    def __init__(self) -> None:
        super().__init__()
        self.checkpointing = False
        self._head = ""

    def attach(self, name: str, head: nn.Module) -> None:
        """Put ``head`` (``[b d] -> [b k]``) on top: :meth:`forward` then returns its output."""
        self.add_module(name, head)
        self._head = name

    def feature_map(
        self, clip_BCTHW: Float[Tensor, "b c t h w"]
    ) -> Float[Tensor, "b d t_map h_map w_map"]:
        """Map a normalised RGB clip to the last feature map. Raise ``ValueError`` on another number
        of channels.
        """
        # An empty clip would fail in some kernel, with a message that does not name the clip.
        if clip_BCTHW.shape[1] != 3 or 0 in clip_BCTHW.shape:
            raise ValueError(
                "expected clips of shape [batch, 3, frames, height, width], got "
                f"{list(clip_BCTHW.shape)}"
            )
        map_BDthw = clip_BCTHW.contiguous(memory_format=torch.channels_last_3d)
        for stage in self._stages():
            map_BDthw = self._run(stage, map_BDthw)
        return map_BDthw

    def features(self, clip_BCTHW: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d"]:
        """Average the last feature map over time and space."""
        return self.feature_map(clip_BCTHW).mean((2, 3, 4))

    def forward(self, clip_BCTHW: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b k"]:
        """Return the output of the head, or the features where there is none."""
        feature_BD = self.features(clip_BCTHW)
        return self.get_submodule(self._head)(feature_BD) if self._head else feature_BD

    def _stages(self) -> Iterable[nn.Module]:
        # Children come in the order in which they were registered, which is the order to run them.
        return (stage for name, stage in self.named_children() if name != self._head)

    def _run(self, stage: nn.Module, map_BDthw: Tensor) -> Tensor:
        if not (self.checkpointing and self.training):
            return stage(map_BDthw)
        # A compiled graph changes the running statistics once, without the contexts below.
        if torch.compiler.is_compiling():
            return checkpoint(stage, map_BDthw, use_reentrant=False)
        return checkpoint(
            stage, map_BDthw, use_reentrant=False, context_fn=partial(_contexts, stage)
        )


def _contexts(
    stage: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of a checkpointed forward and of its recomputation, which must not count
    the batch twice.
    """
    return nullcontext(), frozen_statistics(stage)


def set_activation_checkpointing(module: nn.Module, enabled: bool) -> None:
    """Keep only the activations between stages and recompute the rest in the backward: less memory
    for more compute.
    """
    for child in module.modules():
        if isinstance(child, Backbone):
            child.checkpointing = enabled
