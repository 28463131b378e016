"""The progress of a run while it works, and its report when it ends."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from fame.clipstore import StorePath, locate
from fame.progress import Progress, duration
from preprocess.datasets import Listing
from preprocess.plan import Estimate
from preprocess.task import ShardResult

REPORT_SUFFIX, FAILURES_SUFFIX = ".report.json", ".failures.jsonl"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The progress of a run. ``videos_done`` counts earlier runs too; the other numbers are of this
    run alone.
    """

    videos: int
    videos_done: int
    videos_made: int = 0
    failed: int = 0
    frames_read: int = 0
    seconds: float = 0.0

    def after(self, result: ShardResult, *, seconds: float) -> Self:
        """Return the next snapshot, with one more shard made."""
        return replace(
            self,
            videos_done=self.videos_done + result.videos,
            videos_made=self.videos_made + result.videos,
            failed=self.failed + result.failed,
            frames_read=self.frames_read + result.frames_read,
            seconds=seconds,
        )

    @property
    def videos_per_second(self) -> float:
        """Return the videos made per second of this run."""
        return self.videos_made / self.seconds if self.seconds else 0.0

    @property
    def frames_per_second(self) -> float:
        """Return the source frames decoded per second of this run."""
        return self.frames_read / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        return (
            f"{self.videos_per_second:.2f} videos/s, {self.frames_per_second:.0f} frames/s, "
            f"{self.failed} failed"
        )


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a run. ``problems`` is empty exactly when it made all that was asked for.

    ``ok``, ``cut`` and ``failed`` count the videos of the whole store, earlier runs included;
    ``frames_read`` and ``seconds`` are of this run. ``failures`` holds (video name, reason),
    ``damaged`` (video name, frames lost), ``still`` the names of videos with only flat maps, in
    which nothing moves. ``empty_classes`` have no usable video.
    """

    dataset: str
    split: str
    store: StorePath
    listing: Listing
    shards: int
    shards_made: int = 0
    ok: int = 0
    cut: int = 0
    failed: int = 0
    stored_bytes: int = 0
    frames_read: int = 0
    seconds: float = 0.0
    already_finished: bool = False
    empty_classes: tuple[str, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    damaged: tuple[tuple[str, int], ...] = ()
    still: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    estimate: Estimate | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Return how many videos there are, and how many did not match."""
        kinds = ("missing", "extra", "doubled")
        return {"videos": len(self.listing.names)} | {
            kind: len(getattr(self.listing, kind)) for kind in kinds
        }

    def __str__(self) -> str:
        unmatched = "{missing} missing, {extra} extra, {doubled} doubly listed".format(
            **self.counts
        )
        opening = f"{self.dataset} {self.split}: {len(self.listing.names)} videos ({unmatched})"
        lines = _planned(self.estimate) if self.estimate else self._done()
        lines += [f"note: {note}" for note in self.notes()]
        return "\n".join((opening, *lines, *(f"problem: {problem}" for problem in self.problems)))

    def _done(self) -> list[str]:
        if self.already_finished:
            opening = f"{self.store} is finished: nothing to do"
        else:
            opening = (
                f"{self.store}: {self.shards_made} of {self.shards} shards "
                f"made in {duration(self.seconds)}"
            )
        return [
            opening,
            f"{self.ok} ok, {self.cut} cut, {self.failed} failed, {_size(self.stored_bytes)}",
        ]

    def notes(self) -> Iterator[str]:
        """Yield remarks for the user that are no problems."""
        yield from self.listing.notes
        if self.listing.reasons:
            (name, reason), *_ = self.listing.reasons
            yield f"{len(self.listing.reasons)} files cannot be used; {name!r}: {reason}"
        replaced = [taken for taken, left in self.listing.choices if any(why for _, why in left)]
        if self.listing.choices:
            yield (
                f"{len(self.listing.choices)} videos have several files; for {len(replaced)} of "
                "them another is taken than the first, which cannot be opened"
            )
        if self.damaged:
            yield (
                f"{len(self.damaged)} videos are damaged and lost "
                f"{sum(lost for _, lost in self.damaged)} frames"
            )
        if self.still:
            yield (
                f"nothing moves in {len(self.still)} videos by their maps: training keeps clips of "
                "them whole, without merging"
            )
        if self.empty_classes:
            shown = ", ".join(self.empty_classes[:10])
            more = f" and {len(self.empty_classes) - 10} more" * (len(self.empty_classes) > 10)
            classes = len(self.listing.class_names)
            yield f"{len(self.empty_classes)} of {classes} classes have no video: {shown}{more}"


def write_report(report: Report) -> None:
    """Write ``STORE.report.json`` and, where videos failed, ``STORE.failures.jsonl``.

    They lie beside the store because its bytes depend on no times.
    """
    failures = "".join(
        json.dumps({"video": name, "reason": reason}, ensure_ascii=False) + "\n"
        for name, reason in report.failures
    )
    storage = locate(report.store)
    storage.write_beside(FAILURES_SUFFIX, failures)
    storage.write_beside(REPORT_SUFFIX, json.dumps(_as_json(report), indent=1) + "\n")


def _as_json(report: Report) -> dict[str, Any]:
    listing, kept = report.listing, {}
    for field in dataclasses.fields(report):
        if field.name not in ("listing", "estimate", "failures", "damaged", "still"):
            kept[field.name] = getattr(report, field.name)
    return {
        **kept,
        "store": Path(report.store).name,
        **report.counts,
        "notes": list(report.notes()),
        "names": {
            "missing": listing.missing,
            "extra": listing.extra,
            "doubled": listing.doubled,
            "failed": [name for name, _ in report.failures],
            "still": report.still,
        },
        "frames_lost": dict(report.damaged),
        "reasons": dict(listing.reasons),
        "choices": [{"taken": taken, "left": dict(left)} for taken, left in listing.choices],
        "passed_over": dict(listing.passed_over),
    }


def shown_on(progress: Progress) -> Callable[[Snapshot], None]:
    """Return a function for ``run.preprocess`` that shows every snapshot on ``progress``.

    The time left is estimated from the first shard on, since before it workers start.
    """
    counting = False

    def show(snapshot: Snapshot) -> None:
        nonlocal counting
        done, total = snapshot.videos_done, snapshot.videos
        if not counting:
            # Videos of earlier runs are done already; counting begins with the first of this run.
            counting = snapshot.videos_made > 0
            if counting:
                progress.phase("making shards", total=total, done=done)
            else:
                progress.phase("starting the workers and the first shards")
        if counting:
            progress.at(done, str(snapshot), now=done == total)

    return show


def _planned(estimate: Estimate) -> list[str]:
    cost = (
        f"{_size(estimate.bytes)} and {duration(estimate.seconds)} "
        f"with {estimate.workers} free cores"
    )
    sample = f"a sample of {estimate.sampled} videos ({estimate.sampled_failed} failed)"
    videos = f"{estimate.videos} videos of at most {estimate.slots} frames"
    return [
        f"plan: {videos} in {estimate.shards} shards",
        f"about {cost}, by {sample}",
    ]


def _size(num_bytes: int) -> str:
    size, units = float(num_bytes), iter(("B", "KB", "MB", "GB", "TB"))
    unit = next(units)
    # 123 456 789 bytes: 123 456.789 KB, then 123.456789 MB, shown as 123 MB.
    while size >= 1000 and unit != "TB":
        size, unit = size / 1000, next(units)
    return f"{size:.3g} {unit}"
