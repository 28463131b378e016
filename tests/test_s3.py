"""Stores in an object store: the same bytes, the same promises, against an S3 server in this
process.
"""

import hashlib
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.forkserver import _forkserver
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import cli
from fame.clipstore import (
    ClipStore,
    CorruptChunk,
    StoreError,
    UnreachableError,
    Window,
    absolute,
    create,
    is_finished,
    locate,
    lock,
    missing_shards,
    repair,
    store_info,
    verify,
    write_shard,
)
from fame.clipstore import lease as leasing
from fame.clipstore import objects as object_store
from fame.clipstore.layout import record_key
from tests.fame.clipstore import small
from tests.preprocess.videos import write_video
from tests.stores import make_store
from train.config import PretrainConfig
from train.data import PairDataset, Pairs, stream

BUCKET = "clips"
PAIR = Window(frames=2)
RECIPE = [
    "--height",
    "24",
    "--width",
    "32",
    "--foreground",
    "none",
]
pytestmark = pytest.mark.filterwarnings(
    "ignore:datetime.datetime.utcnow:DeprecationWarning:botocore"
)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3 server with one bucket; the environment says where it is and who we are."""
    from botocore.session import get_session
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    # Its objects belong to the process: those of another file's tests may be there still.
    urllib.request.urlopen(urllib.request.Request(f"{address}/moto-api/reset", method="POST"))
    settings = {"ENDPOINT_URL": address, "ACCESS_KEY_ID": "we", "SECRET_ACCESS_KEY": "secret"}
    settings["DEFAULT_REGION"] = "eu-west-1"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(f"AWS_{name}", value)
        _forkserver._stop()  # workers are forked from it, with the environment that it began with
        get_session().create_client("s3").create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
        )
        yield address
    _forkserver._stop()
    server.stop()


@pytest.fixture
def address(endpoint: str, request: pytest.FixtureRequest) -> str:
    """Where a test may put its store."""
    return f"s3://{BUCKET}/{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]}/s.zarr"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store in a folder: five videos in three shards, the third video failed."""
    return small.make(tmp_path_factory.mktemp("local") / "s.zarr")


def contents(address: str) -> dict[str, bytes]:
    """Every object of a store."""
    storage = locate(address)
    return {key: storage.read(key, limit=2**30) for key in sorted(storage.list_keys())}


def uploads(address: str) -> int:
    """Uploads that were begun and neither completed nor aborted."""
    client = object_store._client_of("s3", BUCKET, os.getpid())
    prefix = address.removeprefix(f"s3://{BUCKET}/")
    return len(list(client._listed("list_multipart_uploads", "Uploads", prefix)))  # type: ignore[attr-defined]


def mend(address: str) -> None:
    small.begin(address, small.SPEC, 5)
    for shard in missing_shards(address):
        write_shard(address, shard, small.shard_videos(small.SPEC, shard, 5, failed=[2]))
    small.finalise(address)


# The storage ----------------------------------------------------------------------------------------


def test_folders_and_buckets_keep_the_same_promises(address: str, tmp_path: Path):
    big = np.arange(3 * 2**20, dtype=np.uint32).tobytes()  # 12 MB
    seen = []
    for storage in (locate(tmp_path / "s.zarr"), locate(address)):
        assert storage.size("a/b") is None
        storage.write("a/b", b"one")
        storage.write("a/b", b"other")
        storage.write("empty", b"")
        left = storage.draft("a/left")
        left.write(big)
        unfinished = storage.draft("a/unfinished")
        unfinished.write(b"x")
        unfinished.discard()
        large = storage.draft("large")
        for start in range(0, len(big), 10**6):
            large.write(big[start : start + 10**6])
        assert storage.size("large") is None, "nothing has its name before it is whole"
        large.commit()
        large.discard()
        assert (large.size, large.sha256) == (len(big), storage.sha256("large"))
        view = memoryview(bytearray(8))
        count = storage.open("large").read_into(view, len(big) - 8)
        storage.sweep()
        left.discard()
        storage.remove("empty")
        storage.remove("never there")
        with pytest.raises(StoreError, match="a/left: cannot read"):
            storage.open("a/left")
        with pytest.raises(StoreError, match="5 bytes where at most 4"):
            storage.read("a/b", limit=4)
        storage.write_beside(".note", "é")
        assert storage.has_beside(".note") and not storage.has_beside(".other")
        for text in ("gone", "", ""):
            storage.write_beside(".gone", text)
            assert storage.has_beside(".gone") == bool(text)
        seen.append(
            (
                sorted(storage.list_keys()),
                storage.read("a/b"),
                storage.sha256("large"),
                count,
                bytes(view),
            )
        )
    assert seen[0] == seen[1]
    assert seen[0][:2] == (["a/b", "large"], b"other")


def test_parts_of_an_upload_join(address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(object_store, "PART_BYTES", 5 * 2**20)
    data = np.arange(3 * 2**20, dtype=np.uint32).tobytes()
    storage = locate(address)
    draft = storage.draft("large")
    draft.write(data[: 11 * 2**20])
    draft.write(data[11 * 2**20 :])
    assert uploads(address) == 1 and storage.size("large") is None
    draft.commit()
    assert storage.read("large") == data and uploads(address) == 0
    for end in (
        lambda draft: draft.discard(),
        lambda draft: storage.sweep(),
    ):  # given up, and left by a kill
        draft = storage.draft("large")
        draft.write(data)
        assert uploads(address) == 1
        end(draft)
        assert uploads(address) == 0
    assert sorted(storage.list_keys()) == ["large"]


@pytest.mark.parametrize("kind", object_store.PACKAGES)
@pytest.mark.parametrize("address", ["", "bucket", "bucket/", "/x", "b/x//y"])
def test_addresses_that_name_no_store_are_refused(kind: str, address: str):
    with pytest.raises(StoreError, match=f"the address of a store is {kind}://bucket/path"):
        locate(f"{kind}://{address}")


@pytest.mark.parametrize("kind", object_store.PACKAGES)
def test_a_kind_whose_package_is_missing_says_what_to_install(
    kind: str, monkeypatch: pytest.MonkeyPatch
):
    for package in ("botocore.session", "google.api_core.exceptions", "azure.core"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"fame.clipstore.{kind}", raising=False)
    with pytest.raises(StoreError, match=f"pip install {object_store.PACKAGES[kind]} "):
        locate(f"{kind}://bucket/x")


def test_a_path_that_lost_a_slash_is_refused():
    with pytest.raises(StoreError, match="given as a string"):
        ClipStore.open(Path("s3://bucket/x"))
    with pytest.raises(StoreError, match="az:/bucket/x: a store is a folder"):
        locate(Path("az://bucket/x"))
    with pytest.raises(StoreError, match="ftp://bucket/x: a store is a folder"):
        locate("ftp://bucket/x")
    assert absolute("s3://bucket/x/") == "s3://bucket/x"


@pytest.fixture
def fresh() -> Iterator[None]:
    """Clients that the test makes look at its environment; those of the next test at theirs."""
    object_store._client_of.cache_clear()
    yield
    object_store._client_of.cache_clear()


def test_the_credentials_of_a_profile_are_used(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: None
):
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    (tmp_path / "credentials").write_text(
        "[lab]\naws_access_key_id = theirs\naws_secret_access_key = secret\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    storage = locate(address)
    storage.write("a", b"a")
    assert storage.read("a") == b"a"
    client = object_store._client_of("s3", BUCKET, os.getpid())
    assert client._client._get_credentials().access_key == "theirs"  # type: ignore[attr-defined]


def test_a_server_that_is_gone_is_one_line(
    address: str, monkeypatch: pytest.MonkeyPatch, fresh: None
):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(UnreachableError, match=r"cannot read .*connect.*127\.0\.0\.1"):
        locate(address).size("a")
    with pytest.raises(StoreError, match=r"cannot write .*run the same command again"):
        locate(address).write("a", b"a")


# The store ----------------------------------------------------------------------------------------


def test_a_store_is_the_same_bytes_in_a_bucket_as_in_a_folder(address: str, local: Path):
    small.make(address)
    assert contents(address) == small.contents(local)
    mend(address)
    assert contents(address) == small.contents(local), (
        "beginning a finished store again changes nothing"
    )
    here, there = store_info(local), store_info(address)
    assert (there.statuses, there.classes, there.array_bytes) == (
        here.statuses,
        here.classes,
        here.array_bytes,
    )
    assert there.path == address and there.finished


def test_resuming_makes_what_is_missing(address: str, local: Path):
    small.begin(address, small.SPEC, 5)
    write_shard(address, 1, small.shard_videos(small.SPEC, 1, 5, failed=[2]))
    assert missing_shards(address) == [0, 2] and not is_finished(address)
    with pytest.raises(StoreError, match=r"exactly videos 0 to 1"):
        write_shard(address, 0, [])
    mend(address)
    assert contents(address) == small.contents(local)


def test_what_is_not_this_store_is_left_alone(address: str):
    storage = locate(address)
    storage.write("clips/holiday.mp4", b"a memory")
    with pytest.raises(StoreError, match=r"holds no clip store; it holds 'clips/holiday.mp4'"):
        small.begin(address, small.SPEC, 5)
    storage.remove("clips/holiday.mp4")
    small.begin(address, small.SPEC, 5)
    with pytest.raises(StoreError, match=r"split 'train' .asked for: 'val'"):
        create(address, small.header(split="val"), names=small.names(5), labels=small.labels(5))


@pytest.mark.slow
def test_flipped_bits_are_found_and_mended(address: str, local: Path):
    small.make(address)
    storage = locate(address)
    for key in ("zarr.json", "frames/c.1.0.0.0.0", record_key(2)):
        damaged = bytearray(storage.read(key))
        damaged[len(damaged) // 2] ^= 16
        storage.write(key, bytes(damaged))
        report = verify(address)
        assert not report.ok, key
        if key.startswith("frames"):
            with pytest.raises(CorruptChunk, match=r"://clips/.*shard 1"):
                [ClipStore.open(address).clip(3, start, PAIR) for start in (0, 1)]
        with lock(address):
            repair(address, report)
            mend(address)
        assert contents(address) == small.contents(local), key
    assert verify(address).ok
    storage.remove(record_key(1))
    assert not verify(address).ok


def test_a_server_that_lets_nobody_look_tells_of_no_damage(
    address: str, monkeypatch: pytest.MonkeyPatch
):
    store = ClipStore.open(small.make(address))
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    looks = (
        lambda: store.clip(0, 0, PAIR),
        lambda: verify(address),
        lambda: missing_shards(address),
    )
    for look in looks:
        with pytest.raises(UnreachableError, match="cannot read"):
            look()


def test_a_shard_cut_after_it_was_opened_is_found(address: str):
    store = ClipStore.open(small.make(address))
    store.clip(0, 0, PAIR)
    locate(address).write("frames/c.0.0.0.0.0", b"short")
    with pytest.raises(CorruptChunk, match="ends before"):
        store.clip(0, 4, PAIR)


def sums(store: ClipStore) -> list[int]:
    clips = [
        (video, start, PAIR) for video in np.flatnonzero(store.valid_V).tolist() for start in (0, 1)
    ]
    return [int(store.clip(*clip).sum()) + int(store.maps(*clip).sum()) for clip in clips]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_workers_read_while_the_parent_reads(address: str, local: Path):
    small.make(address)
    store, expected = ClipStore.open(address), sums(ClipStore.open(local))
    assert sums(store) == expected and len(pickle.dumps(store)) < 1000
    assert store.digest == ClipStore.open(local).digest
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        futures = [pool.submit(sums, store) for _ in range(4)]
        assert sums(store) == expected
        assert all(future.result() == expected for future in futures)


@pytest.mark.slow
def test_a_loader_with_workers_gives_what_a_local_store_gives(address: str, local: Path):
    from train.evaluate.features import SquareClips

    small.make(address)
    given = []
    for path, workers in ((local, 0), (address, 2)):
        clips = SquareClips(ClipStore.open(path), window=PAIR, clips=2, crop=16)
        given.append(list(clips.batches(3, workers=workers, device=torch.device("cpu"))))
    for (clip, video), (other_clip, other_video) in zip(*given, strict=True):
        assert torch.equal(clip, other_clip) and torch.equal(video, other_video)


def test_workers_that_share_a_cache_give_what_a_folder_gives_and_go_on_exactly(
    address: str, local: Path, tmp_path: Path
):
    small.make(address)

    def pairs(store: object, start: int, stop: int, *settings: str) -> list[Pairs]:
        size = ["frames=2", "batch=2", "bn_group=none", "merge_group=none", "device=cpu"]
        config = PretrainConfig().override([*size, *settings])
        data = PairDataset(
            [config.opened(store)], seed=config.seed, window=config.window, maps=True
        )
        return list(stream(data, config, start=start, stop=stop, device=torch.device("cpu")))

    expected = pairs(local, 0, 8, "workers=0")
    kept = f"cache={tmp_path / 'cache'}"
    for workers, limit in ((2, 1.0), (0, 1.0), (2, 1e-9)):  # filled, full of it, room for nothing
        settings = [f"workers={workers}", f"cache_gb={limit}", kept]
        for start in (0, 3):
            found = pairs(address, start, 8, *settings)
            for one, other in zip(found, expected[start:], strict=True):
                assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
    assert len(list((tmp_path / "cache").rglob("index"))) == 6


# The lease ----------------------------------------------------------------------------------------


@pytest.fixture
def lively(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that lives shows it at once; no busy machine makes it seem dead."""
    for name, seconds in (("BEAT", 0.2), ("LOOK", 0.1)):
        monkeypatch.setattr(leasing, f"{name}_SECONDS", seconds)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("LEASE", 1.5), ("BEAT", 0.2), ("LOOK", 0.1)):
        monkeypatch.setattr(leasing, f"{name}_SECONDS", seconds)


def lock_object(address: str) -> tuple[object_store.Bucket, str]:
    bucket = object_store.Bucket(address)
    folder, _, name = bucket.prefix.rpartition("/")
    return bucket, f"{folder}/.{name}.lock"


def test_two_runs_exclude_each_other(address: str, lively: None):
    with lock(address):
        taken = pytest.raises(
            StoreError, match=r"another run is writing this store \(.* process \d+\)"
        )
        with (
            pytest.warns(UserWarning, match="a run began to write this store"),
            taken,
            lock(address),
        ):
            pass
        with lock(address + "2"):
            pass
    with lock(address):
        pass
    bucket, name = lock_object(address)
    assert bucket.tag(name) is None, "nothing is left"


def test_the_lease_of_a_dead_run_is_taken_over_by_one(address: str, quick: None):
    bucket, name = lock_object(address)
    other = bucket.put_if(name + "2", b"other", owner="somebody", tag=None)
    tag = bucket.put_if(name, b"left", owner="somebody", tag=None)
    assert tag and bucket.put_if(name, b"again", owner="x", tag=None) is None
    assert other and bucket.put_if(name, b"again", owner="x", tag=other) is None
    with pytest.warns(UserWarning, match=r"\(somebody\)"), lock(address):
        taken = bucket.tag(name)
        assert taken and taken[0] != tag and str(os.getpid()) in taken[1]
    assert bucket.tag(name) is None
    assert bucket.put_if(name, b"again", owner="x", tag=tag) is None, (
        "what is gone is not written over"
    )


def test_a_lease_that_was_lost_is_not_released(address: str, quick: None):
    bucket, name = lock_object(address)
    with lock(address):
        held = bucket.tag(name)
        assert held
        while bucket.put_if(name, b"theirs", owner="they", tag=held[0]) is None:
            held = bucket.tag(name)
            assert held
        time.sleep(0.5)
    found = bucket.tag(name)
    assert found and found[1] == "they"


def test_a_server_without_conditions_is_told_of(
    address: str, quick: None, monkeypatch: pytest.MonkeyPatch
):
    put_if = object_store.Bucket.put_if

    def put_always(
        self: object_store.Bucket, name: str, data: bytes, *, owner: str, tag: str | None
    ) -> str | None:
        while (
            done := put_if(self, name, data, owner=owner, tag=(self.tag(name) or (None,))[0])
        ) is None:
            pass
        return done

    monkeypatch.setattr(object_store.Bucket, "put_if", put_always)
    with pytest.warns(UserWarning, match="no conditional writes"), lock(address):
        pass


# The commands -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos of two classes; one fails."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(7):
        write_video(root / "ab"[number % 2] / f"{number}.mkv", 8 + number)
    (root / "a" / "text.mp4").write_text("not a video")
    return root


def fame(*arguments: object, **environment: str) -> "subprocess.Popen[str]":
    """Start a command in a process of its own, in a group of its own."""
    threads = {"OMP_NUM_THREADS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "cli", *map(str, arguments)],
        env=os.environ | threads | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def output(process: "subprocess.Popen[str]", code: int = 0) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    return out + err


def preprocess(videos: Path, store: object, *options: object) -> "subprocess.Popen[str]":
    return fame(
        "preprocess",
        "folder",
        "--videos",
        videos,
        "--store",
        store,
        "--max-failed",
        1,
        *RECIPE,
        *options,
    )


@pytest.mark.slow
def test_every_executor_makes_the_store_of_a_folder_and_a_killed_run_resumes(
    videos: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    output(preprocess(videos, tmp_path / "s.zarr", "--executor", "serial"))
    expected = small.contents(tmp_path / "s.zarr")
    assert "8 of 8 shards made" in output(preprocess(videos, address + "-ray", "--workers", 2))
    assert contents(address + "-ray") == expected
    killed = preprocess(videos, address, "--executor", "serial")
    storage, deadline = locate(address), time.monotonic() + 240
    while not any(key.startswith("records/") for key in storage.list_keys()):
        assert time.monotonic() < deadline and killed.poll() is None
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not is_finished(address)
    monkeypatch.setattr(leasing, "LEASE_SECONDS", 0.5)
    with pytest.warns(UserWarning, match=f"process {killed.pid}"), lock(address):
        pass  # the dead run's lease is over
    told = output(preprocess(videos, address, "--executor", "serial"))
    assert "of 8 shards made" in told and "8 of 8 shards" not in told
    assert contents(address) == expected
    assert storage.has_beside(".report.json")
    assert "is finished: nothing to do" in output(
        preprocess(videos, address, "--executor", "serial")
    )


def call(*arguments: object, code: int = 0) -> str:
    """What a command prints, run in this process."""
    done = CliRunner().invoke(cli.app, [str(word) for word in arguments])
    assert done.exit_code == code, done.output
    return done.output


@pytest.mark.slow
def test_the_commands_read_stores_in_buckets(address: str, tmp_path: Path):
    make_store(address)  # type: ignore[arg-type]
    assert f"{address}, finished" in call("store", "info", address)
    assert "every checksum holds" in call("store", "verify", address, "--workers", 2)
    assert "p.png" in call("store", "preview", address, "--out", tmp_path / "p.png")
    size = [
        "--recipe",
        "small-cpu",
        "--crop",
        32,
        "--batch",
        8,
        "--epochs",
        1,
        "--workers",
        2,
        "--width",
        0.0625,
        "--queue",
        16,
    ]
    assert "finished at step 2 of 2" in call(
        "pretrain", address, "--run-dir", tmp_path / "run", *size
    )
    checkpoint, both = (
        tmp_path / "run/checkpoints/last.pt",
        ["--train-store", address, "--test-store", address],
    )
    assert f"knn on {address}" in call("evaluate", "knn", checkpoint, *both, "--root", tmp_path)


def wrong(*arguments: object) -> str:
    """What a command says that a user got wrong: one line."""
    object_store._client_of.cache_clear()  # a new client looks for credentials anew
    told = call(*arguments, code=2)
    assert len(told.splitlines()) == 1 and told.startswith("fame: s3://"), told
    return told


def test_what_is_wrong_is_one_line(address: str, videos: Path, monkeypatch: pytest.MonkeyPatch):
    store = ["preprocess", "folder", "--videos", videos, "--executor", "serial", "--store"]
    assert "cannot read (no such object)" in wrong("store", "info", address)
    assert "bucket does not exist" in wrong(*store, "s3://nobodys/s.zarr")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "botocore.session", None)
        patch.delitem(sys.modules, "fame.clipstore.s3")
        assert "pip install botocore" in wrong("store", "info", address)
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        assert "Unable to locate credentials" in wrong("store", "info", address)
    with monkeypatch.context() as patch:
        patch.setattr(
            "moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0
        )  # now the server asks who we are
        assert "cannot read (Forbidden)" in wrong("store", "info", address)
        assert "Access Key Id" in wrong(*store, address)
    object_store._client_of.cache_clear()
