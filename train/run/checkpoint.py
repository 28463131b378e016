"""Resume a run from a checkpoint, if both fit together, and describe how they differ.

The format is :mod:`fame.checkpoint`'s. Here is what belongs to training alone: the schema of an
optimiser, and which settings may differ from those that the run was begun with.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from fame.checkpoint import (
    Checkpoint,
    CheckpointError,
    Expected,
    Number,
    Schema,
    compare,
    expected,
)
from fame.words import shown
from train.config import TrainingConfig

# A run may go on with other values of these: they change its speed or its bookkeeping, not what it
# computes.
_FREE = {
    "device", "compile", "checkpoint_activations", "workers", "prefetch", "cache", "cache_gb",
    "on_corrupt", "log_every", "logger", "checkpoint_every", "keep", "save_seconds", "knn_every",
    "knn_k",
}  # fmt: skip
# A run may be made longer; the user is warned that its schedule changes.
_LENGTH = ("epochs", "milestones")
# A run that goes on in another folder, from the end of an epoch, may have other values of these.
_SCALE = ("batch", "lr")
# What torch keeps for each parameter, shaped like it.
_KEPT: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.SGD: ("momentum_buffer",),
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
}
_MOST_STEPS = 1 << 24  # AdamW counts in float32


def optimizer_schema(optimizer: torch.optim.Optimizer) -> Schema:
    """Return the schema of the state of this optimiser after its first step, by parameter."""
    group = optimizer.param_groups[0]
    if isinstance(optimizer, torch.optim.SGD) and not group["momentum"]:
        return {"state": {}}
    kept: dict[str, Expected] = {}
    if isinstance(optimizer, torch.optim.AdamW):
        # Only AdamW counts its steps, in a float32 tensor without axes.
        kept["step"] = Expected(like=torch.zeros(()), low=1, high=_MOST_STEPS)
    names = _KEPT[type(optimizer)]
    parameters: list[nn.Parameter] = group["params"]
    state = [kept | expected(dict.fromkeys(names, like)) for like in parameters]
    return {"state": dict(enumerate(state))}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the part of an optimiser that is saved: its state, without the settings that the
    config has.
    """
    return {"state": optimizer.state_dict()["state"]}


def load_optimizer_(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take up what :func:`optimizer_state` gave; the hyper-parameters stay those of the config."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})


def cure(saved: Checkpoint) -> str:
    """Return what helps, in words, where a checkpoint of an earlier version cannot go on."""
    if not saved.earlier:
        return ""
    option = "--pretrained" if "classifier" in saved.parts else "--init"
    return (
        " (an earlier version of this program wrote it: end the run with that version, or begin "
        f"from its weights in another folder, with {option})"
    )


def _listed(texts: list[str]) -> str:
    """Return descriptions of stores and weights, from files too, as one line that is not long."""
    return " and ".join(repr(text[:240]) for text in texts[:8])


@dataclass(frozen=True, kw_only=True)
class Run:
    """The run that wants to go on: what a checkpoint has to agree with."""

    config: TrainingConfig
    model: Mapping[str, Any]
    data: list[str]
    steps_per_epoch: int
    schema: Mapping[str, Schema]
    elsewhere: bool = False

    def read(self, saved: Checkpoint) -> tuple[int, dict[str, Any]]:
        """Return the next step and the state. Raise :class:`CheckpointError` where the checkpoint
        is of another run.
        """
        self._check_model(saved.model)
        self._check_config(saved.config)
        progress = dict(saved.progress)
        self._check_data(progress.pop("data", None))
        batch = saved.config.get("batch", type(self.config).field("batch").default)
        step = self._next_step(progress, batch)
        return step, saved.read(self.schema)

    def _next_step(self, progress: dict[str, Any], batch: Any) -> int:
        """Return the next step in steps of this run's batch.

        After 3 epochs of 100 steps of 32 videos it is step 150 in steps of 64.
        """
        per_epoch = self.steps_per_epoch
        total = per_epoch * self.config.epochs
        if batch != self.config.batch:
            step = {"step": Number(low=0, high=_MOST_STEPS)}
            theirs = {"steps_per_epoch": Number(low=1, high=_MOST_STEPS)}
            compare(progress, step | theirs, "progress")
            epoch, within = divmod(progress["step"], progress["steps_per_epoch"])
            if within:
                raise CheckpointError(
                    f"it stands within an epoch, where batch {shown(batch)} cannot become "
                    f"{self.config.batch}: go on from the end of one, an epoch-*.pt"
                )
            progress = {"step": epoch * per_epoch, "steps_per_epoch": per_epoch}
        # More epochs cure this, so it gets a message of its own; anything else is left to
        # `compare`.
        if type(progress.get("step")) is int and progress["step"] > total:
            raise CheckpointError(
                f"the run is at step {shown(progress['step'])}, past the {total} steps of "
                f"epochs={self.config.epochs}; give it more epochs"
            )
        steps = {
            "step": Number(low=0, high=total),
            "steps_per_epoch": Number(low=per_epoch, high=per_epoch),
        }
        compare(progress, steps, "progress")
        return progress["step"]

    def changes(self, saved: Checkpoint) -> str:
        """Return what changes where the run is made longer or larger than it was begun, in words;
        else nothing.
        """
        ours = self.config.to_dict()
        changed = [
            f"{key} from {shown(saved.config[key])} to {ours[key]}"
            for key in (*_LENGTH, *_SCALE)
            if saved.config.get(key, ours[key]) != ours[key]
        ]
        if not changed:
            return ""
        kept = "weights, optimiser and queue are kept"
        schedule = f"; the {self.config.schedule} schedule is from here that of the new settings"
        return f" with {', '.join(changed)}{schedule}; {kept}"

    def _check_data(self, theirs: Any) -> None:
        """Raise :class:`CheckpointError` that names the stores and weights on one side only."""
        if theirs == self.data:
            return
        before = [text for text in theirs if type(text) is str] if type(theirs) is list else []
        # Begun on A, B and given B, C: "A, now C". B, A is the same in another order: both whole.
        gone = [text for text in before if text not in self.data]
        new = [text for text in self.data if text not in before]
        if not gone and not new:
            gone, new = before, self.data
        instead = f"not with {_listed(new)}" if new else "not given now"
        words = f"with {_listed(gone)}, {instead}" if gone else f"without {_listed(new)}"
        raise CheckpointError(
            f"the run was begun on other stores or weights, {words}; give those that it was begun "
            "on, or begin another run: --run-dir NEW"
        )

    def _check_model(self, theirs: Mapping[str, Any]) -> None:
        for key in ("name", "options", "head"):
            if theirs.get(key) != self.model[key]:
                raise CheckpointError(
                    f"the checkpoint is of another architecture: {key} is "
                    f"{shown(theirs.get(key))}, the run's is {self.model[key]!r}; give the run its "
                    "config or start in another folder"
                )

    def _check_config(self, theirs: Mapping[str, Any]) -> None:
        """Raise :class:`CheckpointError` for a setting that differs and may not; a field that an
        older checkpoint lacks had its default.
        """
        ours = self.config.to_dict()
        before = {entry.name: entry.default for entry in fields(self.config)} | dict(theirs)
        for key, value in before.items():
            # Checkpoints hold lists where a config has tuples.
            value = list(value) if isinstance(value, tuple) else value
            free = _FREE | {*_LENGTH} | ({*_SCALE} if self.elsewhere else set[str]())
            if key not in free and ours.get(key) != value:
                other = "go on in another folder: --run-dir NEW --resume THIS-CHECKPOINT"
                raise CheckpointError(
                    f"the run was begun with {shown(key)}={shown(value)}, not {ours.get(key)!r}; "
                    + (other if key in _SCALE else "start in another folder")
                )
