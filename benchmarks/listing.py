"""Listing 240,000 videos that are links: by the tree, by a CSV of as many rows, and by a list.

Claim: each takes less than 60 s of one core. CPU seconds count, because other work may share the
machine; beside them stands the ratio to what cannot be left out, reading the folders and asking
for every link's target once.

Run: ``python benchmarks/listing.py [LINKS]``; results: ``results/listing.json``.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from preprocess.datasets import Listing, Source, read

CLASSES = 400
RESULTS = Path(__file__).with_name("results") / "listing.json"


def make(folder: Path, links: int) -> None:
    """CVDF's class tree: absolute links to clips in a flat folder, and the list of them."""
    (folder / "real").mkdir()
    rows, lines = ["label,youtube_id,time_start,time_end,split"], list[str]()
    for number in range(links):
        class_name, clip = f"class {number % CLASSES:03d}", f"{number:011d}_000001_000011"
        target = folder / "real" / f"{clip}.mp4"
        target.touch()
        link = folder / "videos" / "train" / class_name / target.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
        rows.append(f"{class_name},{number:011d},1,11,train")
        lines.append(f"{class_name}/{target.name} {number % CLASSES}")
    (folder / "train.csv").write_text("\n".join(rows))
    (folder / "train.txt").write_text("\n".join(lines))


def bare(root: Path) -> int:
    """Read every folder and the status of every link's target: the least that a listing asks."""
    found = 0
    for folder, _, names in os.walk(root):
        for name in names:
            found += os.stat(f"{folder}/{name}").st_size >= 0  # noqa: PTH116 (the least)
    return found


def timed(call: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def main(links: int) -> None:
    """Measure, print and write the results."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, links)
        videos, allow = folder / "videos", (folder / "real",)

        def listed(dataset: str, source: Source) -> Listing:
            listing = read(dataset, source)
            assert len(listing.names) == links and not listing.missing
            return listing

        tree = Source(root=videos, allow_links=allow)
        table = replace(tree, annotations=folder / "train.csv")
        text = replace(tree, root=videos / "train", list_file=folder / "train.txt")

        ways = {
            "bare reading of the tree": lambda: bare(videos),
            "k400, by the tree": lambda: listed("k400", tree),
            "k400, by CSV": lambda: listed("k400", table),
            "folder, by a list": lambda: listed("folder", text),
        }
        ways["bare reading of the tree"]()  # once, so that no way pays for a cold cache
        seconds = {way: min(timed(call) for _ in range(2)) for way, call in ways.items()}
    least = seconds["bare reading of the tree"]
    ratios = {way: round(value / least, 2) for way, value in seconds.items()}
    results = {
        "links": links,
        "cpu_seconds": {way: round(value, 1) for way, value in seconds.items()},
        "ratio_to_bare_reading": ratios,
        "target_cpu_seconds": 60,
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 240_000)
