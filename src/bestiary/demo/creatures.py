"""Ten kinds of parametric creatures: one function each, which paints an animal with a Brush.

A creature is painted in its own coordinates: x to the right (where it looks), y down, the body within about -1..1.
The brush turns, mirrors, scales and moves it into the picture. Coat colours and patterns come from one distribution
for all kinds, so that only the shape tells them apart.
"""

import numpy as np

from bestiary.demo.canvas import Canvas, Points, catmull_rom, ellipse_outline, mix_colours

WHITE = (255, 255, 255)


def sine_path(start: tuple[float, float], end: tuple[float, float], swing: float, turns: float, phase: float) -> Points:
    """Return a path of 24 points, shape (24, 2), that sways around the straight line from start to end."""
    along = np.linspace(0, 1, 24)[:, None]
    step = np.subtract(end, start)
    sideways = np.array([-step[1], step[0]]) / np.hypot(*step)
    return np.asarray(start + along * step + swing * np.sin(2 * np.pi * turns * along + phase) * sideways)


def draw_fish(brush: Canvas, rng: np.random.Generator) -> None:
    """Paint a fish from the side."""
    tall, tail = rng.uniform(0.3, 0.58), rng.uniform(0.25, 0.5)
    fin = mix_colours(brush.coat.body, brush.coat.accent, 0.6)
    notch = rng.uniform(-0.85, -0.65)
    brush.shape(catmull_rom([(-0.5, 0), (-0.98, -tail), (notch - 0.05, 0), (-0.98, tail)]), fin)
    brush.shape(
        catmull_rom([(-0.35, -tall * 0.6), (-0.15, -tall - 0.28), (0.35, -tall - 0.12), (0.4, -tall * 0.6)]), fin
    )
    brush.shape(catmull_rom([(-0.2, tall * 0.6), (-0.25, tall + 0.2), (0.1, tall * 0.8)]), fin)
    body = [(0.85, 0.02), (0.6, -tall * 0.62), (0.1, -tall), (-0.4, -tall * 0.5), (-0.68, -0.07)]
    brush.skin(catmull_rom([*body, (-0.68, 0.07), (-0.4, tall * 0.5), (0.1, tall), (0.6, tall * 0.62)]))
    bow = np.linspace(-0.9, 0.9, 9)
    brush.line(np.stack([0.28 + 0.12 * np.cos(bow), tall * 0.7 * np.sin(bow)], axis=1), 0.03, brush.coat.ink)
    brush.shape(catmull_rom([(0.15, 0.05), (-0.15, rng.uniform(0.0, 0.3)), (-0.1, 0.3), (0.12, 0.2)]), fin)
    brush.eye(0.55, -tall * 0.22, rng.uniform(0.08, 0.13))
    brush.smile(0.72, 0.08, 0.08)


def draw_bird(brush: Canvas, rng: np.random.Generator) -> None:
    """Paint a bird from the side, perched or with its wing raised."""
    round_body, head_x = rng.uniform(0.36, 0.5), rng.uniform(0.42, 0.55)
    wing = mix_colours(brush.coat.body, brush.coat.second, 0.6)
    for x in (0.0, 0.2):
        foot = 0.86 + rng.uniform(-0.05, 0.05)
        brush.line([(x, 0.35), (x + 0.03, foot), (x + 0.17, foot + 0.03)], 0.05, brush.coat.accent)
    for lift in (-0.1, 0.02, 0.14):
        brush.shape(catmull_rom([(-0.4, 0.0), (-1.0, lift + 0.1), (-0.95, lift + 0.22), (-0.3, 0.2)]), wing)
    beak = rng.uniform(0.2, 0.42)
    brush.shape(
        np.array([(head_x + 0.2, -0.52), (head_x + 0.24 + beak, -0.4), (head_x + 0.18, -0.33)]), brush.coat.accent
    )
    body = [(head_x + 0.24, -0.45), (head_x, -0.72), (head_x - 0.28, -0.5), (-0.2, -0.2), (-0.65, 0.05)]
    brush.skin(catmull_rom([*body, (-0.3, round_body * 0.9), (0.2, round_body), (head_x + 0.05, 0.05)]))
    if rng.uniform() < 0.45:
        flap = rng.uniform(-0.98, -0.6)
        brush.skin(catmull_rom([(0.25, -0.02), (-0.05, flap * 0.7), (-0.5, flap), (-0.45, -0.35), (-0.3, 0.08)]), wing)
    else:
        brush.skin(catmull_rom([(0.25, -0.1), (-0.15, -0.18), (-0.7, 0.22), (-0.1, 0.32), (0.2, 0.2)]), wing)
    brush.eye(head_x + 0.06, -0.5, rng.uniform(0.07, 0.11))
    brush.blush(head_x + 0.02, -0.34, 0.06)


def draw_butterfly(brush: Canvas, rng: np.random.Generator) -> None:
    """Paint a butterfly from above, its wings more or less open."""
    span, low_span, lift = rng.uniform(0.7, 1.0), rng.uniform(0.5, 0.78), rng.uniform(-0.95, -0.55)
    near, far = rng.uniform(0.55, 1.0), rng.choice([-1.0, -1.0, -0.6])
    lower = mix_colours(brush.coat.body, brush.coat.accent, 0.45)
    for side in (far, near):
        brush.skin(
            catmull_rom([(0.0, 0.05), (side * low_span, 0.15), (side * low_span * 0.9, 0.75), (side * 0.25, 0.7)]),
            lower,
        )
        tip = (side * span, lift)
        brush.skin(
            catmull_rom([(0.0, -0.25), (side * 0.45, lift * 0.95), tip, (side * span * 0.95, -0.1), (0.0, 0.12)])
        )
        brush.shape(ellipse_outline(side * span * 0.66, lift * 0.55, 0.13 * abs(side), 0.13), brush.coat.accent)
        brush.shape(ellipse_outline(side * span * 0.66, lift * 0.55, 0.06 * abs(side), 0.06), brush.coat.ink)
        brush.line(sine_path((side * 0.05, -0.45), (side * 0.3, -0.92), 0.06, 0.5, 0), 0.035, brush.coat.ink)
        brush.line([(side * 0.3, -0.92), (side * 0.31, -0.93)], 0.09, brush.coat.ink)
    brush.shape(ellipse_outline(0, 0.08, 0.08, 0.5), mix_colours(brush.coat.ink, brush.coat.body, 0.3))
    brush.shape(ellipse_outline(0, -0.45, 0.11, 0.11), mix_colours(brush.coat.ink, brush.coat.body, 0.3))


def draw_snail(brush: Canvas, rng: np.random.Generator) -> None:
    """Paint a snail that carries its coiled shell."""
    shell, stretch = rng.uniform(0.45, 0.6), rng.uniform(0.7, 0.95)
    flesh = mix_colours(brush.coat.accent, brush.coat.body, rng.uniform(0.2, 0.7))
    for tip in (stretch - 0.1, stretch + 0.12):
        top = -0.42 + rng.uniform(-0.15, 0.1)
        brush.limb([(stretch - 0.1, 0.1), (tip, top)], 0.09, 0.06, flesh)
        brush.eye(tip, top, 0.085)
    foot = [(-0.98, 0.68), (-0.5, 0.46), (0.3, 0.42), (0.52, 0.12), (stretch - 0.08, 0.0), (stretch + 0.1, 0.2)]
    brush.shape(catmull_rom([*foot, (0.75, 0.62), (0.55, 0.7), (-0.4, 0.7)]), flesh)
    brush.skin(ellipse_outline(-0.15, 0.1, shell, shell * rng.uniform(0.9, 1.05)))
    angles = np.linspace(0.4, rng.uniform(2.0, 2.9) * 2 * np.pi, 60)
    radii = shell * 0.9 * angles / angles[-1]
    coil = np.stack([-0.15 + radii * np.cos(angles), 0.1 + radii * np.sin(angles)], axis=1)
    brush.line(coil, 0.055, mix_colours(brush.coat.ink, brush.coat.second, 0.25))
    brush.smile(stretch, 0.2, 0.08)


def draw_turtle(brush: Canvas, rng: np.random.Generator) -> None:
    """Paint a turtle, most often from the side and now and then from above."""
    flesh = mix_colours(brush.coat.accent, brush.coat.body, rng.uniform(0.2, 0.7))
    if rng.uniform() < 0.35:
        _turtle_from_above(brush, rng, flesh)
        return
    dome, neck = rng.uniform(-0.62, -0.4), rng.uniform(-0.25, 0.05)
    far_side = mix_colours(flesh, brush.coat.ink, 0.3)
    for x, colour in ((-0.28, far_side), (0.42, far_side), (-0.48, flesh), (0.24, flesh)):
        stride = rng.uniform(-0.12, 0.12)
        path = [(x, 0.15), (x + stride * 0.5, 0.4), (x + stride + 0.06, 0.58)]
        brush.limb(catmull_rom(path, closed=False), 0.25, 0.19, colour)
    brush.shape(np.array([(-0.55, 0.12), (-0.95, 0.32), (-0.5, 0.32)]), flesh)
    brush.limb([(0.4, 0.15), (0.8, neck)], 0.24, 0.24, flesh)
    brush.shape(ellipse_outline(0.86, neck - 0.03, 0.19, 0.16), flesh)
    shell = [
        (-0.72, 0.27),
        (-0.6, -0.12),
        (-0.3, dome + 0.06),
        (0.0, dome),
        (0.3, dome + 0.08),
        (0.55, -0.1),
        (0.68, 0.27),
    ]
    brush.skin(catmull_rom([*shell, (0.0, 0.34)]))
    for x in (-0.32, 0.02, 0.36):
        plate = ellipse_outline(x * 0.85, dome * 0.42 + abs(x) * 0.12, 0.16, abs(dome) * 0.3)[::5]
        brush.shape(plate, mix_colours(brush.coat.second, brush.coat.body, 0.3))
    brush.eye(0.91, neck - 0.07, 0.065)
    brush.smile(0.97, neck + 0.02, 0.06)


def _turtle_from_above(brush: Canvas, rng: np.random.Generator, flesh: tuple[int, int, int]) -> None:
    for x, y in ((0.4, -0.5), (0.4, 0.5), (-0.42, -0.45), (-0.42, 0.45)):
        brush.shape(ellipse_outline(x * 1.15, y * 1.15, 0.3, 0.14, np.arctan2(y, x) + rng.uniform(-0.4, 0.4)), flesh)
    brush.shape(np.array([(-0.6, -0.08), (-0.92, 0.0), (-0.6, 0.08)]), flesh)
    brush.shape(ellipse_outline(0.8, 0, 0.21, 0.17), flesh)
    brush.skin(ellipse_outline(0, 0, 0.7, rng.uniform(0.5, 0.62)))
    plate = mix_colours(brush.coat.second, brush.coat.body, 0.3)
    for angle in np.arange(6) * np.pi / 3:
        brush.shape(ellipse_outline(0.42 * np.cos(angle), 0.34 * np.sin(angle), 0.14, 0.13)[::5], plate)
    brush.shape(ellipse_outline(0, 0, 0.18, 0.16)[::5], plate)
    brush.eye(0.87, -0.09, 0.05)
    brush.eye(0.87, 0.09, 0.05)


def draw_spider(brush: Canvas, rng: np.random.Generator) -> None:
    """Paint a spider with its eight legs spread, from above."""
    belly, reach, thick = rng.uniform(0.28, 0.45), rng.uniform(0.8, 1.05), rng.uniform(0.04, 0.085)
    leg = mix_colours(brush.coat.ink, brush.coat.body, rng.uniform(0.0, 0.5))
    for side in (-1, 1):
        for angle in np.array([-1.05, -0.4, 0.3, 0.95]) + rng.normal(0, 0.07, 4):
            knee = (0.2 + 0.6 * reach * np.sin(-angle) * 0.7, side * 0.62 * reach * np.cos(angle * 0.7))
            foot = (0.1 - reach * np.sin(angle) * 0.95, side * reach * rng.uniform(0.75, 0.95) * np.cos(angle * 0.55))
            brush.limb(
                catmull_rom([(0.2, side * 0.1), knee, foot], closed=False, steps=4), thick * 1.3, thick * 0.6, leg
            )
    brush.skin(ellipse_outline(-0.3, 0, belly * 1.1, belly))
    brush.shape(ellipse_outline(0.25, 0, 0.24, 0.21), brush.coat.body)
    for y in (-0.09, 0.09):
        brush.eye(0.36, y, rng.uniform(0.06, 0.09))
        brush.line([(0.47, y), (0.55, y * 0.6)], 0.05, brush.coat.ink)


def draw_jellyfish(brush: Canvas, rng: np.random.Generator) -> None:
    """Paint a jellyfish: a bell with a scalloped edge, and arms that sway."""
    wide, high, phase = rng.uniform(0.5, 0.7), rng.uniform(0.55, 0.85), rng.uniform(0, 6.28)
    arms = mix_colours(brush.coat.body, brush.coat.accent, 0.45)
    for x in np.linspace(-wide * 0.75, wide * 0.75, int(rng.integers(4, 8))):
        foot = (x * rng.uniform(0.8, 1.4), rng.uniform(0.6, 1.0))
        path = sine_path((x, -0.1), foot, rng.uniform(0.04, 0.09), rng.uniform(1.0, 2.0), phase)
        brush.limb(path, rng.uniform(0.07, 0.13), 0.03, arms)
    crown = [(wide * np.cos(a), -0.1 - high * np.sin(a)) for a in np.linspace(0, np.pi, 9)]
    edge = [(x, 0.02 + 0.1 * (i % 2)) for i, x in enumerate(np.linspace(-wide, wide, 9)[1:-1])]
    brush.skin(catmull_rom(crown + edge))
    brush.line(sine_path((-wide * 0.5, -high * 0.75), (-wide * 0.1, -high), -0.04, 0.5, 0), 0.06, WHITE, opacity=0.6)
    if rng.uniform() < 0.75:
        for x in (-0.2, 0.2):
            brush.eye(x, -0.28, 0.085)
            brush.blush(x * 1.6, -0.17, 0.07)
        brush.smile(0, -0.22, 0.08)


def draw_snake(brush: Canvas, rng: np.random.Generator) -> None:
    """Paint a snake: winding along, or coiled up with its head raised."""
    thick = rng.uniform(0.13, 0.22)
    if rng.uniform() < 0.35:
        angles = np.linspace(0, rng.uniform(1.6, 2.3) * 2 * np.pi, 60)
        radii = np.linspace(0.72, 0.12, 60)
        path = np.stack([radii * np.cos(angles), 0.15 + 0.75 * radii * np.sin(angles)], axis=1)
        path = catmull_rom(np.concatenate([path[::6], [(0.1, -0.35), (0.35, -0.6)]]), closed=False)
    else:
        path = sine_path(
            (-0.95, rng.uniform(-0.2, 0.2)),
            (0.75, 0.0),
            rng.uniform(0.2, 0.38),
            rng.uniform(0.9, 1.9),
            rng.uniform(0, 6.28),
        )
        path = catmull_rom(path, closed=False, steps=3)
    widths = thick * np.minimum(1.0, np.linspace(0.15, 3.5, len(path)))
    pixels, bands = brush.transform(path), int(rng.integers(2, 6))
    skin = [brush.coat.body] * bands + [brush.coat.second if brush.coat.pattern != "plain" else brush.coat.body] * bands
    brush.beads(pixels, widths + 2 * max(brush.coat.ink_width, 0.015), [brush.coat.ink])
    brush.beads(pixels, widths, skin)
    ahead = path[-1] - path[-4]
    x, y = path[-1] + 0.08 * ahead / np.hypot(*ahead)
    turn = float(np.arctan2(ahead[1], ahead[0]))
    forward, aside = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    fork = [(x, y) + (thick + 0.17) * forward, (x, y) + (thick + 0.27) * forward]
    for side in (-1, 1):
        brush.line([(x, y), fork[0], fork[1] + 0.07 * side * aside], 0.03, (205, 40, 60))
    brush.shape(ellipse_outline(x, y, thick * 1.05, thick * 0.8, turn), brush.coat.body)
    for side in (-1, 1):
        eye_x, eye_y = (x, y) + thick * (0.15 * forward + 0.45 * side * aside)
        brush.eye(eye_x, eye_y, 0.06)


def draw_crab(brush: Canvas, rng: np.random.Generator) -> None:
    """Paint a crab from the front: a wide shell, jointed legs and two claws."""
    wide, high = rng.uniform(0.45, 0.6), rng.uniform(0.26, 0.38)
    limb = mix_colours(brush.coat.body, brush.coat.accent, 0.35)
    for side in (-1, 1):
        for index in range(3):
            hip, knee = (
                (side * wide * (0.85 - 0.2 * index), 0.12),
                (side * (wide + 0.22 - 0.1 * index), 0.08 + 0.15 * index),
            )
            foot = (side * (0.98 - 0.2 * index), 0.48 + 0.15 * index + rng.uniform(-0.08, 0.08))
            brush.limb(catmull_rom([hip, knee, foot], closed=False), 0.12, 0.05, limb)
        lift, size = rng.uniform(-0.75, -0.35), rng.uniform(0.2, 0.3)
        arm = catmull_rom([(side * wide * 0.8, 0.0), (side * 0.84, -0.1), (side * 0.74, lift)], closed=False)
        brush.limb(arm, 0.13, 0.13, limb)
        claw = [(0.0, 0.25), (0.75, -0.1), (0.6, -1.0), (0.05, -0.35), (-0.55, -0.95), (-0.7, -0.1)]
        brush.skin(catmull_rom([(side * 0.72 + size * x * side, lift + size * y) for x, y in claw], steps=4), limb)
        brush.limb([(side * 0.15, -high * 0.5), (side * 0.18, -high - 0.2)], 0.06, 0.06, limb)
        brush.eye(side * 0.18, -high - 0.22, 0.09)
    brush.skin(
        catmull_rom(
            [
                (-wide, -0.02),
                (-wide * 0.6, -high),
                (wide * 0.6, -high),
                (wide, -0.02),
                (wide * 0.5, high),
                (-wide * 0.5, high),
            ]
        )
    )
    brush.smile(0, 0.02, 0.13)


def draw_rabbit(brush: Canvas, rng: np.random.Generator) -> None:
    """Paint a rabbit that sits, with long ears and a cotton tail."""
    plump, head_y, inner = rng.uniform(0.36, 0.48), rng.uniform(-0.3, -0.15), (240, 165, 175)
    for x, lean in ((0.28, rng.uniform(-0.45, 0.1)), (0.48, rng.uniform(-0.15, 0.45))):
        ear = ellipse_outline(x + lean * 0.4, head_y - 0.48, 0.11, 0.34, lean)
        brush.shape(ear, brush.coat.body)
        brush.shape(ellipse_outline(x + lean * 0.4, head_y - 0.46, 0.05, 0.23, lean), inner)
    brush.shape(ellipse_outline(-0.2 - plump, 0.45, 0.17, 0.16), mix_colours(brush.coat.body, WHITE, 0.75))
    haunch, low = -0.15 - plump, 0.68
    back = [(haunch, 0.42), (haunch + 0.12, 0.05), (-0.1, -0.1), (0.2, head_y + 0.05), (0.5, head_y + 0.1), (0.5, 0.3)]
    brush.shape(ellipse_outline(0.42, low, 0.2, 0.09), mix_colours(brush.coat.body, WHITE, 0.3))
    brush.skin(catmull_rom([*back, (0.4, low), (-0.1, low + 0.04), (haunch + 0.1, low)]))
    brush.shape(ellipse_outline(-0.28, low + 0.03, 0.27, 0.1), mix_colours(brush.coat.body, WHITE, 0.3))
    brush.skin(ellipse_outline(0.4, head_y, rng.uniform(0.29, 0.35), 0.27))
    brush.eye(0.48, head_y - 0.06, rng.uniform(0.06, 0.09))
    brush.blush(0.42, head_y + 0.1, 0.07)
    brush.shape(ellipse_outline(0.7, head_y + 0.03, 0.05, 0.04), inner)
    for lift in (-0.04, 0.06):
        brush.line([(0.62, head_y + 0.1), (0.92, head_y + 0.1 + lift * 2)], 0.015, brush.coat.ink)


# The commonest kind first: a collection is imbalanced in this order.
CREATURES = {
    "bird": draw_bird,
    "fish": draw_fish,
    "spider": draw_spider,
    "rabbit": draw_rabbit,
    "butterfly": draw_butterfly,
    "turtle": draw_turtle,
    "snake": draw_snake,
    "jellyfish": draw_jellyfish,
    "crab": draw_crab,
    "snail": draw_snail,
}
