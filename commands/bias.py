"""``fame bias``. Heavy imports live inside the command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from commands.options import Options, Values, option
from commands.output import output, say, starting, watch
from commands.paths import Checkpoints, Root, checkpoint_or_default
from commands.stores import existing_store
from fame.lock import hold
from fame.words import plain
from train.evaluate.config import BiasConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from train.bias.report import BiasReport, Metric


def bias(
    given: Annotated[
        Values, Options(BiasConfig, defaults={"test_store": "ROOT/stores/ucf101-test1.zarr"})
    ],
    checkpoints: Checkpoints = None,
    root: Root = Path("data"),
    out: Annotated[
        Path | None, option("Folder of the report (default: ROOT/runs/bias).", metavar="FOLDER")
    ] = None,
) -> None:
    """Measure how much encoders and classifiers depend on the background: parts of clips
    exchanged, frames reordered.
    """
    folder = out or root / "runs" / "bias"
    store = existing_store(
        given.pop("test_store", root / "stores" / "ucf101-test1.zarr"),
        root=root,
        hint="name this one with --store",
    )
    config = BiasConfig(**given, test_store=store, cache=root / "runs" / "features")
    paths = checkpoints or [checkpoint_or_default(None, root)]
    with hold(folder, what="report"):
        _report(folder, paths, config)


def _report(folder: Path, paths: list[Path], config: BiasConfig) -> None:
    """Measure, and write the report as JSON, tables and pictures."""
    with starting("loading PyTorch"):
        from train.bias import report
        from train.bias.picture import draw_bars, draw_clips
        from train.evaluate.activation import short_names

    scene = report.open_scene(config)
    encoders = report.read_encoders(paths, scene)
    reports = report.report_on_all(encoders, scene, config, watch=watch)
    report.write_reports(folder / "bias.json", reports, scene, config)
    short = dict(zip(map(str, paths), short_names(paths), strict=True))
    columns = [short.get(found.checkpoint, found.checkpoint) for found in reports]
    title = f"{Path(config.test_store).name}, {reports[0].videos} videos"
    _print(f"{title}; means and their 95 % intervals", reports, columns)
    draw_bars(folder / "bias.png", reports, columns, title=f"{title}; bars with 95 % intervals")
    draw_clips(folder / "variants.png", scene.variants(config, encoders[0][1]))
    for name in ("bias.png", "variants.png", "bias.json"):
        say(folder / name)


def _print(title: str, reports: "Sequence[BiasReport]", columns: list[str]) -> None:
    """Print one table, a row for each metric and a column for each checkpoint; below it, what was
    not measured and why.
    """
    from rich.table import Column, Table

    from train.bias.picture import MEASURES, chance_of, metric_name, panels

    table = Table(
        Column("measure", max_width=24), "", "guessing", *map(plain, columns), title=plain(title)
    )
    for measure, metrics in panels(reports).items():
        for number, metric in enumerate(metrics):
            chance = chance_of(reports, metric)
            cells = [_cell(report.metrics.get(metric)) for report in reports]
            first = MEASURES[measure] if number == 0 else ""
            table.add_row(
                first, metric_name(metric), "" if chance is None else f"{chance:.1f}", *cells
            )
        table.add_section()
    output().print(table)
    for measure, lack in sorted({line for report in reports for line in report.left_out.items()}):
        say(f"not measured for want of {lack}: {MEASURES[measure].removesuffix(', %')}")
    if still := reports[0].clips_without_foreground:
        say(f"left out: {still} clips whose map has no foreground")


def _cell(metric: "Metric | None") -> str:
    if metric is None:
        return "-"
    digits = 3 if metric.chance is None else 1
    return f"{metric.value:.{digits}f}  {metric.low:.{digits}f}..{metric.high:.{digits}f}"
