"""500 damaged copies of small stores: what a reader makes of each.

Bytes flipped, overwritten, cut off, added and zeroed, JSON edited, files removed, exchanged within a
store, and taken from another store of the same recipe. Everything is then read as training and
tests do: names, labels, sources, clips and maps of several windows. A copy is ``refused`` when it
is opened or at the video that is damaged, ``equal`` when all that could be read is what the sound
store gives (the damage lies where no reader looks), ``wrong`` when a value differs or anything but
the store's own errors is raised. Beside it stands whether `fame.clipstore.verify` notices.

Claim: none is wrong, and verify notices every one that changed a byte. A file of another shard or
store, whose own checksums hold, is refused by its record.

Run: ``python -m benchmarks.store_mutants [COUNT]``; results: ``results/store_mutants.json``.
"""

import dataclasses
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import write
from fame.clipstore import (
    ClipStore,
    StoreError,
    StoreSpec,
    Window,
    create,
    finalise,
    verify,
    write_shard,
)
from fame.randomness import numpy_generator
from tests.fame.clipstore import small

COUNT, VIDEOS = 500, 6
SPECS = {codec: dataclasses.replace(small.SPEC, codec=codec) for codec in ("jpeg", "lz4", "zstd")}
WINDOWS = (Window(frames=4), Window(frames=2, step=2), Window(frames=3, span=0.9))
Values = dict[tuple[object, ...], object]


def flipped(data: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(0, len(data), rng.integers(1, 9)).tolist():
        data[place] ^= 1 << int(rng.integers(0, 8))


def overwritten(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, len(data)))
    data[start : start + 64] = rng.bytes(len(data[start : start + 64]))


def zeroed(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, len(data)))
    data[start : start + 256] = bytes(len(data[start : start + 256]))


def cut(data: bytearray, rng: np.random.Generator) -> None:
    del data[int(rng.integers(0, len(data))) :]


def lengthened(data: bytearray, rng: np.random.Generator) -> None:
    place = int(rng.integers(0, len(data) + 1))
    data[place:place] = rng.bytes(int(rng.integers(1, 40)))


def removed_bytes(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, len(data)))
    del data[start : start + int(rng.integers(1, 40))]


def json_edited(data: bytearray, rng: np.random.Generator) -> None:
    """Change one value of a JSON file, spelled as the store spells JSON."""
    value = json.loads(data)
    places = list(leaves(value))
    holder, key = places[int(rng.integers(0, len(places)))]
    old = holder[key]
    news = [None, -1, 0, 1e300, "", "x", [], {}, not old, 2**63]
    if isinstance(old, int | float):
        news += [old + 1, old - 1, old * 2]
    if isinstance(old, str):
        news += [old[::-1], old + "0", old.upper()]
    holder[key] = news[int(rng.integers(0, len(news)))]
    data[:] = small_json(value)


def small_json(value: object) -> bytes:
    return (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode()


def leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Holder and key of every value in JSON that holds no others."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, dict | list) and inner:
            yield from leaves(inner)
        else:
            yield value, key


BYTES = (flipped, flipped, overwritten, zeroed, cut, lengthened, removed_bytes)


def mutate(store: Path, other: Path, rng: np.random.Generator) -> str:
    """Damage one or two files of a store; return how."""
    files = sorted(path for path in store.rglob("*") if path.is_file())
    path = files[int(rng.integers(0, len(files)))]
    match int(rng.integers(0, 12)):
        case 0:
            path.unlink()
            return "a file removed"
        case 1 | 2:
            alike = [file for file in files if file.parent == path.parent and file != path]
            if alike:
                twin = alike[int(rng.integers(0, len(alike)))]
                path.rename(store / "held")
                twin.rename(path)
                (store / "held").rename(twin)
                return "two files exchanged"
            path.unlink()
            return "a file removed"
        case 3 | 4:
            shutil.copyfile(other / path.relative_to(store), path)
            return "a file of another store"
        case 5 | 6 | 7:
            path = [file for file in files if file.suffix == ".json"][int(rng.integers(0, 9))]
            change = json_edited
        case _:
            change = BYTES[int(rng.integers(0, len(BYTES)))]
    data = bytearray(path.read_bytes())
    change(data, rng)
    path.write_bytes(data)
    return change.__name__.replace("_", " ")


def values(store: ClipStore) -> Iterator[tuple[tuple[object, ...], object]]:
    """What can be read of a store, piece by piece; an error of the store stands for a piece."""
    yield ("names",), store.names
    yield ("labels",), store.labels_V.tobytes()
    yield ("header",), store.header
    for video in range(store.num_videos):
        if not store.valid_V[video]:
            yield (video,), None
            continue
        yield (video, "source"), tried(lambda video=video: store.source(video))
        for window in WINDOWS:
            for start in store.starts(video, window).tolist():
                for read in (store.clip, store.maps):
                    piece = tried(lambda r=read, v=video, s=start, w=window: r(v, s, w))
                    yield (video, window, start, read.__name__), piece


def tried(read: Callable[[], np.ndarray]) -> object:
    try:
        return read().tobytes()
    except StoreError:
        return StoreError


def judged(store: Path, sound: Values) -> str:
    """``refused``, ``equal`` or ``wrong`` and why."""
    refused = False
    try:
        for key, value in values(ClipStore.open(store)):
            refused |= value is StoreError
            if value is not StoreError and sound.get(key, StoreError) != value:
                return f"wrong: {key}"
    except StoreError:
        return "refused"
    except Exception as error:
        return f"wrong: {type(error).__name__}: {error}"
    return "refused" if refused else "equal"


def noticed(store: Path) -> bool:
    try:
        return not verify(store).ok
    except StoreError:
        return True


def made(path: Path, spec: StoreSpec, *, shift: int) -> Path:
    """A finished store of six videos, whose content hangs on ``shift``."""
    create(path, small.header(spec), names=small.names(VIDEOS), labels=small.labels(VIDEOS))
    videos = [small.video(spec, number + shift) for number in range(VIDEOS)]
    for shard in range(VIDEOS // 2):
        write_shard(path, shard, videos[2 * shard : 2 * shard + 2])
    finalise(path)
    return path


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    told, kinds, wrong, missed = Counter[str](), dict[str, Counter[str]](), [], 0
    with tempfile.TemporaryDirectory() as name:
        folder, stores = Path(name), {}
        for codec, spec in SPECS.items():
            path = made(folder / codec, spec, shift=0)
            other = made(folder / f"{codec}_other", spec, shift=4)
            stores[codec] = path, other, dict(values(ClipStore.open(path)))
        for number in range(count):
            path, other, sound = stores[list(SPECS)[number % len(SPECS)]]
            mutant = folder / "mutant"
            shutil.copytree(path, mutant)
            kind = mutate(mutant, other, numpy_generator(0, 0, number, "mutant"))
            same = small.contents(mutant) == small.contents(path)
            fate = judged(mutant, sound)
            missed += not same and not noticed(mutant)
            if fate.startswith("wrong"):
                wrong.append(f"{number}, {kind}: {fate[:300]}")
            outcome = "unchanged" if same else fate.partition(":")[0]
            told[outcome] += 1
            kinds.setdefault(kind, Counter())[outcome] += 1
            shutil.rmtree(mutant)
    scores = {"mutants": count, **told, "wrong": len(wrong), "not noticed by verify": missed}
    write("store_mutants", {**scores, "kinds": kinds, "wrong ones": wrong})


if __name__ == "__main__":
    main()
