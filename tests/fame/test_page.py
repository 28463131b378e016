"""Pages of our own making: words from outside stay words, and nothing is fetched."""

import re

import numpy as np
import pytest

from fame import page


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ('a" onload="x', "a&quot; onload=&quot;x"),
        ("red \x1b[31m", "red \\x1b[31m"),
        ("two\nlines", "two\\nlines"),
        ("\udcff", "\\udcff"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
    ],
)
def test_words_from_outside_stay_words(text: str, shown: str):
    assert page.escape(text) == shown
    written = page.document(
        text, page.table([[text]], head=[text]), page.tag("p", text, title=text)
    )
    assert "<script" not in written
    assert "\x1b" not in written
    written.encode()  # a lone surrogate cannot be written


def test_a_megabyte_of_name_is_cut_and_said():
    shown = page.escape("x" * 1_000_000)
    assert len(shown) < 400
    assert "999700 characters more" in shown


def test_what_is_markup_is_left_as_it_is():
    assert page.tag("p", page.tag("b", "a & b")) == "<p><b>a &amp; b</b></p>"
    assert (
        page.tag("div", class_="grid", aria_label="x") == '<div class="grid" aria-label="x"></div>'
    )


def test_a_page_fetches_nothing():
    clip_THW3 = np.zeros((3, 8, 10, 3), np.uint8)
    written = page.document(
        "Run",
        page.grid([page.figure(page.film(clip_THW3, alt="a film"), "one")]),
        page.picture(clip_THW3[0], alt='"quoted"'),
    )
    sources = re.findall(r'(?:src|href)="([^"]*)"', written)
    assert len(sources) == 2
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    assert 'width="10" height="8" alt="a film"' in written
    assert "&quot;quoted&quot;" in written
    assert "default-src 'none'" in written


def test_a_chart_scales_its_lines():
    drawn = page.chart(
        {"raw": [0.0, 4.0, 2.0], "mean": [1.0, 2.0, 2.0]}, title="loss", steps=[0, 5, 10]
    )
    first, second = re.findall(r'points="([^"]*)"', drawn)
    assert first == "44.0,150.0 194.0,20.0 344.0,85.0"
    assert second == "44.0,117.5 194.0,85.0 344.0,85.0"
    assert "loss over steps: raw, mean" in drawn


def test_a_long_line_is_drawn_whole():
    steps = list(range(400))
    drawn = page.chart({"loss": [float(step % 7) for step in steps]}, title="loss", steps=steps)
    (points,) = re.findall(r'points="([^"]*)"', drawn)
    assert len(points.split(" ")) == 400


def test_a_chart_of_one_value_and_a_level():
    drawn = page.chart({"loss": [3.0]}, title="loss", steps=[7], levels={"chance": 3.0})
    assert "nan" not in drawn
    assert "loss over steps: loss; dashed, chance" in drawn
