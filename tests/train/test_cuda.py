"""What only a GPU can show: the loader feeds it, a step in bf16 is sound, runs move between
devices, and nothing in a step waits for the device.
"""

import dataclasses
from pathlib import Path

import pytest
import torch

from fame.clipstore import ClipStore
from tests.train.tiny import TINY, figures
from train.config import PretrainConfig
from train.data import PairDataset, stream
from train.pretrain import PretrainTask, pretrain

pytestmark = pytest.mark.cuda
CUDA = torch.device("cuda", 0)
BF16 = ["precision=bf16", "channels_last=true", "device=cuda"]


def task_on(store: Path, config: PretrainConfig, device: torch.device) -> PretrainTask:
    return PretrainTask(config, stores=[ClipStore.open(store)], device=device)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_same_batches_on_a_gpu(store: Path, workers: int):
    config = TINY.override([f"workers={workers}"])
    data = PairDataset([ClipStore.open(store)], seed=config.seed, window=config.window, maps=True)
    here, there = (
        list(stream(data, config, start=0, stop=6, device=device))
        for device in (torch.device("cpu"), CUDA)
    )
    for one, other in zip(here, there, strict=True):
        assert other.clip_B2THWC.device == CUDA
        for left, right in zip(one[:3], other[:3], strict=True):
            assert torch.equal(left, right.cpu())


def test_frames_decoded_on_a_gpu_are_nearly_those_of_the_workers(store: Path):
    """nvJPEG may enlarge the colour planes without smoothing. libjpeg without it is 12 grey levels
    off on these clips, which are noise; other clips would be 60 or more.
    """
    pytest.importorskip("torchcodec")
    config = TINY.override(["workers=0"])
    data = PairDataset([ClipStore.open(store)], seed=config.seed, window=config.window, maps=True)
    plain = list(stream(data, config, start=0, stop=6, device=CUDA))
    data.encoded = True
    for one, other in zip(plain, stream(data, config, start=0, stop=6, device=CUDA), strict=True):
        assert torch.equal(one.sample_B, other.sample_B)
        assert torch.equal(one.score_B2hw, other.score_B2hw)
        off = (one.clip_B2THWC.float() - other.clip_B2THWC.float()).abs().mean()
        assert off < 16


def test_a_step_in_bf16_is_near_that_in_float32(store: Path):
    exact = task_on(store, TINY.override(["device=cuda"]), CUDA)
    rough = task_on(store, TINY.override(BF16), CUDA)
    rough.load_state(exact.state())
    for step, batch in enumerate(exact.batches(0, 3)):
        losses = [float(task.step(step, batch)["loss"]) for task in (exact, rough)]
        assert losses[1] == pytest.approx(losses[0], abs=0.05)
    assert all(parameter.isfinite().all() for parameter in rough.network.parameters())


def test_a_run_goes_from_the_cpu_to_a_gpu_and_back(store: Path, tmp_path: Path):
    longer = TINY.override(["epochs=3"])
    for number, device in enumerate(("cpu", "cuda", "cpu")):
        config = dataclasses.replace(longer, device=device, epochs=number + 1)
        pretrain(config, stores=[store], run_dir=tmp_path / "moved")
    pretrain(dataclasses.replace(longer, device="cpu"), stores=[store], run_dir=tmp_path / "stayed")
    moved, stayed = (figures(tmp_path / name) for name in ("moved", "stayed"))
    assert len(moved) == len(stayed)
    assert moved[0] == pytest.approx(stayed[0], abs=1e-3)


@pytest.mark.slow
def test_a_compiled_run_on_a_gpu_is_the_eager_one(store: Path, tmp_path: Path):
    small = TINY.override(["epochs=1", "device=cuda"])
    for compiled in (False, True):
        config = dataclasses.replace(small, compile=compiled)
        pretrain(config, stores=[store], run_dir=tmp_path / str(compiled))
    eager, compiled = (figures(tmp_path / name) for name in ("False", "True"))
    assert compiled == pytest.approx(eager, abs=1e-2)


def test_nothing_in_a_step_waits_for_the_device(store: Path):
    task = task_on(store, TINY.override(BF16), CUDA)
    batches = task.batches(0, 3)
    task.step(0, next(batches))
    batch = next(batches)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        task.step(1, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
