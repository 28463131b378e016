"""A small plain 3D network for small worlds: what a CPU trains in minutes, and what experiments at
that size use.

Three convolutions of 3x3x3, as in C3D (Tran et al., ICCV 2015), each with batch norm. Shapes: B
batch, C channels, T frames, H W height/width, D feature dim.
"""

from torch import nn

from fame.models.backbone import Backbone
from fame.models.convolution import FlatConv3d
from fame.models.norm import GroupedBatchNorm3d


class SmallC3D(Backbone):
    """Three blocks up to a feature map 4 times smaller in time and 8 times in space (rounded up),
    128 channels.
    """

    feature_dim = 128

    def __init__(self) -> None:
        super().__init__()
        # 8 frames of 28x28 pixels become 8x14x14, 4x7x7 and 2x4x4.
        self.block1 = block(3, 16, stride=(1, 2, 2))
        self.block2 = block(16, 32, stride=(2, 2, 2))
        self.block3 = block(32, self.feature_dim, stride=(2, 2, 2))


def block(in_channels: int, out_channels: int, *, stride: tuple[int, int, int]) -> nn.Sequential:
    """Return a 3x3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        FlatConv3d(in_channels, out_channels, (3, 3, 3), stride, (1, 1, 1)),
        GroupedBatchNorm3d(out_channels),
        nn.ReLU(inplace=True),  # batch norm keeps its input, not its output, for the backward
    )
