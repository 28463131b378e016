"""One batched resampling against a slow crop-resize-flip per clip; draws that depend on their
address alone.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fame.augment import Crop, apply_colour, crop_clip, crop_map, draw_colour, draw_crop, draw_order
from fame.randomness import generator

SIZE = (24, 32)


def stored(batch: int) -> torch.Tensor:
    return torch.randint(
        0, 256, (batch, 3, *SIZE, 3), dtype=torch.uint8, generator=generator(0, 0, 0, "test/clips")
    )


def crops(indices: list[int], **changes: float) -> Crop:
    options = {"min_area": 0.2, "flip": 0.5} | changes
    return draw_crop(seed=0, epoch=0, indices=indices, view=0, size=SIZE, **options)


def slow_crop(clip_THWC: torch.Tensor, box: list[int], flip: bool, size: int) -> torch.Tensor:
    """Cut, then mirror, then bilinear resize, whose edge pixels repeat: what an image library does
    to one clip.
    """
    top, left, height, width = box
    cut = clip_THWC[:, top : top + height, left : left + width].permute(3, 0, 1, 2).float() / 255
    cut = cut.flip(-1) if flip else cut
    return F.interpolate(cut, size=(size, size), mode="bilinear", align_corners=False)


@given(st.integers(0, 10_000), st.integers(5, 40))
@settings(max_examples=30)
def test_batched_crops_equal_slow_ones_inside_their_borders(index: int, size: int):
    clip, crop = stored(3), crops([index, index + 1, index + 2])
    fast = crop_clip(clip, crop, size=size)
    for row in range(3):
        box = [int(value) for value in crop.box_B4[row]]
        slow = slow_crop(clip[row], box, bool(crop.flip_B[row]), size)
        # At its rim a crop reaches half a pixel beyond the box, where the batched one sees the true
        # neighbour.
        rim_y, rim_x = (-(-size // (2 * side)) for side in box[2:])
        inner = (slice(None), slice(None), slice(rim_y, size - rim_y), slice(rim_x, size - rim_x))
        assert torch.allclose(fast[row][inner], slow[inner], atol=1e-4)


def test_the_whole_frame_at_its_size_is_the_frame_itself_and_its_mirror():
    clip = stored(2)[:, :, :, :24]
    crop = Crop(torch.tensor([[0.0, 0, 24, 24]] * 2), torch.tensor([False, True]))
    plain, mirrored = crop_clip(clip, crop, size=24)
    assert torch.allclose(plain, clip[0].permute(3, 0, 1, 2) / 255, atol=1e-5)
    assert torch.allclose(mirrored, clip[1].flip(2).permute(3, 0, 1, 2) / 255, atol=1e-5)


def test_a_map_is_cut_where_its_clip_is():
    crop = crops(list(range(6)))
    map_Bhw = torch.randint(
        0, 256, (6, *SIZE), dtype=torch.uint8, generator=generator(0, 0, 0, "test/map")
    )
    clip = map_Bhw[:, None, :, :, None].expand(-1, 2, -1, -1, 3)
    from_clip = crop_clip(clip, crop, size=16)[:, 0, 0] * 255
    assert torch.allclose(crop_map(map_Bhw, crop, size=16, frame=SIZE), from_clip, atol=1e-2)


def test_a_coarser_map_covers_the_same_ground():
    y_24, x_32 = torch.linspace(0, 255, 24), torch.linspace(0, 255, 32)
    frame = (y_24[:, None] / 2 + x_32 / 2).round().byte()
    coarse = F.avg_pool2d(frame[None].float(), 4).round().byte()
    crop = crops([1, 5, 7])
    fine = crop_map(frame.expand(3, -1, -1), crop, size=12, frame=SIZE)
    rough = crop_map(coarse.expand(3, -1, -1), crop, size=12, frame=SIZE)
    assert (fine - rough).abs().mean() < 6


@given(st.integers(0, 10_000), st.floats(0.05, 1))
def test_boxes_lie_in_the_frame_with_allowed_area_and_aspect(index: int, min_area: float):
    crop = crops([index], min_area=min_area)
    top, left, height, width = crop.box_B4[0].tolist()
    assert 0 <= top <= SIZE[0] - height
    assert 0 <= left <= SIZE[1] - width
    assert height * width >= min_area * SIZE[0] * SIZE[1] * 0.8 or (height, width) == (24, 32)
    assert 0.6 < width / height < 1.7


def test_a_sample_draws_the_same_in_any_batch():
    together, alone = crops([3, 9, 4]), crops([9])
    assert torch.equal(together.box_B4[1], alone.box_B4[0])
    colours = {"gray": 0.2, "jitter": 0.8, "blur": 0.5, "seed": 1, "epoch": 2, "view": 0}
    many, one = draw_colour(indices=[3, 9, 4], **colours), draw_colour(indices=[9], **colours)
    assert all(torch.equal(left[1], right[0]) for left, right in zip(many, one, strict=True))


def test_views_epochs_and_seeds_draw_apart():
    boxes = [
        draw_crop(
            seed=seed, epoch=epoch, indices=[5], view=view, size=SIZE, min_area=0.2, flip=0.5
        ).box_B4
        for seed, epoch, view in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    assert len({tuple(box[0].tolist()) for box in boxes}) == 4


def test_probabilities_are_met():
    colour = draw_colour(
        seed=0, epoch=0, indices=range(2000), view=0, gray=0.2, jitter=0.8, blur=0.5
    )
    for drawn, probability in ((colour.gray_B, 0.2), (colour.jitter_B, 0.8), (colour.blur_B, 0.5)):
        assert float(drawn.float().mean()) == pytest.approx(probability, abs=0.04)
    assert float(colour.sigma_B.min()) >= 0.1
    assert float(colour.sigma_B.max()) <= 2.0
    assert torch.all(
        (colour.factor_B4 - torch.tensor([1, 1, 1, 0.0])).abs()
        <= torch.tensor([0.4, 0.4, 0.4, 0.1])
    )


def floats(batch: int) -> torch.Tensor:
    return torch.rand(batch, 3, 4, 32, 32, generator=generator(0, 0, 0, "test/floats"))


def test_every_frame_of_a_clip_is_coloured_alike_and_clips_apart():
    still = floats(1)[:, :, :1].expand(4, -1, 4, -1, -1)
    colour = draw_colour(seed=0, epoch=0, indices=range(4), view=0, gray=0.0, jitter=1.0, blur=1.0)
    result = apply_colour(still, colour, order=draw_order(seed=0, epoch=0, step=0, view=0))
    assert torch.allclose(result, result[:, :, :1].expand_as(result), atol=1e-6)
    assert not torch.allclose(result[0], result[1], atol=1e-2)


def test_a_batch_is_coloured_as_its_clips_one_by_one():
    clip = floats(6)
    colour = draw_colour(seed=0, epoch=0, indices=range(6), view=0, gray=0.5, jitter=0.5, blur=0.5)
    order = draw_order(seed=0, epoch=0, step=0, view=0)
    result = apply_colour(clip, colour, order=order)
    for row in range(6):
        one = type(colour)(*(value[row : row + 1] for value in colour))
        assert torch.allclose(
            result[row : row + 1], apply_colour(clip[row : row + 1], one, order=order), atol=1e-5
        )
    assert float(result.min()) >= 0
    assert float(result.max()) <= 1


def test_nothing_drawn_changes_nothing_and_the_input_is_left_alone():
    clip = floats(3)
    before = clip.clone()
    none = draw_colour(seed=0, epoch=0, indices=range(3), view=0, gray=0.0, jitter=0.0, blur=0.0)
    every = draw_colour(seed=0, epoch=0, indices=range(3), view=0, gray=1.0, jitter=1.0, blur=1.0)
    assert torch.equal(apply_colour(clip, none), clip)
    assert not torch.equal(apply_colour(clip, every), clip)
    assert torch.equal(clip, before)


def test_grey_has_equal_channels():
    gray = draw_colour(seed=0, epoch=0, indices=range(2), view=0, gray=1.0, jitter=0.0, blur=0.0)
    result = apply_colour(floats(2), gray)
    assert torch.allclose(result[:, 0], result[:, 2], atol=1e-6)
