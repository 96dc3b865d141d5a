"""Synthetic dataset of drawn creatures, with the faults of real collections: for the demo and for tests.

The same seed gives the same bytes with the same version of Pillow.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from bestiary.demo.backgrounds import OOD_IMAGES, add_occluders, camera_effects, random_background, random_size
from bestiary.demo.canvas import SUPERSAMPLING, Canvas, Pose, random_coat
from bestiary.demo.creatures import CREATURES
from bestiary.errors import SourceError
from bestiary.files import is_occupied

IMBALANCE = 6.0  # the size of the largest class over that of the smallest
PICTURES_PER_KIND = 4  # on average; leaves at least one for the smallest class

# Each fault and the audit check that should report it; None if the picture is unusual but valid.
FAULT_CHECKS: dict[str, str | None] = {
    "wrong-label": "suspect-label",
    "exact-duplicate": "exact-duplicate",
    "near-duplicate": "near-duplicate",
    "label-conflict": "label-conflict",
    "truncated": "truncated",
    "empty": "unreadable",
    "text": "unreadable",
    "png-in-jpg": "wrong-extension",
    "tiny": "tiny",
    "cmyk": None,
    "exif-rotated": None,
    "animated": "animated",
    "sixteen-bit": None,
    "transparent-palette": None,
    "hidden": None,
}


@dataclass(frozen=True)
class SyntheticDataset:
    """A drawn dataset and its planted faults.

    kinds: the true kind of each picture of a creature; its folder is its label. faults: the paths by fault, the keys of
    FAULT_CHECKS. originals: for each copy (exact, near, or in another class) the picture it repeats. All paths are
    below `folder`.
    """

    folder: Path
    kinds: dict[Path, str]
    faults: dict[str, tuple[Path, ...]]
    originals: dict[Path, Path]
    about: str = "Drawn by bestiary: creatures made of curves, not photographs."


@dataclass
class _DatasetWriter:
    """Writes numbered files, and records the planted faults."""

    folder: Path
    kinds: dict[Path, str] = field(default_factory=dict)
    faults: dict[str, list[Path]] = field(default_factory=dict)
    originals: dict[Path, Path] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def add(self, label: str, content: bytes, suffix: str, *, kind: str | None, fault: str | None = None) -> Path:
        """Write a numbered file to the folder of a class; return its path."""
        number = self.sizes.get(label, 0)
        self.sizes[label] = number + 1
        path = self.folder / label / f"{number:03d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if kind is not None:
            self.kinds[path] = kind
        if fault is not None:
            self.faults.setdefault(fault, []).append(path)
        return path


def make_synthetic_dataset(
    folder: Path, *, pictures: int = 720, seed: int = 0, faults: bool = True
) -> SyntheticDataset:
    """Return a dataset of drawn creatures, written to `folder/<kind>/NNN.jpg` (some `.png`).

    Class sizes are imbalanced by about six to one. With `faults`, about 2 % of the `pictures` are mislabelled, and
    about 5 % copies, broken and unusual files are added. The same seed, 0 or more, gives the same bytes.
    Raises SourceError if the folder is not empty, or if the pictures are too few for the kinds.
    """
    _check_request(folder, pictures)
    rng = np.random.default_rng([seed, 0])
    writer = _DatasetWriter(folder)
    plan = [kind for kind, size in long_tailed_class_sizes(pictures).items() for _ in range(size)]
    plan = [plan[index] for index in rng.permutation(len(plan))]  # so that file numbers do not reveal mislabelling
    wrong = set(rng.permutation(pictures)[: max(1, round(0.02 * pictures))].tolist()) if faults else set()
    for index, kind in enumerate(plan):
        picture_rng = np.random.default_rng([seed, 1, index])
        content, suffix = encode_picture(draw_creature(kind, picture_rng), picture_rng)
        label = _random_different_kind(kind, picture_rng) if index in wrong else kind
        writer.add(label, content, suffix, kind=kind, fault="wrong-label" if index in wrong else None)
    if faults:
        _plant_copies(writer, rng)
        _plant_odd_files(writer, rng)
        _plant_hidden_files(writer)
    paths_by_fault = {fault: tuple(paths) for fault, paths in writer.faults.items()}
    return SyntheticDataset(folder, writer.kinds, paths_by_fault, writer.originals)


def long_tailed_class_sizes(pictures: int) -> dict[str, int]:
    """Return the number of pictures of each kind: a geometric series from the most to the least frequent."""
    weights = IMBALANCE ** np.linspace(1, 0, len(CREATURES))
    edges = np.rint(np.cumsum(weights) / weights.sum() * pictures).astype(int)
    return dict(zip(CREATURES, np.diff(edges, prepend=0).tolist(), strict=True))


def draw_creature(kind: str, rng: np.random.Generator) -> Image.Image:
    """Return an RGB picture of a creature, 120 to 360 pixels wide and high, with a random pose and background."""
    width, height = random_size(rng)
    image = random_background((width * SUPERSAMPLING, height * SUPERSAMPLING), rng)
    CREATURES[kind](Canvas(image, random_pose(image.size, rng), random_coat(rng), rng), rng)
    add_occluders(image, rng)
    return camera_effects(image, rng)


def draw_ood_image(seed: int) -> Image.Image:
    """Return an out-of-distribution RGB picture: noise, stripes, rings, shapes, marks or clouds."""
    rng = np.random.default_rng([seed, 2])
    width, height = random_size(rng)
    draw = OOD_IMAGES[seed % len(OOD_IMAGES)]
    return camera_effects(draw((width * SUPERSAMPLING, height * SUPERSAMPLING), rng), rng)


def random_pose(size: tuple[int, int], rng: np.random.Generator) -> Pose:
    """Return a pose in a picture of (width, height): mostly upright, sometimes upside down or partly outside."""
    radius = rng.uniform(0.36, 0.6) * min(size)
    turn = rng.uniform(-np.pi, np.pi) if rng.uniform() < 0.1 else rng.normal(0, 0.3)
    cos, sin = np.cos(turn), np.sin(turn)
    stretch = np.diag([rng.choice([-1.0, 1.0]) * radius * rng.uniform(0.88, 1.12), radius])
    margin = 0.8 * radius
    centre = np.array([rng.uniform(margin, side - margin) for side in size])
    return Pose(np.array([[cos, -sin], [sin, cos]]) @ stretch, centre)


def encode_picture(image: Image.Image, rng: np.random.Generator) -> tuple[bytes, str]:
    """Return the bytes of a picture and their file suffix: mostly JPEG of varying quality, some PNG."""
    if rng.uniform() < 0.07:
        return _png(image), ".png"
    return _jpeg(image, quality=int(rng.integers(55, 96))), ".jpg"


def _jpeg(image: Image.Image, *, quality: int = 85, exif: bytes = b"") -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, exif=exif)
    return stream.getvalue()


def _png(image: Image.Image, *, transparent_index: int | None = None) -> bytes:
    stream, options = io.BytesIO(), {} if transparent_index is None else {"transparency": transparent_index}
    image.save(stream, "PNG", compress_level=4, **options)
    return stream.getvalue()


def _check_request(folder: Path, pictures: int) -> None:
    if is_occupied(folder):
        raise SourceError(
            f'"{folder}" is not an empty folder, and drawn pictures are not mixed with other files. '
            "Name a new folder or an empty one."
        )
    kinds, minimum = len(CREATURES), PICTURES_PER_KIND * len(CREATURES)
    if pictures < minimum:
        raise SourceError(
            f"{pictures} pictures are too few for {kinds} kinds of creatures. Request at least {minimum}."
        )


def _random_different_kind(kind: str, rng: np.random.Generator) -> str:
    kinds = [name for name in CREATURES if name != kind]
    return kinds[int(rng.integers(len(kinds)))]


def _plant_copies(writer: _DatasetWriter, rng: np.random.Generator) -> None:
    """Add exact copies, near copies and one copy with another label, each of a different correctly labelled picture."""
    correct = [path for path, kind in writer.kinds.items() if path.parent.name == kind]
    exact, near = max(1, round(0.01 * len(correct))), max(len(NEAR_COPIES), round(0.016 * len(correct)))
    chosen = [correct[index] for index in rng.permutation(len(correct))[: exact + near + 1]]
    for original in chosen[:exact]:
        _add_copy(writer, original, "exact-duplicate", original.read_bytes(), original.suffix)
    for index, original in enumerate(chosen[exact : exact + near]):
        alter = NEAR_COPIES[index % len(NEAR_COPIES)]
        with Image.open(original) as image:
            _add_copy(writer, original, "near-duplicate", _jpeg(alter(image.convert("RGB")), quality=80), ".jpg")
    label = _random_different_kind(chosen[-1].parent.name, rng)
    _add_copy(writer, chosen[-1], "label-conflict", chosen[-1].read_bytes(), chosen[-1].suffix, label=label)


def _add_copy(
    writer: _DatasetWriter, original: Path, fault: str, content: bytes, suffix: str, label: str | None = None
) -> None:
    kind = writer.kinds[original]
    copy = writer.add(label or kind, content, suffix, kind=kind, fault=fault)
    writer.originals[copy] = original


NEAR_COPIES: tuple[Callable[[Image.Image], Image.Image], ...] = (
    lambda image: image,  # only re-encoded
    lambda image: ImageOps.scale(image, 0.8),
    lambda image: ImageEnhance.Brightness(image).enhance(1.08),
    lambda image: image.crop((3, 2, image.width - 2, image.height - 3)),
)


def _plant_odd_files(writer: _DatasetWriter, rng: np.random.Generator) -> None:
    """Add one file of each unusual kind, spread over the classes."""
    for index, (fault, (suffix, make)) in enumerate(ODD_FILES.items()):
        kind = list(CREATURES)[index % len(CREATURES)]
        is_visible = fault not in ("truncated", "empty", "text", "tiny")
        writer.add(kind, make(draw_creature(kind, rng)), suffix, kind=kind if is_visible else None, fault=fault)


def _truncate(image: Image.Image) -> bytes:
    whole = _jpeg(image)
    return whole[: len(whole) * 3 // 5]


def _exif_rotate(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate clockwise for display
    return _jpeg(image.transpose(Image.Transpose.ROTATE_90), exif=exif.tobytes())


def _make_animated(image: Image.Image) -> bytes:
    frames = [ImageOps.scale(image, 0.6).rotate(angle, fillcolor=(255, 255, 255)) for angle in (0, 4, -4)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], duration=200, loop=0)
    return stream.getvalue()


def _make_sixteen_bit(image: Image.Image) -> bytes:
    return _png(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257))


def _make_transparent_palette(image: Image.Image) -> bytes:
    """Return a palette PNG whose corners, outside an ellipse, are transparent."""
    y, x = np.mgrid[-1 : 1 : image.height * 1j, -1 : 1 : image.width * 1j]
    cut_out = image.quantize(63)
    cut_out.paste(63, (0, 0), Image.fromarray(np.where(x**2 + y**2 > 1.25, 255, 0).astype(np.uint8)))
    return _png(cut_out, transparent_index=63)


ODD_FILES: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "truncated": (".jpg", _truncate),
    "empty": (".jpg", lambda _: b""),
    "text": (".jpg", lambda _: b"This is a note about a picture, saved under a picture's name.\n"),
    "png-in-jpg": (".jpg", _png),
    "tiny": (".png", lambda image: _png(image.resize((1, 1)))),
    "cmyk": (".jpg", lambda image: _jpeg(image.convert("CMYK"))),
    "exif-rotated": (".jpg", _exif_rotate),
    "animated": (".gif", _make_animated),
    "sixteen-bit": (".png", _make_sixteen_bit),
    "transparent-palette": (".png", _make_transparent_palette),
}


HIDDEN_FILES = {".DS_Store": b"\0\0\0\1Bud1", "Thumbs.db": b"\xd0\xcf\x11\xe0"}


def _plant_hidden_files(writer: _DatasetWriter) -> None:
    """Add hidden files of desktop systems."""
    for kind, (name, content) in zip(CREATURES, HIDDEN_FILES.items(), strict=False):
        path = writer.folder / kind / name
        path.write_bytes(content)
        writer.faults.setdefault("hidden", []).append(path)
