"""R(2+1)D-18: a ResNet whose 3D convolutions are factored into space, then time (Tran et al., CVPR
2018).

State-dict names are the reference's. Shapes: B batch, C channels, T frames, H W height/width, D
feature dim.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fame.models.backbone import Backbone
from fame.models.convolution import FlatConv3d
from fame.models.norm import GroupedBatchNorm3d


class R2Plus1D18(Backbone):
    """R(2+1)D-18 up to its last feature map, 8 times smaller in time and 16 times in space (rounded
    up).
    """

    feature_dim = 512

    def __init__(self) -> None:
        super().__init__()
        # 16 frames of 112x112 pixels become 16x56x56 in the stem and stay so in the first layer,
        # then 8x28x28, 4x14x14 and 2x7x7. The 45 channels between are those of torchvision.
        self.stem = nn.Sequential(
            FlatConv3d(3, 45, (1, 7, 7), (1, 2, 2), (0, 3, 3)),
            GroupedBatchNorm3d(45),
            nn.ReLU(inplace=True),
            FlatConv3d(45, 64, (3, 1, 1), padding=(1, 0, 0)),
            GroupedBatchNorm3d(64),
            nn.ReLU(inplace=True),
        )
        self.layer1 = nn.Sequential(ResidualBlock(64, 64), ResidualBlock(64, 64))
        self.layer2 = nn.Sequential(ResidualBlock(64, 128, stride=2), ResidualBlock(128, 128))
        self.layer3 = nn.Sequential(ResidualBlock(128, 256, stride=2), ResidualBlock(256, 256))
        self.layer4 = nn.Sequential(ResidualBlock(256, 512, stride=2), ResidualBlock(512, 512))
        for module in self.modules():
            if isinstance(module, FlatConv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class ResidualBlock(nn.Module):
    """Two factored convolutions and a shortcut.

    The channels between space and time are chosen to match the parameters of the full 3D
    convolution of the block (section 3.5 of the paper), once for both convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        # 64 to 64 channels: 144 between, since 64 * 144 * 9 + 144 * 64 * 3 = 64 * 64 * 27 weights.
        middle = in_channels * out_channels * 27 // (in_channels * 9 + 3 * out_channels)
        self.conv1 = nn.Sequential(
            space_time(in_channels, middle, out_channels, stride),
            GroupedBatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
        )
        self.conv2 = nn.Sequential(
            space_time(out_channels, middle, out_channels, 1), GroupedBatchNorm3d(out_channels)
        )
        # The shortcut can be added only in the shape of the output.
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                FlatConv3d(in_channels, out_channels, 1, stride), GroupedBatchNorm3d(out_channels)
            )
        else:
            self.downsample = nn.Identity()

    def forward(self, input: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t_out h_out w_out"]:  # noqa: A002
        """Add the convolved input to its shortcut."""
        return F.relu_(self.conv2(self.conv1(input)) + self.downsample(input))


def space_time(in_channels: int, middle: int, out_channels: int, stride: int) -> nn.Sequential:
    """Return a 3x3 convolution over space, batch norm, ReLU, and a convolution of 3 over time."""
    return nn.Sequential(
        FlatConv3d(in_channels, middle, (1, 3, 3), (1, stride, stride), (0, 1, 1)),
        GroupedBatchNorm3d(middle),
        nn.ReLU(inplace=True),
        FlatConv3d(middle, out_channels, (3, 1, 1), (stride, 1, 1), (1, 0, 0)),
    )
