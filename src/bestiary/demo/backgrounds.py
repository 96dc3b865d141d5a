"""Backgrounds, occluders, camera effects and out-of-distribution pictures of the demo dataset.

Backgrounds are drawn independently of the kind of creature, so that they never reveal the class.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bestiary.demo.canvas import (
    SUPERSAMPLING,
    Colour,
    Points,
    catmull_rom,
    circle_box,
    ellipse_outline,
    hsv_colour,
    mix_colours,
)


def random_size(rng: np.random.Generator) -> tuple[int, int]:
    """Return a (width, height) in pixels, each within 120..360, with common and some unusual aspect ratios."""
    long_side = rng.integers(170, 361)
    ratio = rng.choice([1.0, 0.8, 0.75, 0.667, 0.5625, rng.uniform(0.5, 1.0)])
    sides = int(long_side), max(120, round(long_side * ratio))
    return sides if rng.uniform() < 0.6 else sides[::-1]


def random_background(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return an RGB background of (width, height)."""
    return SCENES[rng.integers(len(SCENES))](size, rng)


def _scatter(low: int, high: int, size: tuple[int, int], rng: np.random.Generator) -> Points:
    """Return `low` to `high` - 1 random points, (n, 2), within (width, height)."""
    return np.asarray(rng.uniform(0, 1, (int(rng.integers(low, high)), 2)) * size)


def vertical_gradient(size: tuple[int, int], colours: list[Colour]) -> Image.Image:
    """Return an RGB picture with a vertical gradient through the colours."""
    column = Image.fromarray(np.array(colours, dtype=np.uint8)[:, None])
    return column.resize((1, size[1]), Image.Resampling.BICUBIC).resize(size, Image.Resampling.NEAREST)


def cloudy(size: tuple[int, int], first: Colour, second: Colour, cells: int, rng: np.random.Generator) -> Image.Image:
    """Return smooth noise of two colours, about `cells` clouds across."""
    grain = rng.uniform(0, 1, (cells, cells, 1))
    colours = np.array(first) * (1 - grain) + np.array(second) * grain
    return Image.fromarray(colours.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)


def draw_meadow(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return sky, hills and grass."""
    width, height = size
    sky = hsv_colour(rng.normal(0.55, 0.08), rng.uniform(0.1, 0.5), rng.uniform(0.7, 1.0))
    green = hsv_colour(rng.normal(0.28, 0.09), rng.uniform(0.25, 0.6), rng.uniform(0.4, 0.85))
    image = vertical_gradient(size, [sky, mix_colours(sky, (255, 255, 255), 0.6)])
    draw = ImageDraw.Draw(image)
    horizon = rng.uniform(0.15, 0.7) * height
    for depth in (0.0, 0.5, 1.0):
        ridge = horizon + (height - horizon) * depth * 0.4 + rng.normal(0, 0.05 * height, 6)
        hills = np.stack([np.linspace(-0.1, 1.1, 6) * width, ridge], axis=1)
        below = [(1.1 * width, 2 * height), (-0.1 * width, 2 * height)]
        outline = np.concatenate([catmull_rom(hills, closed=False), below])
        draw.polygon(outline.ravel().tolist(), fill=mix_colours(mix_colours(green, sky, 0.5), green, depth))
    grass(image, green, int(rng.integers(30, 90)), (horizon, height), rng)
    return image


def grass(image: Image.Image, green: Colour, blades: int, rows: tuple[float, float], rng: np.random.Generator) -> None:
    """Draw blades of grass that start between two rows of pixels."""
    draw, height = ImageDraw.Draw(image), image.height
    feet = np.sort(rng.uniform(*rows, blades))
    for y, x, lean, tall in zip(feet, *rng.uniform(0, 1, (3, blades)), strict=True):
        tip = (x * image.width + (lean - 0.5) * 0.15 * height, y - (0.06 + 0.14 * tall) * height)
        foot = x * image.width
        shade = mix_colours(green, (255, 255, 200) if tall > 0.5 else (0, 30, 30), 0.3 * lean)
        draw.polygon([(foot - 0.012 * height, y), tip, (foot + 0.012 * height, y)], fill=shade)


def draw_water(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return water with light rays, ripples and bubbles."""
    width, height = size
    hue, value = rng.normal(0.53, 0.07), rng.uniform(0.45, 1.0)
    image = vertical_gradient(size, [hsv_colour(hue, 0.3, value), hsv_colour(hue + 0.05, 0.65, value * 0.75)])
    draw = ImageDraw.Draw(image, "RGBA")
    for x in rng.uniform(-0.2, 1.2, int(rng.integers(0, 5))) * width:
        ray = [(x, 0), (x + 0.1 * width, 0), (x - 0.1 * width, height), (x - 0.4 * width, height)]
        draw.polygon(ray, fill=(255, 255, 255, 28))
    for x, y in _scatter(3, 14, size, rng):
        ripple = [(x + step * 0.03 * width, y + (step % 2) * 0.012 * height) for step in range(6)]
        draw.line(ripple, fill=(255, 255, 255, 90), width=SUPERSAMPLING * 2, joint="curve")
    bubbles(image, rng)
    return image


def bubbles(image: Image.Image, rng: np.random.Generator) -> None:
    """Draw a few translucent bubbles."""
    draw = ImageDraw.Draw(image, "RGBA")
    light, rim = (255, 255, 255, 40), (255, 255, 255, 150)
    for point in _scatter(2, 10, image.size, rng):
        radius = rng.uniform(0.01, 0.05) * image.height
        draw.ellipse(circle_box(point, radius), fill=light, outline=rim, width=SUPERSAMPLING)


def draw_sand(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return uneven sand with pebbles."""
    sand = hsv_colour(rng.normal(0.09, 0.05), rng.uniform(0.15, 0.5), rng.uniform(0.6, 1.0))
    image = cloudy(size, sand, mix_colours(sand, (90, 70, 60), 0.35), int(rng.integers(4, 14)), rng)
    draw, height = ImageDraw.Draw(image), size[1]
    for x, y in _scatter(6, 26, size, rng):
        axes = rng.uniform(0.01, 0.05) * height, rng.uniform(0.01, 0.035) * height
        stone = ellipse_outline(x, y, *axes, rng.uniform(0, 3))
        colour = hsv_colour(rng.uniform(), 0.2, rng.uniform(0.3, 0.9))
        draw.polygon(stone.ravel().tolist(), fill=mix_colours(sand, colour, 0.6))
    return image


def draw_night(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return a night sky with stars and sometimes a moon."""
    hue = rng.normal(0.66, 0.08)
    image = vertical_gradient(size, [hsv_colour(hue, 0.6, 0.28), hsv_colour(hue + 0.1, 0.5, rng.uniform(0.4, 0.7))])
    draw = ImageDraw.Draw(image)
    for point in _scatter(10, 50, size, rng):
        draw.ellipse(circle_box(point, rng.uniform(0.5, 1.8) * SUPERSAMPLING), fill=(255, 250, 215))
    if rng.uniform() < 0.5:
        moon, radius = (rng.uniform(0, size[0]), rng.uniform(0, size[1] * 0.4)), rng.uniform(0.06, 0.13) * size[1]
        draw.ellipse(circle_box(moon, radius), fill=(250, 240, 200))
    return image


def draw_leaves(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return overlapping leaves of related colours."""
    hue, saturation, value = rng.uniform(), rng.uniform(0.2, 0.6), rng.uniform(0.35, 0.8)
    image = Image.new("RGB", size, hsv_colour(hue, saturation, value * 0.7))
    draw = ImageDraw.Draw(image)
    for x, y in _scatter(25, 60, size, rng):
        length = rng.uniform(0.06, 0.16) * size[1]
        green = hsv_colour(hue + rng.normal(0, 0.04), saturation, value * rng.uniform(0.7, 1.2))
        leaf(draw, (x, y), length, green, rng)
    return image


def leaf(
    draw: ImageDraw.ImageDraw, centre: tuple[float, float], length: float, fill: Colour, rng: np.random.Generator
) -> None:
    """Draw a leaf with its vein, rotated at random."""
    turn = rng.uniform(0, 2 * np.pi)
    along, aside = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    stem, tip = centre - length * along, centre + length * along
    outline = catmull_rom([stem, centre + 0.4 * length * aside, tip, centre - 0.4 * length * aside], steps=4)
    draw.polygon(outline.ravel().tolist(), fill=fill)
    draw.line([*stem, *tip], fill=mix_colours(fill, (255, 255, 255), 0.25), width=SUPERSAMPLING)


def draw_wallpaper(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return wallpaper: stripes, tiles or dots of two muted colours."""
    hue, value = rng.uniform(), rng.uniform(0.55, 0.98)
    first = hsv_colour(hue, 0.25, value)
    second = hsv_colour(hue + rng.normal(0, 0.1), 0.35, value * rng.uniform(0.75, 0.95))
    image, gap, motif = Image.new("RGB", size, first), rng.uniform(0.08, 0.2) * size[1], rng.integers(3)
    draw = ImageDraw.Draw(image)
    for row, y in enumerate(np.arange(0, size[1], gap)):
        for column, x in enumerate(np.arange(0, size[0], gap)):
            if motif == 0:
                draw.rectangle((x, y, x + gap / 2, y + gap), fill=second)
            elif motif == 1 and (row + column) % 2:
                draw.rectangle((x, y, x + gap, y + gap), fill=second)
            elif motif == 2:
                draw.ellipse((x, y, x + gap / 2, y + gap / 2), fill=second)
    return image


def draw_blobs(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return a smooth gradient with a few large soft shapes of any colour."""
    hue, value = rng.uniform(), rng.uniform(0.6, 1.0)
    first = hsv_colour(hue, rng.uniform(0.1, 0.5), value)
    second = hsv_colour(hue + 0.12, rng.uniform(0.1, 0.5), value * 0.8)
    image = cloudy(size, first, second, int(rng.integers(2, 6)), rng)
    draw = ImageDraw.Draw(image, "RGBA")
    for x, y in _scatter(2, 9, size, rng):
        outline = pebble(x, y, rng.uniform(0.08, 0.3) * size[1], rng)
        draw.polygon(outline.ravel().tolist(), fill=(*hsv_colour(hue + rng.normal(0, 0.2), 0.4, value), 150))
    return image


def pebble(x: float, y: float, radius: float, rng: np.random.Generator) -> Points:
    """Return the outline of a rounded, irregular shape around a point."""
    angles = np.arange(7) * 2 * np.pi / 7
    radii = radius * rng.uniform(0.6, 1.2, 7)
    return catmull_rom(np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1))


SCENES = (draw_meadow, draw_water, draw_sand, draw_night, draw_leaves, draw_wallpaper, draw_blobs)


def add_occluders(image: Image.Image, rng: np.random.Generator) -> None:
    """Draw occluders in front of the creature: mostly none, else grass, bubbles or leaves."""
    choice, hue = rng.uniform(), rng.uniform()
    if choice < 0.16:
        green = hsv_colour(rng.normal(0.28, 0.1), 0.5, rng.uniform(0.3, 0.8))
        grass(image, green, int(rng.integers(15, 50)), (image.height, 1.1 * image.height), rng)
    elif choice < 0.28:
        bubbles(image, rng)
    elif choice < 0.38:
        draw = ImageDraw.Draw(image)
        for x, y in _scatter(2, 6, image.size, rng):
            leaf(draw, (x, y), rng.uniform(0.05, 0.14) * image.height, hsv_colour(hue, 0.5, rng.uniform(0.4, 0.8)), rng)


def camera_effects(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the supersampled drawing at its final size, with uneven light, haze, blur and grain."""
    small = image.reduce(SUPERSAMPLING)
    if rng.uniform() < 0.2:
        small = small.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.3)))
    haze, gain = rng.uniform(0, 0.25) * (rng.uniform() < 0.3), rng.uniform(0.85, 1.15)
    slope = np.linspace(-1, 1, small.width, dtype=np.float32) * np.float32(rng.uniform(-0.12, 0.12))
    grain = rng.standard_normal((small.height, small.width), dtype=np.float32) * np.float32(1 + 7 * rng.uniform() ** 2)
    pixels = np.asarray(small, dtype=np.float32) * np.float32(gain * (1 - haze)) * (1 + slope)[None, :, None]
    pixels += (grain + np.float32(220 * haze))[:, :, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


# Out-of-distribution pictures, which show no creature; supersampled like all drawings.


def ood_noise(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return coloured noise, from fine to coarse."""
    cells = (int(rng.integers(8, 120)), int(rng.integers(8, 120)), 3)
    return Image.fromarray(rng.integers(0, 256, cells, dtype=np.uint8)).resize(size, Image.Resampling.NEAREST)


def ood_stripes(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return oblique or curved stripes of two colours."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]] / max(size)
    bend, angle = rng.uniform(0, 0.4), rng.uniform(0, np.pi)
    wave = np.sin(rng.uniform(15, 90) * (x * np.cos(angle) + y * np.sin(angle) + bend * np.sin(5 * x)))
    first, second = rng.integers(0, 256, (2, 3))
    return Image.fromarray(np.where(wave[..., None] > 0, first, second).astype(np.uint8))


def ood_rings(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return concentric rings."""
    image = Image.new("RGB", size, hsv_colour(rng.uniform(), 0.4, 0.9))
    draw, centre, hue = ImageDraw.Draw(image), rng.uniform(0.2, 0.8, 2) * size, rng.uniform()
    for index, radius in enumerate(np.arange(1.2, 0.03, -rng.uniform(0.04, 0.12)) * max(size)):
        draw.ellipse(circle_box(centre, radius), fill=hsv_colour(hue + 0.37 * (index % 2), 0.5, 0.8))
    return image


def ood_shapes(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return random triangles and quadrilaterals."""
    image = Image.new("RGB", size, hsv_colour(rng.uniform(), 0.2, rng.uniform(0.3, 1.0)))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(8, 30))):
        corners = rng.uniform(0, 1, 2) * size + rng.normal(0, 0.15 * min(size), (int(rng.integers(3, 5)), 2))
        fill = hsv_colour(rng.uniform(), rng.uniform(0.2, 0.9), rng.uniform(0.3, 1.0))
        draw.polygon(corners.ravel().tolist(), fill=fill, outline=(30, 30, 40))
    return image


def ood_marks(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return a page of marks that resemble handwriting."""
    image, ink = Image.new("RGB", size, hsv_colour(rng.uniform(), 0.08, 0.97)), hsv_colour(rng.uniform(), 0.6, 0.25)
    draw, height = ImageDraw.Draw(image), rng.uniform(0.02, 0.05) * size[1]
    for y in np.arange(0.08 * size[1], 0.92 * size[1], 2.2 * height):
        for x in np.arange(0.06 * size[0], rng.uniform(0.5, 0.94) * size[0], 0.9 * height):
            if rng.uniform() < 0.83:
                strokes = [x, y] + rng.uniform(0, 1, (4, 2)) * [0.7 * height, height]
                draw.line(strokes.ravel().tolist(), fill=ink, width=SUPERSAMPLING)
    return image


def ood_clouds(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return soft clouds of two random colours."""
    first, second = (hsv_colour(rng.uniform(), rng.uniform(0.1, 0.9), rng.uniform(0.2, 1.0)) for _ in range(2))
    return cloudy(size, first, second, int(rng.integers(3, 24)), rng)


OOD_IMAGES = (ood_noise, ood_stripes, ood_rings, ood_shapes, ood_marks, ood_clouds)
