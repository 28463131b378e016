"""InfoNCE as pure functions. Shapes: B batch, D feature dim, K queue length."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


class Contrast(NamedTuple):
    """Loss of each query and whether its key came first."""

    loss_B: Float[Tensor, " b"]
    correct_B: Float[Tensor, " b"]


def info_nce(
    query_BD: Float[Tensor, "b d"],
    key_BD: Float[Tensor, "b d"],
    queue_DK: Float[Tensor, "d k"],
    *,
    temperature: float,
    leave_out_BK: Bool[Tensor, "b k"] | None = None,
) -> Contrast:
    """Return the cross-entropy of picking each query's key among itself and the queue, by dot
    product over ``temperature``; keys of the queue marked in ``leave_out_BK`` are no negatives of
    that query.

    Queries, keys and the columns of the queue are unit vectors. Gradients flow to the queries only.
    The loss is in float32 or better whatever the precision of the products (He et al., CVPR 2020,
    equation 1).
    """
    positive_B1 = (query_BD * key_BD.detach()).sum(1, keepdim=True)
    negative_BK = query_BD @ queue_DK.detach()
    if leave_out_BK is not None:
        negative_BK = negative_BK.masked_fill(leave_out_BK, -torch.inf)
    logit_BK1 = torch.cat([positive_B1, negative_BK], 1)
    logit_BK1 = logit_BK1.to(torch.promote_types(logit_BK1.dtype, torch.float32)) / temperature
    # The positive is column 0 of every row.
    target_B = torch.zeros(len(query_BD), dtype=torch.long, device=query_BD.device)
    return Contrast(
        loss_B=F.cross_entropy(logit_BK1, target_B, reduction="none"),
        correct_B=(positive_B1[:, 0] >= negative_BK.amax(1)).float().detach(),
    )


def feature_spread(feature_BD: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """Return the standard deviation over the batch of unit features, scaled so that 1 is spread
    evenly and 0 is collapsed.
    """
    unit_BD = F.normalize(feature_BD.detach().float(), dim=1)
    # The coordinates of unit vectors in all directions have a deviation of 1 / sqrt(D).
    return unit_BD.std(0, correction=0).mean() * feature_BD.shape[1] ** 0.5
