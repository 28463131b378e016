"""InfoNCE against a loop over queries, and the collapse indicator on features whose spread is
known.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from fame.contrast import feature_spread, info_nce
from fame.randomness import generator


def unit(rows: int, dim: int, seed: int, purpose: str) -> torch.Tensor:
    return F.normalize(
        torch.randn(rows, dim, dtype=torch.float64, generator=generator(seed, 0, 0, purpose)), dim=1
    )


@given(
    st.integers(1, 6), st.integers(1, 8), st.integers(1, 9), st.floats(0.05, 2), st.integers(0, 99)
)
def test_equals_a_loop_over_queries(
    batch: int, dim: int, length: int, temperature: float, seed: int
):
    query, key, queue = (
        unit(batch, dim, seed, "q"),
        unit(batch, dim, seed, "k"),
        unit(length, dim, seed, "queue").T,
    )
    left_out = torch.rand(batch, length, generator=generator(seed, 0, 0, "out")) < 0.4
    result = info_nce(query, key, queue, temperature=temperature, leave_out_BK=left_out)
    for row in range(batch):
        positive = float(query[row] @ key[row]) / temperature
        negatives = [
            float(query[row] @ queue[:, column]) / temperature
            for column in range(length)
            if not left_out[row, column]
        ]
        expected = math.log(sum(math.exp(value - positive) for value in [positive, *negatives]))
        assert float(result.loss_B[row]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert float(result.correct_B[row]) == (positive >= max(negatives, default=-math.inf))


def test_leaving_nothing_out_changes_nothing():
    query, key, queue = unit(3, 4, 0, "a"), unit(3, 4, 0, "b"), unit(5, 4, 0, "c").T
    plain = info_nce(query, key, queue, temperature=0.1)
    nothing = torch.zeros(3, 5, dtype=torch.bool)
    masked = info_nce(query, key, queue, temperature=0.1, leave_out_BK=nothing)
    assert torch.equal(plain.loss_B, masked.loss_B)


def test_gradients_reach_the_queries_only():
    query, key, queue = (unit(3, 4, 0, name).requires_grad_() for name in "abc")
    info_nce(query, key, queue.T, temperature=0.1).loss_B.sum().backward()
    assert query.grad is not None
    assert key.grad is None
    assert queue.grad is None


def test_spread_is_zero_when_collapsed_and_near_one_when_even():
    even = unit(4000, 16, 0, "even")
    assert float(feature_spread(even[:1].expand(50, -1))) == pytest.approx(0, abs=1e-6)
    assert float(feature_spread(even * 7)) == pytest.approx(1, abs=0.02)
