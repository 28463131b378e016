"""The lines that pretraining prints before its first step."""

import math
from collections.abc import Sequence

import torch

from train.config import PretrainConfig
from train.recipes import RECIPES

_NAMED = 6
_NARROWEST = 3 / 4  # of the aspects that a crop may have
_UNCACHED = (
    "warning: every epoch reads the store from its bucket; --cache FOLDER keeps what was read on "
    "this machine's disk"
)


def opening_lines(
    config: PretrainConfig,
    *,
    device: torch.device,
    processes: int,
    videos: int,
    steps_per_epoch: int,
    frame: tuple[int, int],
    mixture: Sequence[tuple[int, int]] | None = None,
    remote: bool = False,
) -> list[str]:
    """Return three lines about a run, each with its warnings after it. ``frame`` is height and
    width of the store's frames, ``mixture`` the videos of each store and how many an epoch shows,
    ``remote`` whether a store is in a bucket.
    """
    mixed = "; ".join(
        f"{count} of store {number}, which has {size}"
        for number, (size, count) in enumerate(mixture or (), 1)
    )
    data = (
        f"data: {videos} videos; {config.epochs} epochs of {steps_per_epoch} steps of "
        f"{config.batch} videos, {config.epochs * steps_per_epoch} steps in all"
    )
    data += f"; an epoch mixes {mixed}" if mixed else ""
    network = _network_and_device(config, device=device, processes=processes)
    queue = _long_queue(config, keys=2 * config.batch * steps_per_epoch)
    bucket = [_UNCACHED] if remote and config.cache is None else []
    return [*network, data, *bucket, *queue, *_crops(config, frame=frame)]


def _network_and_device(
    config: PretrainConfig, *, device: torch.device, processes: int
) -> list[str]:
    name, changed = nearest_recipe(config)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    many = f", {processes} processes" if processes > 1 else ""
    line = f"recipe: {name}{changed}; encoder {config.encoder} in {config.precision} on {where}"
    lines = [line + many]
    if device.type == "cpu" and name != "small-cpu":
        lines.append(
            f"warning: recipe {name} is made for a GPU and would take very long without one; "
            "--recipe small-cpu is for a CPU"
        )
    return lines


def nearest_recipe(config: PretrainConfig) -> tuple[str, str]:
    """Return the recipe from which a config differs in the fewest fields, and these in words."""
    values = config.to_dict()
    changes = {
        name: [field for field, value in make().to_dict().items() if values[field] != value]
        for name, make in RECIPES.items()
    }
    name = min(changes, key=lambda name: len(changes[name]))
    fields = changes[name]
    if not fields:
        return name, ""
    more = f" and {len(fields) - _NAMED} more" if len(fields) > _NAMED else ""
    named = ", ".join(f"{field}={values[field]}" for field in fields[:_NAMED])
    return name, f" with {named}{more}"


def _long_queue(config: PretrainConfig, *, keys: int) -> list[str]:
    if config.queue <= keys:
        return []
    line = (
        f"warning: queue {config.queue} is longer than the {keys} keys of an epoch: it holds "
        f"several keys of each video, the oldest {config.queue / keys:.1f} epochs old; "
        f"--queue {keys} or less"
    )
    return [line]


def _crops(config: PretrainConfig, *, frame: tuple[int, int]) -> list[str]:
    # Boxes cover min_area..1 of the frame. In frames of 256x340 with min_area 0.2 a square one has
    # sides of sqrt(0.6 * 256 * 340) = 228 pixels in the middle of the draws. The smallest is
    # narrow: sqrt(0.2 * 256 * 340 * 3/4) = 114.
    height, width = frame
    smallest = math.sqrt(config.min_area * height * width * _NARROWEST)
    middle = min(math.sqrt((1 + config.min_area) / 2 * height * width), height, width)
    line = f"crops: {config.crop} pixels from frames of {height}x{width}"
    if smallest < config.crop:
        line += f"; the smallest boxes are enlarged {config.crop / smallest:.1f} times"
    lines = [line]
    if middle < config.crop:
        lines.append(
            f"warning: most boxes are smaller than the crop of {config.crop} pixels and are "
            f"enlarged, which costs time and shows no more; --crop {max(8, int(middle))} or less, "
            "or a store of larger frames"
        )
    return lines
