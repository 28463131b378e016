"""Self-contained HTML pages: no script but ours, no network, legible on a phone and in the dark.

Everything that is put in is escaped here, in one place, unless it is :class:`Markup` already: words
from outside (class names, file names) can never become part of the page's code.
"""

import base64
import hashlib
import html
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_LONGEST = 300  # characters of one piece of text: a name may be a megabyte
_MILLISECONDS = 120  # a frame of a moving picture
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --ink: #1a1a1a; --paper: #fff;
  --accent: #3949ab; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #16181c; --accent: #9fa8ff; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 0 auto; padding: 1rem; max-width: 72rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; } .wide { overflow-x: auto; }
td, th { padding: .25rem .75rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; font-variant-numeric: tabular-nums; }
th { white-space: nowrap; } td { overflow-wrap: break-word; } td:first-child { min-width: 9rem; }
figure { margin: 0; } figcaption { font-size: .85rem; }
img { max-width: 100%; height: auto; display: block; border-radius: 3px; image-rendering: auto; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
.grid img { width: 100%; } .charts { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(max(17rem, 40%), 1fr)); }
svg { width: 100%; height: auto; }
svg text { fill: currentColor; font: 12px system-ui, sans-serif; paint-order: stroke;
  stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }
"""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escape(text: object) -> Markup:
    """Return text as HTML shows it: shortened, control characters made visible."""
    if isinstance(text, Markup):
        return text
    words = str(text)
    if len(words) > _LONGEST:
        words = f"{words[:_LONGEST]} (and {len(words) - _LONGEST} characters more)"
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in words)
    return Markup(html.escape(shown))


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """Return an element; ``class_`` is the attribute ``class``, and content is escaped."""
    pairs = ""
    for key, value in attributes.items():
        pairs += f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
    return Markup(f"<{name}{pairs}>{''.join(map(escape, content))}</{name}>")


def document(title: str, *parts: Markup, style: str = "", script: str = "") -> str:
    """Return a whole page; ``style`` is more CSS, ``script`` the only script that may run."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"; script-src 'sha256-{digest}'" if script else ""
    code = f"<script>{script}</script>" if script else ""
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"img-src data:; style-src 'unsafe-inline'{allowed}\">"
    )
    body = "\n".join(parts)
    title_html = escape(title)
    return (
        f"{head}<title>{title_html}</title><style>{_STYLE}{style}</style></head>"
        f"<body><h1>{title_html}</h1>\n{body}\n{code}</body></html>\n"
    )


def table(rows: Sequence[Sequence[object]], *, head: Sequence[object] = ()) -> Markup:
    """Return a table that scrolls by itself where the screen is narrow."""
    lines = [tag("tr", *(tag("th", cell) for cell in head))] if head else []
    lines += [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    return tag("div", tag("table", *lines), class_="wide")


def picture(image_HW3: UInt8[np.ndarray, "h w 3"], *, alt: str) -> Markup:
    """Return a still picture, its bytes in the page."""
    return _image([Image.fromarray(image_HW3)], alt)


def film(clip_THW3: UInt8[np.ndarray, "t h w 3"], *, alt: str) -> Markup:
    """Return a looping picture (an animated WebP), its bytes in the page."""
    return _image([Image.fromarray(frame) for frame in clip_THW3], alt)


def _image(frames: list[Image.Image], alt: str) -> Markup:
    data = io.BytesIO()
    more = {"save_all": True, "append_images": frames[1:], "duration": _MILLISECONDS, "loop": 0}
    frames[0].save(data, "WEBP", quality=80, method=4, **(more if len(frames) > 1 else {}))
    source = "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()
    width, height = frames[0].size
    size = f'width="{width}" height="{height}"'
    return Markup(f'<img loading="lazy" {size} alt="{escape(alt)}" src="{source}">')


def figure(image: Markup, caption: object) -> Markup:
    """Return a picture with a caption below."""
    return tag("figure", image, tag("figcaption", caption))


def chart(
    lines: Mapping[str, Sequence[float | int]],
    *,
    title: str,
    steps: Sequence[float | int],
    levels: Mapping[str, float | int] | None = None,
) -> Markup:
    """Return a line chart of values over steps; the first line is faint, the last one bold.

    ``levels`` are dashed horizontal lines, such as what guessing reaches; the caption names them.
    """
    levels = levels or {}
    values = [value for line in lines.values() for value in line] + list(levels.values())
    low, high = min(values), max(values)
    span, last = (high - low) or 1.0, max(steps) - min(steps) or 1.0

    def x(step: float | int) -> str:
        return f"{44 + 300 * (step - min(steps)) / last:.1f}"

    def y(value: float | int) -> str:
        return f"{150 - 130 * (value - low) / span:.1f}"

    drawn: list[Markup] = []
    for number, (name, line) in enumerate(lines.items()):
        bold = number == len(lines) - 1
        pairs = zip(steps, line, strict=True)
        points = Markup(" ".join(f"{x(s)},{y(v)}" for s, v in pairs))  # ours, and long
        look = {"stroke": "var(--accent)", "stroke_width": 2 if bold else 1}
        drawn.append(
            tag("polyline", tag("title", name), points=points, fill="none",
                opacity=1 if bold else 0.35, **look)
        )  # fmt: skip
    for level in levels.values():
        at = {"x1": 44, "x2": 344, "y1": y(level), "y2": y(level)}
        drawn.append(tag("line", stroke="currentColor", stroke_dasharray="4 3", **at))
    drawn += [
        tag("text", f"{value:.3g}", x=40, y=float(y(value)) + 4, text_anchor="end")
        for value in (low, high)
    ]
    drawn += [
        tag("text", f"{step:g}", x=x(step), y=166, text_anchor=anchor)
        for step, anchor in ((min(steps), "start"), (max(steps), "end"))
    ]
    axis = tag("path", d="M44 20 V150 H344", fill="none", stroke="var(--line)")
    svg = tag("svg", axis, *drawn, viewBox="-16 0 366 172", role="img", aria_label=title)
    dashed = "".join(f"; dashed, {name}" for name in levels)
    return figure(svg, f"{title} over steps: {', '.join(lines)}{dashed}")


def grid(figures: Iterable[Markup]) -> Markup:
    """Return figures side by side, as many in a row as the screen is wide."""
    return tag("div", *figures, class_="grid")
