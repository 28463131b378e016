"""Listing 240,000 videos that are links: by the tree, by a CSV of as many rows, and by a list.

Claim: each takes less than 60 s of one core. CPU seconds count, because other work may share the
machine; beside them stands the ratio to what cannot be left out, reading the folders and asking
for every link's target once.

Run: ``python -m benchmarks.listing [LINKS]``; results: ``results/listing.json``.
"""

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.harness import in_turns, write
from preprocess.datasets import Listing, Source, read

CLASSES = 400


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
            "bare reading of the tree": lambda _: bare(videos),
            "k400, by the tree": lambda _: listed("k400", tree),
            "k400, by CSV": lambda _: listed("k400", table),
            "folder, by a list": lambda _: listed("folder", text),
        }
        bare(videos)  # so that no way pays for a cold cache
        seconds = {way: min(each) for way, each in in_turns(ways, rounds=2).items()}
    least = seconds["bare reading of the tree"]
    ratios = {way: round(value / least, 2) for way, value in seconds.items()}
    results = {
        "links": links,
        "cpu_seconds": {way: round(value, 1) for way, value in seconds.items()},
        "ratio_to_bare_reading": ratios,
        "target_cpu_seconds": 60,
    }
    write("listing", results)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 240_000)
