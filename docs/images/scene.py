"""Draw small scenes that read at a glance: a person walks before hills, a street or the sea, seen by a shaky camera.

Shapes: T frames, H W height and width, the last 3 RGB.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

FRAMES, HEIGHT, WIDTH = 16, 150, 200
_FINE = 3  # drawn this much larger, then reduced: smooth edges
_MARGIN = 24  # pixels of background beyond each border, for the camera to shake in

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Person:
    """Who walks: colours, the column and row of the hip in the first frame, pixels a frame, height of the body."""

    shirt: Colour
    trousers: Colour
    start: float
    speed: float
    size: float = 78
    ground: float = 136
    skin: Colour = (226, 178, 140)


def scenes() -> np.ndarray:
    """Return three clips [3, T, H, W, 3]."""
    people = (
        Person(shirt=(214, 60, 48), trousers=(40, 52, 92), start=62, speed=2.2),
        Person(shirt=(245, 196, 52), trousers=(52, 52, 56), start=140, speed=-2.2),
        Person(shirt=(52, 120, 214), trousers=(236, 228, 210), start=74, speed=1.8),
    )
    return np.stack(
        [clip(draw, person, seed) for seed, (draw, person) in enumerate(zip((hills, street, sea), people, strict=True))]
    )


def clip(background, person: Person, seed: int) -> np.ndarray:
    """Return one clip [T, H, W, 3]: the background moves with the camera, the person by itself."""
    wide = Image.new("RGB", ((WIDTH + 2 * _MARGIN) * _FINE, (HEIGHT + 2 * _MARGIN) * _FINE))
    rng = np.random.default_rng(seed)
    background(ImageDraw.Draw(wide), wide.width, wide.height, rng)
    wide = textured(wide, rng)
    shake = np.random.default_rng(seed + 7).normal(0, 1.2, (FRAMES, 2)).cumsum(0)
    shake = np.clip(shake - shake.mean(0), -8, 8)
    frames = []
    for t in range(FRAMES):
        picture = wide.copy()
        walk(ImageDraw.Draw(picture), person, t)
        left, top = ((_MARGIN + offset) * _FINE for offset in shake[t])
        box = (round(left), round(top), round(left) + WIDTH * _FINE, round(top) + HEIGHT * _FINE)
        frames.append(np.asarray(picture.crop(box).resize((WIDTH, HEIGHT), Image.Resampling.BOX)))
    return np.stack(frames)


def textured(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the picture with a faint grain that moves with it, as real skies and walls have."""
    size = (picture.height // 6, picture.width // 6)
    grain = Image.fromarray(rng.normal(128, 22, size).clip(0, 255).astype(np.uint8)).resize(picture.size, Image.Resampling.BICUBIC)
    pixels = np.asarray(picture, np.float32) + (np.asarray(grain, np.float32)[..., None] - 128) * 0.35
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def walk(draw: ImageDraw.ImageDraw, person: Person, t: int) -> None:
    """Draw the person at frame t: legs and arms swing as pendulums, once in 12 frames."""
    unit = person.size / 78 * _FINE
    phase, way = 2 * math.pi * t / 12, math.copysign(1, person.speed)
    x = (_MARGIN + person.start + person.speed * t) * _FINE
    ground = (_MARGIN + person.ground) * _FINE
    hip, shoulder = ground - 36 * unit + abs(math.sin(phase)) * 1.5 * unit, ground - 62 * unit

    def limb(top: tuple[float, float], swing: float, bend: float, lengths: tuple[float, float], width: float, colour: Colour):
        knee = (top[0] + lengths[0] * unit * math.sin(swing), top[1] + lengths[0] * unit * math.cos(swing))
        foot = (knee[0] + lengths[1] * unit * math.sin(swing - bend), knee[1] + lengths[1] * unit * math.cos(swing - bend))
        draw.line([top, knee, foot], fill=colour, width=round(width * unit), joint="curve")
        radius = width * unit / 2
        for px, py in (knee, foot):
            draw.ellipse((px - radius, py - radius, px + radius, py + radius), fill=colour)
        return foot

    dark = tuple(int(0.78 * c) for c in person.trousers)
    for sign, colour in ((-1, dark), (1, person.trousers)):
        swing = sign * 0.55 * math.sin(phase)
        foot = limb((x, hip), way * swing, way * max(0.0, 0.5 * math.cos(phase) * sign), (18, 18), 7, colour)
        draw.ellipse((foot[0] - 3 * unit, foot[1] - 2 * unit, foot[0] + (3 + 4 * way) * unit if way > 0 else foot[0] + 3 * unit, foot[1] + 3 * unit), fill=(30, 26, 26))
    limb((x, shoulder + 3 * unit), -way * 0.6 * math.sin(phase) * -1, -way * 0.4, (14, 13), 5, tuple(int(0.75 * c) for c in person.shirt))
    draw.rounded_rectangle((x - 8 * unit, shoulder, x + 8 * unit, hip + 3 * unit), radius=6 * unit, fill=person.shirt)
    hand = limb((x, shoulder + 3 * unit), way * 0.6 * math.sin(phase) * -1, -way * 0.4, (14, 13), 5, tuple(int(0.88 * c) for c in person.shirt))
    draw.ellipse((hand[0] - 3 * unit, hand[1] - 3 * unit, hand[0] + 3 * unit, hand[1] + 3 * unit), fill=person.skin)
    draw.rectangle((x - 2.5 * unit, shoulder - 5 * unit, x + 2.5 * unit, shoulder + 2 * unit), fill=person.skin)
    draw.ellipse((x - 7 * unit, shoulder - 19 * unit, x + 7 * unit, shoulder - 3 * unit), fill=person.skin)
    draw.chord((x - 7.5 * unit, shoulder - 20 * unit, x + 7.5 * unit, shoulder - 4 * unit), 180, 360, fill=(60, 42, 30))


def _gradient(draw: ImageDraw.ImageDraw, width: int, top: int, bottom: int, first: Colour, last: Colour) -> None:
    for y in range(top, bottom):
        share = (y - top) / max(1, bottom - top - 1)
        draw.line((0, y, width, y), fill=tuple(round(a + share * (b - a)) for a, b in zip(first, last, strict=True)))


def hills(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    """Draw sky, clouds, two rows of hills, trees and grass."""
    _gradient(draw, width, 0, height, (120, 182, 236), (216, 236, 246))
    for x, y in ((0.18, 0.22), (0.55, 0.16), (0.84, 0.28)):
        for dx, dy, r in ((0, 0, 22), (26, 6, 17), (-26, 7, 15)):
            cx, cy, r = x * width + dx * _FINE, y * height + dy * _FINE, r * _FINE
            draw.ellipse((cx - r, cy - 0.6 * r, cx + r, cy + 0.6 * r), fill=(250, 252, 255))
    for colour, base, wave in (((124, 158, 130), 0.56, 0.06), ((92, 140, 92), 0.66, 0.045)):
        line = [(x, height * (base + wave * math.sin(5 * x / width + 9 * base) + 0.4 * wave * math.sin(13 * x / width))) for x in range(0, width + 9, 9)]
        draw.polygon([*line, (width, height), (0, height)], fill=colour)
    for x in rng.uniform(0, width, 14):
        y, r = height * (0.68 + 0.02 * math.sin(x)), rng.uniform(7, 13) * _FINE
        draw.rectangle((x - 1.5 * _FINE, y, x + 1.5 * _FINE, y + 1.2 * r), fill=(96, 70, 50))
        draw.ellipse((x - 0.8 * r, y - 1.4 * r, x + 0.8 * r, y + 0.5 * r), fill=(44, 104, 60))
    _gradient(draw, width, round(0.74 * height), height, (112, 168, 84), (78, 130, 58))
    for x, y in rng.uniform((0, 0.76), (1, 1), (260, 2)):
        draw.line((x * width, y * height, x * width + _FINE, y * height - 4 * _FINE), fill=(70, 118, 52), width=_FINE)


def street(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    """Draw an evening sky, houses with windows, pavement and road."""
    _gradient(draw, width, 0, height, (84, 70, 128), (250, 178, 140))
    x = 0.0
    while x < width:
        w, top = rng.uniform(34, 56) * _FINE, height * rng.uniform(0.14, 0.4)
        tone = int(rng.integers(52, 96))
        draw.rectangle((x, top, x + w, height), fill=(tone + 20, tone, tone + 14))
        for row in np.arange(top + 8 * _FINE, 0.64 * height, 14 * _FINE):
            for column in np.arange(x + 5 * _FINE, x + w - 8 * _FINE, 11 * _FINE):
                lit = rng.random() < 0.5
                draw.rectangle((column, row, column + 6 * _FINE, row + 8 * _FINE), fill=(255, 222, 130) if lit else (44, 40, 62))
        x += w + 2 * _FINE
    draw.rectangle((0, 0.74 * height, width, height), fill=(150, 142, 142))
    for seam in range(0, width, 26 * _FINE):
        draw.line((seam, 0.74 * height, seam - 14 * _FINE, 0.86 * height), fill=(122, 114, 116), width=_FINE)
    draw.rectangle((0, 0.86 * height, width, height), fill=(66, 64, 72))
    for mark in range(0, width, 46 * _FINE):
        draw.rectangle((mark, 0.92 * height, mark + 24 * _FINE, 0.935 * height), fill=(232, 226, 206))


def sea(draw: ImageDraw.ImageDraw, width: int, height: int, rng: np.random.Generator) -> None:
    """Draw a low sun, the sea with waves, a sail and the beach."""
    _gradient(draw, width, 0, round(0.55 * height), (94, 168, 214), (255, 226, 178))
    sun, r = (0.72 * width, 0.42 * height), 17 * _FINE
    draw.ellipse((sun[0] - r, sun[1] - r, sun[0] + r, sun[1] + r), fill=(255, 244, 206))
    _gradient(draw, width, round(0.52 * height), round(0.76 * height), (40, 118, 150), (96, 190, 196))
    for x, y in rng.uniform((0, 0.54), (1, 0.74), (90, 2)):
        length = 14 * _FINE * (y - 0.45) * 4
        draw.line((x * width, y * height, x * width + length, y * height), fill=(190, 230, 230), width=_FINE)
    x, y = 0.3 * width, 0.53 * height
    draw.polygon([(x, y), (x, y - 30 * _FINE), (x + 18 * _FINE, y)], fill=(250, 250, 246))
    draw.polygon([(x - 12 * _FINE, y + _FINE), (x + 20 * _FINE, y + _FINE), (x + 14 * _FINE, y + 7 * _FINE), (x - 7 * _FINE, y + 7 * _FINE)], fill=(120, 60, 44))
    _gradient(draw, width, round(0.74 * height), height, (240, 220, 170), (214, 186, 130))
    for x, y in rng.uniform((0, 0.78), (1, 1), (200, 2)):
        draw.point((x * width, y * height), fill=(190, 160, 108))
