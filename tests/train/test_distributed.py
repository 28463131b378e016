"""Two processes compute what one computes: collectives against indexing, and a run step by step."""

import os
import re
import shlex
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
import typer.main
from hypothesis import given
from hypothesis import strategies as st

import cli
from fame.clipstore import ClipStore
from fame.moco import SingleProcess, shuffle
from tests.train.test_loading import workers_of_this_process
from tests.train.tiny import SMOOTH, TINY, figures, flat, state_of
from train import pretrain as pretraining
from train.config import FinetuneConfig
from train.data import Pairs
from train.pretrain import PretrainTask, build_moco, pretrain
from train.recipes import recipe
from train.run import loop
from train.run.peers import (
    Group,
    choose_device,
    fitting_batch,
    in_buckets,
    process_group,
    share_of,
)
from train.views import render

ROOT = Path(__file__).resolve().parents[2]
WORLD, CPU = 2, torch.device("cpu")
CONFIG = TINY.override(["batch=8", "epochs=3"])
STEPS = 6


@contextmanager
def in_double() -> Generator[None]:
    """Train in float64, where rounding cannot grow into the losses: what still differs is not the
    same computation.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "build_moco", lambda config: build_moco(config).double())
        patch.setattr(
            pretraining,
            "render",
            lambda *a: tuple(view.double() for view in render(*a)),
        )
        yield


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def enter(rank: int, port: int, body: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """What torchrun does for a process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    body(rank, *arguments)


def in_two_processes(body: Callable[..., None], *arguments: Any) -> None:
    torch.multiprocessing.spawn(enter, (free_port(), body, arguments), nprocs=WORLD)


def train_and_check_collectives(rank: int, store: str, folder: str) -> None:
    dist.init_process_group("gloo")
    group, alone = Group(CPU), SingleProcess()
    for step in range(20):
        whole = torch.arange(16.0).view(8, 2) + step
        order = shuffle(8, seed=0, epoch=0, step=step, view=1)
        mine = slice(rank * 4, rank * 4 + 4)
        assert torch.equal(group.exchange(whole[mine], order), alone.exchange(whole, order)[mine])
        assert torch.equal(group.gather(whole[mine]), whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_to_all_single", lambda *a: pytest.fail("clips travel"))
        order = shuffle(8, seed=0, epoch=0, step=0, view=1, shares=WORLD)
        assert torch.equal(group.exchange(whole[mine], order), whole[order[mine]])
    values = [torch.full((3,), float(rank)), torch.full((2, 2), 2.0 * rank)]
    values += [torch.full((2**21 + 1,), float(rank)), torch.full((1,), rank).double()]
    values[1] = values[1].T
    group.average_(values)
    for value, mean in zip(values, (0.5, 1.0, 0.5, 0.5), strict=True):
        assert torch.equal(value, torch.full_like(value, mean))
    assert group.any(rank == 1)
    assert not group.any(False)
    with in_double():
        pretrain(CONFIG, stores=[Path(store)], run_dir=Path(folder))
    dist.destroy_process_group()


def test_two_processes_equal_one_step_by_step(store: Path, tmp_path: Path):
    in_two_processes(train_and_check_collectives, str(store), str(tmp_path / "two"))
    with in_double():
        pretrain(CONFIG, stores=[store], run_dir=tmp_path / "one")
    for name in ("step", "loss", "accuracy", "lr"):
        assert figures(tmp_path / "two", name) == pytest.approx(
            figures(tmp_path / "one", name), abs=1e-5
        ), name
    two, one = state_of(tmp_path / "two"), state_of(tmp_path / "one")
    for key in one:
        if not key.startswith(
            "/optimizer"
        ):  # its gradients are in the tens of thousands; the weights carry them
            assert torch.allclose(two[key].double(), one[key].double(), atol=1e-3), key


def train_in_single(rank: int, store: str, folder: str) -> None:
    """The whole run; then each step of I3D from where one process took it, the first process
    comparing the ends.
    """
    with process_group(CPU) as peers:
        pretrain(SMOOTH, stores=[Path(store)], run_dir=Path(folder) / "two")
        task = PretrainTask(CONFIG, stores=[ClipStore.open(store)], peers=peers, device=CPU)
        for step, batch in enumerate(task.batches(0, STEPS)):
            before, after = (torch.load(f"{folder}/{number}.pt") for number in (step, step + 1))
            task.load_state(before)
            task.step(step, batch)
            if rank == 0:
                now = task.state()
                for part in (weights, queue):
                    off, moved = part(now) - part(after), part(after) - part(before)
                    assert off.norm() < 1e-4 * moved.norm(), (step, part.__name__)


def weights(state: dict[str, Any]) -> torch.Tensor:
    network = flat(state["encoder_q"])
    return torch.cat(
        [network[name].flatten() for name in sorted(network) if name.endswith(("weight", "bias"))]
    )


def queue(state: dict[str, Any]) -> torch.Tensor:
    return state["queue"]


@pytest.mark.slow
def test_in_float32_two_processes_equal_one_step_by_step(store: Path, tmp_path: Path):
    pretrain(SMOOTH, stores=[store], run_dir=tmp_path / "one")
    task = PretrainTask(CONFIG, stores=[ClipStore.open(store)], device=CPU)
    torch.save(task.state(), tmp_path / "0.pt")
    for step, batch in enumerate(task.batches(0, STEPS)):
        task.step(step, batch)
        torch.save(task.state(), tmp_path / f"{step + 1}.pt")
    in_two_processes(train_in_single, str(store), str(tmp_path))
    assert len(figures(tmp_path / "one")) == 12
    assert figures(tmp_path / "two") == pytest.approx(figures(tmp_path / "one"), abs=1e-5)
    two, one = state_of(tmp_path / "two"), state_of(tmp_path / "one")
    for key in one:
        # A convolution of half as many clips rounds otherwise. Momentum shows it most, and the
        # weights carry it.
        if torch.is_tensor(one[key]) and not key.startswith("/optimizer"):
            torch.testing.assert_close(two[key], one[key], rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_with_two(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class StoppedError(Exception):
        pass

    def save_and_stop(*arguments: Any) -> None:
        save(*arguments)
        raise StoppedError

    save = loop.save_run
    with in_double():
        pretrain(CONFIG, stores=[store], run_dir=tmp_path / "whole")
        monkeypatch.setattr(loop, "save_run", save_and_stop)
        with pytest.raises(StoppedError):
            pretrain(CONFIG, stores=[store], run_dir=tmp_path / "run")
    in_two_processes(train_and_check_collectives, str(store), str(tmp_path / "run"))
    assert figures(tmp_path / "run") == pytest.approx(figures(tmp_path / "whole"), abs=1e-5)


def lengthen(rank: int, store: str, folder: str) -> None:
    """A run that ends, and the same one made longer, of which the newest checkpoint is kept."""
    with process_group(CPU), in_double():
        for settings in (["epochs=2"], ["epochs=3", "keep=1"]):
            pretrain(CONFIG.override(settings), stores=[Path(store)], run_dir=Path(folder))


@pytest.mark.slow
def test_two_processes_lengthen_a_run_as_one_does(store: Path, tmp_path: Path):
    in_two_processes(lengthen, str(store), str(tmp_path / "two"))
    with in_double():
        for settings in (["epochs=2"], ["epochs=3", "keep=1"]):
            pretrain(CONFIG.override(settings), stores=[store], run_dir=tmp_path / "one")
    for name in ("step", "loss", "lr"):
        found, wanted = (figures(tmp_path / run, name) for run in ("two", "one"))
        assert found == pytest.approx(wanted, abs=1e-5), name
    assert len(figures(tmp_path / "two")) == STEPS
    for run in ("two", "one"):
        names = sorted(path.name for path in (tmp_path / run / "checkpoints").iterdir())
        assert names == ["epoch-0003.pt", "last.pt"]


def test_a_batch_that_cannot_be_dealt_out_is_refused():
    assert share_of(64, world=2, groups={"bn_group": 8, "merge_group": None}) == 32
    with pytest.raises(ValueError, match="batch 64 cannot be dealt to 3 processes"):
        share_of(64, world=3, groups={})
    with pytest.raises(ValueError, match="bn_group 8 does not divide the 4 clips"):
        share_of(8, world=2, groups={"bn_group": 8})
    with pytest.raises(ValueError, match="bn_group 8 does not divide the 4 clips"):
        share_of(16, world=2, groups={"bn_group": 8}, accumulate=2)
    with pytest.raises(ValueError, match="accumulate 4 does not divide"):
        share_of(12, world=2, groups={}, accumulate=4)


@pytest.mark.parametrize(
    ("batch", "accumulate", "advice"),
    [
        (4, 1, "--bn-group 4 --merge-group 4"),
        (12, 1, "--bn-group 6 --merge-group 6"),
        (11, 1, "--bn-group none --merge-group none"),
        (24, 2, "--bn-group 6"),
    ],
)
def test_groups_that_do_not_fit_are_answered_with_those_that_do(
    batch: int, accumulate: int, advice: str
) -> None:
    groups: dict[str, int | None] = {"bn_group": 8, "merge_group": 8}
    with pytest.raises(ValueError, match=f"; give {advice}$"):
        share_of(batch, world=1, groups=groups, accumulate=accumulate)
    taken = groups | _options(advice)
    assert share_of(batch, world=1, groups=taken, accumulate=accumulate) == batch


@pytest.mark.parametrize(
    ("batch", "world", "group", "says"),
    [
        (1, 1, None, "give --batch 2$"),
        (4, 4, None, "give --batch 8$"),
        (4, 1, 1, "--merge-group 2"),
    ],
)
def test_a_clip_that_is_merged_is_not_alone(
    batch: int, world: int, group: int | None, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        share_of(batch, world=world, groups={"bn_group": None, "merge_group": group})
    assert share_of(batch, world=world, groups={"bn_group": None}) == batch // world


@pytest.mark.parametrize(
    ("world", "groups", "wrong", "advice"),
    [
        (1, (8, 8), "bn_group 8 and merge_group 8", 8),
        (2, (4, 6), "bn_group 4 and merge_group 6", 24),
        (1, (1, 8), "merge_group 8", 8),
        (1, (8, None), "bn_group 8", 8),
    ],
)
def test_one_clip_for_a_process_is_answered_with_a_batch(
    world: int, groups: tuple[int, int | None], wrong: str, advice: int
) -> None:
    """Without groups, a clip alone would have no other to take a background from."""
    named = dict(zip(("bn_group", "merge_group"), groups, strict=True))
    with pytest.raises(ValueError, match=f"too few for {wrong}; give --batch {advice}$"):
        share_of(world, world=world, groups=named)
    assert share_of(advice, world=world, groups=named) == advice // world


@pytest.mark.parametrize(
    ("samples", "world", "accumulate", "advice"),
    [
        (18, 1, 1, "--batch 16"),
        (70, 2, 2, "--batch 64"),
        (5, 1, 1, "--batch 5 --bn-group 5 --merge-group 5"),
        (13, 2, 2, "--batch 12 --bn-group 3 --merge-group 6"),
    ],
)
def test_a_batch_larger_than_the_data_is_answered_with_one_that_fits(
    samples: int, world: int, accumulate: int, advice: str
) -> None:
    groups: dict[str, int | None] = {"bn_group": 8, "merge_group": 8}
    assert fitting_batch(samples, world=world, groups=groups, accumulate=accumulate) == advice
    options = _options(advice)
    batch = options.pop("batch")
    assert batch is not None
    share_of(batch, world=world, groups=groups | options, accumulate=accumulate)


def _options(advice: str) -> dict[str, int | None]:
    words = advice.replace("--", "").replace("-", "_").split()
    return {
        name: None if value == "none" else int(value)
        for name, value in zip(words[::2], words[1::2], strict=True)
    }


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans())), st.integers(1, 40))
def test_buckets_hold_every_tensor_once_in_order(sizes: list[tuple[int, bool]], most: int):
    kinds = {False: torch.float32, True: torch.float64}
    tensors = [torch.zeros(size, dtype=kinds[double]) for size, double in sizes]
    buckets = in_buckets(tensors, most)
    assert [id(tensor) for bucket in buckets for tensor in bucket] == list(map(id, tensors))
    for bucket in buckets:
        assert len({tensor.dtype for tensor in bucket}) == 1
        assert len(bucket) == 1 or sum(tensor.nbytes for tensor in bucket) <= most


def test_shuffling_within_processes_mixes_their_groups_alone(store: Path):
    order = shuffle(64, seed=0, epoch=0, step=3, view=1, shares=4)
    assert torch.equal(order // 16, torch.arange(64) // 16)
    assert torch.equal(order.sort().values, torch.arange(64))
    assert not torch.equal(order % 16, torch.arange(64) % 16)
    stores = [ClipStore.open(store)]
    mixed = CONFIG.override(["shuffle=process", "batch=8", "bn_group=4"])
    PretrainTask(mixed, stores=stores, device=CPU)
    with pytest.raises(ValueError, match="its 8 clips are one group of 8"):
        PretrainTask(mixed.override(["bn_group=8"]), stores=stores, device=CPU)


def launches() -> list[tuple[str, int, list[str]]]:
    """The documented commands of several processes: line, number of processes, what fame gets."""
    found = []
    for page in ("guide/pretrain.md", "cluster.md", "guide/finetune.md"):
        text = (ROOT / "docs" / page).read_text().replace("\\\n", " ")
        for line in text.splitlines():
            nodes, each, ray = (
                int(match[1]) if (match := re.search(rf"--{name} (\d+)", line)) else None
                for name in ("nnodes", "nproc-per-node", "processes")
            )
            command = re.search(r"fame\S* ((?:pretrain|finetune) .*)", line)
            if command and (each or ray):
                words = shlex.split(command[1], comments=True)
                found.append((line, ray or (nodes or 1) * (each or 1), words))
    return found


def test_the_documented_launches_can_be_dealt_out_and_scale_the_learning_rate():
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert {world for _, world, _ in launches()} >= {8, 32}
    assert {words[0] for *_, words in launches()} == {"pretrain", "finetune"}
    for line, world, (name, *words) in launches():
        command = commands[name]
        command = command.commands[words.pop(0)] if hasattr(command, "commands") else command
        chosen = command.make_context(name, words, resilient_parsing=True).params
        plain = recipe("fame-k400") if name == "pretrain" else FinetuneConfig()
        given = {key: chosen.get(key) for key in ("batch", "lr")}
        config = plain.override([f"{key}={value}" for key, value in given.items() if value])
        share_of(config.batch, world=world, groups={"bn_group": config.bn_group})
        assert config.lr / plain.lr == pytest.approx(config.batch / plain.batch), line
        assert "torchrun" not in line or " -- " in line, "torchrun takes our options for its own"


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_a_device_that_is_not_there_is_refused():
    assert choose_device("auto").type == "cpu"
    with pytest.raises(ValueError, match="no CUDA device"):
        choose_device("cuda")


class Hurt(PretrainTask):
    """Before step 2 of its second process, its loader workers or the process itself are killed."""

    whole = False

    def step(self, step: int, batch: Pairs) -> Any:
        if step == 2 and self.peers.rank == 1:
            for worker in workers_of_this_process():
                worker.kill()
            if self.whole:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().step(step, batch)


def train_hurt(rank: int, store: str, folder: str, whole: bool) -> None:
    config = CONFIG.override(["workers=1", "prefetch=1", "epochs=40", "log_every=10"])
    Hurt.whole = whole
    said = Path(folder) / f"said-{rank}"
    try:
        with process_group(CPU) as peers:
            task = Hurt(config, stores=[ClipStore.open(store)], peers=peers, device=CPU)
            loop.train(task, Path(folder) / "run", peers=peers)
    except ValueError as error:
        said.write_text(f"{type(error).__name__}: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_a_loss_in_one_process_ends_all_in_one_line(store: Path, tmp_path: Path, whole: bool):
    port, context = free_port(), torch.multiprocessing.get_context("spawn")
    arguments = (str(store), str(tmp_path), whole)
    processes = [
        context.Process(target=enter, args=(rank, port, train_hurt, arguments))
        for rank in range(WORLD)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    said = {path.name: path.read_text() for path in tmp_path.glob("said-*")}
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    if whole:
        assert said.keys() == {"said-0"}
        assert said["said-0"].startswith("PeerError: another process of this run died")
        step = 2  # the end of the first epoch
    else:
        assert "SIGKILL" in said["said-1"] and "of another process" in said["said-0"]
        assert all("the run stands at step 10 of" in words for words in said.values())
        step = 10  # the first at which the processes agree
    assert torch.load(last, weights_only=True)["progress"]["step"] == step
