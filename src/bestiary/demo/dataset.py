"""A collection of drawn creatures, with the faults that real collections have: for the demo and for tests.

Nothing here is a photograph. The same seed gives the same bytes with the same version of Pillow.
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

# The largest class has about this many times the pictures of the smallest.
IMBALANCE = 6.0
# So many pictures for each kind leave at least one for the smallest class.
PICTURES_PER_KIND = 4

# The fault, and the check of the audit that should name it; None where a picture is unusual but nothing is wrong.
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
    """A collection that was drawn by a program, and what is wrong with it on purpose.

    `kinds` says for each picture of a creature which one it really shows; its folder says how it is
    labelled. `faults` gives the paths by fault, under the names of FAULT_CHECKS. `originals` leads from each copy
    (exact, near, or in another class) to the picture it repeats. All paths begin with `folder`.
    """

    folder: Path
    kinds: dict[Path, str]
    faults: dict[str, tuple[Path, ...]]
    originals: dict[Path, Path]
    about: str = "Drawn by bestiary: creatures made of curves, not photographs."


@dataclass
class _DatasetWriter:
    """The collection while it is being drawn: it numbers files and remembers what was planted."""

    folder: Path
    kinds: dict[Path, str] = field(default_factory=dict)
    faults: dict[str, list[Path]] = field(default_factory=dict)
    originals: dict[Path, Path] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def add(self, label: str, content: bytes, suffix: str, *, kind: str | None, fault: str | None = None) -> Path:
        """Return the path of a new numbered file in the folder of a class."""
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
    """Return a collection of drawn creatures, written to `folder/<kind>/NNN.jpg` (some `.png`).

    `pictures` are drawn, imbalanced by about six to one; with `faults`, about 2 % of them lie in the wrong folder, and
    copies, broken and unusual files come on top, about 5 % more. The same seed, 0 or more, gives the same
    bytes. Raises SourceError if the folder holds anything, or if the pictures are too few for the kinds.
    """
    _check_request(folder, pictures)
    rng = np.random.default_rng([seed, 0])
    album = _DatasetWriter(folder)
    plan = [kind for kind, size in long_tailed_class_sizes(pictures).items() for _ in range(size)]
    # Shuffled, so that neither a number nor a place in the folder tells which pictures are mislabelled.
    plan = [plan[index] for index in rng.permutation(len(plan))]
    wrong = set(rng.permutation(pictures)[: max(1, round(0.02 * pictures))].tolist()) if faults else set()
    for index, kind in enumerate(plan):
        picture_rng = np.random.default_rng([seed, 1, index])
        content, suffix = encode_picture(draw_creature(kind, picture_rng), picture_rng)
        label = _random_different_kind(kind, picture_rng) if index in wrong else kind
        album.add(label, content, suffix, kind=kind, fault="wrong-label" if index in wrong else None)
    if faults:
        _plant_copies(album, rng)
        _plant_odd_files(album, rng)
        _plant_hidden_files(album)
    return SyntheticDataset(
        folder, album.kinds, {fault: tuple(paths) for fault, paths in album.faults.items()}, album.originals
    )


def long_tailed_class_sizes(pictures: int) -> dict[str, int]:
    """Return how many pictures each kind gets: in a geometric row from the commonest to the rarest."""
    shares = IMBALANCE ** np.linspace(1, 0, len(CREATURES))
    edges = np.rint(np.cumsum(shares) / shares.sum() * pictures).astype(int)
    return dict(zip(CREATURES, np.diff(edges, prepend=0).tolist(), strict=True))


def draw_creature(kind: str, rng: np.random.Generator) -> Image.Image:
    """Return an RGB picture of one creature, 120 to 360 pixels wide and high, in a random pose and scene."""
    width, height = random_size(rng)
    image = random_background((width * SUPERSAMPLING, height * SUPERSAMPLING), rng)
    CREATURES[kind](Canvas(image, random_pose(image.size, rng), random_coat(rng), rng), rng)
    add_occluders(image, rng)
    return camera_effects(image, rng)


def draw_ood_image(seed: int) -> Image.Image:
    """Return an RGB picture that shows no creature: noise, stripes, rings, shapes, marks like writing, or clouds."""
    rng = np.random.default_rng([seed, 2])
    width, height = random_size(rng)
    paint = list(OOD_IMAGES.values())[seed % len(OOD_IMAGES)]
    return camera_effects(paint((width * SUPERSAMPLING, height * SUPERSAMPLING), rng), rng)


def random_pose(size: tuple[int, int], rng: np.random.Generator) -> Pose:
    """Return a pose within a picture of (width, height): mostly upright, sometimes upside down or partly outside."""
    radius = rng.uniform(0.36, 0.6) * min(size)
    turn = rng.uniform(-np.pi, np.pi) if rng.uniform() < 0.1 else rng.normal(0, 0.3)
    cos, sin = np.cos(turn), np.sin(turn)
    stretch = np.diag([rng.choice([-1.0, 1.0]) * radius * rng.uniform(0.88, 1.12), radius])
    margin = 0.8 * radius
    centre = np.array([rng.uniform(margin, side - margin) for side in size])
    return Pose(np.array([[cos, -sin], [sin, cos]]) @ stretch, centre)


def encode_picture(image: Image.Image, rng: np.random.Generator) -> tuple[bytes, str]:
    """Return a picture's bytes and the file suffix that belongs to them: mostly JPEG of varying quality, some PNG."""
    if rng.uniform() < 0.07:
        return _png(image), ".png"
    return _jpeg(image, quality=int(rng.integers(55, 96))), ".jpg"


def _jpeg(image: Image.Image, *, quality: int = 85, exif: bytes = b"") -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, exif=exif)
    return stream.getvalue()


def _png(image: Image.Image, *, transparent_index: int | None = None) -> bytes:
    stream = io.BytesIO()
    if transparent_index is None:
        image.save(stream, "PNG", compress_level=4)
    else:
        image.save(stream, "PNG", compress_level=4, transparency=transparent_index)
    return stream.getvalue()


def _check_request(folder: Path, pictures: int) -> None:
    if is_occupied(folder):
        raise SourceError(
            f'"{folder}" is not an empty folder, and drawn pictures never mix with other files. '
            "Name a new folder or an empty one."
        )
    fewest = PICTURES_PER_KIND * len(CREATURES)
    if pictures < fewest:
        raise SourceError(
            f"{pictures} drawn pictures are too few for {len(CREATURES)} kinds of creatures. Ask for at least {fewest}."
        )


def _random_different_kind(kind: str, rng: np.random.Generator) -> str:
    others = [other for other in CREATURES if other != kind]
    return others[int(rng.integers(len(others)))]


def _plant_copies(album: _DatasetWriter, rng: np.random.Generator) -> None:
    """Add exact copies, near copies and one copy under another label, each of a different well-labelled picture."""
    well_labelled = [path for path, kind in album.kinds.items() if path.parent.name == kind]
    exact, near = max(1, round(0.01 * len(well_labelled))), max(len(NEAR_COPIES), round(0.016 * len(well_labelled)))
    chosen = [well_labelled[index] for index in rng.permutation(len(well_labelled))[: exact + near + 1]]
    for original in chosen[:exact]:
        _add_copy(album, original, "exact-duplicate", original.read_bytes(), original.suffix)
    for index, original in enumerate(chosen[exact : exact + near]):
        alter = list(NEAR_COPIES.values())[index % len(NEAR_COPIES)]
        with Image.open(original) as image:
            _add_copy(album, original, "near-duplicate", _jpeg(alter(image.convert("RGB")), quality=80), ".jpg")
    label = _random_different_kind(chosen[-1].parent.name, rng)
    _add_copy(album, chosen[-1], "label-conflict", chosen[-1].read_bytes(), chosen[-1].suffix, label=label)


def _add_copy(
    album: _DatasetWriter, original: Path, fault: str, content: bytes, suffix: str, label: str | None = None
) -> None:
    kind = album.kinds[original]
    copy = album.add(label or kind, content, suffix, kind=kind, fault=fault)
    album.originals[copy] = original


NEAR_COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "re-encoded": lambda image: image,
    "resized": lambda image: ImageOps.scale(image, 0.8),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.08),
    "cropped": lambda image: image.crop((3, 2, image.width - 2, image.height - 3)),
}


def _plant_odd_files(album: _DatasetWriter, rng: np.random.Generator) -> None:
    """Add one file of each odd kind, spread over the classes."""
    for index, (fault, (suffix, make)) in enumerate(ODD_FILES.items()):
        kind = list(CREATURES)[index % len(CREATURES)]
        shows_it = fault not in ("truncated", "empty", "text", "tiny")
        album.add(kind, make(draw_creature(kind, rng)), suffix, kind=kind if shows_it else None, fault=fault)


def _truncate(image: Image.Image) -> bytes:
    whole = _jpeg(image)
    return whole[: len(whole) * 3 // 5]


def _exif_rotate(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: the camera was held upright; turn clockwise to view.
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


def _plant_hidden_files(album: _DatasetWriter) -> None:
    """Add the files that desktops leave behind in folders of pictures."""
    kinds = list(CREATURES)
    hidden = {
        album.folder / kinds[0] / ".DS_Store": b"\0\0\0\1Bud1",
        album.folder / kinds[1] / "Thumbs.db": b"\xd0\xcf\x11\xe0",
    }
    for path, content in hidden.items():
        path.write_bytes(content)
    album.faults["hidden"] = list(hidden)
