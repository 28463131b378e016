"""Networks of other projects behind the interface of a backbone: ``hf:``, ``torchvision:``, yours.

A name with a colon is such a network, wherever a network is named:

    hf:FOLDER-OR-NAME         transformers' VideoMAE, V-JEPA 2, TimeSformer or ViViT
    torchvision:NAME          r3d_18, mc3_18, s3d, mvit_v2_s or swin3d_t, untrained
    package.module:function   what your function returns; so does path/to/file.py:function

**The last form runs the code that it names**, as ``python`` would. Your function takes nothing and
returns a ``torch.nn.Module``. Its method ``feature_map`` or ``features``, or else the call itself,
maps clips ``[B, 3, T, H, W]`` to features ``[B, D]`` or a feature map ``[B, D, t, h, w]``. It may
have attributes: ``frames`` and ``crop`` (the only size that it takes), ``mean`` and ``std`` (three
numbers each; clips come in 0..1 without them).

Shapes: B batch, T frames, H W height and width, t h w size of the feature map, D feature dim.
"""

import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fame.models.backbone import Backbone
from fame.normalize import MEAN, STD

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_PROBE = (16, 112)  # frames and side of the clip that a network without fixed sizes is tried on
_MOST = {"frames": 1024, "crop": 4096}
_FAMILIES = ("videomae", "vjepa2", "timesformer", "vivit")
_CARDS = ("video_preprocessor_config.json", "preprocessor_config.json")
_CLASSIFIERS = {
    "r3d_18": "fc",
    "mc3_18": "fc",
    "s3d": "classifier",
    "mvit_v2_s": "head",
    "swin3d_t": "head",
}


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """How to use a network: its input and what to do with what it returns.

    Args:
        network: the network; a submodule of the backbone, so its weights are in the state dict.
        run: from the network and a clip ``[B, 3, T, H, W]``, normalised for it, to ``[B, D]`` or
            ``[B, D, t, h, w]``.
        frames: the only number of frames that it takes; ``None`` if any.
        crop: the only side of a clip that it takes, pixels; ``None`` if any.
        mean: of each colour, subtracted from clips in 0..1.
        std: of each colour.
    """

    network: nn.Module
    run: Callable[[Any, Tensor], Any]
    frames: int | None = None
    crop: int | None = None
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)


class ForeignBackbone(Backbone):
    """A network of another project, given clips that are normalised as ours are."""

    def __init__(self, name: str, adapter: Adapter) -> None:
        super().__init__()
        self.name, self.frames, self.crop = name, adapter.frames, adapter.crop
        self.network = adapter.network
        self._call = adapter.run
        # Ours: x = (c - m) / s. Theirs: (c - m') / s' = x * s / s' + (m - m') / s'.
        mean, std = (
            torch.tensor([float(number) for number in numbers])
            for numbers in (adapter.mean, adapter.std)
        )
        # Not in the state dict, since they follow from the name of the network.
        scale, shift = torch.tensor(STD) / std, (torch.tensor(MEAN) - mean) / std
        self.register_buffer("_scale", scale.view(3, 1, 1, 1), persistent=False)
        self.register_buffer("_shift", shift.view(3, 1, 1, 1), persistent=False)
        self.feature_dim = self._probe()

    @property
    def checkpointing(self) -> bool:
        """Return whether activations are recomputed in the backward, by the network's own means."""
        return self._checkpointing

    @checkpointing.setter
    def checkpointing(self, enabled: bool) -> None:
        self._checkpointing = enabled
        if not enabled:
            return
        enable = getattr(self.network, "gradient_checkpointing_enable", None)
        if enable is None:
            raise ValueError(
                f"{self.name} cannot recompute activations: checkpoint_activations=false"
            )
        enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def feature_map(self, clip_BCTHW: Tensor) -> Tensor:
        """Return the feature map ``[B, D, t, h, w]``, of size 1 where the network has none.

        Raise ``ValueError`` for clips of a size that the network does not take.
        """
        batch, channels, frames, height, width = clip_BCTHW.shape
        wrong_size = self.crop is not None and (height, width) != (self.crop, self.crop)
        if channels != 3 or frames != (self.frames or frames) or wrong_size:
            side = f"{self.crop}x{self.crop} pixels" if self.crop else "any size"
            raise ValueError(
                f"{self.name} takes clips of {self.frames or 'any number of'} frames of {side}, "
                f"got {frames} of {height}x{width}: set frames and crop, or choose another store"
            )
        scale, shift = self.get_buffer("_scale"), self.get_buffer("_shift")
        output = self._call(self.network, clip_BCTHW * scale + shift)
        # Not len(), which would fix the batch of an exported program.
        if not isinstance(output, Tensor) or output.ndim not in (2, 5) or output.shape[0] != batch:
            found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"{self.name} must return [B, D] or [B, D, t, h, w], got {found}")
        return output if output.ndim == 5 else output[:, :, None, None, None]

    @torch.no_grad()
    def _probe(self) -> int:
        """Return the length of a feature, from one clip of noise in evaluation mode."""
        was_training = self.network.training
        self.network.eval()
        frames, crop = self.frames or _PROBE[0], self.crop or _PROBE[1]
        draws = torch.Generator().manual_seed(0)
        clip_BCTHW = torch.rand(1, 3, frames, crop, crop, generator=draws)
        try:
            map_BDthw = self.feature_map(clip_BCTHW)
        except ValueError:  # of feature_map, whose message names the network
            raise
        except Exception as error:  # of anyone's code
            size = f"[1, 3, {frames}, {crop}, {crop}]"
            raise ValueError(f"{self.name} fails on a clip {size}: {_reason(error)}") from error
        if not (map_BDthw.is_floating_point() and map_BDthw.numel() and map_BDthw.isfinite().all()):
            found = f"{list(map_BDthw.shape)} {map_BDthw.dtype}"
            raise ValueError(f"{self.name} must return floats that are finite, got {found}")
        self.network.train(was_training)
        return map_BDthw.shape[1]


def is_foreign(name: str) -> bool:
    """Return whether a name is that of a network of another project."""
    return ":" in name


def build_foreign(name: str, *, trained: bool = False) -> ForeignBackbone:
    """Build the network of another project that ``name`` names.

    With ``trained`` its weights must be there. Raise ``ValueError`` if it is not found, cannot be
    imported or returns something else.
    """
    kind, _, rest = name.partition(":")
    if kind == "hf":
        adapter = _hugging_face(name, rest, trained=trained)
    elif kind == "torchvision":
        adapter = _torchvision(name, rest, trained=trained)
    else:
        adapter = _own(name, kind, rest)
    return ForeignBackbone(name, adapter)


# transformers -------------------------------------------------------------------------------------


def _hugging_face(name: str, source: str, *, trained: bool) -> Adapter:
    try:
        from transformers import AutoConfig
        from transformers.utils.hub import cached_file
    except ImportError as error:
        raise ValueError(
            f"{name} needs transformers, which cannot be imported ({error})"
        ) from error

    def find(file: str) -> str | None:
        return cached_file(
            source,
            file,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )

    try:
        config: Any = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if config.model_type not in _FAMILIES:
            raise ValueError(f"it is of type {config.model_type!r}, not {', '.join(_FAMILIES)}")
        weights = find("model.safetensors") or find("model.safetensors.index.json")
        if trained and not weights:
            raise ValueError("it has no model.safetensors")
        network = _load(source, config, weights=bool(weights))
        card = next(filter(None, map(find, _CARDS)), None)
        mean, std = _normalisation(Path(card)) if card else _IMAGENET
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{name}: no network that can be used here: {reason}") from error
    return _tokens(network, config, mean=mean, std=std)


def _load(source: str, config: Any, *, weights: bool) -> nn.Module:
    from transformers import AutoModel

    if not weights:
        return AutoModel.from_config(config, trust_remote_code=False)
    network, info = AutoModel.from_pretrained(
        source, use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    # Files without these are as good: features come from the tokens, before either.
    unused = ("pooler", "predictor")
    missing = [key for key in info["missing_keys"] if not key.startswith(unused)]
    if missing:
        raise ValueError(f"its weights lack {min(missing)} ({len(missing)} in all)")
    return network


def _normalisation(path: Path) -> tuple[Sequence[float], Sequence[float]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return content.get("image_mean", _IMAGENET[0]), content.get("image_std", _IMAGENET[1])


def _tokens(network: Any, config: Any, *, mean: Sequence[float], std: Sequence[float]) -> Adapter:
    """Return how to use a video transformer: which token is which part of the clip.

    V-JEPA 2 and VideoMAE give t * h * w tokens in this order. ViViT puts a class token before them.
    TimeSformer too, and counts frames fastest: h * w * t.
    """
    family = config.model_type
    frames = config.frames_per_clip if family == "vjepa2" else config.num_frames
    crop = config.crop_size if family == "vjepa2" else config.image_size
    if family == "vivit":
        depth, patch = config.tubelet_size[0], config.tubelet_size[1]
    else:
        depth, patch = getattr(config, "tubelet_size", 1), config.patch_size
    # VideoMAE: 16 frames in tubes of 2, 224 pixels in patches of 16: t = 8, side = 14, so N = 1568.
    t, side = frames // depth, crop // patch
    if family == "vjepa2":
        network = network.encoder  # the predictor is for its own pretraining
    # It would run for nothing, and its weights would get no gradient.
    if getattr(network, "pooler", None) is not None:
        network.pooler = None
    argument = "pixel_values_videos" if family == "vjepa2" else "pixel_values"

    def run(network: Any, clip_BCTHW: Tensor) -> Tensor:
        token_BND = network(**{argument: clip_BCTHW.transpose(1, 2)}).last_hidden_state
        if family in ("timesformer", "vivit"):
            token_BND = token_BND[:, 1:]
        if family == "timesformer":
            return token_BND.unflatten(1, (side, side, t)).permute(0, 4, 3, 1, 2)
        return token_BND.unflatten(1, (t, side, side)).permute(0, 4, 1, 2, 3)

    return Adapter(network=network, run=run, frames=frames, crop=crop, mean=mean, std=std)


# torchvision --------------------------------------------------------------------------------------


def _torchvision(name: str, architecture: str, *, trained: bool) -> Adapter:
    if architecture not in _CLASSIFIERS:
        raise ValueError(f"{name}: there are {', '.join(_CLASSIFIERS)}")
    if trained:
        raise ValueError(f"{name} has no weights of its own: name a checkpoint of it")
    try:
        video = importlib.import_module("torchvision.models.video")
        network = getattr(video, architecture)(weights=None)
    except (ImportError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{name} needs a torchvision that can be imported ({reason})") from error
    setattr(network, _CLASSIFIERS[architecture], nn.Identity())
    fixed = {"frames": 16, "crop": 224} if architecture == "mvit_v2_s" else {}
    return Adapter(network=network, run=nn.Module.__call__, mean=MEAN, std=STD, **fixed)


# Your own -----------------------------------------------------------------------------------------


def _own(name: str, module_name: str, function_name: str) -> Adapter:
    try:
        function = getattr(_module(module_name), function_name)
    except (Exception, SystemExit) as error:  # importing runs anyone's code
        raise ValueError(f"{name}: cannot be imported ({_reason(error)})") from error
    try:
        network = function()
    except (Exception, SystemExit) as error:
        raise ValueError(f"{name}() fails; it is called without arguments: {_reason(error)}") from (
            error
        )
    if not isinstance(network, nn.Module):
        raise ValueError(f"{name} must return a torch.nn.Module, got {type(network).__name__}")
    if any(weight.is_meta for weight in network.parameters()):
        raise ValueError(f"{name} must return a network with weights, not one of the meta device")
    methods = [m for m in ("feature_map", "features") if callable(getattr(network, m, None))]
    known = {key: getattr(network, key, None) for key in ("frames", "crop", "mean", "std")}
    given = {key: value for key, value in known.items() if value is not None}
    _check_attributes(name, given)

    def run(network: Any, clip_BCTHW: Tensor) -> Any:
        return getattr(network, methods[0] if methods else "__call__")(clip_BCTHW)

    return Adapter(network=network, run=run, **given)


def _check_attributes(name: str, given: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for attributes of a network that describe no clip."""
    for key, value in given.items():
        if key in ("frames", "crop"):
            if type(value) is not int or not 1 <= value <= _MOST[key]:
                raise ValueError(f"{name}: {key} must be 1 to {_MOST[key]}, got {value!r}")
            continue
        try:
            numbers = [float(number) for number in value]
        except (TypeError, ValueError):
            numbers = []
        usual = all(abs(number) < 1e6 for number in numbers) and (key == "mean" or all(numbers))
        if len(numbers) != 3 or not usual:
            other = "" if key == "mean" else " other than 0"
            raise ValueError(f"{name}: {key} must be three numbers{other}, got {value!r}")


def _reason(error: BaseException) -> str:
    """Return an error of anyone's code as one line: its first line, or its kind where it has
    none.
    """
    text = " ".join(str(error).split())[:200]
    kind = type(error).__name__
    plain = isinstance(error, ImportError | AttributeError | SyntaxError | OSError | RuntimeError)
    return text if text and plain else f"{kind} {text}".strip()


def _module(name: str) -> Any:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(Path(name).stem, Path(name))
    if spec is None or spec.loader is None or not Path(name).is_file():
        raise ImportError(f"no file {name}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
