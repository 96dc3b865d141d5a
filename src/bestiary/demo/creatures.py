"""Ten kinds of parametric creatures, one drawing function each.

A creature is drawn in its own coordinates: x to the right (its front), y down, the body within about -1..1. The canvas
rotates, mirrors, scales and moves it. Colours and patterns come from one distribution for all kinds, so that only the
shape distinguishes them.
"""

import numpy as np

from bestiary.demo.canvas import Canvas, Points, catmull_rom, ellipse_outline, mix_colours

WHITE = (255, 255, 255)


def sine_path(start: tuple[float, float], end: tuple[float, float], swing: float, turns: float, phase: float) -> Points:
    """Return a sine wave, (24, 2), around the straight line from start to end."""
    along = np.linspace(0, 1, 24)[:, None]
    step = np.subtract(end, start)
    sideways = np.array([-step[1], step[0]]) / np.hypot(*step)
    return np.asarray(start + along * step + swing * np.sin(2 * np.pi * turns * along + phase) * sideways)


def draw_fish(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw a fish from the side."""
    tall, tail = rng.uniform(0.3, 0.58), rng.uniform(0.25, 0.5)
    fin = mix_colours(canvas.coat.body, canvas.coat.accent, 0.6)
    notch = rng.uniform(-0.85, -0.65)
    canvas.shape(catmull_rom([(-0.5, 0), (-0.98, -tail), (notch - 0.05, 0), (-0.98, tail)]), fin)
    dorsal = [(-0.35, -tall * 0.6), (-0.15, -tall - 0.28), (0.35, -tall - 0.12), (0.4, -tall * 0.6)]
    canvas.shape(catmull_rom(dorsal), fin)
    canvas.shape(catmull_rom([(-0.2, tall * 0.6), (-0.25, tall + 0.2), (0.1, tall * 0.8)]), fin)
    body = [(0.85, 0.02), (0.6, -tall * 0.62), (0.1, -tall), (-0.4, -tall * 0.5), (-0.68, -0.07)]
    canvas.skin(catmull_rom([*body, (-0.68, 0.07), (-0.4, tall * 0.5), (0.1, tall), (0.6, tall * 0.62)]))
    bow = np.linspace(-0.9, 0.9, 9)
    canvas.line(np.stack([0.28 + 0.12 * np.cos(bow), tall * 0.7 * np.sin(bow)], axis=1), 0.03, canvas.coat.ink)
    canvas.shape(catmull_rom([(0.15, 0.05), (-0.15, rng.uniform(0.0, 0.3)), (-0.1, 0.3), (0.12, 0.2)]), fin)
    canvas.eye(0.55, -tall * 0.22, rng.uniform(0.08, 0.13))
    canvas.smile(0.72, 0.08, 0.08)


def draw_bird(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw a bird from the side, perched or with its wing raised."""
    round_body, head_x = rng.uniform(0.36, 0.5), rng.uniform(0.42, 0.55)
    wing = mix_colours(canvas.coat.body, canvas.coat.second, 0.6)
    for x in (0.0, 0.2):
        foot = 0.86 + rng.uniform(-0.05, 0.05)
        canvas.line([(x, 0.35), (x + 0.03, foot), (x + 0.17, foot + 0.03)], 0.05, canvas.coat.accent)
    for lift in (-0.1, 0.02, 0.14):
        canvas.shape(catmull_rom([(-0.4, 0.0), (-1.0, lift + 0.1), (-0.95, lift + 0.22), (-0.3, 0.2)]), wing)
    beak = [(head_x + 0.2, -0.52), (head_x + 0.24 + rng.uniform(0.2, 0.42), -0.4), (head_x + 0.18, -0.33)]
    canvas.shape(np.array(beak), canvas.coat.accent)
    body = [(head_x + 0.24, -0.45), (head_x, -0.72), (head_x - 0.28, -0.5), (-0.2, -0.2), (-0.65, 0.05)]
    canvas.skin(catmull_rom([*body, (-0.3, round_body * 0.9), (0.2, round_body), (head_x + 0.05, 0.05)]))
    if rng.uniform() < 0.45:
        flap = rng.uniform(-0.98, -0.6)
        canvas.skin(catmull_rom([(0.25, -0.02), (-0.05, flap * 0.7), (-0.5, flap), (-0.45, -0.35), (-0.3, 0.08)]), wing)
    else:
        canvas.skin(catmull_rom([(0.25, -0.1), (-0.15, -0.18), (-0.7, 0.22), (-0.1, 0.32), (0.2, 0.2)]), wing)
    canvas.eye(head_x + 0.06, -0.5, rng.uniform(0.07, 0.11))
    canvas.blush(head_x + 0.02, -0.34, 0.06)


def draw_butterfly(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw a butterfly from above, its wings more or less open."""
    span, low_span, lift = rng.uniform(0.7, 1.0), rng.uniform(0.5, 0.78), rng.uniform(-0.95, -0.55)
    near, far = rng.uniform(0.55, 1.0), rng.choice([-1.0, -1.0, -0.6])
    lower = mix_colours(canvas.coat.body, canvas.coat.accent, 0.45)
    for side in (far, near):
        wing = [(0.0, 0.05), (side * low_span, 0.15), (side * low_span * 0.9, 0.75), (side * 0.25, 0.7)]
        canvas.skin(catmull_rom(wing), lower)
        wing = [(0.0, -0.25), (side * 0.45, lift * 0.95), (side * span, lift), (side * span * 0.95, -0.1), (0.0, 0.12)]
        canvas.skin(catmull_rom(wing))
        canvas.shape(ellipse_outline(side * span * 0.66, lift * 0.55, 0.13 * abs(side), 0.13), canvas.coat.accent)
        canvas.shape(ellipse_outline(side * span * 0.66, lift * 0.55, 0.06 * abs(side), 0.06), canvas.coat.ink)
        canvas.line(sine_path((side * 0.05, -0.45), (side * 0.3, -0.92), 0.06, 0.5, 0), 0.035, canvas.coat.ink)
        canvas.line([(side * 0.3, -0.92), (side * 0.31, -0.93)], 0.09, canvas.coat.ink)
    canvas.shape(ellipse_outline(0, 0.08, 0.08, 0.5), mix_colours(canvas.coat.ink, canvas.coat.body, 0.3))
    canvas.shape(ellipse_outline(0, -0.45, 0.11, 0.11), mix_colours(canvas.coat.ink, canvas.coat.body, 0.3))


def draw_snail(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw a snail with a coiled shell."""
    shell, stretch = rng.uniform(0.45, 0.6), rng.uniform(0.7, 0.95)
    flesh = mix_colours(canvas.coat.accent, canvas.coat.body, rng.uniform(0.2, 0.7))
    for tip in (stretch - 0.1, stretch + 0.12):
        top = -0.42 + rng.uniform(-0.15, 0.1)
        canvas.limb([(stretch - 0.1, 0.1), (tip, top)], 0.09, 0.06, flesh)
        canvas.eye(tip, top, 0.085)
    foot = [(-0.98, 0.68), (-0.5, 0.46), (0.3, 0.42), (0.52, 0.12), (stretch - 0.08, 0.0), (stretch + 0.1, 0.2)]
    canvas.shape(catmull_rom([*foot, (0.75, 0.62), (0.55, 0.7), (-0.4, 0.7)]), flesh)
    canvas.skin(ellipse_outline(-0.15, 0.1, shell, shell * rng.uniform(0.9, 1.05)))
    angles = np.linspace(0.4, rng.uniform(2.0, 2.9) * 2 * np.pi, 60)
    radii = shell * 0.9 * angles / angles[-1]
    coil = np.stack([-0.15 + radii * np.cos(angles), 0.1 + radii * np.sin(angles)], axis=1)
    canvas.line(coil, 0.055, mix_colours(canvas.coat.ink, canvas.coat.second, 0.25))
    canvas.smile(stretch, 0.2, 0.08)


def draw_turtle(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw a turtle, from the side, sometimes from above."""
    flesh = mix_colours(canvas.coat.accent, canvas.coat.body, rng.uniform(0.2, 0.7))
    if rng.uniform() < 0.35:
        _turtle_from_above(canvas, rng, flesh)
        return
    dome, neck = rng.uniform(-0.62, -0.4), rng.uniform(-0.25, 0.05)
    far_side = mix_colours(flesh, canvas.coat.ink, 0.3)
    for x, colour in ((-0.28, far_side), (0.42, far_side), (-0.48, flesh), (0.24, flesh)):
        stride = rng.uniform(-0.12, 0.12)
        path = [(x, 0.15), (x + stride * 0.5, 0.4), (x + stride + 0.06, 0.58)]
        canvas.limb(catmull_rom(path, closed=False), 0.25, 0.19, colour)
    canvas.shape(np.array([(-0.55, 0.12), (-0.95, 0.32), (-0.5, 0.32)]), flesh)
    canvas.limb([(0.4, 0.15), (0.8, neck)], 0.24, 0.24, flesh)
    canvas.shape(ellipse_outline(0.86, neck - 0.03, 0.19, 0.16), flesh)
    shell = [(-0.72, 0.27), (-0.6, -0.12), (-0.3, dome + 0.06), (0.0, dome), (0.3, dome + 0.08), (0.55, -0.1)]
    canvas.skin(catmull_rom([*shell, (0.68, 0.27), (0.0, 0.34)]))
    for x in (-0.32, 0.02, 0.36):
        plate = ellipse_outline(x * 0.85, dome * 0.42 + abs(x) * 0.12, 0.16, abs(dome) * 0.3)[::5]
        canvas.shape(plate, mix_colours(canvas.coat.second, canvas.coat.body, 0.3))
    canvas.eye(0.91, neck - 0.07, 0.065)
    canvas.smile(0.97, neck + 0.02, 0.06)


def _turtle_from_above(canvas: Canvas, rng: np.random.Generator, flesh: tuple[int, int, int]) -> None:
    for x, y in ((0.4, -0.5), (0.4, 0.5), (-0.42, -0.45), (-0.42, 0.45)):
        canvas.shape(ellipse_outline(x * 1.15, y * 1.15, 0.3, 0.14, np.arctan2(y, x) + rng.uniform(-0.4, 0.4)), flesh)
    canvas.shape(np.array([(-0.6, -0.08), (-0.92, 0.0), (-0.6, 0.08)]), flesh)
    canvas.shape(ellipse_outline(0.8, 0, 0.21, 0.17), flesh)
    canvas.skin(ellipse_outline(0, 0, 0.7, rng.uniform(0.5, 0.62)))
    plate = mix_colours(canvas.coat.second, canvas.coat.body, 0.3)
    for angle in np.arange(6) * np.pi / 3:
        canvas.shape(ellipse_outline(0.42 * np.cos(angle), 0.34 * np.sin(angle), 0.14, 0.13)[::5], plate)
    canvas.shape(ellipse_outline(0, 0, 0.18, 0.16)[::5], plate)
    canvas.eye(0.87, -0.09, 0.05)
    canvas.eye(0.87, 0.09, 0.05)


def draw_spider(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw a spider with eight legs, from above."""
    belly, reach, thick = rng.uniform(0.28, 0.45), rng.uniform(0.8, 1.05), rng.uniform(0.04, 0.085)
    leg = mix_colours(canvas.coat.ink, canvas.coat.body, rng.uniform(0.0, 0.5))
    for side in (-1, 1):
        for angle in np.array([-1.05, -0.4, 0.3, 0.95]) + rng.normal(0, 0.07, 4):
            knee = (0.2 + 0.6 * reach * np.sin(-angle) * 0.7, side * 0.62 * reach * np.cos(angle * 0.7))
            foot = (0.1 - reach * np.sin(angle) * 0.95, side * reach * rng.uniform(0.75, 0.95) * np.cos(angle * 0.55))
            path = catmull_rom([(0.2, side * 0.1), knee, foot], closed=False, steps=4)
            canvas.limb(path, thick * 1.3, thick * 0.6, leg)
    canvas.skin(ellipse_outline(-0.3, 0, belly * 1.1, belly))
    canvas.shape(ellipse_outline(0.25, 0, 0.24, 0.21), canvas.coat.body)
    for y in (-0.09, 0.09):
        canvas.eye(0.36, y, rng.uniform(0.06, 0.09))
        canvas.line([(0.47, y), (0.55, y * 0.6)], 0.05, canvas.coat.ink)


def draw_jellyfish(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw a jellyfish: a bell with a scalloped edge, and waving arms."""
    wide, high, phase = rng.uniform(0.5, 0.7), rng.uniform(0.55, 0.85), rng.uniform(0, 6.28)
    arms = mix_colours(canvas.coat.body, canvas.coat.accent, 0.45)
    for x in np.linspace(-wide * 0.75, wide * 0.75, int(rng.integers(4, 8))):
        foot = (x * rng.uniform(0.8, 1.4), rng.uniform(0.6, 1.0))
        path = sine_path((x, -0.1), foot, rng.uniform(0.04, 0.09), rng.uniform(1.0, 2.0), phase)
        canvas.limb(path, rng.uniform(0.07, 0.13), 0.03, arms)
    crown = [(wide * np.cos(a), -0.1 - high * np.sin(a)) for a in np.linspace(0, np.pi, 9)]
    edge = [(x, 0.02 + 0.1 * (i % 2)) for i, x in enumerate(np.linspace(-wide, wide, 9)[1:-1])]
    canvas.skin(catmull_rom(crown + edge))
    canvas.line(sine_path((-wide * 0.5, -high * 0.75), (-wide * 0.1, -high), -0.04, 0.5, 0), 0.06, WHITE, opacity=0.6)
    if rng.uniform() < 0.75:
        for x in (-0.2, 0.2):
            canvas.eye(x, -0.28, 0.085)
            canvas.blush(x * 1.6, -0.17, 0.07)
        canvas.smile(0, -0.22, 0.08)


def draw_snake(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw a snake: winding, or coiled with its head raised."""
    thick = rng.uniform(0.13, 0.22)
    if rng.uniform() < 0.35:
        angles = np.linspace(0, rng.uniform(1.6, 2.3) * 2 * np.pi, 60)
        radii = np.linspace(0.72, 0.12, 60)
        path = np.stack([radii * np.cos(angles), 0.15 + 0.75 * radii * np.sin(angles)], axis=1)
        path = catmull_rom(np.concatenate([path[::6], [(0.1, -0.35), (0.35, -0.6)]]), closed=False)
    else:
        tail, swing, turns = (-0.95, rng.uniform(-0.2, 0.2)), rng.uniform(0.2, 0.38), rng.uniform(0.9, 1.9)
        path = catmull_rom(sine_path(tail, (0.75, 0.0), swing, turns, rng.uniform(0, 6.28)), closed=False, steps=3)
    widths = thick * np.minimum(1.0, np.linspace(0.15, 3.5, len(path)))
    pixels, bands = canvas.transform(path), int(rng.integers(2, 6))
    stripe = canvas.coat.body if canvas.coat.pattern == "plain" else canvas.coat.second
    skin = [canvas.coat.body] * bands + [stripe] * bands
    canvas.beads(pixels, widths + 2 * max(canvas.coat.ink_width, 0.015), [canvas.coat.ink])
    canvas.beads(pixels, widths, skin)
    ahead = path[-1] - path[-4]
    x, y = path[-1] + 0.08 * ahead / np.hypot(*ahead)
    turn = float(np.arctan2(ahead[1], ahead[0]))
    forward, aside = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    fork = [(x, y) + (thick + 0.17) * forward, (x, y) + (thick + 0.27) * forward]
    for side in (-1, 1):
        canvas.line([(x, y), fork[0], fork[1] + 0.07 * side * aside], 0.03, (205, 40, 60))
    canvas.shape(ellipse_outline(x, y, thick * 1.05, thick * 0.8, turn), canvas.coat.body)
    for side in (-1, 1):
        eye_x, eye_y = (x, y) + thick * (0.15 * forward + 0.45 * side * aside)
        canvas.eye(eye_x, eye_y, 0.06)


def draw_crab(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw a crab from the front: a wide shell, jointed legs and two claws."""
    wide, high = rng.uniform(0.45, 0.6), rng.uniform(0.26, 0.38)
    limb = mix_colours(canvas.coat.body, canvas.coat.accent, 0.35)
    for side in (-1, 1):
        for index in range(3):
            hip = (side * wide * (0.85 - 0.2 * index), 0.12)
            knee = (side * (wide + 0.22 - 0.1 * index), 0.08 + 0.15 * index)
            foot = (side * (0.98 - 0.2 * index), 0.48 + 0.15 * index + rng.uniform(-0.08, 0.08))
            canvas.limb(catmull_rom([hip, knee, foot], closed=False), 0.12, 0.05, limb)
        lift, size = rng.uniform(-0.75, -0.35), rng.uniform(0.2, 0.3)
        arm = catmull_rom([(side * wide * 0.8, 0.0), (side * 0.84, -0.1), (side * 0.74, lift)], closed=False)
        canvas.limb(arm, 0.13, 0.13, limb)
        claw = [(0.0, 0.25), (0.75, -0.1), (0.6, -1.0), (0.05, -0.35), (-0.55, -0.95), (-0.7, -0.1)]
        canvas.skin(catmull_rom([(side * 0.72 + size * x * side, lift + size * y) for x, y in claw], steps=4), limb)
        canvas.limb([(side * 0.15, -high * 0.5), (side * 0.18, -high - 0.2)], 0.06, 0.06, limb)
        canvas.eye(side * 0.18, -high - 0.22, 0.09)
    shell = [(-wide, -0.02), (-wide * 0.6, -high), (wide * 0.6, -high), (wide, -0.02)]
    canvas.skin(catmull_rom([*shell, (wide * 0.5, high), (-wide * 0.5, high)]))
    canvas.smile(0, 0.02, 0.13)


def draw_rabbit(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw a sitting rabbit with long ears."""
    plump, head_y, inner = rng.uniform(0.36, 0.48), rng.uniform(-0.3, -0.15), (240, 165, 175)
    for x, lean in ((0.28, rng.uniform(-0.45, 0.1)), (0.48, rng.uniform(-0.15, 0.45))):
        ear = ellipse_outline(x + lean * 0.4, head_y - 0.48, 0.11, 0.34, lean)
        canvas.shape(ear, canvas.coat.body)
        canvas.shape(ellipse_outline(x + lean * 0.4, head_y - 0.46, 0.05, 0.23, lean), inner)
    canvas.shape(ellipse_outline(-0.2 - plump, 0.45, 0.17, 0.16), mix_colours(canvas.coat.body, WHITE, 0.75))
    haunch, low = -0.15 - plump, 0.68
    back = [(haunch, 0.42), (haunch + 0.12, 0.05), (-0.1, -0.1), (0.2, head_y + 0.05), (0.5, head_y + 0.1), (0.5, 0.3)]
    canvas.shape(ellipse_outline(0.42, low, 0.2, 0.09), mix_colours(canvas.coat.body, WHITE, 0.3))
    canvas.skin(catmull_rom([*back, (0.4, low), (-0.1, low + 0.04), (haunch + 0.1, low)]))
    canvas.shape(ellipse_outline(-0.28, low + 0.03, 0.27, 0.1), mix_colours(canvas.coat.body, WHITE, 0.3))
    canvas.skin(ellipse_outline(0.4, head_y, rng.uniform(0.29, 0.35), 0.27))
    canvas.eye(0.48, head_y - 0.06, rng.uniform(0.06, 0.09))
    canvas.blush(0.42, head_y + 0.1, 0.07)
    canvas.shape(ellipse_outline(0.7, head_y + 0.03, 0.05, 0.04), inner)
    for lift in (-0.04, 0.06):
        canvas.line([(0.62, head_y + 0.1), (0.92, head_y + 0.1 + lift * 2)], 0.015, canvas.coat.ink)


# The most frequent kind first: class sizes decrease in this order.
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
