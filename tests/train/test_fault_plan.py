"""Faults by plan: the n-th fsync or rename of a run fails, for n = 1, 2, 3 ... until none is hit."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fame.files import WriteError
from tests.train.tiny import TINY, figures, same, state_of
from train.pretrain import pretrain

SHORT = TINY.override(["epochs=1", "encoder=c3d_small"])


class Plan:
    """Lets one call of many fail: number ``fails``, counted from 1."""

    def __init__(self, fails: int, code: int) -> None:
        self.fails, self.code, self.calls = fails, code, 0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self.fails:
                raise OSError(self.code, os.strerror(self.code))
            return call(*arguments, **options)

        return counted


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_wherever_the_disk_fails_the_same_command_ends_as_if_it_had_not(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
):
    pretrain(SHORT, stores=[store], run_dir=tmp_path / "whole")
    number, hit = 0, True
    while hit:
        number += 1
        plan, run = Plan(number, code), tmp_path / str(number)
        with monkeypatch.context() as patch:
            for name in ("fsync", "replace", "rename"):
                patch.setattr(os, name, plan.around(getattr(os, name)))
            try:
                pretrain(SHORT, stores=[store], run_dir=run)
            except WriteError as error:
                assert os.strerror(code) in str(error) and "\n" not in str(error)
        hit = plan.calls >= number
        last = run / "checkpoints" / "last.pt"
        assert not last.exists() or torch.load(last, weights_only=True)["progress"]["step"] > 0
        assert pretrain(SHORT, stores=[store], run_dir=run).status == "finished"
        assert figures(run) == figures(tmp_path / "whole")
        assert same(state_of(run), state_of(tmp_path / "whole"))
        assert not list(run.rglob("*.partial*")) and not (run / ".lock").exists()
    assert number > 8
