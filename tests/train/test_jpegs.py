"""``decode=device``: what the training process decodes is what workers would have decoded.

On a CPU the device's decoder is the workers' own, so everything here is equal to the bit; on a GPU
only the decoder is another one (``test_cuda.py``).
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fame.clipstore import ClipStore, CorruptChunk, StoreError, Window
from tests.stores import SPEC, WINDOW, make_store
from tests.train.test_data import CPU, damage, dataset, equal, read
from tests.train.tiny import SMOOTH, TINY, figures, same, state_of
from train import jpegs
from train.data import PairDataset
from train.finetune_data import LabelledClips
from train.jpegs import Jpegs, check_decoder, decoded, packed
from train.pretrain import pretrain


def encoded(data: PairDataset) -> PairDataset:
    data.encoded = True
    return data


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("window", [WINDOW, Window(frames=15, span=1.0)])
def test_batches_are_those_of_workers_that_decode(store: Path, window: Window, workers: int):
    """15 frames over a video of 12 show some of them twice."""
    plain = read(dataset(store, window=window), start=2, stop=6)
    ours = read(encoded(dataset(store, window=window)), start=2, stop=6, workers=workers)
    assert equal(plain, ours)
    assert all(pairs.jpegs is None for pairs in ours)


def test_processes_and_resumed_runs_share_the_same_batches(store: Path):
    plain = read(dataset(store), start=0, stop=6)
    assert equal(plain[4:], read(encoded(dataset(store)), start=4, stop=6))
    halves = [read(encoded(dataset(store)), start=0, stop=6, rank=rank, world=2) for rank in (0, 1)]
    for whole, *parts in zip(plain, *halves, strict=True):
        joined = torch.cat([part.clip_B2THWC for part in parts])
        assert torch.equal(whole.clip_B2THWC, joined)


def test_a_part_holds_each_picture_of_a_clip_once_and_nothing_else(store: Path):
    data = encoded(dataset(store, window=Window(frames=15, span=1.0)))
    part = data.__getitems__([(0, 0), (0, 1)])
    assert part.jpegs is not None
    assert part.clip_B2THWC.numel() == 0
    assert part.jpegs.shown_BVT.shape == (2, 2, 15)
    assert len(part.jpegs.size_F) == 2 * 2 * SPEC.slots  # 12 frames, of which 3 are shown twice
    assert part.jpegs.byte_N.numel() == part.jpegs.size_F.sum()


def test_one_clip_of_a_video_is_a_pair_of_one(store: Path):
    plain, other = (
        LabelledClips(ClipStore.open(store), seed=0, window=WINDOW, maps=True) for _ in range(2)
    )
    assert equal(read(plain, start=0, stop=2), read(encoded(other), start=0, stop=2))


def test_pictures_are_numbered_over_clips_and_parts():
    """Two parts of one pair each, clips of one and two pictures."""
    picture = [np.full((16, 16, 3), 40 * number, np.uint8) for number in range(6)]
    bytes_of = [jpeg(one) for one in picture]

    def part(first: int) -> Jpegs:
        clips = [([bytes_of[first]], np.array([0, 0])), (bytes_of[first + 1 : first + 3], [1, 0])]
        return packed([(some, np.array(shown)) for some, shown in clips], rows=1)

    clip_BVTHWC = decoded([part(0), part(3)], CPU)
    assert clip_BVTHWC.shape == (2, 2, 2, 16, 16, 3)
    shown = clip_BVTHWC[..., 0, 0, 0].numpy()
    assert np.array_equal(shown.round(-1), [[[0, 0], [80, 40]], [[120, 120], [200, 160]]])


def jpeg(picture_HWC: np.ndarray) -> bytes:
    from fame.clipstore.jpeg import encode_tall_jpeg

    return encode_tall_jpeg(picture_HWC[None], quality=100)


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_stops_the_run_with_its_place(store: Path, tmp_path: Path, workers: int):
    broken = damage(store, tmp_path / "broken")
    with pytest.raises(CorruptChunk, match=r"^[^\n]*broken: frames of video 5 \(shard 1\)[^\n]*$"):
        read(encoded(dataset(broken)), start=0, stop=16, workers=workers)


def test_damage_is_skipped_as_workers_skip_it(store: Path, tmp_path: Path):
    broken = damage(store, tmp_path / "broken")
    plain, ours = (
        read(data, start=0, stop=16)
        for data in (
            dataset(broken, on_corrupt="skip"),
            encoded(dataset(broken, on_corrupt="skip")),
        )
    )
    assert equal(plain, ours)
    assert [one.skipped for one in plain] == [one.skipped for one in ours]


def test_a_picture_of_another_size_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = ClipStore.open(make_store(tmp_path / "tiny", videos=4))
    shape = (SPEC.height, SPEC.width + 8, 3)
    element = type(store._layout).element_shape
    monkeypatch.setattr(
        type(store._layout),
        "element_shape",
        lambda self, array: shape if array == "frames" else element(self, array),
    )
    with pytest.raises(CorruptChunk, match="the JPEG is 36x48, not 36x56"):
        store.jpegs(0, 0, WINDOW)


def test_a_picture_whose_checksum_holds_but_that_cannot_be_decoded_is_one_line():
    good = jpeg(np.zeros((16, 16, 3), np.uint8))
    part = packed([([good, good[:2] + b"\0" * 40], np.array([0, 1]))], rows=1)
    with pytest.raises(CorruptChunk, match=r"a JPEG cannot be decoded on cpu.*--decode workers"):
        decoded([part], CPU)


def test_memory_that_is_missing_is_no_damage(monkeypatch: pytest.MonkeyPatch):
    def full(_: object) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(jpegs, "decoder", lambda device: full)
    part = packed([([jpeg(np.zeros((16, 16, 3), np.uint8))], np.array([0]))], rows=1)
    with pytest.raises(torch.OutOfMemoryError):
        decoded([part], CPU)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_is_the_same_run_and_goes_on(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
):
    monkeypatch.setattr("train.run.task.check_decoder", lambda device, stores: None)
    config = dataclasses.replace(SMOOTH, epochs=2, workers=workers)
    ours = dataclasses.replace(config, decode="device")
    pretrain(config, stores=[store], run_dir=tmp_path / "workers")
    for epochs in (1, 2):  # the second goes on from the checkpoint of the first
        longer = dataclasses.replace(ours, epochs=epochs, schedule="constant")
        pretrain(longer, stores=[store], run_dir=tmp_path / "parts")
    pretrain(ours, stores=[store], run_dir=tmp_path / "device")
    constant = dataclasses.replace(config, schedule="constant")
    pretrain(constant, stores=[store], run_dir=tmp_path / "whole")
    for left, right in (("workers", "device"), ("whole", "parts")):
        assert figures(tmp_path / left) == figures(tmp_path / right)
        assert same(state_of(tmp_path / left), state_of(tmp_path / right))
    with pytest.raises(ValueError, match="begun with decode=device, not 'workers'"):
        pretrain(constant, stores=[store], run_dir=tmp_path / "parts")


def test_a_run_without_a_gpu_is_refused(store: Path, tmp_path: Path):
    config = TINY.override(["decode=device"])
    with pytest.raises(ValueError, match="decode=device needs a GPU, but this run is on cpu"):
        pretrain(config, stores=[store], run_dir=tmp_path / "run")


def test_a_store_that_is_not_jpeg_is_refused(tmp_path: Path):
    spec = dataclasses.replace(SPEC, codec="lz4")
    store = ClipStore.open(make_store(tmp_path / "lz4", videos=4, spec=spec))
    with pytest.raises(ValueError, match=r"lz4: decode=device needs frames as jpeg.* are lz4"):
        check_decoder(torch.device("cuda", 0), [store])
    with pytest.raises(StoreError, match="not JPEG"):
        store.jpegs(0, 0, WINDOW)


@pytest.mark.parametrize(
    "error", [ImportError("No module named 'torchcodec'"), OSError("libnvrtc.so.13: none\nmore")]
)
def test_a_library_that_is_missing_or_does_not_load_is_one_line(
    store: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    def fail(name: str) -> Any:
        raise error

    monkeypatch.setattr(jpegs, "import_module", fail)
    with pytest.raises(ValueError, match=r"^decode=device needs torchcodec[^\n]*$"):
        check_decoder(torch.device("cuda", 7), [ClipStore.open(store)])


def test_on_a_gpu_the_stream_is_drained_before_the_library_is_called(
    monkeypatch: pytest.MonkeyPatch,
):
    """A stand-in for torchcodec and CUDA: what is called, in which order, with what."""
    called: list[Any] = []

    class Stream:
        def synchronize(self) -> None:
            called.append("drained")

    class TorchCodec:
        @staticmethod
        def decode_jpeg(pictures: list[torch.Tensor], *, mode: str, device: torch.device) -> Any:
            called.append((len(pictures), {one.dtype for one in pictures}, mode, device.type))
            return [torch.zeros(3, 16, 16, dtype=torch.uint8) for _ in pictures]

    monkeypatch.setattr(jpegs, "import_module", lambda name: TorchCodec)
    monkeypatch.setattr(jpegs, "send", lambda value, device: value)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    good = jpeg(np.zeros((16, 16, 3), np.uint8))
    part = packed([([good, good], np.array([0, 1, 1]))], rows=1)
    assert decoded([part, part], torch.device("cuda", 5)).shape == (2, 1, 3, 16, 16, 3)
    assert called == ["drained", (4, {torch.uint8}, "RGB", "cuda")]
