"""Show a decoded picture as a player does: whole instead of interlaced, and upright."""

import math
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame


def progressive(pictures: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
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


def upright(picture_hw3: np.ndarray, picture: VideoFrame) -> np.ndarray:
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
