"""What the encoders see: exactly beta of a crop stays, each view has its own background, options
are what they say.
"""

from pathlib import Path

import pytest
import torch

from fame.clipstore import ClipStore
from fame.foreground import foreground_mask, median_score, top_fraction
from fame.normalize import normalise
from fame.preview import tile
from tests.stores import WINDOW
from tests.train import tiny
from train.config import PretrainConfig
from train.data import PairDataset, Pairs, stream
from train.views import crop_pairs, draw_views, make_views, merge_views, picture, reads_maps

TINY = tiny.TINY.override(["crop=16"])


@pytest.fixture(scope="module")
def pairs(store: Path) -> Pairs:
    data = PairDataset([ClipStore.open(store)], seed=0, window=WINDOW, maps=True)
    config = TINY.override(["batch=8"])
    return next(iter(stream(data, config, start=0, stop=1, device=torch.device("cpu"))))


def merged(
    pairs: Pairs, *settings: str
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    config = TINY.override(["batch=8", "merge_group=8", *settings])
    draws = draw_views(pairs, config, epoch=0, step=0)
    crops, scores = crop_pairs(pairs.clip_B2THWC, pairs.score_B2hw, draws, config)
    return crops, scores, merge_views(crops, scores, draws, config)


@pytest.mark.parametrize("beta", [0.25, 0.5])
def test_the_top_of_the_cropped_map_stays_and_the_rest_is_another_videos(pairs: Pairs, beta: float):
    crops, scores, result = merged(pairs, f"beta={beta}")
    for view in (0, 1):
        mask = top_fraction(scores[view], beta)
        assert int(mask[0].sum()) == int(beta * 16 * 16)
        for row in range(8):
            inside = mask[row].expand_as(crops[view][row])
            assert torch.equal(result[view][row][inside], crops[view][row][inside])
            lenders = [
                other
                for other in range(8)
                if torch.equal(result[view][row][~inside], crops[view][other][~inside])
            ]
            assert lenders
            assert row not in lenders


def test_the_two_views_draw_their_own_backgrounds(pairs: Pairs):
    crops, scores, result = merged(pairs)

    def lender(view: int, row: int) -> int:
        outside = ~top_fraction(scores[view], 0.5)[row].expand_as(crops[view][row])
        return next(
            o for o in range(8) if torch.equal(result[view][row][outside], crops[view][o][outside])
        )

    assert [lender(0, row) for row in range(8)] != [lender(1, row) for row in range(8)]


def test_a_single_view_leaves_the_second_alone_and_none_leaves_both(pairs: Pairs):
    crops, _, result = merged(pairs, "views=single")
    assert not torch.equal(result[0], crops[0])
    assert torch.equal(result[1], crops[1])
    crops, _, result = merged(pairs, "background=none")
    assert all(torch.equal(left, right) for left, right in zip(result, crops, strict=True))


def test_intra_takes_the_background_from_the_other_clip_of_the_video(pairs: Pairs):
    crops, scores, result = merged(pairs, "background=intra")
    mask = top_fraction(scores[0], 0.5)[:, None, None]
    assert torch.equal(result[0], torch.where(mask, crops[0], crops[1]))


def test_merging_happens_within_groups(pairs: Pairs):
    blank = pairs._replace(
        clip_B2THWC=(torch.arange(8) // 2 * 60)
        .byte()
        .view(8, 1, 1, 1, 1, 1)
        .expand(8, 2, 8, 36, 48, 3)
    )
    _, _, result = merged(blank, "merge_group=2")
    values = result[0].mean((1, 2, 3, 4)) * 255
    assert torch.allclose(values, torch.tensor([0.0, 0, 60, 60, 120, 120, 180, 180]), atol=0.01)


@pytest.mark.parametrize("mask", ["online", "median", "gauss", "grid", "difference"])
def test_other_masks_need_no_stored_map(pairs: Pairs, mask: str):
    bare = pairs._replace(score_B2hw=torch.empty(8, 2, 0, 0, dtype=torch.uint8))
    config = TINY.override([f"mask={mask}"])
    assert not reads_maps(config)
    _, _, result = merged(bare, f"mask={mask}")
    assert torch.isfinite(result[0]).all()


def test_masks_of_every_frame_move_with_the_mover(pairs: Pairs):
    crops, _, result = merged(pairs, "mask=median", "beta=0.25")
    mask = foreground_mask(median_score(crops[0]), 0.25)
    assert mask.shape == (8, 8, 16, 16)
    inside = mask[:, None].expand_as(crops[0])
    assert torch.equal(result[0][inside], crops[0][inside])
    assert not torch.equal(mask[:, 0], mask[:, 4])


def test_the_stores_maps_of_frames_cut_each_frame(store: Path):
    data = PairDataset([ClipStore.open(store)], seed=0, window=WINDOW, maps=True, frame_maps=True)
    config = TINY.override(["batch=8", "merge_group=8", "mask=frames", "beta=0.25"])
    read = next(iter(stream(data, config, start=0, stop=1, device=torch.device("cpu"))))
    crops, scores, result = merged(read, "mask=frames", "beta=0.25")
    assert scores[0].shape == (8, 8, 16, 16)
    mask = foreground_mask(scores[0], 0.25)
    assert not torch.equal(mask[:, 0], mask[:, 4])
    inside = mask[:, None].expand_as(crops[0])
    assert torch.equal(result[0][inside], crops[0][inside])


def test_a_clip_whose_map_is_flat_is_not_merged(pairs: Pairs):
    flat = pairs._replace(score_B2hw=torch.zeros_like(pairs.score_B2hw))
    crops, _, result = merged(flat)
    assert torch.equal(result[0], crops[0])


def test_processes_make_the_rows_that_one_makes(pairs: Pairs):
    config = TINY.override(["batch=8", "merge_group=4", "mask=grid"])
    whole = make_views(pairs, config, epoch=0, step=3)
    for rank in (0, 1):
        rows = slice(rank * 4, rank * 4 + 4)
        share = Pairs(pairs.clip_B2THWC[rows], pairs.score_B2hw[rows], pairs.sample_B[rows])
        parts = make_views(share, config, epoch=0, step=3, rank=rank)
        assert all(
            torch.allclose(part, view[rows], atol=1e-5)
            for part, view in zip(parts, whole, strict=True)
        )


def test_without_augmentation_a_view_is_the_normalised_crop(pairs: Pairs):
    plain = ["background=none", "gray=0", "jitter=0", "blur=0"]
    crops, _, _ = merged(pairs, *plain)
    views = make_views(pairs, TINY.override(["batch=8", *plain]), epoch=0, step=0)
    assert torch.equal(views[1], normalise(crops[1]))


def test_the_picture_shows_crops_beside_merged_crops(pairs: Pairs):
    config: PretrainConfig = TINY.override(["batch=8", "merge_group=8"])
    crops, _, result = merged(pairs)
    for settings, captions, columns in (
        ([], ["view 1", "view 1, merged", "view 2"], (crops[0], result[0], crops[1])),
        (["background=none"], ["view 1", "view 2"], crops),
    ):
        rows = [
            [(clip[row, :, 4].permute(1, 2, 0) * 255).round().byte().numpy() for clip in columns]
            for row in range(3)
        ]
        sheet = picture(
            pairs, config.override(["views=single", *settings]), epoch=0, step=0, rows=3
        )
        assert sheet.shape[1] > 112 * len(captions)
        assert (sheet == tile(rows, captions)).all()
    both = picture(pairs, config.override(["views=both"]), epoch=0, step=0, rows=3)
    assert both.shape[1] > 4 * 112


@pytest.mark.parametrize("mask", ["stored", "online", "median", "difference", "gauss", "grid"])
@pytest.mark.parametrize("background", ["inter", "intra"])
def test_nothing_waits_for_the_device(pairs: Pairs, mask: str, background: str):
    """Tensors without values stand in for a GPU's: whoever asked for one would stop its queue, and
    fails here.
    """
    config = TINY.override(
        ["batch=8", "merge_group=8", f"mask={mask}", f"background={background}", "crop=32"]
    )
    there = pairs._replace(
        clip_B2THWC=pairs.clip_B2THWC.to("meta"), score_B2hw=pairs.score_B2hw.to("meta")
    )
    for view in make_views(there, config, epoch=0, step=0):
        assert view.is_meta
        assert view.shape == (8, 3, 8, 32, 32)
