"""Measures crops from boxes: pictures of 12 megapixels with three boxes each, against decoding each picture once.

    python benchmarks/crops.py [--pictures 40] [--runs 5] [--size 224]

Draws the pictures, of 4 to 5 MB each, as phones write them. Each run times, one after another on one thread: decoding
each picture once at full scale, without and with the reduction to a model's input; the model inputs of its three boxes
(`Preprocessing`); the same, the file decoded for each box anew; the measurements of its three boxes (`measure_boxes`),
and those of the whole picture. Processor seconds of this process, medians of the runs; the first run, which warms up,
is left out. The target: model inputs of three boxes take at most 1.15 times the decoding of each picture once.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from bestiary.batches.decoding import decode_ahead
from bestiary.box import Box, Crop
from bestiary.data.measure import measure_boxes, measure_file
from bestiary.demo.creatures import CREATURES
from bestiary.demo.dataset import draw_creature
from bestiary.picture import LIMITS, open_picture, resize_image_to_square
from bestiary.preprocess import Preprocessing
from measuring import build_parser, count_cores, read_processor_name, read_versions

WIDTH, HEIGHT = 4000, 3000
BOXES = (Box(0.05, 0.1, 0.25, 0.3), Box(0.4, 0.35, 0.2, 0.4), Box(0.7, 0.5, 0.12, 0.15))
NOISE, QUALITY = 12, 94  # noise in grey levels; of 4 to 5 MB a picture
LIMIT = 1.15


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size", type=int, default=224)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = draw_pictures(Path(folder), arguments.pictures)
        measure(paths, Preprocessing(arguments.size), arguments.runs)


def draw_pictures(folder: Path, count: int) -> list[Path]:
    """Return JPEG files of camera noise with a creature in each box."""
    paths = []
    for number in range(count):
        rng = np.random.default_rng(number)
        small = rng.integers(60, 190, (HEIGHT // 100, WIDTH // 100, 3), np.uint8)
        picture = Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        noise = rng.integers(-NOISE, NOISE + 1, (HEIGHT, WIDTH, 3), np.int16)
        picture = Image.fromarray(np.clip(np.asarray(picture, np.int16) + noise, 0, 255).astype(np.uint8))
        for place, box in enumerate(BOXES):
            creature = draw_creature(list(CREATURES)[(number + place) % len(CREATURES)], rng)
            size = round(box.width * WIDTH), round(box.height * HEIGHT)
            picture.paste(creature.resize(size), (round(box.left * WIDTH), round(box.top * HEIGHT)))
        paths.append(folder / f"{number:04d}.jpg")
        picture.save(paths[-1], quality=QUALITY)
    return paths


def measure(paths: list[Path], preprocess: Preprocessing, runs: int) -> None:
    crops = [Crop(path, box) for path in paths for box in BOXES]
    texts = [str(box) for box in BOXES]

    def decode_each() -> None:
        with ThreadPoolExecutor(1) as pool:  # as `decode_ahead`: another thread reuses its memory in another way
            for _ in pool.map(lambda path: open_picture(path).width, paths):
                pass

    def load_whole() -> None:
        with ThreadPoolExecutor(1) as pool:
            for _ in pool.map(
                lambda path: resize_image_to_square(open_picture(path).image, preprocess.size, preprocess.fit), paths
            ):
                pass

    def load_one_by_one() -> None:
        for crop in crops:
            preprocess.load_pixels(crop)

    def load_crops() -> None:
        for image in decode_ahead(crops, preprocess, threads=1):
            assert image.error is None, image.error

    def measure_crops() -> None:
        for path in paths:
            assert not any(measured.error for measured in measure_boxes(path, texts, LIMITS))

    def measure_whole() -> None:
        for path in paths:
            assert measure_file(path, LIMITS).error is None

    jobs: dict[str, Callable[[], None]] = {
        "decoding, full scale": decode_each,
        "decoding, and model input of the picture": load_whole,
        "model inputs of three boxes": load_crops,
        "the same, decoded for each box": load_one_by_one,
        "measuring three boxes": measure_crops,
        "measuring the whole picture": measure_whole,
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for run in range(runs + 1):
        for name, job in jobs.items():
            began = time.process_time()
            job()
            if run:
                seconds[name].append(time.process_time() - began)
    print(f"{read_processor_name()}, {count_cores()} cores; {read_versions(['pillow', 'numpy'])}")
    print(f"{len(paths)} pictures of {WIDTH} x {HEIGHT} pixels, {len(BOXES)} boxes each, {runs} runs")
    first = seconds["decoding, full scale"]
    for name, values in seconds.items():
        ratio = statistics.median(value / base for value, base in zip(values, first, strict=True))
        each = 1000 * statistics.median(values) / len(paths)
        print(f"{name:40} {each:7.1f} ms a picture, {ratio:.3f} times the decoding")
    for name in list(jobs)[:2]:
        ratios = (
            value / base for value, base in zip(seconds["model inputs of three boxes"], seconds[name], strict=True)
        )
        ratio = statistics.median(ratios)
        print(f"At most {LIMIT} times {name}: {'reached' if ratio <= LIMIT else 'missed'} ({ratio:.3f}).")


if __name__ == "__main__":
    main()
