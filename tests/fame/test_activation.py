"""Activation maps against NumPy, and the share of energy in a mask."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from fame.activation import activation_energy, foreground_share, unit_range


def maps(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def linear(values: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Linear interpolation along one axis with pixel centres, edges repeated."""
    old = values.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    return np.apply_along_axis(lambda line: np.interp(at, np.arange(old), line), axis, values)


def test_energy_is_the_mean_over_channels_upsampled_axis_by_axis() -> None:
    map_BDthw = maps(2, 5, 2, 3, 4)
    expected = map_BDthw.numpy().mean(1)
    for axis, size in enumerate((4, 9, 8), start=1):
        expected = linear(expected, size, axis)
    memory = map_BDthw.contiguous(memory_format=torch.channels_last_3d)
    np.testing.assert_allclose(activation_energy(memory, size=(4, 9, 8)), expected, atol=1e-6)


def test_a_negative_map_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no negative value, got -0\.5"):
        activation_energy(maps(1, 2, 1, 2, 2) - 0.5 - maps(1, 2, 1, 2, 2), size=(1, 2, 2))


@given(energy=arrays.arrays(np.float32, (2, 2, 3, 3), elements=st.floats(0, 100, width=32)))
def test_drawn_maps_span_zero_to_one(energy: np.ndarray) -> None:
    for before, after in zip(energy, unit_range(torch.from_numpy(energy)).numpy(), strict=True):
        assert after.min() == 0
        assert after.max() == (1 if before.max() > before.min() else 0)


def test_the_share_is_counted_pixel_by_pixel() -> None:
    energy_BTHW, mask_BHW = maps(3, 2, 4, 5), maps(3, 4, 5) > 0.5
    for clip, share in enumerate(foreground_share(energy_BTHW, mask_BHW)):
        inside = sum(float(frame[mask_BHW[clip]].sum()) for frame in energy_BTHW[clip])
        assert float(share) == pytest.approx(inside / float(energy_BTHW[clip].sum()), abs=1e-6)
    per_frame = mask_BHW[:, None].expand(-1, 2, -1, -1)
    assert torch.equal(
        foreground_share(energy_BTHW, per_frame), foreground_share(energy_BTHW, mask_BHW)
    )


def test_a_uniform_map_has_the_share_of_the_area_and_no_energy_has_none() -> None:
    mask_BHW = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask_BHW[:, :2] = True
    energy_BTHW = torch.stack([torch.ones(3, 4, 4), torch.zeros(3, 4, 4)])
    share_B = foreground_share(energy_BTHW, mask_BHW)
    assert float(share_B[0]) == 0.5
    assert share_B[1].isnan()
