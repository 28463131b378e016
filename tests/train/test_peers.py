"""The exchange between processes, on threads that stand in for them: what each gets is compared with
the rows of the whole batch. The processes themselves are tested in test_distributed.py.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from train.run import peers
from train.run.peers import Alone, Group, PeerError, choose_device, gradients, in_buckets


class Threads:
    """What of torch.distributed a group uses, between threads: each has a rank of its own."""

    ReduceOp = torch.distributed.ReduceOp
    DistError = torch.distributed.DistError

    def __init__(self, world: int) -> None:
        self.world = world
        self._own = threading.local()
        self._shown: list[Any] = [None] * world
        self._together = threading.Barrier(world)
        self.sent = 0

    def join(self, rank: int) -> None:
        self._own.rank = rank

    def get_rank(self) -> int:
        return self._own.rank

    def get_world_size(self) -> int:
        return self.world

    def barrier(self) -> None:
        self._together.wait()

    def _all(self, value: Any) -> list[Any]:
        """Every thread's value, in order of rank."""
        self._shown[self._own.rank] = value
        self._together.wait()
        shown = list(self._shown)
        self._together.wait()
        return shown

    def all_gather(self, rows: Sequence[Tensor], row: Tensor) -> None:
        for place, found in zip(rows, self._all(row.clone()), strict=True):
            place.copy_(found)

    def all_to_all_single(
        self, out: Tensor, given: Tensor, incoming: Sequence[int], outgoing: Sequence[int]
    ) -> None:
        self.sent += len(given)
        parts = self._all(given.split(list(outgoing)))
        own = [part[self._own.rank] for part in parts]
        assert [len(part) for part in own] == list(incoming)
        out.copy_(torch.cat(own))

    def all_reduce(self, value: Tensor, op: Any = None, async_op: bool = False) -> Any:
        found = torch.stack(self._all(value.clone()))
        value.copy_(found.amax(0) if op == torch.distributed.ReduceOp.MAX else found.sum(0))
        return self

    def wait(self) -> None: ...


def on_threads(
    monkeypatch: pytest.MonkeyPatch, world: int, work: Callable[[Group], Any]
) -> tuple[list[Any], Threads]:
    """What ``work`` gives in each of ``world`` threads."""
    threads = Threads(world)
    monkeypatch.setattr(peers, "dist", threads)

    def one(rank: int) -> Any:
        threads.join(rank)
        return work(Group(torch.device("cpu")))

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(one, range(world))), threads


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_exchange_gives_each_process_its_share_of_the_wish(
    world: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 1 + seed
    whole = torch.arange(world * size * 2.0).view(world * size, 2)
    wanted = torch.randperm(world * size, generator=torch.Generator().manual_seed(seed))

    def work(group: Group) -> Tensor:
        return group.exchange(whole.chunk(world)[group.rank].clone(), wanted)

    found, _ = on_threads(monkeypatch, world, work)
    assert torch.equal(torch.cat(found), whole[wanted])


def test_nothing_is_sent_where_nobody_wants_rows_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = torch.arange(6.0)
    wanted = torch.tensor([2, 0, 1, 5, 3, 4])  # each process shuffles its own
    found, threads = on_threads(
        monkeypatch, 2, lambda group: group.exchange(whole.chunk(2)[group.rank], wanted)
    )
    assert torch.equal(torch.cat(found), whole[wanted]) and threads.sent == 0


@pytest.mark.parametrize("world", [1, 3])
def test_gather_is_in_order_of_rank(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.arange(world * 4).view(world * 2, 2)
    found, _ = on_threads(
        monkeypatch, world, lambda group: group.gather(whole.chunk(world)[group.rank].T.clone().T)
    )
    assert all(torch.equal(rows, whole) for rows in found)


def test_the_mean_over_processes_is_that_of_each_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "in_buckets", lambda tensors: in_buckets(tensors, most=32))
    given = [
        [torch.full((2, 3), float(rank)), torch.full((5,), 2.0 * rank, dtype=torch.float64)]
        for rank in range(3)
    ]
    on_threads(monkeypatch, 3, lambda group: group.average_(given[group.rank]))
    for first, second in given:
        assert torch.equal(first, torch.ones(2, 3))
        assert torch.equal(second, torch.full((5,), 2.0, dtype=torch.float64))


def test_one_flag_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_threads(monkeypatch, 3, lambda group: group.any(group.rank == 1))[0] == [True] * 3
    assert on_threads(monkeypatch, 3, lambda group: group.any(False))[0] == [False] * 3


def test_a_process_that_is_gone_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*given: Any) -> None:
        raise RuntimeError("[gloo] Connection closed by peer [10.0.0.2]:4711\nstack trace")

    def wrong(*given: Any) -> None:
        raise RuntimeError("shapes differ")

    def work(group: Group) -> None:
        monkeypatch.setattr(peers.dist, "barrier", gone)
        with pytest.raises(PeerError, match=r"the last checkpoint \(\[gloo\] Connection.*4711\)$"):
            group.barrier()
        monkeypatch.setattr(peers.dist, "barrier", wrong)
        with pytest.raises(RuntimeError, match="shapes differ") as caught:
            group.barrier()
        assert not isinstance(caught.value, PeerError)

    on_threads(monkeypatch, 1, work)


def test_alone_every_exchange_is_with_itself() -> None:
    alone, rows, mean = Alone(), torch.arange(4.0), torch.arange(3.0)
    alone.average_([mean])
    alone.barrier()
    assert torch.equal(mean, torch.arange(3.0))
    assert alone.any(True) and not alone.any(False)
    assert torch.equal(alone.exchange(rows, torch.tensor([3, 1, 0, 2])), rows[[3, 1, 0, 2]])


@pytest.mark.parametrize(
    ("sizes", "buckets"),
    [
        ([], []),
        ([3, 4, 6], [[3, 4], [6]]),
        ([9, 1, 1], [[9], [1, 1]]),  # larger than a bucket: a run of its own
        ([1, 9, 1], [[1], [9], [1]]),
        ([4, 4, 4, 4], [[4, 4], [4, 4]]),
    ],
)
def test_buckets_are_runs_of_bounded_size(sizes: list[int], buckets: list[list[int]]) -> None:
    tensors = [torch.zeros(size, dtype=torch.uint8) for size in sizes]
    found = in_buckets(tensors, most=8)
    assert [[len(tensor) for tensor in bucket] for bucket in found] == buckets
    assert [tensor for bucket in found for tensor in bucket] == tensors


def test_a_bucket_has_one_data_type() -> None:
    tensors = [torch.zeros(1), torch.zeros(1, dtype=torch.float64), torch.zeros(1)]
    assert [len(bucket) for bucket in in_buckets(tensors)] == [1, 1, 1]


def test_gradients_are_those_that_are_there() -> None:
    network = nn.ParameterList([nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))])
    (2 * network[0]).sum().backward()
    (found,) = gradients(network)
    assert torch.equal(found, torch.full((2,), 2.0))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="torch sees no CUDA device; set device=cpu"):
        choose_device("cuda")
