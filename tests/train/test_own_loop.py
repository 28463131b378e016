"""Merging in a loop of one's own over a store: it trains, and merges as pretraining does."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, default_collate

import fame
from fame.clipstore import ClipStore
from fame.randomness import generator
from tests.stores import WINDOW
from tests.train.tiny import TINY
from train.data import PairDataset, stream
from train.views import crop_pairs, draw_views, merge_views


def epochs_of_a_loop(store: Path, count: int) -> list[float]:
    """Return the mean loss of each epoch of a loop as a user writes it."""
    draws = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv3d(3, 8, 5, stride=(1, 2, 2)),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d((2, 4, 4)),
            nn.Flatten(),
            nn.Linear(8 * 2 * 4 * 4, 2),
        )
    merge = fame.Merge(beta=0.5, generator=draws)
    dataset = fame.ClipDataset(store, window=WINDOW, maps="clip")
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    losses: list[float] = []
    for epoch in range(count):
        dataset.set_epoch(epoch)
        total = 0.0
        for batch in DataLoader(dataset, batch_size=6, shuffle=True, generator=draws):
            clips, labels = merge(batch["clip"] / 255, batch["map"], labels=batch["label"])
            loss = F.cross_entropy(network(clips - 0.5), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(labels)
        losses.append(total / len(dataset))
    return losses


def test_a_loop_of_ones_own_trains_on_merged_clips(store: Path) -> None:
    losses = epochs_of_a_loop(store, 20)
    assert sum(losses[-3:]) / 3 < losses[0] / 2
    assert losses[:2] == epochs_of_a_loop(store, 2)


@pytest.mark.parametrize("group", [None, 4])
def test_a_batch_of_a_store_is_merged_as_pretraining_merges_it(
    store: Path, group: int | None
) -> None:
    config = TINY.override(["batch=8", f"merge_group={group or 'none'}", "beta=0.4"])
    ours = PairDataset([ClipStore.open(store)], seed=config.seed, window=WINDOW, maps=True)
    pairs = next(iter(stream(ours, config, start=0, stop=1, device=torch.device("cpu"))))
    draws = draw_views(pairs, config, epoch=0, step=0)
    expected = merge_views(
        *crop_pairs(pairs.clip_B2THWC, pairs.score_B2hw, draws, config), draws, config
    )

    theirs = fame.ClipDataset(store, window=WINDOW, clips=2, maps="clip", seed=config.seed)
    batch = default_collate([theirs[0, row] for row in range(8)])
    clip_B2THWC = batch["clip"].permute(0, 1, 3, 4, 5, 2)
    crops, maps = crop_pairs(clip_B2THWC, batch["map"], draws, config)
    for view in (0, 1):
        drawn = generator(config.seed, 0, 0, f"background/{view}")
        merged = fame.Merge(0.4, group=group, generator=drawn)(crops[view], maps[view])
        assert torch.equal(merged, expected[view])
        assert not torch.equal(merged, crops[view])
