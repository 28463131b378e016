"""Videos in the formats that people have, made and read by FFmpeg's own program: another build,
process and path through the code than `preprocess.video`.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
FRAMES, HEIGHT, WIDTH = 12, 64, 96


@dataclass(frozen=True)
class Format:
    """How to write a video: its suffix, the options of its codec, whether it is interlaced, and
    how it is to be turned or mirrored when shown.
    """

    suffix: str
    coding: str
    interlaced: bool = False
    shown: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.suffix, self.coding.removeprefix("-c:v "), self.shown)))


INTER = "-flags +ildct+ilme"
X264 = "-c:v libx264 -preset ultrafast"
X265 = "-c:v libx265 -preset ultrafast -x265-params log-level=none"
PAL, NTSC = (
    "-vf scale=720:576 -r 25 -pix_fmt yuv420p",
    "-vf scale=720:480 -r 30000/1001 -pix_fmt yuv411p",
)
PROGRESSIVE = {
    "mp4": [
        f"{X264} -bf 2",
        f"{X264} -pix_fmt yuv420p10le",
        f"{X264} -pix_fmt yuv444p",
        f"{X264} -pix_fmt yuvj420p",
        f"{X264} -pix_fmt gray",
        f"{X264} -pix_fmt nv12 -crf 4",
        f"{X265} -pix_fmt yuv420p",
        f"{X265} -pix_fmt yuv420p10le",
        f"{X265} -pix_fmt yuv422p12le",
        "-c:v libsvtav1 -preset 13",
        "-c:v libsvtav1 -preset 13 -pix_fmt yuv420p10le",
        "-c:v mpeg4 -q:v 3 -bf 2",
        "-c:v libvpx-vp9 -cpu-used 8 -deadline realtime",
        f"{X264} -colorspace bt709 -color_trc smpte2084 -color_primaries bt2020 -pix_fmt yuv420p10le",
        f"{X264} -vf scale=97:63 -pix_fmt yuv444p",
        "-c:v mjpeg -q:v 3 -pix_fmt yuvj422p",
    ],
    "mkv": [
        f"{X264} -bf 2",
        "-c:v ffv1 -pix_fmt yuv420p",
        "-c:v ffv1 -pix_fmt bgr0",
        "-c:v ffv1 -pix_fmt rgb48le",
        "-c:v ffv1 -pix_fmt gray16le",
        "-c:v ffv1 -pix_fmt yuva444p",
        "-c:v libsvtav1 -preset 13",
        f"{X264} -vf scale=97:63 -pix_fmt yuv444p -crf 4",
        "-c:v libx264rgb -preset ultrafast -crf 4",
        "-c:v mpeg2video -q:v 3",
    ],
    "webm": [
        "-c:v libvpx -q:v 4 -b:v 1M",
        "-c:v libvpx-vp9 -cpu-used 8 -deadline realtime -pix_fmt yuv420p10le",
        "-c:v libvpx-vp9 -cpu-used 8 -deadline realtime -pix_fmt yuva420p",
    ],
    "avi": [
        "-c:v mpeg4 -q:v 3 -vtag XVID",
        "-c:v mjpeg -q:v 3",
        "-c:v huffyuv -pix_fmt yuv422p",
        "-c:v utvideo -pix_fmt gbrp",
        "-c:v rawvideo -pix_fmt bgr24",
        "-c:v rawvideo -pix_fmt yuyv422",
        "-c:v msmpeg4 -q:v 3",
        "-c:v ffvhuff -pix_fmt yuv420p",
        f"{X264} -bf 2",
        "-c:v cinepak -frames:v 2",
        "-c:v dvvideo " + PAL,
    ],
    "mov": [
        "-c:v prores_ks -profile:v 3",
        "-c:v prores_ks -profile:v 4444 -pix_fmt yuva444p10le",
        "-c:v qtrle -pix_fmt rgb24",
        "-c:v png -pix_fmt rgba",
        "-c:v png -pix_fmt rgb48be",
        "-c:v rawvideo -pix_fmt uyvy422",
        "-c:v dnxhd -profile:v dnxhr_hq -pix_fmt yuv422p -vf scale=256:128",
        "-c:v jpeg2000 -pix_fmt yuv420p",
        "-c:v svq1 -q:v 3",
        "-c:v v210",
    ],
    "mpg": ["-c:v mpeg1video -q:v 3 -r 25", "-c:v mpeg2video -q:v 3 -r 25"],
    "vob": ["-c:v mpeg2video -q:v 3 -r 25"],
    "ts": [f"{X264} -bf 2", f"{X265}", "-c:v mpeg2video -q:v 3 -r 25 -bf 2"],
    "m2ts": [f"{X264} -bf 2"],
    "mxf": [
        "-c:v mpeg2video -q:v 3 -r 25",
        "-c:v dnxhd -profile:v dnxhr_sq -pix_fmt yuv422p -r 25 -vf scale=256:128",
    ],
    "flv": [f"{X264} -bf 2", "-c:v flv -q:v 3"],
    "f4v": [f"{X264}"],
    "wmv": ["-c:v wmv2 -q:v 3", "-c:v wmv1 -q:v 3"],
    "ogv": ["-c:v libtheora -q:v 7"],
    "3gp": ["-c:v h263 -vf scale=176:144 -q:v 3"],
    "gif": ["-c:v gif"],
    "dv": ["-c:v dvvideo " + NTSC],
    "ivf": ["-c:v libvpx -b:v 1M"],
    "nut": ["-c:v ffv1 -pix_fmt yuv422p10le"],
    "h264": [f"{X264}"],
    "hevc": [f"{X265}"],
    "mjpeg": ["-c:v mjpeg -q:v 3"],
}
INTERLACED = [
    Format("mp4", f"{X264} {INTER} -x264opts tff=1", interlaced=True),
    Format("ts", f"{X264} {INTER} -x264opts bff=1", interlaced=True),
    Format("ts", f"-c:v mpeg2video -q:v 3 -r 25 {INTER}", interlaced=True),
    Format("mpg", f"-c:v mpeg2video -q:v 3 -r 25 {INTER}", interlaced=True),
    Format("mxf", f"-c:v mpeg2video -q:v 3 -r 25 -pix_fmt yuv422p {INTER}", interlaced=True),
    Format("avi", f"-c:v mpeg4 -q:v 3 {INTER}", interlaced=True),
    Format("mov", f"-c:v prores_ks -profile:v 2 {INTER}", interlaced=True),
    Format("mkv", f"-c:v ffv1 -pix_fmt yuv420p {INTER}", interlaced=True),
    Format("dv", f"-c:v dvvideo {PAL} {INTER}", interlaced=True),
]
TURNED = [
    Format("mp4", f"{X264} -bf 2", shown=f"-display_rotation {angle}") for angle in (90, 180, -90)
] + [
    Format("mov", "-c:v mpeg4 -q:v 3", shown="-display_hflip"),
    Format("mov", "-c:v mpeg4 -q:v 3", shown="-display_rotation 90 -display_vflip"),
]
FORMATS = [
    *(Format(suffix, coding) for suffix, codings in PROGRESSIVE.items() for coding in codings),
    *INTERLACED,
    *TURNED,
]


def scene(index: int) -> np.ndarray:
    """RGB frame ``index`` of smooth waves that move."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    waves = [
        128 + 50 * np.sin((x * a + y * b) / 30 + index * s)
        for a, b, s in ((2, 1, 0.3), (1, -2, 0.2), (0.5, 1, -0.4))
    ]
    return np.stack(waves, axis=2).astype(np.uint8)


def write(folder: Path, wanted: Format, name: str = "video") -> Path:
    """Write the scene in this format."""
    path = folder / f"{name}.{wanted.suffix}"
    raw = f"-f rawvideo -pix_fmt rgb24 -s {WIDTH}x{HEIGHT} -r 25 -i -".split()
    pictures = b"".join(scene(index).tobytes() for index in range(FRAMES))
    _ffmpeg(*raw, *wanted.coding.split(), path, given=pictures)
    if wanted.shown:
        turned = folder / f"{name}_turned.{wanted.suffix}"
        _ffmpeg(*wanted.shown.split(), "-i", path, "-c", "copy", turned)
        return turned
    return path


def read(
    path: Path, *, height: int, width: int, deinterlace: bool = False, stream: str = "0:v:0"
) -> np.ndarray:
    """Every frame as FFmpeg's program gives it, [T, h, w, 3]."""
    filters = ["-vf", "bwdif=mode=send_frame:deint=interlaced"] if deinterlace else []
    answer = _ffmpeg(
        "-i",
        path,
        "-map",
        stream,
        *filters,
        *["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
    )
    return np.frombuffer(answer, np.uint8).reshape(-1, height, width, 3)


def _ffmpeg(*arguments: str | Path, given: bytes = b"") -> bytes:
    command = [FFMPEG, "-v", "error", "-y", "-threads", "1", *map(str, arguments)]
    return subprocess.run(command, input=given, stdout=subprocess.PIPE, check=True).stdout
