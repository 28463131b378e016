"""One batched resampling against a slow crop-resize-flip per clip; draws that depend on their
address alone.
"""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fame.augment import Crop, crop_clip, crop_map, draw_crop, sampling_grid
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
    fast = crop_clip(clip, sampling_grid(crop, size=size, frame=SIZE))
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
    plain, mirrored = crop_clip(clip, sampling_grid(crop, size=24, frame=(24, 24)))
    assert torch.allclose(plain, clip[0].permute(3, 0, 1, 2) / 255, atol=1e-5)
    assert torch.allclose(mirrored, clip[1].flip(2).permute(3, 0, 1, 2) / 255, atol=1e-5)


def test_a_map_is_cut_where_its_clip_is():
    crop = crops(list(range(6)))
    map_Bhw = torch.randint(
        0, 256, (6, *SIZE), dtype=torch.uint8, generator=generator(0, 0, 0, "test/map")
    )
    clip = map_Bhw[:, None, :, :, None].expand(-1, 2, -1, -1, 3)
    grid = sampling_grid(crop, size=16, frame=SIZE)
    from_clip = crop_clip(clip, grid)[:, 0, 0] * 255
    assert torch.allclose(crop_map(map_Bhw, grid), from_clip, atol=1e-2)
    of_frames = crop_map(map_Bhw[:, None].expand(-1, 3, -1, -1), grid)
    assert torch.equal(of_frames[:, 2], crop_map(map_Bhw, grid))


def test_a_coarser_map_covers_the_same_ground():
    y_24, x_32 = torch.linspace(0, 255, 24), torch.linspace(0, 255, 32)
    frame = (y_24[:, None] / 2 + x_32 / 2).round().byte()
    coarse = F.avg_pool2d(frame[None].float(), 4).round().byte()
    crop = crops([1, 5, 7])
    grid = sampling_grid(crop, size=12, frame=SIZE)
    fine = crop_map(frame.expand(3, -1, -1), grid)
    rough = crop_map(coarse.expand(3, -1, -1), grid)
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


def test_views_epochs_and_seeds_draw_apart():
    boxes = [
        draw_crop(
            seed=seed, epoch=epoch, indices=[5], view=view, size=SIZE, min_area=0.2, flip=0.5
        ).box_B4
        for seed, epoch, view in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    assert len({tuple(box[0].tolist()) for box in boxes}) == 4
