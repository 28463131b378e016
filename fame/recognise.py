"""The network that the weights of another project belong to, found by the names of its tensors.

Nothing is read for that: names and shapes are enough. The table in ``docs/guide/weights.md`` lists
the files in which this finds an encoder.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from fame.archive import CheckpointError, Claim
from fame.checkpoint import FORMAT, shown

# Where projects put the weights in a file, the likeliest first.
_WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model", "network", "net", "module")
# What distributed training, torch.compile and frameworks put before every name.
_PREFIXES = ("module.", "_orig_mod.", "encoder_q.", "backbone.", "model.", "encoder.", "network.")
_STEMS = {
    "conv3d_1a_7x7.conv3d.weight": "i3d",
    "stem.0.weight": "r2plus1d_18",
    "block1.0.weight": "c3d_small",
}
# What the reference trains and tests these networks with.
_CLIPS = {
    "i3d": {"crop": 224, "frames": 16},
    "pytorch_i3d": {"crop": 224, "frames": 16},
    "r2plus1d_18": {"crop": 112, "frames": 16},
}
# Names of pytorch-i3d (rgb_imagenet.pt) -> those of the reference.
_PYTORCH_I3D = {
    r"\.b0\.": ".branch_0.",
    r"\.b1a\.": ".branch_1.0.",
    r"\.b1b\.": ".branch_1.1.",
    r"\.b2a\.": ".branch_2.0.",
    r"\.b2b\.": ".branch_2.1.",
    r"\.b3b\.": ".branch_3.1.",
    r"\.bn\.": ".batch3d.",
    r"^Conv3d_": "conv3d_",
    r"^Mixed_": "mixed_",
    r"^logits\.conv3d\.": "fc.",
}
# The reference's head of two layers on R(2+1)D -> the names it has on I3D.
_TWO_LAYERS = {r"^fc\.0\.": "id_head.2.", r"^fc\.2\.": "id_head.4."}

Claims = dict[str, Claim]


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """The network and head that weights are for, in the words of the registry, and the weights
    under our names.
    """

    name: str
    head: dict[str, Any] | None
    config: dict[str, Any]
    state: Claims


def recognise(values: Any) -> Recognised:
    """Find the encoder in the values of a file that is not ours. Raise :class:`CheckpointError`
    naming what is there instead.
    """
    state, contrastive = _unwrapped(_weights(values))
    if of_pytorch_i3d := "Conv3d_1a_7x7.conv3d.weight" in state:
        state = _renamed(state, _PYTORCH_I3D)
        state = {name: _linear(name, claim) for name, claim in state.items()}
    if "fc.0.weight" in state and "fc.2.weight" in state:
        state = _renamed(state, _TWO_LAYERS)
    found = [name for stem, name in _STEMS.items() if stem in state]
    if not found:
        first = ", ".join(map(shown, list(state)[:3]))
        raise CheckpointError(f"has no encoder known here (its weights begin: {first})")
    name = "pytorch_i3d" if of_pytorch_i3d else found[0]
    return Recognised(
        name=name,
        head=_head(state, contrastive=contrastive),
        config=dict(_CLIPS.get(name, {})),
        state=state,
    )


def state_dict(values: Any) -> Claims:
    """Return the weights of a file of a supported network, without the prefixes of their names."""
    return _unwrapped(_weights(values))[0]


def _weights(values: Any) -> Claims:
    """Return the state dict in a file, wherever it lies."""
    if not isinstance(values, dict):
        raise CheckpointError(
            f"neither {FORMAT} nor a state dict (found: {type(values).__name__.lower()})"
        )
    content = cast(dict[Any, Any], values)
    inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)]
    states = cast(dict[Any, Any], inner[0]) if inner else content
    if not any(isinstance(value, Claim) for value in states.values()):
        found = ", ".join(map(shown, list(states)[:5])) or "nothing"
        raise CheckpointError(f"neither {FORMAT} nor a state dict (found: {found})")
    wrong = [
        name
        for name, value in states.items()
        if not (isinstance(name, str) and isinstance(value, Claim))
    ]
    if wrong:
        raise CheckpointError(f"{shown(wrong[0])} among the weights is not a named tensor")
    return cast(Claims, states)


def _unwrapped(state: Claims) -> tuple[Claims, bool]:
    """Return the encoder's weights without the prefixes of their names, and whether they are those
    of momentum contrast's query encoder.

    A prefix that some names have belongs to the encoder; all other weights (``encoder_k.``,
    ``queue``, ``cls_head.``) are left out.
    """
    contrastive = False
    while prefixes := [
        prefix for prefix in _PREFIXES if any(name.startswith(prefix) for name in state)
    ]:
        prefix = prefixes[0]
        contrastive |= prefix == "encoder_q."
        state = {
            name.removeprefix(prefix): claim
            for name, claim in state.items()
            if name.startswith(prefix)
        }
    return state, contrastive


def _renamed(state: Claims, names: Mapping[str, str]) -> Claims:
    renamed: Claims = {}
    for old, claim in state.items():
        new = old
        for pattern, replacement in names.items():
            new = re.sub(pattern, replacement, new)
        renamed[new] = claim
    return renamed


def _linear(name: str, claim: Claim) -> Claim:
    """Turn a classifier that was a convolution of one pixel, [K, D, 1, 1, 1], to a matrix
    [K, D].
    """
    if name != "fc.weight" or claim.shape[2:] != (1, 1, 1):
        return claim
    return replace(claim, shape=claim.shape[:2], stride=claim.stride[:2])


def _head(state: Claims, *, contrastive: bool) -> dict[str, Any] | None:
    """Return the head's description: how many outputs its last bias has."""
    if bias := state.get("id_head.4.bias"):
        return {"kind": "projection", "dim": _length(bias)}
    if bias := state.get("fc.bias"):
        outputs = _length(bias)
        if contrastive:
            return {"kind": "linear", "dim": outputs}
        return {"kind": "classifier", "classes": outputs}
    return None


def _length(bias: Claim) -> int:
    if len(bias.shape) != 1:
        raise CheckpointError(f"the bias of its head is {list(bias.shape)}, not one row")
    return bias.shape[0]
