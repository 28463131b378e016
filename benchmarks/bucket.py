"""Claim: from the second epoch on, training data of a store in a bucket come through the cache at
>= 0.95 of the rate of a local store.

Run: ``python -m benchmarks.bucket``. The bucket is that of moto's S3 server, in a process of its
own, so the first epoch says nothing about a real network. Each epoch reads every video's pair of
clips in the order of training, in this process: from a folder, from the bucket through a cache that
holds all, through one that holds half, and without a cache. Epochs of all four alternate.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks import harness
from fame.clipstore import StoreSpec
from tests.stores import make_store
from train.config import PretrainConfig
from train.data import PairDataset, stream

CPU = torch.device("cpu")
ADDRESS = "s3://clips/store.zarr"
SERVER = """
import sys
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%s" % server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


def start_server() -> "subprocess.Popen[str]":
    """Start a server with one bucket, and name it in the environment."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    settings = {"ENDPOINT_URL": server.stdout.readline().strip(), "DEFAULT_REGION": "us-east-1"}
    settings |= {"ACCESS_KEY_ID": "we", "SECRET_ACCESS_KEY": "secret"}
    os.environ |= {f"AWS_{name}": value for name, value in settings.items()}
    from botocore.session import get_session

    get_session().create_client("s3").create_bucket(Bucket="clips")
    return server


def seconds_per_epoch(
    readers: dict[str, PretrainConfig], paths: dict[str, str], *, videos: int, epochs: int
) -> harness.Seconds:
    """Seconds of every epoch by reader, the readers one after the other within an epoch."""
    data = {
        name: PairDataset([config.opened(paths[name])], seed=0, window=config.window, maps=True)
        for name, config in readers.items()
    }
    steps = videos // next(iter(readers.values())).batch

    def read(name: str, epoch: int) -> None:
        start, stop = epoch * steps, (epoch + 1) * steps
        for _ in stream(data[name], readers[name], start=start, stop=stop, device=CPU):
            pass

    jobs = {name: partial(read, name) for name in readers}
    return harness.in_turns(jobs, rounds=epochs, clock=time.perf_counter)


def measure(folder: Path, *, videos: int, epochs: int) -> dict[str, object]:
    """The rate of each reader, over that of the folder, in the first and in later epochs."""
    spec = StoreSpec(videos_per_shard=16, foreground="difference", seconds=4.0)
    local = make_store(folder / "store.zarr", videos=videos, spec=spec)
    make_store(ADDRESS, videos=videos, spec=spec)  # type: ignore[arg-type]
    total = sum(path.stat().st_size for path in local.rglob("*") if path.is_file()) / 1e9
    plain = PretrainConfig(batch=8, workers=0, bn_group=None, merge_group=None)

    def cached(name: str, share: float) -> PretrainConfig:
        return plain.override([f"cache={folder / name}", f"cache_gb={total * share}"])

    readers = {
        "folder": plain,
        "cache of the whole": cached("whole", 1.5),
        "cache of half": cached("half", 0.5),
        "no cache": plain,
    }
    paths = {name: str(local) if name == "folder" else ADDRESS for name in readers}
    seconds = seconds_per_epoch(readers, paths, videos=videos, epochs=epochs)
    later = {name: values[1:] for name, values in seconds.items()}
    ratios = {
        name: {
            "first epoch": round(seconds["folder"][0] / values[0], 3),
            "later epochs": harness.ratio(later, "folder", name),
        }
        for name, values in seconds.items()
    }
    return {
        "videos": videos,
        "epochs": epochs,
        "store_gb": round(total, 3),
        "clips_per_second_of_the_folder": round(
            2 * videos / statistics.median(seconds["folder"]), 1
        ),
        "rate_over_that_of_the_folder": ratios,
    }


def main() -> None:
    """Measure, print, write."""
    parser = harness.options(__doc__)
    parser.add_argument("--videos", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    server = start_server()
    try:
        with tempfile.TemporaryDirectory() as folder:
            figures = measure(Path(folder), videos=options.videos, epochs=options.epochs)
    finally:
        server.terminate()
    harness.write("bucket", figures)


if __name__ == "__main__":
    main()
