"""Canvas: draws smooth shapes, patterned skins and eyes in the coordinates of a creature.

Everything is supersampled `SUPERSAMPLING` times and reduced at the end, for antialiased edges.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from bestiary.array_types import Floats

SUPERSAMPLING = 3
ACCENT_HUES = [0.06, 0.09, 0.13, 0.95, 0.55]

Colour = tuple[int, int, int]
Points = Floats


def hsv_colour(hue: float, saturation: float, value: float) -> Colour:
    """Return the 8-bit RGB colour of a hue in turns (any number), and saturation and value, clipped to 0..1."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, float(np.clip(saturation, 0, 1)), float(np.clip(value, 0, 1)))
    return round(red * 255), round(green * 255), round(blue * 255)


def mix_colours(first: Colour, second: Colour, fraction: float) -> Colour:
    """Interpolate between two colours; `fraction` 0 is the first, 1 the second."""
    red, green, blue = (round(a + (b - a) * fraction) for a, b in zip(first, second, strict=True))
    return red, green, blue


def catmull_rom(points: ArrayLike, *, closed: bool = True, steps: int = 6) -> Points:
    """Return a Catmull-Rom curve through the points, (n, 2), with `steps` points per segment."""
    knots = np.asarray(points, dtype=np.float64)
    if not closed:
        knots = np.concatenate([knots[:1], knots, knots[-1:]])
    before, start, end, after = (np.roll(knots, shift, axis=0)[:, None] for shift in (1, 0, -1, -2))
    t = (np.arange(steps) / steps)[None, :, None]
    curve = 0.5 * (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * start - before - 3 * end + after) * t**3
    )
    if closed:
        return curve.reshape(-1, 2)
    return np.concatenate([curve[1:-2].reshape(-1, 2), knots[-1:]])


def ellipse_outline(x: float, y: float, width: float, height: float, angle: float = 0.0) -> Points:
    """Return the outline, (28, 2), of an ellipse with half-axes `width` and `height`, rotated by `angle` radians."""
    angles = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    across, down = width * np.cos(angles), height * np.sin(angles)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([x + across * cos - down * sin, y + across * sin + down * cos], axis=1)


def circle_box(centre: Sequence[float] | Points, radius: float) -> tuple[float, float, float, float]:
    """Return the bounding box of a circle, as Pillow expects it."""
    x, y = centre
    return x - radius, y - radius, x + radius, y + radius


@dataclass(frozen=True)
class Appearance:
    """The colours, pattern and outline of a creature, from one distribution for all kinds."""

    body: Colour
    second: Colour
    accent: Colour
    ink: Colour
    ink_width: float
    pattern: str


@dataclass(frozen=True)
class Pose:
    """The pose of a creature: a 2x2 matrix from its units to pixels, and its centre in pixels."""

    matrix: Points
    centre: Points

    @property
    def scale(self) -> float:
        """Pixels per unit of the creature."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix))))


def random_coat(rng: np.random.Generator) -> Appearance:
    """Return a random appearance with matching colours, independent of the kind."""
    hue, saturation, value = rng.uniform(), rng.uniform(0.15, 0.8), rng.uniform(0.5, 0.98)
    second_hue = hue + rng.choice([0.0, 0.06, -0.08, 0.15, 0.45])
    body = hsv_colour(hue, saturation, value)
    return Appearance(
        body=body,
        second=hsv_colour(second_hue, saturation * rng.uniform(0.3, 1.2), value + rng.choice([-0.35, -0.25, 0.3])),
        accent=hsv_colour(rng.choice(ACCENT_HUES) + rng.normal(0, 0.02), rng.uniform(0.5, 0.85), 0.95),
        ink=mix_colours(body, (24, 18, 38), rng.uniform(0.65, 0.92)),
        ink_width=rng.choice([0.0, 0.022, 0.03, 0.04], p=[0.2, 0.3, 0.3, 0.2]),
        pattern=str(rng.choice(list(PATTERNS))),
    )


class Canvas:
    """Draws a creature on a supersampled RGB picture, in the creature's own coordinates."""

    def __init__(self, image: Image.Image, pose: Pose, coat: Appearance, rng: np.random.Generator) -> None:
        """Draw on `image`, for a creature with this pose and coat."""
        self.image, self.pose, self.coat, self.rng = image, pose, coat, rng
        self.draw = ImageDraw.Draw(image, "RGBA")
        self.beady = bool(rng.uniform() < 0.3)

    def transform(self, points: ArrayLike) -> Points:
        """Return the points in pixels, shape (n, 2)."""
        return np.asarray(points, dtype=np.float64) @ self.pose.matrix.T + self.pose.centre

    def shape(self, points: Points, fill: Colour, *, opacity: float = 1.0) -> None:
        """Draw a closed shape in one colour, and its outline in ink."""
        pixels = self.transform(points)
        self.draw.polygon(_flat(pixels), fill=(*fill, round(255 * opacity)))
        self._ink(pixels)

    def skin(self, points: Points, fill: Colour | None = None) -> None:
        """Draw a closed shape with the coat's pattern, lit from above, and its outline in ink."""
        pixels = self.transform(points)
        low = np.maximum(np.floor(pixels.min(axis=0)), 0)
        high = np.minimum(np.ceil(pixels.max(axis=0)) + 1, self.image.size)
        if np.any(high - low < 2):
            return
        corner, size = (int(low[0]), int(low[1])), (int(high[0] - low[0]), int(high[1] - low[1]))
        patch = Image.new("RGB", size, fill or self.coat.body)
        PATTERNS[self.coat.pattern](ImageDraw.Draw(patch, "RGBA"), self, low)
        self._light(patch, pixels - low)
        mask = Image.new("L", size, 0)
        ImageDraw.Draw(mask).polygon(_flat(pixels - low), fill=255)
        self.image.paste(patch, corner, mask)
        self._ink(pixels)

    def line(self, points: ArrayLike, width: float, fill: Colour, *, opacity: float = 1.0) -> None:
        """Draw a line of constant width through the points, with round ends."""
        pixels, thick = self.transform(points), max(1, round(width * self.pose.scale))
        rgba = (*fill, round(255 * opacity))
        self.draw.line(_flat(pixels), fill=rgba, width=thick, joint="curve")
        if opacity == 1.0:
            for end in (pixels[0], pixels[-1]):
                self._dot(end, thick / 2, fill)

    def limb(self, points: ArrayLike, start: float, end: float, fill: Colour) -> None:
        """Draw a tapered limb along the points, with an outline in ink."""
        pixels = self.transform(points)
        widths = np.linspace(start, end, len(pixels))
        self.beads(pixels, widths + 2 * self.coat.ink_width, [self.coat.ink])
        self.beads(pixels, widths, [fill])

    def beads(self, pixels: Points, widths: Points, fills: list[Colour]) -> None:
        """Draw joined beads of the given widths along a path in pixels, cycling through the fills."""
        radii = widths * self.pose.scale / 2
        for index, (point, radius) in enumerate(zip(pixels, radii, strict=True)):
            fill = fills[index % len(fills)]
            self._dot(point, radius, fill)
            if index:
                self.draw.line(_flat(pixels[index - 1 : index + 1]), fill=fill, width=max(1, round(2 * radius)))

    def eye(self, x: float, y: float, radius: float) -> None:
        """Draw an eye: white, pupil and glint, or, for some creatures, a black bead."""
        dark: Colour = (28, 22, 34)
        if self.beady:
            self._disc(x, y, radius * 0.75, dark)
        else:
            self._disc(x, y, radius * 1.12, self.coat.ink)
            self._disc(x, y, radius, (252, 250, 244))
            self._disc(x + radius * 0.2, y + radius * 0.05, radius * 0.62, dark)
        self._disc(x + radius * 0.38, y - radius * 0.28, radius * 0.25, (255, 255, 255))

    def smile(self, x: float, y: float, width: float) -> None:
        """Draw a smile centred on a point."""
        bow = np.linspace(0.15, 0.85, 7) * np.pi
        self.line(np.stack([x + width * np.cos(bow), y + width * 0.7 * np.sin(bow)], axis=1), 0.035, self.coat.ink)

    def blush(self, x: float, y: float, radius: float) -> None:
        """Draw a rosy cheek."""
        self.draw.polygon(_flat(self.transform(ellipse_outline(x, y, radius, radius * 0.7))), fill=(245, 110, 120, 110))

    def _disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        self._dot(self.transform([[x, y]])[0], radius * self.pose.scale, fill)

    def _dot(self, centre: Points, radius: float, fill: Colour) -> None:
        self.draw.ellipse(circle_box(centre, radius), fill=fill)

    def _ink(self, pixels: Points) -> None:
        if width := round(self.coat.ink_width * self.pose.scale):
            ring = np.concatenate([pixels, pixels[:2]])
            self.draw.line(_flat(ring), fill=self.coat.ink, width=width, joint="curve")

    def _light(self, patch: Image.Image, pixels: Points) -> None:
        """Shade the lower rim of a patch and brighten its upper rim: light comes from above in any pose."""
        reach = 0.1 * self.pose.scale
        rims: list[tuple[float, Colour, int]] = [(-reach, (20, 10, 50), 70), (reach, (255, 255, 240), 60)]
        for shift, light, strength in rims:
            rim = Image.new("L", patch.size, strength)
            ImageDraw.Draw(rim).polygon(_flat(pixels + np.array([shift * 0.5, shift])), fill=0)
            patch.paste(light, (0, 0), rim)


def _flat(points: Points) -> list[float]:
    return points.ravel().tolist()


# Patterns: each covers the square -1.2..1.2 around a creature; `skin` then cuts out its shape.


def _plain(draw: ImageDraw.ImageDraw, canvas: Canvas, origin: Points) -> None:
    belly = canvas.transform(ellipse_outline(0, 0.75, 1.5, 0.6)) - origin
    draw.polygon(_flat(belly), fill=(*mix_colours(canvas.coat.body, (255, 255, 255), 0.5), 130))


def _stripes(draw: ImageDraw.ImageDraw, canvas: Canvas, origin: Points) -> None:
    lean, gap = canvas.rng.uniform(-0.6, 0.6), canvas.rng.uniform(0.2, 0.4)
    for x in np.arange(-1.6, 1.6, gap):
        band = np.array([[x - lean, -1.3], [x - lean + gap / 2, -1.3], [x + lean + gap / 2, 1.3], [x + lean, 1.3]])
        draw.polygon(_flat(canvas.transform(band) - origin), fill=(*canvas.coat.second, 220))


def _spots(draw: ImageDraw.ImageDraw, canvas: Canvas, origin: Points) -> None:
    size = canvas.rng.uniform(0.05, 0.13)
    for x, y in canvas.rng.uniform(-1.2, 1.2, (45, 2)):
        spot = ellipse_outline(x, y, size * canvas.rng.uniform(0.6, 1.4), size)
        draw.polygon(_flat(canvas.transform(spot) - origin), fill=(*canvas.coat.second, 220))


def _patches(draw: ImageDraw.ImageDraw, canvas: Canvas, origin: Points) -> None:
    for x, y in canvas.rng.uniform(-1.0, 1.0, (6, 2)):
        radii = canvas.rng.uniform(0.15, 0.45, (7, 1))
        angles = np.arange(7)[:, None] * 2 * np.pi / 7
        patch = catmull_rom([x, y] + radii * np.concatenate([np.cos(angles), np.sin(angles)], axis=1))
        draw.polygon(_flat(canvas.transform(patch) - origin), fill=(*canvas.coat.second, 230))


def _scales(draw: ImageDraw.ImageDraw, canvas: Canvas, origin: Points) -> None:
    radius, ink = 0.13 * canvas.pose.scale, (*canvas.coat.second, 200)
    for row, y in enumerate(np.arange(-1.1, 1.2, 0.17)):
        grid = np.stack([np.arange(-1.2, 1.2, 0.26) + 0.13 * (row % 2), np.full(10, y)], axis=1)
        for centre in canvas.transform(grid) - origin:
            draw.arc(circle_box(centre, radius), 20, 160, fill=ink, width=max(1, round(0.035 * canvas.pose.scale)))


PATTERNS = {"plain": _plain, "stripes": _stripes, "spots": _spots, "patches": _patches, "scales": _scales}
