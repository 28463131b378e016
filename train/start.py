"""Starting a run from weights: which network they are of, and putting them into it."""

from collections.abc import Mapping
from typing import Any, cast

from fame.moco import MoCo
from fame.models import Backbone
from fame.weights import Weights


def network_of(weights: Weights, chosen: Mapping[str, Any], *, instead: str) -> dict[str, Any]:
    """Return the settings of the network that the weights belong to.

    Raise ``ValueError`` for ``chosen`` settings of another one; it ends with what to do instead.
    """
    card = weights.card
    settings = {"encoder": card.name, "width": float(card.options.get("width", 1.0))}
    for name, value in settings.items():
        if chosen.get(name, value) != value:
            raise ValueError(
                f"{name} {chosen[name]} is for training from scratch ({instead}): "
                f"{weights.path} has {value}"
            )
    return settings


def start_from_(moco: MoCo, weights: Weights, head: Mapping[str, Any]) -> str:
    """Copy the weights into both encoders, their head too where it is the run's ``head``; return
    in words what was copied.
    """
    query, same_head = cast(Backbone, moco.encoder_q), weights.card.head == head
    if same_head:
        weights.load_into_(query)
    else:
        weights.load_backbone_into_(query)
    moco.encoder_k.load_state_dict(query.state_dict())
    return f"starts from {weights.path}, {'head included' if same_head else 'with a new head'}"
