"""A 3D convolution that is computed as what it is where its kernel is flat: a matrix product or a
2D convolution.

In channels-last memory the rearrangements below are views. Shapes: B batch, C D channels in and
out, T frames, H W.
"""

from collections.abc import Sequence

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
            t, h, w = self.stride
            return pointwise(input[:, :, ::t, ::h, ::w], self.weight)
        if depth == 1:
            stride, padding = self.stride[1:], [int(count) for count in self.padding[1:]]
            return _over_space(input, self.weight, stride, padding)
        if (height, width) == (1, 1):
            return self._over_time(input)
        return F.conv3d(input, self.weight, None, self.stride, self.padding)

    def _over_time(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return one 2D convolution whose height is time and whose width is all pixels."""
        stride, padding = [self.stride[0], 1], [int(self.padding[0]), 0]
        output = F.conv2d(input.flatten(3), self.weight.squeeze(4), None, stride, padding)
        return output.unflatten(3, input.shape[3:])


def pointwise(
    input: Float[Tensor, "b c t h w"],  # noqa: A002
    weight: Float[Tensor, "d c 1 1 1"],
) -> Float[Tensor, "b d t h w"]:
    """Return the convolution with a kernel of one element: a matrix product.

    On a CPU oneDNN's 2D convolution computes that product up to twice as fast as the BLAS that
    PyTorch comes with.
    """
    return _over_space(input, weight) if input.is_cpu else _product(input, weight)


def _product(input: Tensor, weight: Tensor) -> Tensor:  # noqa: A002
    return F.linear(input.movedim(1, -1), weight.flatten(1)).movedim(-1, 1)


def _over_space(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
) -> Tensor:
    """Return one 2D convolution of all frames."""
    frames = input.movedim(2, 1).flatten(0, 1)
    output = F.conv2d(frames, weight.squeeze(2), None, stride, padding)
    # len() would be a plain number, and a traced program one for that many clips only
    batch = input.shape[0]
    return output.unflatten(0, (batch, -1)).movedim(1, 2)
