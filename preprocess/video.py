"""Read the frames of a video file in the order they are shown: the only file that opens videos.

FFmpeg (PyAV) demultiplexes, decodes and converts, with one thread and no hardware. Nothing seeks,
so which frames come out never depends on an index, an edit list or a key frame. A frame is turned
into pixels only where it is asked for, and one that cannot be converted is an error.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from io import FileIO

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from preprocess.display import progressive, upright
from preprocess.reading import DecodeError, open_file

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
_USUAL_RATE = Fraction(25)  # frames per second, assumed for a stream with neither times nor rate


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
        return upright(converted.to_ndarray(), self._picture)


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
        for index, picture in enumerate(progressive(self._decoded())):
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
    with open_file(path) as file:
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
