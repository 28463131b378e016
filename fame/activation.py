"""Map where an encoder looks, whatever the class: its last feature map collapsed over channels
(figure 1 of the paper).

Shapes: B batch, D channels of the map, t h w its size, T frames, H W height/width of the clip.
"""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def activation_energy(
    map_BDthw: Float[Tensor, "b d t_map h_map w_map"],
    *,
    size: tuple[int, int, int],
    signed: bool = False,
) -> Float[Tensor, "b t h w"]:
    """Return the activation of each pixel: a last feature map without its channels.

    Channels are averaged, since feature maps come from a ReLU. A network that has none, such as a
    transformer, is ``signed``: the length of each position's vector counts. The result is scaled
    trilinearly to ``size`` = (frames, height, width). Raise ``ValueError`` for a negative value in
    a map that is not signed.
    """
    if not signed and map_BDthw.numel() and (low := float(map_BDthw.min())) < 0:
        raise ValueError(
            f"an activation map comes from a ReLU and holds no negative value, got {low:.3g}"
        )
    map_BDthw = map_BDthw.float()
    energy = map_BDthw.norm(dim=1, keepdim=True) if signed else map_BDthw.mean(1, keepdim=True)
    energy_B1thw = energy.contiguous()
    return F.interpolate(energy_B1thw, size=size, mode="trilinear", align_corners=False).squeeze(1)


def unit_range(energy_BTHW: Float[Tensor, "b t h w"]) -> Float[Tensor, "b t h w"]:
    """Stretch each clip's energy to 0..1 for drawing; a constant clip becomes 0."""
    low = energy_BTHW.amin((1, 2, 3), keepdim=True)
    span = energy_BTHW.amax((1, 2, 3), keepdim=True) - low
    return (energy_BTHW - low) / span.where(span > 0, span.new_ones(()))


def foreground_share(
    energy_BTHW: Float[Tensor, "b t h w"], mask: Bool[Tensor, "b h w"] | Bool[Tensor, "b t h w"]
) -> Float[Tensor, " b"]:
    """Return the share of each clip's energy inside its foreground mask (one for all frames, or one
    per frame), 0..1.

    To be read beside the mask's own area, which is what a uniform map would reach. NaN for a clip
    without any energy.
    """
    mask_BTHW = mask if mask.ndim == 4 else mask.unsqueeze(1)
    inside_B = (energy_BTHW * mask_BTHW).sum((1, 2, 3))
    return inside_B / energy_BTHW.sum((1, 2, 3))
