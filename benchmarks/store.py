"""Store speed: random 16-frame clips at 256x340 from a clip store, against bare codecs, format 1
and decoding on the fly.

Claims (all rates from one run, one process, one thread each, files in the page cache; per second of
CPU time of the process, so that other work on the machine does not count):

* a jpeg store reads at >= 90 % of its bare codec (``cv2.imdecode`` of JPEGs in memory), lz4 at >=
  80 % of its own;
* it reads at >= 90 % of what format 1 gave, which kept the frames of a clip as one tall JPEG (here
  such JPEGs in one file: checked, decoded and cut by the same functions), at bytes within 3 %;
* a jpeg store reads at >= 8 times the fastest of OpenCV, PyAV, decord and torchcodec on the same
  videos.

Run: ``python -m benchmarks.store``. Whatever of PyAV, decord, torchcodec, zarrs and tensorstore is
installed takes part; without PyAV the videos are MPEG-4 by OpenCV and not h264. Videos: 10 s at 30
fps, made from the DAVIS sequences in ``../shared/data`` played forth and back (from a drawn scene
where that is absent), h264 CRF 23, keyframes 250 frames apart.
"""

import importlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import zarr
from numcodecs import Blosc

from benchmarks.harness import (
    FOOTAGE,
    RESULTS,
    Seconds,
    in_turns,
    installed,
    medians,
    options,
    ratio,
    write,
)
from fame.clipstore import (
    ClipStore,
    StoreHeader,
    StoreSpec,
    VideoFrames,
    Window,
    create,
    finalise,
    store_info,
    write_shard,
)
from fame.clipstore.chunk import CRC_BYTES, crc32c, decode_chunk, max_chunk_bytes
from fame.clipstore.jpeg import decode_tall_jpeg, encode_tall_jpeg
from fame.clipstore.locate import locate
from fame.clipstore.shard import OpenShard
from fame.clipstore.write import read_layout
from fame.randomness import numpy_generator

HEIGHT, WIDTH, SECONDS, FPS = 256, 340, 10, 30
WINDOW, CLIPS = Window(frames=16), 100
DAVIS = FOOTAGE / "davis"
ALSO_HERE = ("decord", "torchcodec", "zarrs", "tensorstore")
Reader = Callable[[int], object]


def scenes() -> Iterator[np.ndarray]:
    """Ten scenes of 300 RGB frames."""
    sequences = sorted(DAVIS.glob("*/frames")) if DAVIS.is_dir() else []
    for frames in sequences:
        pictures = [
            cv2.resize(cv2.imread(str(f)), (455, HEIGHT), interpolation=cv2.INTER_AREA)
            for f in sorted(frames.iterdir())
        ]
        there = np.stack(pictures)[:, :, 57 : 57 + WIDTH, ::-1]
        loop = np.concatenate([there, there[-2:0:-1]])
        yield np.ascontiguousarray(loop[np.arange(SECONDS * FPS) % len(loop)])
    if not sequences:
        yield from (drawn_scene(number) for number in range(10))


def drawn_scene(number: int) -> np.ndarray:
    """A textured picture panned and zoomed, with a disc moving over it."""
    rng = numpy_generator(0, 0, number, "scene")
    texture = cv2.GaussianBlur(rng.integers(0, 256, (512, 680, 3), np.uint8), (0, 0), 1.5)
    frames = []
    for t in range(SECONDS * FPS):
        left, top = int(150 + 120 * np.sin(t / 40)), int(100 + 80 * np.cos(t / 55))
        frame = texture[top : top + HEIGHT, left : left + WIDTH].copy()
        cv2.circle(frame, (int(170 + 120 * np.cos(t / 20)), 128), 30, (240, 200, 40), -1)
        frames.append(frame)
    return np.stack(frames)


def write_video(path: Path, frames_THWC: np.ndarray) -> str:
    """Encode one video; returns the codec."""
    try:
        av = importlib.import_module("av")
    except ImportError:
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
        for frame in frames_THWC:
            writer.write(frame[..., ::-1])
        writer.release()
        return "mpeg4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "23", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", 250
        for frame in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return "h264"


def make_store(path: Path, videos: list[Path], codec: str) -> ClipStore:
    """A store of the decoded videos, every second frame, and no maps."""
    spec = StoreSpec(codec=codec, foreground="none", videos_per_shard=2)
    header = StoreHeader(dataset="benchmark", split="all", class_names=(), spec=spec)
    create(path, header, names=[video.name for video in videos], labels=[-1] * len(videos))
    for shard in range(-(-len(videos) // 2)):
        write_shard(
            path, shard, (decoded(video, spec) for video in videos[2 * shard : 2 * shard + 2])
        )
    finalise(path)
    return ClipStore.open(path)


def decoded(video: Path, spec: StoreSpec) -> VideoFrames:
    capture, frames = cv2.VideoCapture(str(video)), []
    while (read := capture.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    number_L = np.arange(0, len(frames), spec.keep, dtype=np.int32)[: spec.slots]
    return VideoFrames(
        frames=np.stack([frames[number] for number in number_L]),
        foreground=None,
        source=np.stack([number_L, number_L * 1000 // FPS], axis=1).astype(np.int32),
    )


def random_clips(store: ClipStore, count: int) -> list[tuple[int, int]]:
    """(video, start) of ``count`` clips."""
    rng = numpy_generator(0, 0, 0, "clips")
    videos = rng.integers(store.num_videos, size=count).tolist()
    return [(video, int(rng.choice(store.starts(video, WINDOW)))) for video in videos]


def encoded_clips(store: ClipStore, clips: list[tuple[int, int]]) -> list[list[np.ndarray]]:
    """The chunks of the frames of each clip, in memory."""
    layout, found = read_layout(store.path), []
    for video, start in clips:
        shard, place = divmod(video, store.spec.videos_per_shard)
        opened = OpenShard(
            locate(store.path),
            layout.shard_key("frames", shard),
            chunks_per_shard=layout.chunks_per_shard("frames"),
            max_chunk_bytes=max_chunk_bytes(layout, "frames"),
        )
        first = place * store.spec.slots + start
        positions = range(first, first + WINDOW.frames)
        found.append([chunk.copy() for chunk in opened.chunks(positions)])
    return found


def tall_reader(store: ClipStore, clips: list[tuple[int, int]], path: Path) -> Reader:
    """What format 1 did for a clip: read its one tall JPEG, check it, decode it, cut it."""
    places: list[tuple[int, int]] = []
    with path.open("wb") as file:
        for video, start in clips:
            jpeg = encode_tall_jpeg(store.clip(video, start, WINDOW), quality=store.spec.quality)
            places.append((file.tell(), len(jpeg) + CRC_BYTES))
            file.write(jpeg + crc32c(jpeg))
    descriptor, size = os.open(path, os.O_RDONLY), {"height": HEIGHT, "width": WIDTH}
    buffer = bytearray(2**22)

    def read(i: int) -> np.ndarray:
        offset, length = places[i]
        view = memoryview(buffer)[:length]
        os.preadv(descriptor, [view], offset)
        data = np.frombuffer(view, np.uint8)
        assert crc32c(data[:-CRC_BYTES]) == data[-CRC_BYTES:].tobytes()
        return decode_tall_jpeg(data[:-CRC_BYTES], frames=WINDOW.frames, **size)

    return read


def store_readers(
    stores: dict[str, ClipStore], clips: list[tuple[int, int]], folder: Path
) -> dict[str, Reader]:
    """The stores, their codecs bare, format 1, and other readers of the same files."""
    layout = read_layout(stores["lz4"].path)
    jpeg, lz4 = (encoded_clips(stores[codec], clips) for codec in ("jpeg", "lz4"))
    blosc = Blosc()
    readers: dict[str, Reader] = {
        "bare jpeg": lambda i: [
            cv2.imdecode(chunk[:-CRC_BYTES], cv2.IMREAD_COLOR_RGB) for chunk in jpeg[i]
        ],
        "store jpeg": lambda i: stores["jpeg"].clip(*clips[i], WINDOW),
        "format 1 jpeg": tall_reader(stores["lz4"], clips, folder / "tall"),
        "zarr-python jpeg": zarr_reader(stores["jpeg"], clips),
        "bare lz4": lambda i: [blosc.decode(chunk[:-CRC_BYTES]) for chunk in lz4[i]],
        "bare lz4 and crc32c": lambda i: [
            decode_chunk(layout, "frames", chunk) for chunk in lz4[i]
        ],
        "store lz4": lambda i: stores["lz4"].clip(*clips[i], WINDOW),
        "zarr-python lz4": zarr_reader(stores["lz4"], clips),
    }
    for name, make in (("zarrs lz4", zarrs_reader), ("tensorstore lz4", tensorstore_reader)):
        try:
            readers[name] = make(stores["lz4"], clips)
        except ImportError:
            print(f"{name}: not installed")
    return readers


def zarr_reader(store: ClipStore, clips: list[tuple[int, int]]) -> Reader:
    array = zarr.open_array(store.path / "frames", mode="r")
    return lambda i: np.asarray(array[window_of(clips[i])])


def window_of(clip: tuple[int, int]) -> tuple[int, slice]:
    """Where a clip is in the array of frames."""
    return clip[0], slice(clip[1], clip[1] + WINDOW.frames)


def zarrs_reader(store: ClipStore, clips: list[tuple[int, int]]) -> Reader:
    importlib.import_module("zarrs")
    with zarr.config.set(
        {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "threading.max_workers": 1}
    ):
        array = zarr.open_array(store.path / "frames", mode="r")
    return lambda i: np.asarray(array[window_of(clips[i])])


def tensorstore_reader(store: ClipStore, clips: list[tuple[int, int]]) -> Reader:
    tensorstore = importlib.import_module("tensorstore")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store.path / "frames")}}
    one = {"limit": 1}
    context = tensorstore.Context({"data_copy_concurrency": one, "file_io_concurrency": one})
    array = tensorstore.open(spec, context=context, read=True).result()
    return lambda i: array[window_of(clips[i])].read().result()


def opencv_reader(video: Path, wanted: list[int]) -> np.ndarray:
    capture = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    capture.set(cv2.CAP_PROP_POS_FRAMES, wanted[0])
    frames = []
    for index in range(wanted[0], wanted[-1] + 1):
        capture.grab()
        if index in wanted:
            frames.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
    return np.stack(frames)


def pyav_reader(video: Path, wanted: list[int]) -> np.ndarray:
    av = importlib.import_module("av")
    frames = []
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        per_frame = 1 / (stream.time_base * stream.average_rate)
        container.seek(int(wanted[0] * per_frame), stream=stream)
        for frame in container.decode(stream):
            index = round(frame.pts / per_frame)
            if index in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
            if index >= wanted[-1]:
                break
    return np.stack(frames)


def decord_reader(video: Path, wanted: list[int]) -> np.ndarray:
    decord = importlib.import_module("decord")
    return decord.VideoReader(str(video), num_threads=1).get_batch(wanted).asnumpy()


def torchcodec_reader(video: Path, wanted: list[int]) -> np.ndarray:
    decoders = importlib.import_module("torchcodec.decoders")
    decoder = decoders.VideoDecoder(
        video, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="approximate"
    )
    return decoder.get_frames_at(wanted).data.numpy()


def fly_readers(
    store: ClipStore, clips: list[tuple[int, int]], videos: list[Path]
) -> dict[str, Reader]:
    """Decoding on the fly: open the video, seek, decode the window, keep every second frame."""
    keep, readers = store.spec.keep, dict[str, Reader]()
    for library in (opencv_reader, pyav_reader, decord_reader, torchcodec_reader):
        name = library.__name__.removesuffix("_reader")

        def read(i: int, library: Callable[[Path, list[int]], np.ndarray] = library) -> np.ndarray:
            video, start = clips[i]
            first = keep * start
            return library(videos[video], list(range(first, first + WINDOW.frames * keep, keep)))

        try:
            difference = np.abs(
                np.asarray(read(3)).astype(int) - store.clip(*clips[3], WINDOW)
            ).mean()
        except (ImportError, RuntimeError, OSError) as error:
            print(f"{name}: does not run here ({str(error).splitlines()[0]})")
            continue
        assert difference < 4, f"{name} decodes other frames: mean difference {difference:.1f}"
        readers[f"on the fly, {name}"] = read
    return readers


def measure(readers: dict[str, Reader], clips: int, *, rounds: int) -> Seconds:
    """Return the CPU seconds of a clip, by reader and round, all on the same random clips."""

    def job(name: str, read: Reader) -> Callable[[int], object]:
        def run(number: int) -> None:
            order = numpy_generator(0, number, 0, "order").permutation(clips).tolist()
            for index in order[: counts[name]]:
                read(index)

        return run

    counts = {n: max(10, clips // 5) if n.startswith("on the fly") else clips for n in readers}
    jobs = {name: job(name, read) for name, read in readers.items()}
    seconds = in_turns(jobs, rounds=rounds)
    return {name: [each / counts[name] for each in seconds[name]] for name in seconds}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        root, videos = Path(folder), []
        for number, scene in enumerate(scenes()):
            videos.append(root / f"{number}.mp4")
            video_codec = write_video(videos[-1], scene)
        stores = {codec: make_store(root / codec, videos, codec) for codec in ("jpeg", "lz4")}
        clips = random_clips(stores["lz4"], CLIPS)
        fly = fly_readers(stores["lz4"], clips, videos)
        readers = store_readers(stores, clips, root)
        seconds = measure(readers | fly, CLIPS, rounds=arguments.rounds)
        tall_bytes = (root / "tall").stat().st_size / CLIPS
        frame_bytes = (
            store_info(root / "jpeg").array_bytes["frames"] / stores["jpeg"].length_V.sum()
        )
    made = f"{len(videos)} of {SECONDS} s, {WIDTH}x{HEIGHT}, {video_codec}, keyframes 250 apart"
    report = {
        "footage": "DAVIS" if DAVIS.is_dir() else "drawn",
        "videos": made,
        "versions": {package: installed(package) for package in ALSO_HERE},
        **compared(seconds, fly=list(fly), share_of_tall=16 * frame_bytes / tall_bytes),
    }
    write("store", report, folder=arguments.out)


def compared(seconds: Seconds, *, fly: list[str], share_of_tall: float) -> dict[str, object]:
    """Return the rates of all readers, and the ratios that the claims are about."""
    middle = medians(seconds)
    fastest = min(fly, key=lambda name: middle[name])

    def rates(over: str, under: str) -> float:
        return ratio(seconds, under, over)  # of rates, not of seconds

    return {
        "clips_per_cpu_second": {name: round(1 / each, 1) for name, each in middle.items()},
        "fastest_on_the_fly": fastest,
        "ratios": {
            "store jpeg / bare jpeg (target 0.90)": rates("store jpeg", "bare jpeg"),
            "store lz4 / bare lz4 (target 0.80)": rates("store lz4", "bare lz4"),
            "store lz4 / bare lz4 and crc32c": rates("store lz4", "bare lz4 and crc32c"),
            "store jpeg / format 1 jpeg (target 0.90)": rates("store jpeg", "format 1 jpeg"),
            "bytes of 16 frames / of a tall JPEG": round(share_of_tall, 3),
            "store jpeg / fastest on the fly (target 8)": rates("store jpeg", fastest),
            "zarr-python jpeg / bare jpeg": rates("zarr-python jpeg", "bare jpeg"),
            "zarr-python lz4 / bare lz4": rates("zarr-python lz4", "bare lz4"),
        },
    }


if __name__ == "__main__":
    main()
