"""A clip store as one page for a browser: looping pictures of some of its clips, and every failure.

Shapes: T frames of a clip, H W height and width of a quarter of a picture, h w of the maps.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from fame.clipstore import (
    ClipStore,
    CorruptChunk,
    StoreInfo,
    StorePath,
    Window,
    read_record,
    store_info,
)
from fame.files import try_write, whole
from fame.foreground import foreground_mask
from fame.page import Markup, document, escape, film, table, tag
from fame.preview import dim, enlarge, heat

MAX_CLIPS, MAX_FAILURES = 500, 2000
_WINDOW = Window(frames=8, step=2)
_WIDTH = 176  # pixels of a quarter of a picture
_QUARTERS = ("clip", "map", "mask", "merged")
_STYLE = """
td:first-child { white-space: nowrap; }
form { display: flex; flex-wrap: wrap; gap: .5rem .75rem; align-items: end; padding: .5rem 0;
  background: var(--paper); border-bottom: 1px solid var(--line); }
@media (min-width: 45rem) { form { position: sticky; top: 0; z-index: 1; } }
label { flex: 1 1 9rem; max-width: 18rem; min-width: 0; font-size: .85rem; }
select, input { display: block; width: 100%; height: 2.2rem; padding: .3rem; font: inherit;
  font-size: 1rem; color: var(--ink); background: var(--paper); border: 1px solid var(--line);
  border-radius: .3rem; }
output { flex: 1 0 100%; font-size: .9rem; }
ul { list-style: none; margin: 1rem 0; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
li { border: 1px solid var(--line); border-radius: .4rem; overflow: hidden; }
li[hidden] { display: none; }
li p { margin: .4rem .6rem; line-height: 1.35; } li p + p { font-size: .9rem; opacity: .85; }
.picture { position: relative; } .picture img { width: 100%; }
.picture span { position: absolute; padding: .1rem .35rem; font-size: .75rem; line-height: 1.3;
  color: #fff; background: #000b; border-radius: 0 0 .3rem 0; }
.picture span:nth-of-type(even) { left: 50%; } .picture span:nth-of-type(n+3) { top: 50%; }
.picture span:nth-of-type(-n+2) { top: 0; } .picture span:nth-of-type(odd) { left: 0; }
b { color: light-dark(#b91c1c, #fca5a5); }
"""
_SCRIPT = """
const form = document.querySelector("form"), output = document.querySelector("output");
const items = [...document.querySelectorAll("li")];
const show = () => {
  const { kind, status, motion, text } = Object.fromEntries(new FormData(form));
  let shown = 0;
  for (const item of items) {
    const data = item.dataset;
    item.hidden = !((!kind || data.kind === kind) && (!status || data.status === status)
      && (!motion || data.motion === motion)
      && (!text || data.name.toLowerCase().includes(text.toLowerCase())));
    shown += !item.hidden;
  }
  output.textContent = `${shown} of ${items.length} shown`;
};
form.addEventListener("input", show);
form.addEventListener("submit", (event) => event.preventDefault());
show();
"""


def browse(store: StorePath, out: Path, *, clips: int = 60, beta: float = 0.5) -> int:
    """Write the page of a finished store to ``out``: the middle clip of each of at most ``clips``
    videos, evenly spaced over the store, and the failed videos. Return how many clips there are.

    Each clip is shown with its foreground map, its mask at ``beta``, and merged over the one
    before. Raise ``StoreError`` where there is no finished store, ``ValueError`` for a beta outside
    (0, 1] or a number of clips that no page should hold, and ``OSError``.
    """
    if not 1 <= clips <= MAX_CLIPS:
        raise ValueError(f"clips must be a whole number from 1 to {MAX_CLIPS}, got {clips}")
    try_write(out)
    opened, info = ClipStore.open(store), store_info(store)
    valid_V = np.flatnonzero(opened.valid_V)
    wanted = min(clips, len(valid_V))
    videos = valid_V[(2 * np.arange(wanted) + 1) * len(valid_V) // (2 * max(1, wanted))].tolist()
    items = [*_clips(opened, videos, beta), *_failures(opened, info)]
    text = document(
        Path(str(opened.path)).name,
        table(list(_facts(opened, info, shown=len(videos)).items())),
        tag(
            "p",
            f"Each picture: the clip, its foreground map, its mask at beta {beta:g}, and the clip "
            "merged over the one before. A clip without motion is kept whole.",
        ),
        _form(opened, info),
        tag("ul", *items),
        style=_STYLE,
        script=_SCRIPT,
    )
    with whole(out) as partial:
        partial.write_text(text, encoding="utf-8")
    return len(videos)


def _facts(store: ClipStore, info: StoreInfo, *, shown: int) -> dict[str, str]:
    header, spec = store.header, store.spec
    counts = ", ".join(f"{count:,} {status}" for status, count in info.statuses.items())
    failed = len(info.failures)
    facts = {
        "dataset": f"{header.dataset} {header.split}",
        "videos": f"{info.num_videos:,}: {counts}",
        "frames": f"{spec.height}x{spec.width}, {spec.kept}, {spec.codec}",
        "foreground": spec.foreground,
        "classes": f"{len(header.class_names):,}",
        "on this page": f"{shown:,} clips, evenly spaced over the store",
    }
    if failed > MAX_FAILURES:
        facts["on this page"] += f"; {MAX_FAILURES:,} of {failed:,} failures"
    if empty := [name for name, count in info.classes.items() if not count]:
        more = f" and {len(empty) - 10} more" if len(empty) > 10 else ""
        facts["no video of"] = ", ".join(empty[:10]) + more
    return facts


def _form(store: ClipStore, info: StoreInfo) -> Markup:
    """Return the filters. A class is ``=name``, so that no label differs from no filter."""
    kinds = [(f"={name}", name) for name in store.header.class_names]
    kinds += [("=", "(no label)")] if (store.labels_V < 0).any() else []
    statuses = [(name, name) for name in (*info.statuses, "corrupt")]
    motions = [("yes", "moves"), ("no", "lacks motion")]
    selects = [
        tag("label", title, tag("select", *_options(options), name_=name))
        for title, name, options in (
            ("class", "kind", kinds),
            ("status", "status", statuses),
            ("motion", "motion", motions),
        )
    ]
    search = Markup('<label>name<input name="text" type="search" autocomplete="off"></label>')
    return tag("form", *selects, search, tag("output"))


def _options(options: list[tuple[str, str]]) -> list[Markup]:
    return [tag("option", text, value=value) for value, text in [("", "all"), *options]]


def _failures(store: ClipStore, info: StoreInfo) -> Iterator[Markup]:
    label_of = dict(zip(store.names, store.labels_V.tolist(), strict=True))
    for name, reason in info.failures[:MAX_FAILURES]:
        yield _item(store, name, label_of[name], status="failed", notes=[tag("b", reason)])


def _clips(store: ClipStore, videos: list[int], beta: float) -> Iterator[Markup]:
    """Yield one item a video; each clip is merged over that of the item before, the first over the
    last.
    """
    behind = _clip(store, videos[-1]) if videos else ""
    for video in videos:
        clip = _clip(store, video)
        yield _shown(store, video, clip, behind, beta)
        behind = clip


def _clip(store: ClipStore, video: int) -> UInt8[np.ndarray, "t h w 3"] | str:
    """Return the middle clip of a video at the size of a quarter, or why there is none."""
    (start,) = store.spread(video, _WINDOW, 1)
    try:
        clip_THW3 = store.clip(video, start, _WINDOW)
    except CorruptChunk as error:
        return str(error)
    height, width = clip_THW3.shape[1:3]
    size = (_WIDTH, max(1, round(_WIDTH * height / width)))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in clip_THW3])


def _shown(
    store: ClipStore,
    video: int,
    clip: UInt8[np.ndarray, "t h w 3"] | str,
    behind: UInt8[np.ndarray, "t h w 3"] | str,
    beta: float,
) -> Markup:
    """Return the item of a video that has frames in the store, damaged ones included."""
    shard, place = divmod(video, store.spec.videos_per_shard)
    status: str = read_record(store.path, shard).videos[place].status
    notes: list[object] = [f"{int(store.length_V[video])} frames"]
    moving, motion = clip, ""
    try:
        if not isinstance(clip, str) and store.spec.foreground != "none":
            maps_Thw = store.maps(video, store.spread(video, _WINDOW, 1)[0], _WINDOW)
            motion = "no" if maps_Thw.max() == maps_Thw.min() else "yes"
            moving = _quarters(clip, maps_Thw, clip if isinstance(behind, str) else behind, beta)
    except CorruptChunk as error:
        moving = str(error)
    if motion == "no":
        notes.append(tag("b", "lacks motion"))
    name, label = store.names[video], int(store.labels_V[video])
    if isinstance(moving, str):
        notes.append(tag("b", moving))
        return _item(store, name, label, status="corrupt", notes=notes)
    if status != "ok":
        notes.append(status)
    labels = [tag("span", text) for text in (_QUARTERS if motion else _QUARTERS[:1])]
    picture = tag("div", film(moving, alt=name), *labels, class_="picture")
    return _item(store, name, label, status=status, notes=notes, motion=motion, picture=picture)


def _item(
    store: ClipStore,
    name: str,
    label: int,
    *,
    status: str,
    notes: list[object],
    motion: str = "",
    picture: Markup | str = "",
) -> Markup:
    class_name = store.header.class_names[label] if label >= 0 else ""
    words = [class_name or "(no label)", *notes]
    line = Markup(" · ".join(map(escape, words)))
    data = {"data_name": name, "data_kind": f"={class_name}", "data_status": status}
    return tag("li", picture, tag("p", name), tag("p", line), **data, data_motion=motion)


def _quarters(
    clip_THW3: UInt8[np.ndarray, "t h w 3"],
    maps_Thw: UInt8[np.ndarray, "t mh mw"],
    behind_THW3: UInt8[np.ndarray, "t h w 3"],
    beta: float,
) -> UInt8[np.ndarray, "t p q 3"]:
    """Return clip, map, mask and merged clip of each frame, as the four quarters of a picture."""
    height, width = clip_THW3.shape[1:3]
    scores_THW = np.stack([enlarge(map_hw, height, width) for map_hw in maps_Thw])
    mask_THW = foreground_mask(torch.as_tensor(scores_THW)[None], beta)[0].numpy()
    # One scale for the whole clip: its highest value becomes 255.
    brightest = np.float32(255 / max(1, int(maps_Thw.max())))
    heats, dims = (
        np.stack([draw(frame, what) for frame, what in zip(clip_THW3, over, strict=True)])
        for draw, over in ((heat, scores_THW * brightest), (dim, mask_THW))
    )
    merged_THW3 = np.where(mask_THW[..., None], clip_THW3, behind_THW3)
    # Of [T, H, W, 3], axis 2 puts pictures side by side and axis 1 one below the other.
    above, below = (
        np.concatenate(row, axis=2) for row in ((clip_THW3, heats), (dims, merged_THW3))
    )
    return np.concatenate((above, below), axis=1)
