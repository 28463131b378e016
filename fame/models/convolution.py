"""A 3D convolution that is computed as what it is where its kernel is flat: a matrix product or a
2D convolution.

In channels-last memory the rearrangements below are views. Shapes: B batch, C D channels in and
out, T frames, H W.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class FlatConv3d(nn.Conv3d):
    """``nn.Conv3d`` without bias; kernels of one element, of one frame or of one pixel take the
    shorter way.

    The results are those of ``nn.Conv3d`` up to rounding, the parameters are the same.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int, int] = 1,
        stride: int | tuple[int, int, int] = 1,
        padding: int | tuple[int, int, int] = 0,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False)

    def forward(self, input: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t_out h_out w_out"]:  # noqa: A002
        """Convolve."""
        depth, height, width = self.kernel_size
        if (depth, height, width) == (1, 1, 1):
            return self._product(input)
        if depth == 1:
            return self._over_space(input)
        if (height, width) == (1, 1):
            return self._over_time(input)
        return F.conv3d(input, self.weight, None, self.stride, self.padding)

    def _product(self, input: Tensor) -> Tensor:  # noqa: A002
        t, h, w = self.stride
        return F.linear(input[:, :, ::t, ::h, ::w].movedim(1, -1), self.weight.flatten(1)).movedim(
            -1, 1
        )

    def _over_space(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return one 2D convolution of all frames."""
        frames = input.movedim(2, 1).flatten(0, 1)
        stride, padding = self.stride[1:], [int(count) for count in self.padding[1:]]
        output = F.conv2d(frames, self.weight.squeeze(2), None, stride, padding)
        batch = input.shape[
            0
        ]  # len() would be a plain number, and a traced program one for that many clips only
        return output.unflatten(0, (batch, -1)).movedim(1, 2)

    def _over_time(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return one 2D convolution whose height is time and whose width is all pixels."""
        stride, padding = [self.stride[0], 1], [int(self.padding[0]), 0]
        output = F.conv2d(input.flatten(3), self.weight.squeeze(4), None, stride, padding)
        return output.unflatten(3, input.shape[3:])
