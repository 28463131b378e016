"""Where an encoder looks, whatever the class: its last feature map collapsed over channels (figure
1 of the paper).

Shapes: B batch, D channels of the map, t h w its size, T frames, H W height/width of the clip.
"""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def activation_energy(
    map_BDthw: Float[Tensor, "b d t_map h_map w_map"], *, size: tuple[int, int, int]
) -> Float[Tensor, "b t h w"]:
    """Mean over channels of a last feature map, upsampled trilinearly to ``size`` = (frames,
    height, width).

    Feature maps come from a ReLU, so the energy is never negative; a map with negative values is a
    ``ValueError``.
    """
    if map_BDthw.numel() and (low := float(map_BDthw.min())) < 0:
        raise ValueError(
            f"an activation map comes from a ReLU and holds no negative value, got {low:.3g}"
        )
    mean_B1thw = map_BDthw.float().mean(1, keepdim=True).contiguous()
    return F.interpolate(mean_B1thw, size=size, mode="trilinear", align_corners=False).squeeze(1)


def unit_range(energy_BTHW: Float[Tensor, "b t h w"]) -> Float[Tensor, "b t h w"]:
    """Stretch each clip's energy to 0..1 for drawing; a constant clip becomes 0."""
    low = energy_BTHW.amin((1, 2, 3), keepdim=True)
    span = energy_BTHW.amax((1, 2, 3), keepdim=True) - low
    return (energy_BTHW - low) / span.where(span > 0, span.new_ones(()))


def foreground_share(
    energy_BTHW: Float[Tensor, "b t h w"], mask: Bool[Tensor, "b h w"] | Bool[Tensor, "b t h w"]
) -> Float[Tensor, " b"]:
    """Share of each clip's energy inside its foreground mask (one for all frames, or one per
    frame), 0..1.

    To be read beside the mask's own area, which is what a uniform map would reach. NaN for a clip
    without any energy.
    """
    mask_BTHW = mask if mask.ndim == 4 else mask.unsqueeze(1)
    inside_B = (energy_BTHW * mask_BTHW).sum((1, 2, 3))
    return inside_B / energy_BTHW.sum((1, 2, 3))
