"""A designed picture for every variant that has no example yet: soft light in colours of the slug's own. Pure."""

import colorsys
import hashlib
import random

from registry.catalog import Slug, Variant

WIDTH, HEIGHT = 480, 360  # pixels, the card's 4:3


def picture(variant: Variant) -> str:
    """SVG text, the same for the same slug for ever. Siblings of one model share their base hue."""
    rng = random.Random(hashlib.sha256(variant.slug.encode()).digest())  # noqa: S311  decoration, not security
    hue = _hue(variant.model)
    lights = "".join(_light(rng, index) for index in range(4))
    gradients = "".join(_gradient(rng, index, hue) for index in range(4))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="xMidYMid slice">'
        f'<defs>{gradients}<filter id="b" x="-50%" y="-50%" width="200%" height="200%">'
        '<feGaussianBlur stdDeviation="46"/></filter>'
        '<filter id="g"><feTurbulence type="fractalNoise" baseFrequency=".8" numOctaves="2" seed="3"/>'
        '<feColorMatrix values="0 0 0 0 1  0 0 0 0 1  0 0 0 0 1  0 0 0 .16 0"/></filter></defs>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{_colour(hue, 0.5, 0.2)}"/>'
        f'<g filter="url(#b)">{lights}</g>{_figure(rng, variant)}'
        f'<rect width="{WIDTH}" height="{HEIGHT}" filter="url(#g)"/></svg>'
    )


def _hue(model: str) -> float:
    return hashlib.sha256(model.encode()).digest()[0] / 256


def _colour(hue: float, saturation: float, lightness: float) -> str:
    red, green, blue = colorsys.hls_to_rgb(hue % 1.0, lightness, saturation)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def _gradient(rng: random.Random, index: int, hue: float) -> str:
    colour = _colour(hue + rng.uniform(-0.14, 0.2), rng.uniform(0.55, 0.85), rng.uniform(0.42, 0.66))
    return (
        f'<radialGradient id="l{index}"><stop stop-color="{colour}"/>'
        f'<stop offset="1" stop-color="{colour}" stop-opacity=".1"/></radialGradient>'
    )


def _light(rng: random.Random, index: int) -> str:
    x, y = rng.randint(0, WIDTH), rng.randint(0, HEIGHT)
    return f'<ellipse cx="{x}" cy="{y}" rx="{rng.randint(120, 240)}" ry="{rng.randint(90, 200)}" fill="url(#l{index})"/>'


def _figure(rng: random.Random, variant: Variant) -> str:
    """A quiet mark that tells moving pictures, sound, solids and stills apart."""
    ink = 'fill="none" stroke="#fff" stroke-opacity=".55" stroke-width="1.5"'
    if "video" in variant.task.split("-to-")[-1]:
        frames = range(5)
        return "".join(
            f'<rect x="{96 + 36 * i}" y="{118 - 8 * i}" width="140" height="140" rx="14" {ink} opacity="{0.25 + 0.18 * i:.2f}"/>'
            for i in frames
        )
    if any(word in variant.task for word in ("audio", "speech", "music")):
        return "".join(
            f'<line x1="{90 + 12 * i}" x2="{90 + 12 * i}" y1="{180 - h}" y2="{180 + h}" {ink} stroke-linecap="round"/>'
            for i, h in enumerate(rng.randint(6, 74) for _ in range(26))
        )
    turn, size = rng.randint(0, 60), rng.randint(62, 88)
    return "".join(
        f'<rect x="{240 - size}" y="{180 - size}" width="{2 * size}" height="{2 * size}" rx="{10 + 16 * i}" '
        f'transform="rotate({turn + 15 * i} 240 180)" {ink} opacity="{0.3 + 0.15 * i:.2f}"/>'
        for i in range(4)
    )


def example_name(slug: Slug) -> str:
    """The file name of a variant's example picture, without its ending."""
    return slug.replace("/", "--")
