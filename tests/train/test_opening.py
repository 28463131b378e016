"""What a run says before its first step, how long it will take, and that memory is full."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fame.clipstore import ClipStore
from train.config import PretrainConfig
from train.opening import opening_lines
from train.pretrain import PretrainTask, pretrain
from train.recipes import recipe
from train.run.log import RunLog
from train.run.memory import DeviceFullError, memory_errors
from train.run.peers import Alone

CPU = torch.device("cpu")
TINY = replace(
    recipe("small-cpu"),
    crop=16,
    batch=8,
    bn_group=2,
    merge_group=4,
    epochs=1,
    queue=16,
    log_every=1,
)


def lines(config: PretrainConfig, frame: tuple[int, int], *, steps: int = 8) -> list[str]:
    return opening_lines(
        config, device=CPU, processes=1, videos=100, steps_per_epoch=steps, frame=frame
    )


def test_three_lines_say_what_will_run() -> None:
    assert lines(recipe("small-cpu"), (36, 48)) == [
        "recipe: small-cpu; encoder c3d_small in fp32 on CPU",
        "data: 100 videos; 60 epochs of 8 steps of 16 videos, 480 steps in all",
        "crops: 28 pixels from frames of 36x48; the smallest boxes are enlarged 1.1 times",
    ]


def test_changes_of_the_recipe_are_named() -> None:
    changed = replace(recipe("small-cpu"), batch=32, lr=0.1)
    assert lines(changed, (36, 48))[0].startswith("recipe: small-cpu with batch=32, lr=0.1; ")


def test_the_default_recipe_without_a_gpu_is_warned_of() -> None:
    said = lines(recipe("fame-k400"), (256, 340), steps=1000)
    assert said[0] == "recipe: fame-k400; encoder i3d in bf16 on CPU"
    assert said[1].startswith("warning: recipe fame-k400 is made for a GPU")
    assert len(said) == 4  # its crops fit a store as `fame preprocess k400` makes it


def test_a_queue_longer_than_an_epoch_is_warned_of() -> None:
    said = lines(replace(recipe("small-cpu"), queue=257), (36, 48))
    assert said[2].startswith("warning: queue 257 is longer than the 256 keys of an epoch")
    assert said[2].endswith("--queue 256 or less")
    assert len(lines(recipe("small-cpu"), (36, 48))) == 3


def test_crops_that_are_mostly_enlarged_are_warned_of() -> None:
    said = lines(recipe("small-cpu"), (24, 32))
    assert said[3].startswith("warning: most boxes are smaller than the crop of 28 pixels")
    assert "--crop 24 or less" in said[3]
    assert len(lines(replace(recipe("small-cpu"), crop=24), (24, 32))) == 3


def test_a_cache_is_suggested_for_a_store_in_a_bucket(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = ClipStore.open(store)

    def suggested(config: PretrainConfig) -> list[str]:
        said = PretrainTask(config, stores=[opened], device=CPU).opening()
        return [line for line in said if "--cache FOLDER" in line]

    assert suggested(TINY) == []
    monkeypatch.setattr(ClipStore, "remote", True)
    (line,) = suggested(TINY)
    assert line.startswith("warning: every epoch reads the store from its bucket; ")
    assert suggested(replace(TINY, cache=Path("cache"))) == []


def test_a_run_says_it_once_and_rank_0_alone(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(replace(TINY, device="cpu"), stores=[store], run_dir=tmp_path / "run")
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in said[:3]] == ["recipe", "data", "crops"]
    assert sum(line.startswith("recipe: ") for line in said) == 1

    class Second(Alone):
        rank = 1

    log = RunLog(tmp_path, first=0, total=4, per_epoch=2, clips=2, peers=Second(), device=CPU)
    log.say("recipe: none")
    assert capsys.readouterr().err == ""


def test_the_time_left_is_estimated_after_the_first_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLog(tmp_path, first=0, total=4, per_epoch=2, clips=2, peers=Alone(), device=CPU) as log:
        for step in range(4):
            log.record(step, {"loss": 1.0})
            log.flush()
            assert ("estimate: " in capsys.readouterr().err) == (step == 1)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_a_step_that_does_not_fit_names_what_needs_less(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(PretrainTask, "backward", full)
    with pytest.raises(DeviceFullError) as caught:
        pretrain(replace(TINY, device="cpu"), stores=[store], run_dir=tmp_path / "run")
    assert str(caught.value) == (
        "cpu is out of memory; try --accumulate 2 (now 1) or "
        "--checkpoint-activations or a smaller --batch 4 (now 8)"
    )


def test_what_is_named_is_not_on_already_and_fits(store: Path) -> None:
    config = replace(TINY, accumulate=4, checkpoint_activations=True)
    task = PretrainTask(config, stores=[ClipStore.open(store)], device=CPU)
    (way,) = task.less_memory()
    assert way == "a smaller --batch 4 --bn-group none (now 8)"
    config = replace(config, accumulate=1, batch=1, bn_group=None, background="none")
    task = PretrainTask(config, stores=[ClipStore.open(store)], device=CPU)
    assert task.less_memory() == ["fewer --frames or a smaller --crop"]


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), memory_errors(CPU, ways=list):
        raise RuntimeError("shapes differ")
