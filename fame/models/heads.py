"""Heads on the averaged features: projection for contrast, classifier for fine-tuning.

Shapes: B batch, D feature dim, K outputs.
"""

from collections import OrderedDict
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class ProjectionHead(nn.Sequential):
    """Two linear layers and L2 normalisation: the contrastive head of the reference's I3D."""

    def __init__(self, feature_dim: int, *, dim: int = 128) -> None:
        # The reference's layers 0, 1 (average, flatten) and 3 (ReLU) have no weights; its names 2
        # and 4 stay.
        hidden, output = (
            nn.Linear(feature_dim, feature_dim),
            nn.Linear(feature_dim, positive("dim", dim)),
        )
        super().__init__(OrderedDict([("2", hidden), ("3", nn.ReLU()), ("4", output)]))

    def forward(self, input: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:  # noqa: A002
        """Project onto the unit sphere."""
        return F.normalize(super().forward(input), dim=1)


class LinearHead(nn.Linear):
    """One linear layer, not normalised: the contrastive head of the reference's R(2+1)D."""

    def __init__(self, feature_dim: int, *, dim: int = 128) -> None:
        super().__init__(feature_dim, positive("dim", dim))


class Classifier(nn.Linear):
    """Dropout, linear layer, log-softmax: its output is log-probabilities, which the 10-clip test
    averages.
    """

    def __init__(self, feature_dim: int, *, classes: int, dropout: float = 0.7) -> None:
        super().__init__(feature_dim, positive("classes", classes))
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {dropout}")
        self.dropout = dropout

    def forward(self, input: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:  # noqa: A002
        """Return the log-probabilities of the classes."""
        return F.log_softmax(super().forward(F.dropout(input, self.dropout, self.training)), dim=1)


# Kind of head -> (name in the state dict, constructor).
HEADS: dict[str, tuple[str, Callable[..., nn.Module]]] = {
    "projection": ("id_head", ProjectionHead),
    "linear": ("fc", LinearHead),
    "classifier": ("fc", Classifier),
}


def positive(name: str, count: int) -> int:
    """Return ``count``. Raise ``ValueError`` if it is below 1."""
    if count < 1:
        raise ValueError(f"{name} of a head is at least 1, got {count}")
    return count
