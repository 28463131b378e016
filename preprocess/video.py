"""Read the frames of a video file in the order they are shown: the only file that opens videos.

FFmpeg (PyAV) demultiplexes, decodes and converts, with one thread and no hardware. Nothing seeks,
so which frames come out never depends on an index, an edit list or a key frame. A frame is turned
into pixels only where it is asked for, and one that cannot be converted is an error.
"""

import errno
import math
import stat
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from io import FileIO
from pathlib import Path

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.filter import Graph
from av.packet import Packet
from av.sidedata.sidedata import SideDataContainer, Type
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

MAX_PIXELS = 1 << 26  # of one source frame: 8192 x 8192. A damaged header may claim gigabytes.
# Containers that hold their own frames. Playlists and concat scripts, which name other files to
# open, are left out.
_CONTAINERS = ",".join(
    (
        "3g2,3gp,asf,avi,dv,flv,gif,h264,hevc,ivf,m4a,m4v,matroska,mj2,mjpeg,mov",
        "mp4,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,webm",
    )
)
_CONTAINER_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
_CODEC_OPTIONS = {"max_pixels": str(MAX_PIXELS), "threads": "1"}
_READ_BYTES = 1 << 16  # of the file at a time
_NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.dependent
_PICTURE_CODECS = {"mjpeg", "png", "bmp", "webp", "tiff", "jpeg2000", "jpegls", "gif"}
_BAD_READS = 16  # after which the rest of a damaged file is given up
_FAULTS_OF_A_NAME = (errno.ELOOP, errno.ENAMETOOLONG)
_USUAL_RATE = Fraction(25)  # frames per second, assumed for a stream with neither times nor rate


class DecodeError(ValueError):
    """A video that gives no clips; the message is the reason put on record."""


class ReadClock:
    """Seconds spent on reading files, in two numbers that another process may look at: when the
    read under way began (0: none is), and the sum of those that ended.
    """

    def __init__(self, numbers_2: np.ndarray) -> None:
        self._numbers_2 = numbers_2

    def share(self, numbers_2: np.ndarray) -> None:
        """Count in these numbers from now on."""
        self._numbers_2 = numbers_2

    def reset(self) -> None:
        """Set both numbers to 0."""
        self._numbers_2[:] = 0

    @property
    def seconds(self) -> float:
        """Return the sum, with the read under way."""
        began, ended = self._numbers_2.tolist()
        return ended + (time.monotonic() - began if began else 0)

    @contextmanager
    def running(self) -> Generator[None]:
        """Count the time spent within this context."""
        began = self._numbers_2[0] = time.monotonic()
        try:
            yield
        finally:
            self._numbers_2[0] = 0
            self._numbers_2[1] += time.monotonic() - began


READING = ReadClock(np.zeros(2))  # of this process


class _File(FileIO):
    """A file that keeps the error that stopped a read: demultiplexers take it for the end."""

    def __init__(self, path: str) -> None:
        self.fault: OSError | None = None
        with READING.running():
            if not stat.S_ISREG(Path(path).stat().st_mode):
                raise DecodeError("no regular file")
            super().__init__(path)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as much as there is, at most ``size`` bytes."""
        try:
            with READING.running():
                return super().read(size)
        except OSError as error:
            self.fault = error
            raise

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to an offset. Return -1 for a negative one, which a damaged index makes FFmpeg ask
        for.
        """
        try:
            return super().seek(offset, whence)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return -1


class Frame:
    """A frame as it is shown: its number, which is its ``place`` too, and ``seconds`` since the
    first one, which never fall.
    """

    def __init__(
        self, picture: VideoFrame, *, index: int, seconds: float, converter: VideoReformatter
    ) -> None:
        self.index = self.place = index
        self.seconds = seconds
        self._picture = picture
        self._converter = converter

    def rgb(self) -> np.ndarray:
        """Return the upright picture, [h, w, 3] u8, at the size that the file gives it.

        Raises:
            DecodeError: FFmpeg cannot convert it.
        """
        try:
            converted = self._converter.reformat(
                self._picture, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1
            )
        except (FFmpegError, ValueError) as error:
            raise DecodeError(
                f"frame {self.index} could not be converted to 8-bit RGB: {error}"
            ) from None
        return _upright(converted.to_ndarray(), self._picture)


class Video:
    """An open video, to be read once, from its first frame to its last.

    Attributes:
        declared_frames: their number by the header or by length and rate; 0 where it has neither.
        rate: frames per second by the header, on average.
        lost: frames that damage spoilt or took, as far as FFmpeg notices; complete when the last
            frame was read.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.declared_frames = _declared_frames(container, stream)
        self.rate = float(_rate(stream) or _USUAL_RATE)
        self.lost = 0
        self._container = container
        self._stream = stream
        self._time_base = stream.time_base or Fraction(1, av.time_base)
        self._packets = self._pictures = 0
        self._may_be_cover = bool(container.streams.audio) and _is_of_pictures(stream)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in the order they are shown."""
        # Times begin at 0 and never fall: 3.00, 3.04, none and 2.90 at 25 frames per second become
        # 0.00, 0.04, 0.08 and 0.12.
        step = 1 / self.rate
        converter, origin, seconds = VideoReformatter(), None, -step
        for index, picture in enumerate(_progressive(self._decoded())):
            if picture.width * picture.height > MAX_PIXELS:
                raise DecodeError(f"frame {index} has {picture.width} x {picture.height} pixels")
            expected = seconds + step
            shown = expected if picture.pts is None else picture.time
            if origin is None:
                origin = shown - expected
            seconds = shown - origin if shown - origin >= seconds else expected
            yield Frame(picture, index=index, seconds=seconds, converter=converter)
        if self._pictures == 1 and self._may_be_cover:
            raise DecodeError("audio only")

    def _decoded(self) -> Iterator[VideoFrame]:
        """Yield what the decoder gives, as it was coded; counts the frames that are lost."""
        # FFmpeg reports most damage only by a message: a new one since the last packet means that
        # the pictures of this packet are spoilt.
        complaints = at_first = _complaints()
        decode = self._stream.codec_context.decode
        for packet in self._demuxed():
            try:
                pictures = decode(packet)
            except FFmpegError:
                pictures = []
            before, complaints = complaints, _complaints()
            spoilt = complaints > before or (packet is not None and packet.is_corrupt)
            for picture in pictures:
                spoilt = spoilt or picture.is_corrupt
                self._pictures += 1
                if packet is None:  # those held back to the end of a damaged file come without
                    picture.time_base = self._time_base
                yield picture
            self.lost += spoilt and bool(pictures)
        # Packets that gave no picture. VP8 has packets of frames that are never shown.
        missing = 0 if self._stream.name == "vp8" else self._packets - self._pictures
        # A file that is cut short has fewer packets too: its header counts all frames.
        if complaints > at_first:
            missing = max(missing, self.declared_frames - self._pictures)
        self.lost += max(0, missing)

    def _demuxed(self) -> Iterator["Packet[VideoStream] | None"]:
        """Yield the packets of the stream, then an empty one (``None`` after too many bad reads),
        for which the decoder returns the frames that it still holds.

        A damaged stretch is skipped as far as FFmpeg is able to.
        """
        for _ in range(_BAD_READS):
            with suppress(FFmpegError):
                for packet in self._container.demux(self._stream):
                    self._packets += packet.size > 0 and not packet.is_discard
                    yield packet
                return
        yield None


@contextmanager
def open_video(path: str) -> Generator[Video]:
    """Open the video that a player shows of this file.

    Raises:
        DecodeError: there is none, or it is too large.
        OSError: the file cannot be read, which does not make the video a bad one.
    """
    av.logging.set_level(av.logging.ERROR)  # else FFmpeg's complaints are not counted
    av.logging.set_skip_repeated(False)  # what one video gets must not hang on the one before
    with _opened(path) as file:
        try:
            with _container(file) as container:
                yield Video(container, _prepared(container))
        except FFmpegError as error:
            raise file.fault or DecodeError(f"FFmpeg: {error.strerror}") from None
        except DecodeError:
            if file.fault:
                raise file.fault from None
            raise
        if file.fault:
            raise file.fault


def _opened(path: str) -> _File:
    try:
        return _File(path)
    except OSError as error:
        if error.errno in _FAULTS_OF_A_NAME:
            raise DecodeError(f"the file cannot be opened: {error.strerror}") from None
        raise


def _container(file: FileIO) -> InputContainer:
    try:
        return av.open(
            file,
            mode="r",
            options=_CODEC_OPTIONS,
            container_options=_CONTAINER_OPTIONS,
            metadata_errors="replace",
            buffer_size=_READ_BYTES,
        )
    except FFmpegError:
        raise DecodeError("no video stream could be opened") from None


def _prepared(container: InputContainer) -> VideoStream:
    """Return the stream to show, ready to be decoded; the packets of all others are dropped
    unread.
    """
    shown = _shown(container)
    for stream in container.streams:
        stream.discard = Discard.default if stream is shown else Discard.all
    context = shown.codec_context
    if not 0 <= context.width * context.height <= MAX_PIXELS:
        raise DecodeError(f"frames of {context.width} x {context.height} pixels")
    context.thread_count = 1
    context.options = _CODEC_OPTIONS
    return shown


def _shown(container: InputContainer) -> VideoStream:
    """Return the stream that a player shows: no cover, the one marked as default, else the
    largest.
    """
    with_sound = bool(container.streams.audio)
    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & _NO_VIDEO and not (with_sound and _is_one_picture(stream))
    ]
    if not streams:
        raise DecodeError("audio only" if with_sound else "no video stream could be opened")
    streams = [stream for stream in streams if stream.codec_context]
    if not streams:
        raise DecodeError("no decoder for this codec")
    return max(
        streams,
        # Of equal streams the first, which has the highest -index.
        key=lambda stream: (
            stream.frames != 1,
            bool(stream.disposition & Disposition.default),
            stream.width * stream.height,
            -stream.index,
        ),
    )


def _is_one_picture(stream: VideoStream) -> bool:
    """Return whether it is a single photograph by the header, as the cover of a piece of
    music is.
    """
    return stream.frames == 1 and _is_of_pictures(stream)


def _is_of_pictures(stream: VideoStream) -> bool:
    return bool(stream.codec_context) and stream.codec_context.name in _PICTURE_CODECS


def _complaints() -> int:
    """Return the number of error messages of FFmpeg in this process."""
    return av.logging.get_last_error()[0]


def _rate(stream: VideoStream) -> Fraction | None:
    return stream.average_rate or stream.guessed_rate


def _declared_frames(container: InputContainer, stream: VideoStream) -> int:
    rate, length = _rate(stream), container.duration
    if stream.frames or not rate or not length:
        return max(0, stream.frames)
    # 10 000 000 microseconds at 25 frames per second are 250 frames.
    return max(0, round(rate * length / av.time_base))


def _progressive(pictures: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """Yield the pictures, from the first interlaced one on through FFmpeg's bwdif: each interlaced
    frame gives one, as the scene was at the time of its first field.
    """
    filtered, layout = None, None
    for picture in pictures:
        # A filter is made for one size and pixel format.
        if filtered and layout != (picture.width, picture.height, picture.format.name):
            yield from _pulled(filtered, None)
            filtered = None
        if picture.interlaced_frame and not filtered:
            filtered = _deinterlacer(picture)
            layout = picture.width, picture.height, picture.format.name
        if filtered:
            yield from _pulled(filtered, picture)
        else:
            yield picture
    if filtered:
        yield from _pulled(filtered, None)


def _deinterlacer(picture: VideoFrame) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=picture.width,
        height=picture.height,
        format=picture.format,
        time_base=picture.time_base,
    )
    bwdif = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
    graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
    return graph


def _pulled(graph: Graph, picture: VideoFrame | None) -> Iterator[VideoFrame]:
    """Push a picture, or the end, and take what comes out: the filter looks one frame ahead."""
    graph.vpush(picture)
    with suppress(BlockingIOError, EOFError):  # it asks for more, or has ended
        while True:
            yield graph.vpull()


def _upright(picture_hw3: np.ndarray, picture: VideoFrame) -> np.ndarray:
    """Turn and mirror a picture as its display matrix asks: column p and row q go to column
    a p + c q and row b p + d q.
    """
    # A quarter turn clockwise has a = d = 0, b = 1 and c = -1: rows and columns change places, then
    # columns run backwards.
    a, b, c, d = _display_matrix(picture)
    if abs(b) + abs(c) > abs(a) + abs(d):
        picture_hw3, right, down = picture_hw3.transpose(1, 0, 2), c, b
    else:
        right, down = a, d
    return picture_hw3[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]


def _display_matrix(picture: VideoFrame) -> tuple[float, float, float, float]:
    """Return a, b, c and d of the display matrix [[a, b, u], [c, d, v], [x, y, w]].

    ``picture.side_data`` would tie the picture into a cycle: its memory would be used again only
    when Python collects garbage, and what a damaged frame leaves unwritten would depend on chance.
    """
    try:
        side_data = SideDataContainer(picture)  # pyright: ignore[reportCallIssue]
        matrix = side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # it has a kind of side data that PyAV has no name for
        angle = math.radians(picture.rotation)  # counterclockwise, mirroring left out
        return math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    return a, b, c, d
