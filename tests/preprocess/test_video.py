"""Reading videos against FFmpeg's own program: which stream, which frames, how they are shown, and
what damage costs.
"""

import struct
import subprocess
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.error import InvalidDataError

from preprocess.reading import DecodeError
from preprocess.video import open_video
from tests.preprocess.formats import (
    FFMPEG,
    FORMATS,
    FRAMES,
    HEIGHT,
    INTER,
    WIDTH,
    X264,
    Format,
    read,
    scene,
    write,
)

H264, MPEG4 = Format("mp4", f"{X264} -bf 2"), Format("mov", "-c:v mpeg4 -q:v 3")


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([FFMPEG, "-v", "error", "-y", *map(str, arguments)], check=True)


def pictures(path: Path) -> list[np.ndarray]:
    with open_video(str(path)) as video:
        return [frame.rgb() for frame in video]


def lost(path: Path) -> tuple[int, int]:
    """How many frames are shown and how many are lost."""
    with open_video(str(path)) as video:
        return sum(1 for _ in video), video.lost


@pytest.mark.parametrize("wanted", FORMATS, ids=str)
def test_every_format_is_read_as_ffmpeg_reads_it(wanted: Format, tmp_path: Path) -> None:
    path = write(tmp_path, wanted)
    with open_video(str(path)) as video:
        frames = [(frame.seconds, frame.rgb()) for frame in video]
    height, width = frames[0][1].shape[:2]
    expected = read(path, height=height, width=width, deinterlace=wanted.interlaced)
    assert len(frames) == len(expected) and video.lost == 0
    for (_, frame_hw3), expected_hw3 in zip(frames, expected, strict=True):
        assert np.abs(frame_hw3.astype(int) - expected_hw3).mean() < 1
    seconds = [shown for shown, _ in frames]
    assert seconds[0] == 0 and np.all(np.diff(seconds) > 0)


def test_an_interlaced_frame_is_whole_when_only_part_of_the_video_is(tmp_path: Path) -> None:
    mpeg2 = "-c:v mpeg2video -q:v 2 -r 25"
    first, second = (
        write(tmp_path, Format("ts", mpeg2), "first"),
        write(tmp_path, Format("ts", f"{mpeg2} {INTER}"), "second"),
    )
    joined = tmp_path / "joined.ts"
    ffmpeg("-i", f"concat:{first}|{second}", "-c", "copy", joined)
    shown = pictures(joined)
    assert len(shown) == 2 * FRAMES
    whole = pictures(first)
    for index, frame_hw3 in enumerate(shown):
        assert np.abs(frame_hw3.astype(int) - whole[index % FRAMES]).mean() < 4


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("shown", "turn"),
    [
        ("-display_rotation 90", lambda frame: np.rot90(frame)),
        ("-display_hflip", lambda frame: frame[:, ::-1]),
        ("-display_vflip", lambda frame: frame[::-1]),
        ("-display_rotation 90 -display_hflip", None),
    ],
)
def test_pictures_are_turned_and_mirrored(
    tmp_path: Path, shown: str, turn, interlaced: bool
) -> None:
    coding = f"{MPEG4.coding} {INTER}" if interlaced else MPEG4.coding
    plain = pictures(write(tmp_path, Format("mov", coding), "plain"))
    turned = pictures(write(tmp_path, Format("mov", coding, shown=shown), "turned"))
    ways = [np.rot90(plain[0], k)[:, ::side] for k in range(4) for side in (1, -1)]
    if turn:
        np.testing.assert_array_equal(turned, [turn(frame) for frame in plain])
    else:
        assert (
            sum(way.shape == turned[0].shape and np.array_equal(way, turned[0]) for way in ways)
            == 1
        )


def test_a_cover_or_a_preview_is_not_the_video(tmp_path: Path) -> None:
    video, cover, preview = write(tmp_path, H264), tmp_path / "cover.png", tmp_path / "preview.mp4"
    cv2.imwrite(str(cover), np.full((200, 200, 3), 128, np.uint8))
    ffmpeg("-i", video, "-vf", "scale=48:32,negate", *X264.split(), preview)
    expected = pictures(video)
    covered, previewed, larger = (
        tmp_path / name for name in ("covered.mp4", "previewed.mkv", "larger.mkv")
    )
    ffmpeg(
        "-i",
        cover,
        "-i",
        video,
        "-map",
        "0",
        "-map",
        "1",
        "-c",
        "copy",
        "-disposition:v:0",
        "attached_pic",
        covered,
    )
    ffmpeg(
        "-i",
        preview,
        "-i",
        video,
        "-map",
        "0",
        "-map",
        "1",
        "-c",
        "copy",
        "-disposition:v:0",
        "0",
        "-disposition:v:1",
        "default",
        previewed,
    )
    ffmpeg(
        "-i",
        preview,
        "-i",
        video,
        "-map",
        "0",
        "-map",
        "1",
        "-c",
        "copy",
        "-disposition:v",
        "0",
        larger,
    )
    for path in (covered, previewed, larger):
        np.testing.assert_array_equal(pictures(path), expected)


@pytest.mark.parametrize("marked", ["attached_pic", "default"])
def test_a_song_with_a_cover_is_no_video(tmp_path: Path, marked: str) -> None:
    cover, song = tmp_path / "cover.png", tmp_path / "song.mp4"
    cv2.imwrite(str(cover), np.full((200, 200, 3), 128, np.uint8))
    sound = ("-f", "lavfi", "-i", "sine=d=1")
    ffmpeg(
        "-i",
        cover,
        *sound,
        "-map",
        "0",
        "-map",
        "1",
        "-c:v",
        "mjpeg",
        "-disposition:v:0",
        marked,
        song,
    )
    bare = song.with_suffix(".mkv")  # tells of no number of frames
    ffmpeg("-i", cover, *sound, "-map", "0", "-map", "1", "-c:v", "png", bare)
    with pytest.raises(DecodeError, match=r"^audio only$"):
        pictures(bare)
    with pytest.raises(DecodeError, match=r"^audio only$"):
        pictures(song)


def test_pauses_full_of_sound_are_not_the_end(tmp_path: Path) -> None:
    path = tmp_path / "slides.mov"
    slides = f"testsrc2=r=1/60:d=240:s={WIDTH}x{HEIGHT}"
    ffmpeg(*f"-f lavfi -i {slides} -f lavfi -i sine=d=240 -c:v mpeg4 -c:a pcm_u8".split(), path)
    with open_video(str(path)) as video:
        assert [round(frame.seconds) for frame in video] == [0, 60, 120, 180]


@pytest.mark.parametrize(
    "wanted",
    [
        H264,
        Format("ts", "-c:v mpeg2video -q:v 3 -r 25"),
        Format("avi", "-c:v mpeg4 -q:v 3"),
        Format("mp4", "-c:v libx265 -x265-params log-level=none:keyint=1"),
    ],
    ids=str,
)
def test_frames_lost_to_damage_are_counted(wanted: Format, tmp_path: Path) -> None:
    path = write(tmp_path, wanted)
    assert lost(path) == (FRAMES, 0)
    with av.open(path) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][FRAMES // 2]
        spared = packet.size // 4 if wanted.suffix == "ts" else 4
        start, end = packet.pos + spared, packet.pos + packet.size
    data = bytearray(path.read_bytes())
    data[start:end] = b"\x7f" * (end - start)
    path.write_bytes(data)
    shown, gone = lost(path)
    assert 0 < gone <= FRAMES and shown > 0


def test_a_file_that_was_cut_short_tells_how_many_frames_are_lost(tmp_path: Path) -> None:
    path, early = write(tmp_path, H264), tmp_path / "early.mp4"
    ffmpeg("-i", path, "-c", "copy", "-movflags", "+faststart", early)
    early.write_bytes(early.read_bytes()[:-200])
    shown, gone = lost(early)
    assert shown + gone >= FRAMES and 0 < gone < FRAMES


def jpeg_avi(path: Path, sides: list[int]) -> Path:
    """An AVI file of JPEG pictures whose header tells the size of the first."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)

    blank = {
        side: cv2.imencode(".jpg", np.full((side, side, 3), 128, np.uint8))[1].tobytes()
        for side in set(sides)
    }
    side = sides[0]
    main = struct.pack("<14I", 40000, 0, 0, 0x10, len(sides), 0, 1, 0, side, side, 0, 0, 0, 0)
    stream = b"vidsMJPG" + struct.pack(
        "<IHHIIIIIIII4H", 0, 0, 0, 0, 1, 25, 0, len(sides), 0, 10000, 0, 0, 0, side, side
    )
    picture = struct.pack(
        "<IiiHH4sIiiII", 40, side, side, 1, 24, b"MJPG", side * side * 3, 0, 0, 0, 0
    )
    streams = chunk(b"LIST", b"strl" + chunk(b"strh", stream) + chunk(b"strf", picture))
    header = chunk(b"LIST", b"hdrl" + chunk(b"avih", main) + streams)
    movie = chunk(b"LIST", b"movi" + b"".join(chunk(b"00dc", blank[side]) for side in sides))
    path.write_bytes(chunk(b"RIFF", b"AVI " + header + movie))
    return path


def test_no_frame_above_the_limit_is_decoded_wherever_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preprocess.video._CODEC_OPTIONS", {"max_pixels": "5000"})
    assert lost(jpeg_avi(tmp_path / "a.avi", [64, 64, 96, 64])) == (3, 1)
    monkeypatch.setattr("preprocess.video.MAX_PIXELS", 4000)
    with pytest.raises(DecodeError, match=r"^frames of 64 x 64 pixels$"):
        lost(jpeg_avi(tmp_path / "b.avi", [64]))


def test_each_part_keeps_its_size(tmp_path: Path) -> None:
    path = jpeg_avi(tmp_path / "a.avi", [64, 64, 48])
    assert [frame.shape for frame in pictures(path)] == [(64, 64, 3)] * 2 + [(48, 48, 3)]


def test_a_frame_that_cannot_be_converted_is_no_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise InvalidDataError(22, "refused")

    monkeypatch.setattr(
        "preprocess.video.VideoReformatter", type("Refusing", (), {"reformat": refuse})
    )
    path = write(tmp_path, H264)
    with (
        open_video(str(path)) as video,
        pytest.raises(DecodeError, match=r"^frame 0 could not be converted to 8-bit RGB"),
    ):
        next(iter(video)).rgb()


def test_a_title_that_is_no_utf_8_is_no_hindrance(tmp_path: Path) -> None:
    path = write(tmp_path, Format("avi", "-c:v mpeg4 -q:v 3 -metadata title=caf_"))
    path.write_bytes(path.read_bytes().replace(b"caf_", "caf\u00e9".encode("latin-1")))
    assert len(pictures(path)) == FRAMES


def test_frames_look_like_the_scene(tmp_path: Path) -> None:
    shown = pictures(write(tmp_path, Format("mkv", "-c:v ffv1 -pix_fmt bgr0")))
    np.testing.assert_array_equal(shown, [scene(index) for index in range(FRAMES)])
