"""The network that the weights of another project belong to, found by the names of its tensors.

Nothing is read for that: names and shapes are enough. The table in ``docs/guide/weights.md`` lists
the files in which this finds an encoder.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from fame.archive import CheckpointError, Claim
from fame.checkpoint import FORMAT
from fame.words import shown

# Where projects put the weights in a file, the likeliest first; other keys come after these.
_WRAPPERS = (
    *("state_dict", "model_state", "model_state_dict", "model", "network", "net", "module"),
    *("teacher", "encoder_q", "online_encoder"),
)
_DEEPEST, _MOST_PLACES = 4, 1000  # where weights are looked for
# Parts of a key or of a prefix: of momentum contrast and its kin, the encoder that is trained (or,
# of DINO, the one that its authors use), and the copies that only help.
_TRAINED = {
    *("encoder_q", "base_encoder", "online_encoder", "online_network", "query_encoder"),
    *("online", "teacher"),
}
_COPY = {"k", "key", "momentum", "target", "ema", "swa", "averaged"}
# What torch.compile, FSDP and recomputing activations put anywhere into a name, and what counters
# of operations leave beside weights.
_WRAPPED = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_COUNTED = ("total_ops", "total_params")
_STEMS = {
    "conv3d_1a_7x7.conv3d.weight": "i3d",
    "Conv3d_1a_7x7.conv3d.weight": "pytorch_i3d",
    "stem.3.weight": "r2plus1d_18",  # r3d_18 and mc3_18 have a stem.0 too
    "block1.0.weight": "c3d_small",
}
# Networks that are not ours, by a name that only they have, the first that fits.
_STRANGERS = {
    r"features\.0\.0\.0\.weight": "S3D of torchvision: name both, torchvision:s3d@FILE",
    r"stem\.0\.weight": "r3d_18 or mc3_18 of torchvision: name both, torchvision:r3d_18@FILE",
    r"pos_encoding\.class_token": "MViT of torchvision: name both, torchvision:mvit_v2_s@FILE",
    r"features\.0\.0\.attn\.qkv\.weight": "Swin of torchvision: name both, "
    "torchvision:swin3d_t@FILE",
    r"embeddings\.patch_embeddings\..*weight": "a transformer: name hf:FOLDER, which has its "
    "config.json",
    r"blocks\.0\.attn\.\w+\.weight": "a vision transformer as its authors release it: convert "
    "it to that of transformers, hf:FOLDER",
    r"s1\.pathway0_stem\.conv\.weight": "a network of SlowFast",
    r"blocks\.0\.(multipathway_blocks\.0\.)?conv\.\S*weight": "a network of pytorchvideo",
    r"conv1\.conv\.\S*weight": "a ResNet of mmaction2",
    r"layer1\.0\.conv1\.weight": "a ResNet of images or of 3D-ResNets-PyTorch",
}
_ANY = "package.module:function@FILE loads it into your own network"
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

# A file may hold anything under a name; what is no tensor is refused where it is compared.
Claims = dict[str, Any]


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
    places = _places(values)
    found = [
        (name, place, prefix)
        for place in places
        for stem, name in _STEMS.items()
        for prefix in _prefixes(place, stem)
    ]
    if not found:
        raise CheckpointError(f"has no encoder known here ({_what_it_is(places[0])})")
    name, place, _ = found[0]
    # All that lie side by side with the first: of momentum contrast the query and the key encoder.
    prefix = _trained([prefix for _, other, prefix in found if other is place])
    state = _behind(place, prefix)
    if name == "pytorch_i3d":
        state = _renamed(state, _PYTORCH_I3D)
        state = {name: _linear(name, claim) for name, claim in state.items()}
    if "fc.0.weight" in state and "fc.2.weight" in state:
        state = _renamed(state, _TWO_LAYERS)
    return Recognised(
        name=name,
        head=_head(state, contrastive=not _TRAINED.isdisjoint(prefix.split("."))),
        config=dict(_CLIPS.get(name, {})),
        state=state,
    )


def claims_for(values: Any, wanted: Mapping[str, Any]) -> Claims:
    """Return the weights in a file that are called as ``wanted`` is, behind whatever prefix; where
    no place in the file has all of them, those of the place that has most.
    """
    needed = [name for name in wanted if not name.endswith("num_batches_tracked")]
    best: Claims = {}
    for place in _places(values):
        for prefix in dict.fromkeys(
            prefix for name in needed[:1] + needed[-1:] for prefix in _prefixes(place, name)
        ):
            state = _behind(place, prefix)
            held = {name: state[name] for name in wanted if name in state}
            if all(name in held for name in needed):
                return held
            best = held if len(held) > len(best) else best
    return best


def _places(values: Any) -> list[Claims]:
    """Return the dictionaries in a file that hold named tensors, the likeliest first."""
    found = [_cleaned(place) for place in _dictionaries(values) if _holds_tensors(place)]
    if not found:
        if not isinstance(values, dict):
            kind = type(values).__name__.lower()
            raise CheckpointError(f"neither {FORMAT} nor a state dict (found: {kind})")
        held = ", ".join(map(shown, list(cast(dict[Any, Any], values))[:5])) or "nothing"
        raise CheckpointError(f"neither {FORMAT} nor a state dict (found: {held})")
    return found


def _dictionaries(values: Any) -> Iterator[dict[Any, Any]]:
    """Yield every dictionary in a file: outer ones first, and under the likeliest key first."""
    layer, left = [values], _MOST_PLACES
    for _ in range(_DEEPEST):
        inner: list[Any] = []
        for value in layer:
            left -= 1
            if left < 0:
                return
            if isinstance(value, dict):
                items = cast(dict[Any, Any], value)
                yield items
                inner += [items[key] for key in sorted(items, key=_rank)]
            elif isinstance(value, list | tuple):
                inner += cast(list[Any], value)
        layer = [value for value in inner if isinstance(value, dict | list | tuple)]


def _rank(key: Any) -> int:
    if key in _WRAPPERS:
        return _WRAPPERS.index(key)
    return len(_WRAPPERS) + (not _COPY.isdisjoint(re.split(r"[._]", str(key))))


def _holds_tensors(place: dict[Any, Any]) -> bool:
    return any(isinstance(name, str) and isinstance(place[name], Claim) for name in place)


def _cleaned(place: dict[Any, Any]) -> Claims:
    """Return the named values without what wrappers and counters put into and between names."""
    return {
        _WRAPPED.sub("", name): value
        for name, value in place.items()
        if isinstance(name, str) and not name.endswith(_COUNTED)
    }


def _prefixes(place: Claims, name: str) -> list[str]:
    """Return what stands before ``name`` in the names of a state dict: ``module.encoder_q.``."""
    ends = [found for found in place if found == name or found.endswith(f".{name}")]
    return [found.removesuffix(name) for found in ends]


def _behind(place: Claims, prefix: str) -> Claims:
    """Return what has the prefix, without it. All else (``queue``, ``cls_head.``) is left out."""
    return {
        name.removeprefix(prefix): claim for name, claim in place.items() if name.startswith(prefix)
    }


def _trained(prefixes: list[str]) -> str:
    """Return the prefix of the encoder to take. Raise :class:`CheckpointError` where several may be
    meant.
    """
    parts = {prefix: prefix.split(".") for prefix in dict.fromkeys(prefixes)}
    named = [prefix for prefix in parts if not _TRAINED.isdisjoint(parts[prefix])]
    own = [
        prefix
        for prefix in parts
        if all(_COPY.isdisjoint(part.split("_")) for part in parts[prefix])
    ]
    left = named or own or list(parts)
    if len(left) > 1:
        several = " and ".join(map(shown, left[:3]))
        raise CheckpointError(
            f"holds several encoders, behind {several}: save the one that you mean"
        )
    return left[0]


def _what_it_is(state: Claims) -> str:
    """Return in words what weights of no network of ours are."""
    tensors = [name for name, value in state.items() if isinstance(value, Claim)]
    first = ", ".join(map(shown, tensors[:3]))
    named = (
        what
        for pattern, what in _STRANGERS.items()
        if any(re.search(rf"(^|\.){pattern}$", name) for name in state)
    )
    what = next(named, None)
    told = f"it seems to be {what}" if what else _ANY
    return f"its weights begin: {first}; {told}"


def _renamed(state: Claims, names: Mapping[str, str]) -> Claims:
    renamed: Claims = {}
    for old, claim in state.items():
        new = old
        for pattern, replacement in names.items():
            new = re.sub(pattern, replacement, new)
        renamed[new] = claim
    return renamed


def _linear(name: str, claim: Any) -> Any:
    """Turn a classifier that was a convolution of one pixel, [K, D, 1, 1, 1], to a matrix
    [K, D].
    """
    if name != "fc.weight" or not isinstance(claim, Claim) or claim.shape[2:] != (1, 1, 1):
        return claim
    return replace(claim, shape=claim.shape[:2], stride=claim.stride[:2])


def _head(state: Claims, *, contrastive: bool) -> dict[str, Any] | None:
    """Return the head's description: how many outputs its last bias has. A head of another form is
    left out.
    """
    if bias := state.get("id_head.4.bias"):
        return {"kind": "projection", "dim": _length(bias)}
    if "fc.weight" in state and (bias := state.get("fc.bias")):
        outputs = _length(bias)
        if contrastive:
            return {"kind": "linear", "dim": outputs}
        return {"kind": "classifier", "classes": outputs}
    return None


def _length(bias: Any) -> int:
    if not isinstance(bias, Claim) or len(bias.shape) != 1:
        found = list(bias.shape) if isinstance(bias, Claim) else shown(bias)
        raise CheckpointError(f"the bias of its head is {found}, not one row of numbers")
    return bias.shape[0]
