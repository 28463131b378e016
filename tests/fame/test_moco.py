"""The step against the reference's order of events written out, and the laws of queue, shuffling
and moving average.
"""

import copy
from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fame.moco import NOBODY, MoCo, SingleProcess, shuffle
from fame.models import GroupedBatchNorm3d, set_norm_group
from fame.randomness import generator

DIM = 6


class Toy(nn.Module):
    """A convolution, batch norm and a projection: enough for statistics to leak through a batch."""

    def __init__(self) -> None:
        super().__init__()
        draw = generator(0, 0, 0, "toy")
        self.conv, self.norm = nn.Conv3d(3, 5, 2), GroupedBatchNorm3d(5)
        self.head = nn.Linear(5, DIM)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=draw) * 0.5

    def forward(self, clip: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(clip))).mean((2, 3, 4)))


@pytest.fixture(autouse=True)
def ambient_generator():
    """Layers draw initial weights from the global generator before the toy overwrites them."""
    with torch.random.fork_rng():
        yield


def toy_moco(queue: int = 16) -> MoCo:
    return MoCo(Toy, dim=DIM, queue=queue, temperature=0.1, seed=3)


def clips(batch: int, purpose: str, step: int = 0) -> Tensor:
    return torch.rand(batch, 3, 3, 4, 4, generator=generator(0, 0, step, purpose))


def reference_step(
    moco: MoCo, view_1: Tensor, view_2: Tensor, orders: tuple[Tensor, Tensor]
) -> Tensor:
    """Two asymmetric steps in a row, as the reference runs them, each enqueuing its keys at its
    end.
    """
    losses = []
    for query_clips, key_clips, order in ((view_1, view_2, orders[1]), (view_2, view_1, orders[0])):
        query = F.normalize(moco.encoder_q(query_clips), dim=1)
        with torch.no_grad():
            shuffled = F.normalize(moco.encoder_k(key_clips[order]), dim=1)
            key = torch.empty_like(shuffled)
            for place, row in enumerate(order.tolist()):
                key[row] = shuffled[place]
        negatives = query @ moco.queue.clone()
        positives = torch.stack([q @ k for q, k in zip(query, key, strict=True)])
        logits = torch.cat([positives[:, None], negatives], 1) / moco.temperature
        losses.append(F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long)))
        start = int(moco.queue_ptr)
        for offset, row in enumerate(key):
            moco.queue[:, (start + offset) % moco.queue.shape[1]] = row
        moco.queue_ptr[0] = (start + len(key)) % moco.queue.shape[1]
    return (losses[0] + losses[1]) / 2


def test_five_steps_equal_the_reference():
    fast = toy_moco()
    slow = copy.deepcopy(fast)
    for moco in (fast, slow):
        set_norm_group(moco, 4)
    fast_sgd, slow_sgd = (
        torch.optim.SGD(m.encoder_q.parameters(), 0.1, momentum=0.9) for m in (fast, slow)
    )
    for step in range(5):
        views = clips(8, "a", step), clips(8, "b", step)
        orders = tuple(shuffle(8, seed=0, epoch=0, step=step, view=view) for view in (1, 2))
        fast.update_key_encoder_(0.9)
        fast_sgd.zero_grad()
        result = fast.step(*views, shuffles=orders, enqueue="between")
        fast_sgd.step()
        for key, query in zip(
            slow.encoder_k.parameters(), slow.encoder_q.parameters(), strict=True
        ):
            key.data = 0.9 * key.data + 0.1 * query.data
        slow_sgd.zero_grad()
        loss = reference_step(slow, *views, orders)
        loss.backward()
        slow_sgd.step()
        assert float(result.loss) == pytest.approx(float(loss.detach()), abs=1e-5)
        assert torch.allclose(fast.queue, slow.queue, atol=1e-5)
        for name, value in slow.state_dict().items():
            assert torch.allclose(fast.state_dict()[name].float(), value.float(), atol=1e-5), name


def test_after_keeps_the_other_views_own_keys_out_of_the_negatives():
    views, orders = (clips(4, "a"), clips(4, "b")), (torch.arange(4), torch.arange(4))
    between, after = toy_moco(), toy_moco()
    loss_between = between.step(*views, shuffles=orders, enqueue="between").loss
    loss_after = after.step(*views, shuffles=orders, enqueue="after").loss
    assert torch.equal(between.queue, after.queue)
    assert loss_between > loss_after


@given(st.integers(1, 7), st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_queue_is_first_in_first_out_for_any_batch(length: int, sizes: list[int]):
    moco = toy_moco(queue=length)
    expected = deque(moco.queue.T.clone(), maxlen=length)
    owners = deque([NOBODY] * length, maxlen=length)
    for step, size in enumerate(sizes):
        keys = torch.randn(size, DIM, generator=generator(0, 0, step, "keys"))
        moco.enqueue_(keys, torch.arange(size) + 100 * step)
        expected.extend(keys)
        owners.extend(100 * step + row for row in range(size))
    oldest = int(moco.queue_ptr)
    assert torch.equal(torch.roll(moco.queue, -oldest, 1), torch.stack(tuple(expected), 1))
    assert torch.roll(moco.queue_sample, -oldest).tolist() == list(owners)


@pytest.mark.parametrize("enqueue", ["between", "after"])
def test_own_keys_are_no_negatives(enqueue: str):
    """The loss of a step equals the one spelled out over the keys of other videos."""
    moco, sample = toy_moco(queue=16), torch.tensor([5, 3, 5, 9])
    moco.enqueue_(F.normalize(torch.randn(3, DIM, generator=generator(0, 0, 0, "k")), dim=1))
    moco.enqueue_(
        F.normalize(torch.randn(4, DIM, generator=generator(0, 0, 1, "k")), dim=1),
        torch.tensor([9, 4, 5, 5]),
    )
    views, order = (clips(4, "a"), clips(4, "b")), torch.arange(4)
    keys = [moco.keys([view], [order], SingleProcess())[0] for view in views]
    queries = [F.normalize(moco.encoder_q(view), dim=1) for view in views]
    queue = list(zip(moco.queue.T.clone(), moco.queue_sample.tolist(), strict=True))
    losses = []
    for query, key, extra in ((queries[0], keys[1], 0), (queries[1], keys[0], 4)):
        # "between": view 2's keys have taken the places of the four oldest.
        start = int(moco.queue_ptr)
        held = list(queue)
        for row in range(extra if enqueue == "between" else 0):
            held[(start + row) % 16] = (keys[1][row], int(sample[row]))
        for row in range(4):
            others = [k for k, owner in held if owner != int(sample[row])]
            logits = torch.stack([query[row] @ key[row], *(query[row] @ k for k in others)]) / 0.1
            losses.append(float((torch.logsumexp(logits, 0) - logits[0]).detach()))
    result = moco.step(*views, shuffles=(order, order), sample_B=sample, enqueue=enqueue)
    assert float(result.loss) == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_the_loss_among_the_batch_is_that_of_its_own_keys():
    moco, views, order = toy_moco(), (clips(4, "a"), clips(4, "b")), torch.arange(4)
    keys = [moco.keys([view], [order], SingleProcess())[0] for view in views]
    queries = [F.normalize(moco.encoder_q(view), dim=1).detach() for view in views]
    losses = []
    for query, key in zip(queries, keys[::-1], strict=True):
        for row in range(4):
            logits = torch.stack([query[row] @ other for other in key]) / 0.1
            losses.append(float(torch.logsumexp(logits, 0) - logits[row]))
    result = moco.step(*views, shuffles=(order, order))
    assert float(result.batch_loss) == pytest.approx(sum(losses) / 8, abs=1e-5)


@given(st.integers(0, 50), st.integers(1, 12))
@settings(max_examples=25)
def test_shuffling_is_undone(step: int, batch: int):
    moco = toy_moco().eval()
    order = shuffle(batch, seed=0, epoch=0, step=step, view=1)
    view = clips(batch, "a", step)
    plain = moco.keys([view], [torch.arange(batch)], SingleProcess())[0]
    assert torch.allclose(moco.keys([view], [order], SingleProcess())[0], plain, atol=1e-6)


def test_shuffling_changes_whose_statistics_a_key_sees():
    moco = toy_moco()
    set_norm_group(moco, 2)
    view = clips(8, "a")
    order = shuffle(8, seed=0, epoch=0, step=0, view=1)
    (shuffled,) = moco.keys([view], [order], SingleProcess())
    assert not torch.allclose(
        shuffled, moco.keys([view], [torch.arange(8)], SingleProcess())[0], atol=1e-3
    )


def test_moving_average_leaves_buffers_to_their_own_forwards():
    moco = toy_moco()
    with torch.no_grad():
        for parameter in moco.encoder_q.parameters():
            parameter += 1
        moco.encoder_q.norm.running_mean += 1
    before = [parameter.clone() for parameter in moco.encoder_k.parameters()]
    moco.update_key_encoder_(0.75)
    for now, then in zip(moco.encoder_k.parameters(), before, strict=True):
        assert torch.allclose(now, then + 0.25)
    assert torch.equal(moco.encoder_k.norm.running_mean, torch.zeros(5))


@pytest.mark.parametrize("enqueue", ["between", "after"])
def test_parts_give_the_gradients_of_one(enqueue: str):
    gradients = []
    for accumulate in (1, 2, 4):
        moco = toy_moco().double()
        set_norm_group(moco, 2)
        views = clips(8, "a").double(), clips(8, "b").double()
        orders = torch.arange(8), torch.arange(8).flip(0)
        moco.step(
            *views,
            shuffles=orders,
            sample_B=torch.arange(8) // 2,
            enqueue=enqueue,
            accumulate=accumulate,
        )
        gradients.append(torch.cat([p.grad.flatten() for p in moco.encoder_q.parameters()]))
    assert torch.allclose(gradients[0], gradients[1], atol=1e-12)
    assert torch.allclose(gradients[0], gradients[2], atol=1e-12)


@pytest.mark.parametrize("enqueue", ["between", "after"])
@pytest.mark.parametrize("group", [None, 1, 2, 3])  # a group of 3 leaves one clip of 4 over
@pytest.mark.parametrize("accumulate", [1, 2])
def test_one_forward_of_both_views_does_what_two_do(
    enqueue: str, group: int | None, accumulate: int
):
    mocos = [toy_moco(queue=9).double().train() for _ in range(2)]
    mocos[1].one_forward = True
    forwards: list[int] = []
    mocos[1].encoder_q.register_forward_hook(lambda *call: forwards.append(len(call[1][0])))
    for step in range(2):
        views = [clips(4, f"view/{view}", step).double() for view in (1, 2)]
        orders = tuple(shuffle(4, seed=0, epoch=0, step=step, view=view) for view in (1, 2))
        results = []
        for moco in mocos:
            set_norm_group(moco, group)
            results.append(
                moco.step(*views, shuffles=orders, enqueue=enqueue, accumulate=accumulate)
            )
        torch.testing.assert_close(*results)
    states = [moco.state_dict() for moco in mocos]
    torch.testing.assert_close(*states)
    assert states[0]["encoder_q.norm.num_batches_tracked"] == 4 * accumulate
    slopes = [[p.grad for p in moco.encoder_q.parameters()] for moco in mocos]
    torch.testing.assert_close(*slopes)
    assert forwards == [8 // accumulate] * 2 * accumulate


def test_encoders_with_other_batch_norms_see_one_view_after_the_other():
    class Plain(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm3d(5)

    for build, together in ((Toy, True), (Plain, False)):
        moco = MoCo(build, dim=DIM, queue=4, temperature=0.1, one_forward=True)
        assert moco.one_forward is together


def test_only_the_encoders_run_in_bf16():
    """A query is contrasted, and slopes are computed, in float32: autocast would round logits."""
    moco = toy_moco()
    moco.bf16 = True
    seen = []

    def look(module: nn.Module, clip: object, output: Tensor) -> None:
        seen.append((output.dtype, torch.is_autocast_enabled("cpu")))

    moco.encoder_q.register_forward_hook(look)
    moco.encoder_q.head.register_full_backward_pre_hook(
        lambda module, slope: seen.append((None, torch.is_autocast_enabled("cpu")))
    )
    orders = torch.arange(4), torch.arange(4)
    result = moco.step(clips(4, "a"), clips(4, "b"), shuffles=orders)
    assert seen == [(torch.bfloat16, True)] * 2 + [(None, False)] * 2
    assert result.loss.dtype == torch.float32
    exact = toy_moco().step(clips(4, "a"), clips(4, "b"), shuffles=orders)
    assert float(result.loss) == pytest.approx(float(exact.loss), abs=0.05)
