"""The benchmarks that need a GPU can be walked without one, at the sizes that they measure."""

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import gpu_parts, train_cpu, train_gpu
from fame.clipstore import ClipStore, Window
from fame.models.convolution import FlatConv3d
from fame.models.i3d import I3D, MIXED, MaxPool
from tests.stores import make_store
from train.recipes import recipe


def test_the_gpu_benchmarks_store_is_made_at_its_true_size(tmp_path: Path) -> None:
    store = ClipStore.open(make_store(tmp_path / "store", videos=2, spec=train_gpu.SPEC))
    assert store.clip(0, 0, Window()).shape == (16, 256, 340, 3)
    assert store.foreground(0, 0, Window()).shape == (64, 85)


def test_the_counts_of_operations_are_those_of_the_network() -> None:
    def units(pixels: int, *layers: tuple[int, int, int]) -> float:
        return sum(pixels * kernel * inner * outer for kernel, inner, outer in layers) / 1e9

    stem = units(8 * 112**2, (343, 3, 64))
    total = stem + units(8 * 56**2, (1, 64, 64), (27, 64, 192))
    channels, size = 192, {"3": 8 * 28**2, "4": 4 * 14**2, "5": 2 * 7**2}
    for name, (one, reduce_1, out_1, reduce_2, out_2, pooled) in MIXED.items():
        total += units(size[name[6]], (1, channels, one + reduce_1 + reduce_2 + pooled))
        total += units(size[name[6]], (27, reduce_1, out_1), (27, reduce_2, out_2))
        channels = one + out_1 + out_2 + pooled
    assert total == pytest.approx(train_gpu.GMAC_PER_FORWARD, abs=0.02)
    assert stem == pytest.approx(train_gpu.GMAC_OF_STEM, abs=0.01)
    assert pytest.approx(0.4446, abs=2e-4) == train_gpu.TFLOP_COUNTED
    assert pytest.approx(0.4182, abs=2e-4) == train_gpu.TFLOP_TRUE


def test_results_are_kept_part_by_part(tmp_path: Path) -> None:
    train_gpu.Results(tmp_path).put("peak", 700.0)
    results = train_gpu.Results(tmp_path)
    step = {
        "batch": 64,
        "pairs_per_second": 600.0,
        "share_of_peak_counted": 0.38,
        "views_share": 0.09,
        "k400_hours": 22.0,
    }
    results.put("step 64", step)
    results.put("feeding", {"batch": 64, "pairs_per_second": 590.0})
    kept = train_gpu.Results(tmp_path).parts
    assert kept["peak"] == 700.0
    assert kept["holds"] == {
        "share of peak >= 30 %": True,
        "views <= 6 %": False,
        "K400 x 200 epochs <= 20 h": False,
        "fed >= 95 % of resident": True,
    }


def test_the_layers_and_pools_measured_alone_are_those_of_the_network() -> None:
    """I3D at its true size, without values: what each kind of layer is given."""
    given: set[tuple[object, ...]] = set()

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        _, channels, *size = inputs[0].shape
        if isinstance(module, FlatConv3d):
            shape = (module.out_channels, module.kernel_size[0], module.stride[0])
            given.add((channels, *shape, *size))
        else:
            given.add((module.kernel, module.stride, channels, *size))

    with torch.device("meta"):
        network = I3D()
        for module in network.modules():
            if isinstance(module, FlatConv3d | MaxPool):
                module.register_forward_pre_hook(note)
        network(torch.empty(1, 3, 16, 224, 224))
    for name, channels, out, kernel, stride, frames, side in gpu_parts.LAYERS:
        pad = (5, 5) if stride == 2 else (0, 0)  # the stem is padded before it is convolved
        size = (frames + pad[0], side + pad[1], side + pad[1])
        at_once = name.endswith("three at once")  # which no module of its own computes
        assert at_once or (channels, out, kernel, stride, *size) in given, name
    for name, kernel, stride, channels, frames, side in gpu_parts.POOLS:
        assert (kernel, stride, channels, frames, side, side) in given, name
    widths = MIXED["mixed_3c"]
    assert widths[0] + widths[1] + widths[3] == gpu_parts.LAYERS[4][2]


def test_parts_end_in_time_and_keep_what_was_measured(tmp_path: Path) -> None:
    arguments = ["--tiny", "--device", "cpu", "--batch", "2", "--rounds", "1", "--out", "OUT"]
    options = gpu_parts.parser().parse_args(["copies", *arguments[:-1], str(tmp_path)])
    bench = gpu_parts.bench_of(options)
    results = train_gpu.Results(tmp_path, "gpu_parts")
    gpu_parts.measure(bench, ["copies", "decoders"], results, seconds=1e9)
    gpu_parts.measure(bench, ["pools", "decoders"], results, seconds=0)
    kept = train_gpu.Results(tmp_path, "gpu_parts").parts
    assert [row["decoder"] for row in kept["decoders"]] == ["ours (simplejpeg)", "OpenCV"]
    assert len(kept["copies"]) == 2
    assert len(kept["pools"]) == 1
    assert kept["stopped"] == "in pools, after 0 s"


def test_memory_is_counted_as_a_step_holds_it():
    """Accumulation halves what is kept; checkpointing keeps less; bf16 has half the bytes, and
    both views in one forward, so that a stage is computed again for both.
    """
    from benchmarks.memory_table import per_pair

    torch.set_num_threads(1)
    small = recipe("fame-k400").override(["width=0.125", "crop=32", "frames=8", "bn_group=2"])
    exact = small.override(["precision=fp32"])
    whole, again = (
        per_pair(exact.override([f"checkpoint_activations={on}"])) for on in ("false", "true")
    )
    assert again < 0.7 * whole
    assert per_pair(small) == pytest.approx(whole / 2, rel=0.25)
    assert per_pair(small.override(["checkpoint_activations=true"])) > 0.5 * again


def test_operations_are_counted_with_their_bytes_and_what_only_moves():
    row = torch.zeros(5)
    with train_cpu.Operations() as found:
        torch.cat([row.view(5, 1), row.view(5, 1)])  # reads 40 bytes, writes 40; views cost nothing
        row.add_(row)
    assert (found.count, found.bytes, found.moved) == (2, 140, 80)
