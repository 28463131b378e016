"""I3D: Inception inflated to three dimensions (Carreira and Zisserman, CVPR 2017), named as the
reference names it.

Padding is TensorFlow's SAME, where the convolution was born: as little as makes the output
ceil(size / stride), the odd element after the data. Shapes: B batch, C channels, T frames, H W
height/width, D feature dim.
"""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fame.models.backbone import Backbone
from fame.models.convolution import FlatConv3d, pointwise
from fame.models.norm import GroupedBatchNorm3d
from fame.normalize import MEAN, STD

Size = tuple[int, int, int]

# Output channels of the branches: 1x1 | 1x1 then 3x3 | 1x1 then 3x3 | pool then 1x1.
MIXED = {
    "mixed_3b": (64, 96, 128, 16, 32, 32),
    "mixed_3c": (128, 128, 192, 32, 96, 64),
    "mixed_4b": (192, 96, 208, 16, 48, 64),
    "mixed_4c": (160, 112, 224, 24, 64, 64),
    "mixed_4d": (128, 128, 256, 24, 64, 64),
    "mixed_4e": (112, 144, 288, 32, 64, 64),
    "mixed_4f": (256, 160, 320, 32, 128, 128),
    "mixed_5b": (256, 160, 320, 32, 128, 128),
    "mixed_5c": (384, 192, 384, 48, 128, 128),
}


class I3D(Backbone):
    """I3D up to its last feature map, 8 times smaller in time and 32 times in space (rounded up).

    ``width`` multiplies every channel count, rounded to a multiple of 8 (at least 8); 1.0 is the
    published network.
    """

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()
        if not 0 < width <= 4:
            raise ValueError(f"width multiplies I3D's channels and lies in (0, 4], got {width}")
        stem, wide = scaled(64, width), scaled(192, width)
        self.conv3d_1a_7x7 = Unit(3, stem, kernel=7, stride=2)
        self.maxPool3d_2a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        self.conv3d_2b_1x1 = Unit(stem, stem)
        self.conv3d_2c_3x3 = Unit(stem, wide, kernel=3)
        self.maxPool3d_3a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        channels = wide
        for name, widths in MIXED.items():
            if name == "mixed_4b":
                self.maxPool3d_4a_3x3 = MaxPool((3, 3, 3), (2, 2, 2))
            if name == "mixed_5b":
                self.maxPool3d_5a_2x2 = MaxPool((2, 2, 2), (2, 2, 2))
            block = Mixed(channels, [scaled(count, width) for count in widths])
            self.add_module(name, block)
            channels = block.out_channels
        self.feature_dim = channels


class PytorchI3D(I3D):
    """I3D as pytorch-i3d runs it, for its weights: shown colours in -1..1, zeros around them, and
    1e-3 added to variances. Clips are given normalised as to every network here.
    """

    def __init__(self) -> None:
        super().__init__()
        for module in self.modules():
            if isinstance(module, GroupedBatchNorm3d):
                module.eps = 1e-3

    def feature_map(
        self, clip_BCTHW: Float[Tensor, "b c t h w"]
    ) -> Float[Tensor, "b d t_map h_map w_map"]:
        """Map a normalised RGB clip to the last feature map."""
        # Ours: x = (c - m) / s. Theirs: 2 c - 1 = 2 s x + 2 m - 1. No buffers: what no checkpoint
        # holds is lost where a network is made without memory.
        scale, shift = (
            clip_BCTHW.new_tensor(values).view(3, 1, 1, 1)
            for values in ([2 * s for s in STD], [2 * m - 1 for m in MEAN])
        )
        return super().feature_map(clip_BCTHW * scale + shift)


class Unit(nn.Module):
    """Convolution with SAME padding, batch norm, ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int = 1, stride: int = 1
    ) -> None:
        super().__init__()
        # An odd kernel that does not stride pads alike on both sides, which the convolution does
        # without a copy.
        self.conv3d = FlatConv3d(
            in_channels, out_channels, kernel, stride, kernel // 2 if stride == 1 else 0
        )
        self.batch3d = GroupedBatchNorm3d(out_channels)

    def forward(self, input: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t_out h_out w_out"]:  # noqa: A002
        """Convolve, normalise, rectify."""
        if self.conv3d.stride != (1, 1, 1):
            sides = zip(input.shape[2:], self.conv3d.kernel_size, self.conv3d.stride, strict=True)
            # F.pad wants the last axis first: columns, rows, frames, each before and after.
            pads = [same_padding(*side) for side in sides]
            input = F.pad(input, [count for pad in reversed(pads) for count in pad])  # noqa: A001
        return self.finish(self.conv3d(input))

    def finish(self, convolved: Float[Tensor, "b d t h w"]) -> Float[Tensor, "b d t h w"]:
        """Normalise and rectify what was convolved."""
        return F.relu_(self.batch3d(convolved))


class MaxPool(nn.Module):
    """Max pooling with SAME padding, without copying: an odd element of padding is what
    ``ceil_mode`` allows.

    The reference pads with zeros; what is pooled is never negative (after ReLU), so the maximum is
    the same.
    """

    def __init__(self, kernel: Size, stride: Size) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, input: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t_out h_out w_out"]:  # noqa: A002
        """Pool over space, then over time.

        The maximum of maxima is the same number, and two 2D poolings are the better kernels: 9 and
        3 comparisons for 27, small indices kept for the backward, and no atomic sums in it. Frames
        are rows of the batch for the first, all pixels of a frame one row for the second.
        """
        sides = zip(input.shape[2:], self.kernel, self.stride, strict=True)
        before_t, *before = [same_padding(*side)[0] for side in sides]
        batch = input.shape[0]
        kernel, stride = self.kernel[1:], self.stride[1:]
        frames = input.movedim(2, 1).flatten(0, 1)
        pooled = F.max_pool2d(frames, kernel, stride, before, ceil_mode=True)
        pooled = pooled.unflatten(0, (batch, -1)).movedim(1, 2)
        if (self.kernel[0], self.stride[0]) == (1, 1):
            return pooled
        kernel, stride, padding = (self.kernel[0], 1), (self.stride[0], 1), (before_t, 0)
        over_time = F.max_pool2d(pooled.flatten(3), kernel, stride, padding, ceil_mode=True)
        return over_time.unflatten(3, pooled.shape[3:])


class Mixed(nn.Module):
    """Inception block: four branches over the same input, concatenated."""

    def __init__(self, in_channels: int, widths: list[int]) -> None:
        super().__init__()
        one, reduce_1, out_1, reduce_2, out_2, pooled = widths
        self.branch_0 = Unit(in_channels, one)
        self.branch_1 = nn.Sequential(Unit(in_channels, reduce_1), Unit(reduce_1, out_1, kernel=3))
        self.branch_2 = nn.Sequential(Unit(in_channels, reduce_2), Unit(reduce_2, out_2, kernel=3))
        self.branch_3 = nn.Sequential(MaxPool((3, 3, 3), (1, 1, 1)), Unit(in_channels, pooled))
        self.out_channels = one + out_1 + out_2 + pooled

    def forward(self, input: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h w"]:  # noqa: A002
        """Run the branches and concatenate their channels.

        Three branches begin with a 1x1 convolution of the same input: one product makes all three.
        """
        units = [cast(Unit, unit) for unit in (self.branch_0, self.branch_1[0], self.branch_2[0])]
        product = pointwise(input, torch.cat([unit.conv3d.weight for unit in units]))
        widths = [unit.conv3d.out_channels for unit in units]
        first, second, third = (
            unit.finish(part) for unit, part in zip(units, product.split(widths, 1), strict=True)
        )
        return torch.cat(
            [first, self.branch_1[1](second), self.branch_2[1](third), self.branch_3(input)], 1
        )


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the elements to add before and after ``size`` so that the output has ceil(size /
    stride).
    """
    # 224 pixels, a kernel of 7, a stride of 2: the last of 112 kernels begins at 222 and ends at
    # 229, so 5 are missing, 2 before and 3 after.
    last_start = (size - 1) // stride * stride
    total = max(last_start + kernel - size, 0)
    return total // 2, total - total // 2


def scaled(channels: int, width: float) -> int:
    """Return the multiple of 8 that is nearest to ``channels * width``, at least 8."""
    # A quarter of 96 is 24. A quarter of 208 is 52, between 48 and 56: Python rounds 6.5 to 6.
    return max(8, round(channels * width / 8) * 8)
