"""The page of a store: complete, bounded, escaped, and shown by a browser as it is meant."""

import base64
import io
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fame.browse import browse
from fame.clipstore import (
    StoreHeader,
    VideoFailure,
    create,
    finalise,
    write_shard,
)
from tests.stores import CLASSES, SPEC, make_store, tiny_video

EVIL = "\"><script>alert(1)</script>'&\u202e"


class Page(HTMLParser):
    """What a browser would find: items, pictures, options, scripts and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.items: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.images: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "li":
            self.items.append(dict(attrs))
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def animation(uri: str) -> list[np.ndarray]:
    """The frames of a picture in a data URI."""
    data = base64.b64decode(uri.removeprefix("data:image/webp;base64,"))
    picture = Image.open(io.BytesIO(data))
    frames = []
    for number in range(picture.n_frames):
        picture.seek(number)
        frames.append(np.asarray(picture.convert("RGB")))
    return frames


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten videos of two classes: the second stands still, the third failed."""
    path = tmp_path_factory.mktemp("browse") / "tiny.zarr"
    spec = replace(SPEC, videos_per_shard=10)
    header = StoreHeader(dataset="tiny", split="train", class_names=CLASSES, spec=spec)
    create(path, header, names=[f"v{n}" for n in range(10)], labels=[n % 2 for n in range(10)])
    videos = [tiny_video(spec, n) for n in range(10)]
    assert videos[1].foreground is not None
    still = replace(videos[1], foreground=np.zeros_like(videos[1].foreground))
    write_shard(path, 0, [videos[0], still, VideoFailure("broken <b>"), *videos[3:]])
    finalise(path)
    return path


@pytest.fixture(scope="module")
def written(store: Path) -> str:
    """The page of the store."""
    assert browse(store, store.parent / "new" / "page.html") == 9
    return (store.parent / "new" / "page.html").read_text()


def test_every_video_is_there_with_what_it_is(written: str) -> None:
    found = Page(written)
    items = {item["data-name"]: item for item in found.items}
    assert items.keys() == {f"v{n}" for n in range(10)}
    assert [items[f"v{n}"]["data-motion"] for n in range(4)] == ["yes", "no", "", "yes"]
    assert (items["v2"]["data-status"], items["v0"]["data-status"]) == ("failed", "ok")
    assert items["v3"]["data-kind"] == "=right"
    assert "broken <b>" in found.text and "lacks motion" in found.text
    assert "9 clips, evenly spaced over the store" in found.text


def test_a_picture_shows_clip_map_mask_and_merged_clip(written: str) -> None:
    first, still = map(animation, Page(written).images[:2])
    assert len(first) == 8 and first[0].shape == (2 * 132, 2 * 176, 3)
    assert any((a != b).any() for a, b in pairwise(first)), "it moves"
    clip, merged = (still[0][r : r + 132, c : c + 176].astype(int) for r, c in ((0, 0), (132, 176)))
    assert abs(clip - merged).mean() < 6, "a clip without motion is kept whole"
    clip, merged = (first[0][r : r + 132, c : c + 176].astype(int) for r, c in ((0, 0), (132, 176)))
    assert abs(clip - merged).mean() > 10


def test_the_number_of_clips_is_bounded(store: Path, tmp_path: Path) -> None:
    assert browse(store, tmp_path / "page.html", clips=3) == 3
    names = [item["data-name"] for item in Page((tmp_path / "page.html").read_text()).items]
    assert names == ["v1", "v5", "v8", "v2"], "evenly spaced, then the failures"
    with pytest.raises(ValueError, match="clips must be a whole number from 1 to 500, got 501"):
        browse(store, tmp_path / "page.html", clips=501)
    with pytest.raises(ValueError, match="beta"):
        browse(store, tmp_path / "page.html", beta=0.0)


def test_a_store_without_maps_and_one_without_videos(tmp_path: Path) -> None:
    plain = make_store(tmp_path / "plain", videos=3, spec=replace(SPEC, foreground="none"))
    assert browse(plain, tmp_path / "page.html") == 3
    found = Page((tmp_path / "page.html").read_text())
    assert animation(found.images[0])[0].shape == (132, 176, 3)
    assert [item["data-motion"] for item in found.items] == ["", "", ""]
    lost = make_store(tmp_path / "lost", videos=2, failed=(0, 1))
    assert browse(lost, tmp_path / "page.html") == 0
    assert len(Page((tmp_path / "page.html").read_text()).items) == 2


def test_a_damaged_clip_is_shown_as_such(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store", videos=4)
    shard = max((path / "frames").rglob("*"), key=lambda file: file.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[: len(data) // 2] = bytes(len(data) // 2)
    shard.write_bytes(data)
    browse(path, tmp_path / "page.html")
    found = Page((tmp_path / "page.html").read_text())
    assert "corrupt" in {item["data-status"] for item in found.items}
    assert "fame store verify --repair" in found.text


def test_text_from_outside_stays_text(tmp_path: Path) -> None:
    """A store whose names, classes and reasons are hostile gives the tags of one where they are
    not.
    """
    found = []
    for number, text in enumerate(("plain", EVIL)):
        spec = replace(SPEC, videos_per_shard=2)
        header = StoreHeader(dataset="tiny", split="train", class_names=(text,), spec=spec)
        path = tmp_path / str(number)
        create(path, header, names=[text, f"{text}2"], labels=[0, 0])
        write_shard(path, 0, [tiny_video(spec, 0), VideoFailure(text)])
        finalise(path)
        browse(path, tmp_path / "page.html")
        found.append(Page((tmp_path / "page.html").read_text()))
    plain, evil = found
    assert evil.tags == plain.tags and len(evil.items) == 2
    shown = EVIL.replace("\u202e", "\\u202e")
    assert evil.items[0]["data-name"] == shown, "what turns the direction of text is made visible"
    assert evil.text.count(shown) == plain.text.count("plain")


def test_the_page_needs_nothing_from_outside(written: str) -> None:
    assert "default-src 'none'" in written and not re.search(r"https?:", written)
    assert len(written) < 2_000_000


def chromium(page_path: Path, profile: Path, *arguments: str) -> str:
    """Run a browser without a window on a page and return what it prints."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if not program:
        pytest.skip("there is no Chromium here")
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}")
    done = subprocess.run(
        [program, *options, *arguments, page_path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def test_a_browser_runs_the_filters_and_no_other_script(written: str, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    chosen = written.replace('<option value="no">', '<option value="no" selected>')
    path.write_text(chosen.replace("</body>", "<script>document.title = 'put in'</script></body>"))
    text = chromium(path, tmp_path / "profile", "--dump-dom")
    assert "1 of 10 shown" in Page(text).text, "its own script passes the policy"
    shown = [item["data-name"] for item in Page(text).items if "hidden" not in item]
    assert shown == ["v1"] and "<title>tiny.zarr</title>" in text
