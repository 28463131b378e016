"""One self-contained page that shows a run: what ran, how it went, what it learned.

Shapes: Q queries, V videos, D feature dim, T frames, S crop size, the last 3 RGB.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from fame.activation import activation_energy, unit_range
from fame.clipstore import ClipStore, StorePath
from fame.files import whole
from fame.models import is_foreign
from fame.page import Markup, chart, document, figure, film, grid, picture, table, tag
from fame.preview import heat
from fame.reading import read_bytes
from fame.weights import Encoder, load
from train.evaluate.features import centre_crop, crop_for, window_for
from train.evaluate.plots import (
    SMOOTH_SHARE,
    chance_levels,
    curve_names,
    guessing,
    moving_average,
    read_metrics,
    shown_curves,
)
from train.evaluate.results import number, read_object, read_results, read_run

_MOST_POINTS = 400  # of a curve
_MOST_VIDEOS = 200  # that are encoded for the examples
_QUERIES, _NEIGHBOURS, _ACTIVATIONS = 4, 4, 6
_TITLES = {  # of results by the names that commands give their files
    "retrieval": "Retrieval, %",
    "knn": "Nearest neighbours vote (kNN), %",
    "linear": "Linear probe, %",
    "bias": "How much hangs on the background",
    **{f"evaluate-{name}": f"{name}, %" for name in ("retrieval", "knn", "linear")},
}
_LARGEST_PICTURE = 1 << 26  # bytes of a file
_NARROWEST = 640  # pixels: narrower pictures are enlarged


def write_page(
    run: Path,
    path: Path,
    *,
    store: StorePath | None = None,
    results: Sequence[Path] = (),
    device: torch.device,
) -> None:
    """Write the page of the run folder ``run`` to ``path``.

    ``store`` gives retrieval examples and activation maps; ``results`` are JSON files of
    ``fame evaluate`` and ``fame bias``, shown as tables, and PNG pictures. Raise ``ValueError`` for
    a folder that holds no run.
    """
    config = read_run(run)
    parts = [_summary(run, config), tag("h2", "Curves"), *_curves(run)]
    if (run / "merged.png").is_file():
        parts += [tag("h2", "What the encoder was shown"), _png(run / "merged.png", "merged clips")]
    parts += [part for result in results for part in _result(result)]
    if store is not None:
        encoder = load(run / "checkpoints" / "last.pt", device=device)
        parts += _examples(encoder, ClipStore.open(store))
    parts += [tag("h2", "Config"), table(sorted(config.items()))]
    parts += [
        tag("h2", "Environment"),
        table(sorted(read_object(run / "environment.json").items())),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        partial.write_text(
            document(f"Run {run.resolve().parent.name}/{run.resolve().name}", *parts),
            encoding="utf-8",
        )


def _summary(run: Path, config: dict[str, Any]) -> Markup:
    last = read_metrics(run / "metrics.jsonl")[-1]
    rows: list[tuple[str, object]] = [("encoder", config.get("encoder", "unknown"))]
    if "queue" in config:
        merged = "nothing" if config["background"] == "none" else f"views: {config['views']}"
    else:  # of fine-tuning
        merged = f"{100 * config['merge']:g} % of the clips" if config["merge"] else "nothing"
    rows.append(("merged", f"{merged}, mask {config['mask']}, beta {config['beta']}"))
    rows += [("steps", int(last["step"]) + 1), ("last loss", number(last.get("loss")))]
    return table(rows)


def _curves(run: Path) -> Iterator[Markup]:
    """Yield a chart of each metric that the run has, of at most 401 of its entries."""
    lines, levels = read_metrics(run / "metrics.jsonl"), chance_levels(run)
    width = max(1, len(lines) // SMOOTH_SHARE)
    shown = sorted({*range(0, len(lines), -(-len(lines) // _MOST_POINTS)), len(lines) - 1})
    steps = [lines[i]["step"] for i in shown]
    raw, _ = curve_names(steps, width)
    _, smooth = curve_names([line["step"] for line in lines], width)
    charts: list[Markup] = []
    for name, title, unit in shown_curves(lines):
        values = [line[name] for line in lines]
        both = {raw: values, smooth: moving_average(values, width)}
        drawn = {label: [line[i] for i in shown] for label, line in both.items()}
        guess = {guessing(name, levels[name]): levels[name]} if name in levels else {}
        charts.append(chart(drawn, title=f"{title}, {unit}", steps=steps, levels=guess))
    yield tag("div", *charts, class_="charts")


def _result(path: Path) -> Iterator[Markup]:
    """Yield what a file of results holds: a PNG as it is, a JSON file as a table."""
    title = _TITLES.get(path.stem, path.stem)
    if path.suffix == ".png":
        yield from (tag("h2", f"{title}, drawn"), _png(path, path.stem))
        return
    names, body = read_results(path)
    yield tag("h2", title)
    shown_as = [name.replace("/", ": ") for name in names]  # knn/original
    columns = list(zip(("", *shown_as), *body, strict=True)) if len(names) > 8 else None
    yield table(columns) if columns else table(body, head=("checkpoint", *shown_as))


def _examples(encoder: Encoder, store: ClipStore) -> Iterator[Markup]:
    """Yield queries with their neighbours as looping pictures, and where the encoder looks."""
    crop, window = crop_for(encoder, store, None), window_for(encoder)
    videos = np.flatnonzero(store.valid_V)
    videos = videos[np.linspace(0, len(videos) - 1, min(_MOST_VIDEOS, len(videos))).astype(int)]
    clips = [
        centre_crop(store.clip(v, store.spread(v, window, 1)[0], window), crop)
        for v in videos.tolist()
    ]
    batches = [torch.from_numpy(np.stack(clips[i : i + 8])) for i in range(0, len(clips), 8)]
    feature_VD = F.normalize(torch.cat([encoder.features(batch).cpu() for batch in batches]), dim=1)
    similarity_VV = (feature_VD @ feature_VD.T).fill_diagonal_(-2)
    names = store.header.class_names

    def caption(number: int) -> str:
        label = int(store.labels_V[videos[number]])
        return names[label] if label >= 0 else store.names[videos[number]]

    yield tag("h2", "Nearest neighbours")
    yield tag("p", "Each row is a clip of the store and the clips most like it, by cosine.")
    for query in np.linspace(0, len(videos) - 1, min(_QUERIES, len(videos))).astype(int).tolist():
        nearest = similarity_VV[query].topk(min(_NEIGHBOURS, len(videos) - 1))
        found = zip(nearest.indices.tolist(), nearest.values.tolist(), strict=True)
        shown = [figure(film(clips[query], alt="query"), f"query: {caption(query)}")]
        shown += [
            figure(film(clips[n], alt="neighbour"), f"{caption(n)}, cosine {cosine:.2f}")
            for n, cosine in found
        ]
        yield grid(shown)
    yield tag("h2", "Where the encoder looks")
    yield grid(_activations(encoder, clips[:_ACTIVATIONS]))


def _activations(encoder: Encoder, clips: Sequence[np.ndarray]) -> Iterator[Markup]:
    for clip_TSS3 in clips:
        map_BDthw = encoder.feature_map(torch.from_numpy(clip_TSS3)[None])
        size = (clip_TSS3.shape[0], clip_TSS3.shape[1], clip_TSS3.shape[2])
        energy = activation_energy(map_BDthw, size=size, signed=is_foreign(encoder.card.name))
        energy_TSS = unit_range(energy.cpu())[0].numpy()
        painted = [heat(frame, look) for frame, look in zip(clip_TSS3, energy_TSS, strict=True)]
        yield figure(film(np.stack(painted), alt="activation"), "bright: strong activation")


def _png(path: Path, alt: str) -> Markup:
    """Return a picture of a file; small ones are enlarged by a whole factor. Raise ``ValueError``
    for a file that is no picture, or a very large one.
    """
    file = io.BytesIO(read_bytes(path, most=_LARGEST_PICTURE))
    try:
        with warnings.catch_warnings(), Image.open(file) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError):
        raise ValueError(f"{path}: is damaged, no picture or too large a one") from None
    factor = max(1, _NARROWEST // pixels.shape[1])
    return picture(pixels.repeat(factor, axis=0).repeat(factor, axis=1), alt=alt)
