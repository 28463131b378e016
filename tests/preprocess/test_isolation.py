"""The decoder process: what it returns is what decoding in this process gives, and nothing that it
does harms us.
"""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from preprocess.decode import decode
from preprocess.isolation import Decoder, DecoderStartError, SourceError
from preprocess.reading import DecodeError
from preprocess.selection import Sampling
from tests.preprocess.conftest import wait_until
from tests.preprocess.videos import write_video

ROGUE = (sys.executable, str(Path(__file__).with_name("rogue_decoder.py")))
SAMPLING = Sampling(
    slots=6, keep=2, fps=None, stretch=2, aligned=1, height=24, width=32, geometry="cover"
)


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    with Decoder(SAMPLING, time_limit=20) as process:
        yield process


def process_of(decoder: Decoder) -> psutil.Process:
    """The process behind a decoder that has started."""
    assert decoder._process is not None
    return psutil.Process(decoder._process.popen.pid)


def decoded_here(path: Path) -> np.ndarray:
    frames_FHW3 = np.zeros(SAMPLING.shape, np.uint8)
    return frames_FHW3[: len(decode(str(path), SAMPLING, frames_FHW3).source)]


def test_frames_cross_unchanged(decoder: Decoder, tmp_path: Path) -> None:
    for frames in (1, 12, 30):
        path = write_video(tmp_path / f"{frames} \u00e9\n.mkv", frames)
        result, frames_LHW3 = decoder.decode(str(path))
        assert result.frame_count == frames
        assert not frames_LHW3.flags.writeable
        np.testing.assert_array_equal(frames_LHW3, decoded_here(path))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("crash", "^the decoder died: SIGSEGV$"),
        ("hang", "^decoding took longer than 0.3 s$"),
        ("greedy", "^Unable to allocate"),
    ],
)
def test_a_bad_video_costs_itself_only(tmp_path: Path, name: str, reason: str) -> None:
    bad, good = write_video(tmp_path / f"{name}.mkv", 9), write_video(tmp_path / "good.mkv", 9)
    with Decoder(SAMPLING, time_limit=5, memory_limit=1 << 30, command=ROGUE) as process:
        process.decode(str(good))
        process._time_limit = 0.3 if name == "hang" else 5
        with pytest.raises(DecodeError, match=reason):
            process.decode(str(bad))
        process._time_limit = 5
        np.testing.assert_array_equal(process.decode(str(good))[1], decoded_here(good))
        last = process_of(process)
    assert not last.is_running()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone", r"gone.mkv: No such file or directory \(ENOENT\)$"),
        ("broken_EIO", r"broken_EIO.mkv: Input/output error \(EIO\)$"),
        ("broken_ESTALE", r"broken_ESTALE.mkv: Stale file handle \(ESTALE\)$"),
        ("broken_ETIMEDOUT", r"Connection timed out \(ETIMEDOUT\)$"),
        ("refused_EIO", r"Input/output error \(EIO\)$"),
        ("refused_EACCES", r"Permission denied \(EACCES\)$"),
        ("refused_ESTALE", r"Stale file handle \(ESTALE\)$"),
        ("stalled", r"stalled.mkv: reading took 0 of 0.4 s \(Connection timed out, ETIMEDOUT\)$"),
    ],
)
def test_a_fault_of_the_disk_is_no_fault_of_the_video(
    tmp_path: Path, name: str, reason: str
) -> None:
    path = write_video(tmp_path / f"{name}.mkv", 9)
    if name == "gone":
        path.unlink()
    with Decoder(SAMPLING, time_limit=20, command=ROGUE) as process:
        process.decode(str(write_video(tmp_path / "good.mkv", 9)))
        process._time_limit = 0.4 if name == "stalled" else 20
        with pytest.raises(SourceError, match=reason):
            process.decode(str(path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up being root")
def test_a_file_that_may_not_be_read_is_no_fault_of_the_video(tmp_path: Path) -> None:
    good, bad = (write_video(tmp_path / f"{name}.mkv", 9) for name in ("good", "bad"))
    tmp_path.chmod(0o755)
    bad.chmod(0)
    nobody = (sys.executable, "-c", AS_NOBODY, str(tmp_path))
    with Decoder(SAMPLING, time_limit=20, command=nobody) as process:
        process.decode(str(good))
        process.decode(str(good))
        with pytest.raises(SourceError, match=r"bad.mkv: Permission denied \(EACCES\)$"):
            process.decode(str(bad))


AS_NOBODY = """
import json, os, sys
from preprocess import decode
from preprocess.selection import Sampling
here = os.open(sys.argv[1], os.O_RDONLY)  # the folders above belong to root alone
os.fchdir(here)
plain = decode.decode
def then_nobody(path, *rest):  # the first video brings in the modules, which root alone may read
    try:
        return plain(os.path.basename(path), *rest)
    finally:
        os.setresuid(65534, 65534, 65534)
decode.decode = then_nobody
decode.serve(int(sys.argv[2]), int(sys.argv[3]), Sampling(**json.loads(sys.argv[4])))
"""


def test_what_is_no_file_is_a_fault_of_the_video(decoder: Decoder, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mkv")
    (tmp_path / "loop.mkv").symlink_to(tmp_path / "loop.mkv")
    for name, reason in {"pipe": "no regular file", "loop": "Too many levels"}.items():
        with pytest.raises(DecodeError, match=reason):
            decoder.decode(str(tmp_path / f"{name}.mkv"))


@pytest.mark.parametrize("name", ["once", "noisy"])
def test_a_decoder_that_was_killed_or_that_prints_costs_nothing(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / f"{name}.mkv", 9)
    with Decoder(SAMPLING, time_limit=5, command=ROGUE) as process:
        np.testing.assert_array_equal(process.decode(str(path))[1], decoded_here(path))


def test_a_decoder_that_does_not_start_is_no_fault_of_the_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 9)
    command = (sys.executable, "-c", "raise SystemExit('no OpenCV here')")
    refused = pytest.raises(DecoderStartError, match=r"exit code 1.*no OpenCV here")
    with Decoder(SAMPLING, time_limit=5, command=command) as process, refused:
        process.decode(str(path))


def test_the_decoder_dies_with_its_parent(tmp_path: Path) -> None:
    path = write_video(tmp_path / "hang.mkv", 9)
    script = (
        "import sys; from tests.preprocess.test_isolation import *\n"
        "Decoder(SAMPLING, time_limit=60, command=ROGUE).decode(sys.argv[1])"
    )
    parent = psutil.Popen((sys.executable, "-c", script, str(path)), cwd=Path(__file__).parents[2])
    wait_until(Path(f"{path}.hangs").exists)
    (child,) = parent.children()
    parent.kill()
    parent.wait()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_ctrl_c_is_left_to_the_parent(decoder: Decoder, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 9)
    decoder.decode(str(path))
    child = process_of(decoder)
    child.send_signal(signal.SIGINT)
    decoder.decode(str(path))
    assert child.is_running()


def test_one_thread_and_no_core_dump(decoder: Decoder, tmp_path: Path) -> None:
    decoder.decode(str(write_video(tmp_path / "a.avi", 30, codec="XVID")))
    child = process_of(decoder)
    assert child.num_threads() == 1
    assert child.rlimit(psutil.RLIMIT_CORE) == (0, 0)


def test_a_playlist_reaches_no_other_file(decoder: Decoder, tmp_path: Path) -> None:
    write_video(tmp_path / "secret.mkv", 9)
    for name, text in {
        "concat.mp4": "ffconcat version 1.0\nfile 'secret.mkv'\n",
        "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mkv\n#EXT-X-ENDLIST\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(DecodeError, match="no video stream could be opened"):
            decoder.decode(str(tmp_path / name))


def test_a_damaged_video_decodes_to_the_same_bytes_after_any_other(
    footage: Path, tmp_path: Path
) -> None:
    source = footage / "robustness" / "testsrc2_odd_height_and_width_vp9_10bit.mp4"
    data = bytearray(source.read_bytes())
    for place, bits in FLIPS:
        data[place] ^= bits
    (tmp_path / "damaged.mp4").write_bytes(data)
    seen = set()
    for before in ("testsrc2_vp9.webm", "testsrc2_odd_width_vp9_10bit.mp4", "h265_video.mp4"):
        with Decoder(SAMPLING, time_limit=20) as process:
            process.decode(str(footage / "robustness" / before))
            for _ in range(2):
                seen.add(process.decode(str(tmp_path / "damaged.mp4"))[1].tobytes())
    assert len(seen) == 1


FLIPS = (
    *(
        (1274, 1),
        (4203, 64),
        (5223, 128),
        (9222, 128),
        (11691, 1),
        (11695, 32),
        (12370, 4),
        (13753, 128),
    ),
    *(
        (14882, 8),
        (15240, 8),
        (16379, 2),
        (17218, 8),
        (20667, 4),
        (21682, 128),
        (22696, 128),
        (23909, 8),
    ),
    *(
        (27197, 32),
        (27436, 32),
        (29181, 2),
        (30006, 1),
        (31772, 64),
        (33874, 32),
        (35051, 8),
        (40515, 1),
    ),
    *(
        (43838, 4),
        (45957, 1),
        (46311, 2),
        (56482, 2),
        (60477, 1),
        (62167, 4),
        (63047, 2),
        (63372, 2),
    ),
    *((64847, 64), (68806, 4), (69979, 2), (70193, 16)),
)


@pytest.mark.slow
def test_every_odd_file_decodes(footage: Path) -> None:
    with Decoder(SAMPLING, time_limit=60) as process:
        for path in sorted((footage / "robustness").iterdir()):
            result, frames_LHW3 = process.decode(str(path))
            assert result.frame_count > 0 and len(result.source) == len(frames_LHW3) > 0
            assert path.stem in ("testsrc2_mpeg4", "transparent") or frames_LHW3.std() > 1


def memory_after(path: Path) -> int:
    """Peak resident bytes of a decoder process that decoded one video."""
    with Decoder(SAMPLING, time_limit=60) as process:
        process.decode(str(path))
        status = Path(f"/proc/{process_of(process).pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def test_an_hour_takes_the_memory_of_ten_seconds(tmp_path: Path) -> None:
    short, hour = (
        write_video(tmp_path / f"{n}.avi", n, codec="XVID", numbers=25) for n in (250, 90_000)
    )
    assert memory_after(hour) < 1.2 * memory_after(short)
