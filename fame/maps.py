"""Foreground maps of frames and of their clips. T frames of a clip, h w size of a map."""

import numpy as np
from jaxtyping import UInt8

_STILL = 0.25  # of 255: a mean that spans less is what rounding leaves of nothing


def mean_map(map_Thw: UInt8[np.ndarray, "t mh mw"]) -> UInt8[np.ndarray, "mh mw"]:
    """Return a clip's map: the mean of its frames' maps, scaled to 0..255; 0 where it is flat."""
    mean_hw = map_Thw.mean(0, dtype=np.float32)
    low, span = mean_hw.min(), np.ptp(mean_hw)
    if span < _STILL:
        return np.zeros(mean_hw.shape, np.uint8)
    return np.rint((mean_hw - low) / span * 255).astype(np.uint8)
