"""The tall JPEG, as functions and as a zarr codec; and chunks of every codec against what zarr
itself makes of them.
"""

import dataclasses
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fame.clipstore import jpeg
from fame.clipstore.chunk import crc32c, decode_chunk, encode_chunk
from fame.clipstore.codec import TallJpeg
from fame.clipstore.jpeg import decode_jpeg, decode_tall_jpeg, encode_tall_jpeg
from fame.clipstore.layout import Layout
from fame.randomness import numpy_generator
from tests.fame.clipstore import small


def smooth_clip(frames: int, height: int, width: int) -> np.ndarray:
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    waves = [
        128 + 100 * np.sin((y * a + x * b + t * c) / 40)
        for a, b, c in ((1, 0, 9), (0, 1, 5), (1, 1, 2))
    ]
    return np.stack(waves, axis=-1).astype(np.uint8)


def decoded(data: bytes, frames: int, height: int, width: int) -> np.ndarray:
    return decode_tall_jpeg(
        np.frombuffer(data, np.uint8), frames=frames, height=height, width=width
    )


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def test_jpeg_keeps_colours_and_order_of_frames():
    clip = smooth_clip(16, 32, 48)
    assert psnr(decoded(encode_tall_jpeg(clip, quality=90), 16, 32, 48), clip) > 33


def test_jpeg_is_what_another_decoder_reads():
    clip = smooth_clip(4, 16, 24)
    data = encode_tall_jpeg(clip, quality=95)
    pillow = np.asarray(Image.open(BytesIO(data)).convert("RGB")).reshape(4, 16, 24, 3)
    assert np.abs(pillow.astype(int) - decoded(data, 4, 16, 24)).mean() < 2


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    quality=st.integers(1, 100),
    seed=st.integers(0, 2**32),
    smooth=st.booleans(),
)
def test_both_decoders_give_the_same_pixels(
    height: int, width: int, quality: int, seed: int, smooth: bool
):
    if smooth:
        clip = smooth_clip(1, height, width)
    else:
        noise = numpy_generator(seed, 0, 0, "picture")
        clip = noise.integers(0, 256, (1, height, width, 3)).astype(np.uint8)
    data = np.frombuffer(encode_tall_jpeg(clip, quality=quality), np.uint8)
    fast, slow = np.empty((2, *clip.shape[1:]), np.uint8)
    decode_jpeg(data, fast)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jpeg, "_fast_decoder_is_equal", lambda: False)
        decode_jpeg(data, slow)
    assert np.array_equal(fast, slow)
    spread = np.zeros((height, 2 * width, 3), np.uint8)[:, ::2]  # memory with holes in it
    decode_jpeg(data, spread)
    assert np.array_equal(spread, slow)


def test_the_fast_decoder_is_used_here_and_would_not_be_if_it_differed(
    monkeypatch: pytest.MonkeyPatch,
):
    assert jpeg._fast_decoder_is_equal()
    different = SimpleNamespace(decode_jpeg=lambda data, colours: np.zeros((47, 61, 3), np.uint8))
    monkeypatch.setattr(jpeg, "_simplejpeg", different)
    assert not jpeg._fast_decoder_is_equal.__wrapped__()


def test_jpeg_bytes_are_the_same_every_time():
    clip = smooth_clip(4, 16, 24)
    assert encode_tall_jpeg(clip, quality=90) == encode_tall_jpeg(clip.copy(), quality=90)


def test_jpeg_too_tall_is_refused():
    with pytest.raises(ValueError, match="too large"):
        encode_tall_jpeg(np.zeros((2, 32_751, 1, 3), np.uint8), quality=90)


@pytest.mark.parametrize(("frames", "height", "width"), [(2, 16, 24), (4, 16, 23), (16, 4, 25)])
def test_jpeg_of_another_size_is_refused_before_it_is_decoded(frames: int, height: int, width: int):
    data = encode_tall_jpeg(smooth_clip(4, 16, 24), quality=90)
    with pytest.raises(ValueError, match="64x24"):
        decoded(data, frames, height, width)


def test_only_baseline_colour_jpeg_is_accepted():
    clip = smooth_clip(1, 16, 24)[0]
    progressive = cv2.imencode(".jpg", clip, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    gray = cv2.imencode(".jpg", clip[..., 0])[1].tobytes()
    png = cv2.imencode(".png", clip)[1].tobytes()
    for data, why in (
        (progressive, "baseline"),
        (gray, "components"),
        (png, "not a JPEG"),
        (b"", "not a JPEG"),
    ):
        with pytest.raises(ValueError, match=why):
            decoded(data, 1, 16, 24)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.integers(0, 10**6))
def test_a_damaged_jpeg_never_crashes_or_changes_shape(position: int, value: int, cut: int):
    data = bytearray(encode_tall_jpeg(smooth_clip(2, 16, 24), quality=90))
    data[position % len(data)] = value
    try:
        clip = decoded(bytes(data[: len(data) - cut % 40]), 2, 16, 24)
    except ValueError:
        return
    assert clip.shape == (2, 16, 24, 3)


def zarr_array(path: Path, clip: np.ndarray) -> zarr.Array:
    shape, codec = (1, *clip.shape), TallJpeg(quality=80)
    return zarr.create_array(
        path / "a.zarr",
        shape=shape,
        chunks=shape,
        dtype="uint8",
        serializer=codec,
        compressors=None,
    )


def test_zarr_finds_the_codec_by_its_name_and_reads_what_it_wrote(tmp_path: Path):
    clip = smooth_clip(4, 16, 24)
    zarr_array(tmp_path, clip)[0] = clip
    array = zarr.open_array(tmp_path / "a.zarr", mode="r")
    assert array.metadata.codecs == (TallJpeg(quality=80),)
    assert np.array_equal(array[0], decoded(encode_tall_jpeg(clip, quality=80), 4, 16, 24))


@pytest.mark.parametrize("quality", [0, 101, "high", True])
def test_codec_refuses_a_quality_that_cannot_be(quality: object):
    with pytest.raises(ValueError, match="quality"):
        TallJpeg.from_dict({"name": "fame.tall_jpeg", "configuration": {"quality": quality}})


def test_codec_refuses_what_is_no_picture(tmp_path: Path):
    array = zarr.create_array(
        tmp_path / "a.zarr",
        shape=(4, 4),
        chunks=(4, 4),
        dtype="uint8",
        serializer=TallJpeg(),
        compressors=None,
    )
    with pytest.raises(ValueError, match="uint8 chunks"):
        array[:] = 1


@pytest.mark.parametrize("codec", ["jpeg", "lz4", "zstd"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_crafted_chunk_with_a_true_checksum_is_refused_or_decodes_to_its_shape(
    codec: str, data: st.DataObject
):
    spec = dataclasses.replace(small.SPEC, codec=codec)
    layout = Layout(header=small.header(spec), num_videos=1, videos_sha256="")
    clip = numpy_generator(0, 0, 0, "clip").integers(0, 8, layout.element_shape("frames"), np.uint8)
    chunk = bytearray(encode_chunk(layout, "frames", clip)[:-4])
    for _ in range(data.draw(st.integers(1, 4))):
        chunk[
            data.draw(st.integers(0, min(len(chunk), 64) - 1) | st.integers(0, len(chunk) - 1))
        ] = data.draw(st.integers(0, 255))
    chunk = chunk[: data.draw(st.integers(0, len(chunk)))] if data.draw(st.booleans()) else chunk
    crafted = np.frombuffer(bytes(chunk) + crc32c(bytes(chunk)), np.uint8)
    try:
        found = decode_chunk(layout, "frames", crafted)
    except ValueError:
        return
    assert found.shape == clip.shape
    assert found.dtype == np.uint8


def test_a_zstd_chunk_that_ends_early_or_goes_on_is_refused():
    layout = Layout(header=small.header(), num_videos=1, videos_sha256="")
    shape = layout.element_shape("foreground")
    for wrong in (
        np.zeros((shape[0], shape[1] - 1), np.uint8),
        np.zeros((shape[0], shape[1] + 1), np.uint8),
    ):
        chunk = encode_chunk(layout, "foreground", wrong)
        with pytest.raises(ValueError, match="claims"):
            decode_chunk(layout, "foreground", np.frombuffer(chunk, np.uint8))
