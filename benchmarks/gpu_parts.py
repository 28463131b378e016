"""What each part of a step on a GPU costs, so that fixes are ordered by measured milliseconds. No
claim: tables.

Run: ``python -m benchmarks.gpu_parts [PART ...] --out DIR``. Parts: ``layers`` (each kind of
convolution, both directions, channels-last and contiguous), ``pools`` (max_pool3d against two 2D
poolings), ``norms`` (batch norm by groups, eager and compiled), ``views`` (each stage of the views,
eager and compiled), ``passes`` (an encoder on two views at once and one after the other),
``copies`` (host to device, pinned and not), ``decoders`` (OpenCV, simplejpeg, nvJPEG on the store's
frames). A result is written as soon as it is measured, and no part starts after ``--seconds``, so a
call ends in time and the next call names the parts that are left. ``--tiny --device cpu`` walks the
same path in seconds and proves nothing.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.plain_step import synthetic_pairs
from benchmarks.train_gpu import SPEC, TINY, TINY_SPEC, Results, seconds_per_call
from fame.clipstore import StoreSpec
from fame.clipstore.jpeg import decode_jpeg, encode_tall_jpeg
from fame.models.convolution import FlatConv3d
from fame.models.i3d import MaxPool
from fame.models.norm import GroupedBatchNorm3d, in_passes
from fame.transfer import send
from train.config import PretrainConfig
from train.jpegs import decoder
from train.pretrain import build_moco
from train.recipes import recipe
from train.views import crop_pairs as crop_views
from train.views import draw_views, make_views, merge_views, render

Row = dict[str, Any]
# Name, channels in and out, kernel, stride, frames and side of the input: one layer of each kind.
LAYERS = (
    ("stem 7x7x7/2", 3, 64, 7, 2, 16, 224),
    ("2b 1x1x1", 64, 64, 1, 1, 8, 56),
    ("2c 3x3x3", 64, 192, 3, 1, 8, 56),
    ("3b 3x3x3", 96, 128, 3, 1, 8, 28),
    ("3c 1x1x1, three at once", 256, 288, 1, 1, 8, 28),
    ("4f 3x3x3", 160, 320, 3, 1, 4, 14),
    ("5c 3x3x3", 192, 384, 3, 1, 2, 7),
)
STEM_CHANNELS = (3, 4, 8)  # the network's, and padded with zeros
# Name, kernel, stride, channels, frames and side of the input.
POOLS = (
    ("2a 1x3x3/2", (1, 3, 3), (1, 2, 2), 64, 8, 112),
    ("3b 3x3x3", (3, 3, 3), (1, 1, 1), 192, 8, 28),
    ("4a 3x3x3/2", (3, 3, 3), (2, 2, 2), 480, 8, 28),
    ("5a 2x2x2/2", (2, 2, 2), (2, 2, 2), 832, 4, 14),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and at what size things are measured. ``shrink`` divides sides and channels."""

    config: PretrainConfig
    spec: StoreSpec
    device: torch.device
    rounds: int
    shrink: int = 1

    def ms(self, work: Callable[[int], object]) -> float:
        """Milliseconds of a call."""
        return 1e3 * seconds_per_call(work, self.device, warm=3, rounds=self.rounds)

    def clips(self, channels: int, frames: int, side: int, *, last: bool = True) -> list[Tensor]:
        """Three inputs that take turns, so that none stays in a cache."""
        size = (self.config.batch, channels, frames, max(2, side // self.shrink))
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        memory = torch.channels_last_3d if last else torch.contiguous_format
        draws = torch.Generator(self.device).manual_seed(0)
        made = [
            torch.randn(*size, size[-1], device=self.device, dtype=dtype, generator=draws)
            for _ in range(3)
        ]
        return [clip.contiguous(memory_format=memory) for clip in made]

    def both_ways(self, run: Callable[[Tensor], Tensor], inputs: list[Tensor]) -> dict[str, float]:
        """Milliseconds of a forward, and of a forward with its backward."""
        slope = run(inputs[0]).detach().clone()

        def backward(number: int) -> None:
            value = inputs[number % 3].detach().requires_grad_()
            run(value).backward(slope)

        with torch.no_grad():
            forward = self.ms(lambda number: run(inputs[number % 3]))
        return {"forward_ms": forward, "forward_and_backward_ms": self.ms(backward)}


def layers(bench: Bench) -> Iterator[Row]:
    """Each kind of convolution."""
    for name, channels, out, kernel, stride, frames, side in LAYERS:
        for padded in STEM_CHANNELS if channels == 3 else (channels,):
            for last in (True, False):
                wide = padded if padded < 16 else padded // bench.shrink
                inputs = bench.clips(wide, frames, side, last=last)
                conv = FlatConv3d(wide, out // bench.shrink, kernel, stride, kernel // 2)
                conv.to(bench.device, inputs[0].dtype)
                if last:
                    conv.to(memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]
                figures = bench.both_ways(conv, inputs)
                outputs = conv(inputs[0]).numel()
                work = 2e-9 * outputs * wide * kernel**3
                yield {
                    "layer": name,
                    "channels": wide,
                    "channels_last": last,
                    **figures,
                    "forward_tflops": work / figures["forward_ms"],
                }


def pools(bench: Bench) -> Iterator[Row]:
    """Two 2D poolings against one in 3D."""
    for name, kernel, stride, channels, frames, side in POOLS:
        inputs = bench.clips(channels // bench.shrink, frames, side)
        pad = tuple(
            size // 2 if step == 1 else 0 for size, step in zip(kernel, stride, strict=True)
        )
        forms: dict[str, Callable[[Tensor], Tensor]] = {
            "2d": MaxPool(kernel, stride),
            "3d": lambda clip, k=kernel, s=stride, p=pad: F.max_pool3d(
                clip, k, s, p, ceil_mode=True
            ),
        }
        for form, run in forms.items():
            yield {"pool": name, "form": form, **bench.both_ways(run, inputs)}


def norms(bench: Bench) -> Iterator[Row]:
    """Batch norm and ReLU of the largest map, by groups."""
    for group in (None, bench.config.bn_group):
        inputs = bench.clips(64 // bench.shrink, 8, 112)
        norm = GroupedBatchNorm3d(inputs[0].shape[1], group=group).to(bench.device).train()

        def run(clip: Tensor, norm: nn.Module = norm) -> Tensor:
            return F.relu(norm(clip))

        yield {"group": group, "compiled": False, **bench.both_ways(run, inputs)}
        if bench.config.compile:
            yield {"group": group, "compiled": True, **bench.both_ways(torch.compile(run), inputs)}


def views(bench: Bench) -> Iterator[Row]:
    """Stages of the views, each on what the one before gives."""
    for compiled in (False, True) if bench.config.compile else (False,):
        config = dataclasses.replace(bench.config, compile=compiled)
        pairs = synthetic_pairs(config, bench.spec, bench.device)
        draws = send(draw_views(pairs, config, epoch=0, step=0), bench.device)
        given = pairs.clip_B2THWC, pairs.score_B2hw
        with torch.no_grad():
            crops, scores = crop_views(*given, draws, config)
            stages: dict[str, Callable[[int], object]] = {
                "draw": lambda step, p=pairs, c=config: draw_views(p, c, epoch=0, step=step),
                "all": lambda step, p=pairs, c=config: make_views(p, c, epoch=0, step=step),
                "render": lambda _, g=given, d=draws, c=config: render(*g, d, c),
            }
            if not compiled:
                stages["crop"] = lambda _, g=given, d=draws, c=config: crop_views(*g, d, c)
                stages["merge"] = lambda _, a=crops, b=scores, d=draws, c=config: merge_views(
                    a, b, d, c
                )
            for stage, work in stages.items():
                yield {"stage": stage, "compiled": compiled, "ms": bench.ms(work)}


def passes(bench: Bench) -> Iterator[Row]:
    """An encoder with its backward on two views, at once and one after the other, by batch."""
    moco = build_moco(bench.config).to(bench.device).train()
    side, bf16 = bench.config.crop * bench.shrink, bench.config.precision == "bf16"
    for batch in (8, bench.config.batch):
        small = dataclasses.replace(bench, config=dataclasses.replace(bench.config, batch=batch))
        two = small.clips(3, bench.config.frames, side)[:2]

        def encoded(clips: Tensor) -> Tensor:
            with torch.autocast(bench.device.type, torch.bfloat16, enabled=bf16):
                return moco.encoder_q(clips)

        def together(_: int, two: list[Tensor] = two) -> None:
            with in_passes(moco.encoder_q, 2):
                output = encoded(torch.cat(two))
            output.float().square().sum().backward()

        def apart(_: int, two: list[Tensor] = two) -> None:
            sum(encoded(one).float().square().sum() for one in two).backward()  # pyright: ignore[reportAttributeAccessIssue]

        for name, work in (("together", together), ("apart", apart)):
            yield {"batch": batch, "views": name, "ms": bench.ms(work)}


def copies(bench: Bench) -> Iterator[Row]:
    """A part of a batch from the host."""
    size = (8, 2, 16, bench.spec.height, bench.spec.width, 3)
    for pinned in (False, True) if bench.device.type == "cuda" else (False,):
        parts = [torch.full(size, number, dtype=torch.uint8) for number in range(3)]
        parts = [part.pin_memory() for part in parts] if pinned else parts
        room = torch.empty(size, dtype=torch.uint8, device=bench.device)
        ms = bench.ms(lambda n, p=parts, r=room: r.copy_(p[n % 3], non_blocking=True))
        yield {"copy": "to the device", "pinned": pinned, "gb_per_second": room.nbytes / ms / 1e6}
    there = torch.empty(size, dtype=torch.uint8).share_memory_()
    host = torch.empty(size, dtype=torch.uint8, pin_memory=bench.device.type == "cuda")
    ms = bench.ms(lambda _: host.copy_(there))
    yield {"copy": "shared memory to pinned", "gb_per_second": host.nbytes / ms / 1e6}


def decoders(bench: Bench) -> Iterator[Row]:
    """Clips a second of one core, and of nvJPEG where torchcodec is installed."""
    import numpy as np

    frames = 16
    pairs = synthetic_pairs(
        dataclasses.replace(bench.config, batch=1), bench.spec, torch.device("cpu")
    )
    clip = pairs.clip_B2THWC[0, 0].numpy()[:frames]
    encoded = [np.frombuffer(encode_tall_jpeg(frame[None], quality=90), np.uint8) for frame in clip]
    room = np.empty(clip.shape[1:], np.uint8)
    import cv2

    forms: dict[str, Callable[[int], Any]] = {
        "ours (simplejpeg)": lambda _: [decode_jpeg(data, room) for data in encoded],
        "OpenCV": lambda _: [cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) for data in encoded],
    }
    if bench.device.type == "cuda":
        try:
            decode = decoder(bench.device)
        except ValueError as error:
            yield {"decoder": "nvJPEG", "skipped": str(error)}
        else:
            batch = [torch.from_numpy(data.copy()) for data in encoded] * 32
            forms["nvJPEG, 32 clips"] = lambda _: decode(batch)
    for name, work in forms.items():
        clips = 32 if name.startswith("nvJPEG") else 1
        yield {"decoder": name, "clips_per_second": 1e3 * clips / bench.ms(work)}


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "layers": layers,
    "pools": pools,
    "norms": norms,
    "views": views,
    "passes": passes,
    "copies": copies,
    "decoders": decoders,
}


def measure(bench: Bench, names: list[str], results: Results, *, seconds: float) -> None:
    """Measure the parts; every row is written at once, and no row begins after ``seconds``."""
    ends = time.monotonic() + seconds
    for name in names:
        rows: list[Row] = []
        for row in PARTS[name](bench):
            rows.append({key: _rounded(value) for key, value in row.items()})
            results.put(name, rows)
            if time.monotonic() > ends:
                results.put("stopped", f"in {name}, after {seconds:.0f} s")
                return


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def bench_of(options: argparse.Namespace) -> Bench:
    """What the options ask for."""
    config, spec, shrink = recipe("fame-k400"), SPEC, 1
    if options.tiny:
        config, spec, shrink = config.override(TINY), TINY_SPEC, 8
        config = dataclasses.replace(config, bn_group=2, merge_group=2)
    config = dataclasses.replace(config, batch=options.batch)
    return Bench(
        config=config,
        spec=spec,
        device=torch.device(options.device),
        rounds=options.rounds,
        shrink=shrink,
    )


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=480, help="no row begins after these")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--tiny", action="store_true")
    return parser


def main() -> None:
    """Read the options and measure."""
    options = parser().parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser().error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    results = Results(options.out, "gpu_parts")
    measure(bench_of(options), options.parts or list(PARTS), results, seconds=options.seconds)
    print(json.dumps(results.parts, indent=1))


if __name__ == "__main__":
    main()
