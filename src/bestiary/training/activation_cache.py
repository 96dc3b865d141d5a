"""Activation cache: activations of a backbone's frozen stages, for a few augmented views of each picture, on disk.

Fine-tuning the stages above them costs no more than those stages. Views depend on the picture's content, their number
and the augmentation alone, so that all runs share them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bestiary.array_types import Ints, Pixels
from bestiary.batches.array_cache import ArrayCache
from bestiary.batches.augmentation import BatchRandom, augment
from bestiary.batches.loader import Read
from bestiary.batches.pixel_cache import iter_pixel_batches
from bestiary.models.engine import Precision, make_engine
from bestiary.models.onnx_surgery import OUTPUT, FrozenStages
from bestiary.preprocess import Preprocessing, VerifiedFile
from bestiary.recipe_sections import AugmentConfig
from bestiary.training.recipe_checks import count_fixed_views
from bestiary.training.task import SplitData, TrainingTask

ACTIVATIONS_VERSION = 1  # raise it when the views change


@dataclass(frozen=True)
class AugmentedViews:
    """The cached views of each picture: 0 is the picture itself, 1 its mirror image, the others are augmented.

    If no picture may be mirrored (`augment.mirror` is 0), 1 is augmented as well.
    """

    count: int
    augment: AugmentConfig

    def iter_views(self, picture: Pixels, key: str) -> Iterator[Pixels]:
        """Yield the views of one picture, uint8 (1, size, size, 3); `key` seeds the random ones."""
        fixed = min(self.count, count_fixed_views(self.augment))
        yield from (picture, np.ascontiguousarray(picture[:, :, ::-1]))[:fixed]
        for number in range(fixed, self.count):
            digest = hashlib.sha256(f"{key}-{number}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
            changed = augment(
                torch.from_numpy(picture.copy()).permute(0, 3, 1, 2), self.augment, BatchRandom(generator)
            )
            yield changed.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def activation_cache(
    cache: Path, frozen_stages: FrozenStages, preprocess: Preprocessing, precision: Precision, augment: AugmentConfig
) -> ArrayCache:
    """Return the cache of float16 (height, width, channels) activations of these stages and views."""
    settings = f"{_describe_augment(augment)} {preprocess.rules.cache_name} v{ACTIVATIONS_VERSION}".encode()
    name = f"{hashlib.sha256(frozen_stages.graph + settings).hexdigest()[:16]}-{preprocess.fit}-{precision}"
    return ArrayCache(cache / "activations" / name, frozen_stages.shape, np.float16)


def fill_activation_cache(
    task: TrainingTask, pictures: SplitData, frozen_stages: FrozenStages, views: AugmentedViews, precision: Precision
) -> ArrayCache:
    """Return the cache with the activations of all views of these pictures, computed where they are missing.

    Raises SourceError if a file cannot be read any more, or has other content.
    """
    store = activation_cache(task.cache, frozen_stages, task.preprocess, precision, views.augment)
    first = {key: row for row, key in reversed(list(enumerate(pictures.keys)))}
    missing = [row for key, row in first.items() if store.missing_keys(_view_keys(key, views.count))]
    if not missing:
        return store
    threads, reporter = task.context.threads, task.context.reporter
    choice = replace(task.engine_choice, precision=precision)
    engine = make_engine(choice, frozen_stages.graph, threads=threads, reporter=reporter)
    keys = [pictures.keys[row] for row in missing]
    files = [VerifiedFile.of(pictures.paths[row], pictures.keys[row]) for row in missing]
    images = iter_pixel_batches(files, task.preprocess, threads=threads, batch_size=1)
    # Drawn while the engine computes the views before.
    inputs = (view for key, image in zip(keys, images, strict=True) for view in views.iter_views(image, key))
    view_keys = (view_key for key in keys for view_key in _view_keys(key, views.count))
    progress = reporter.progress("Computing activations", len(missing) * views.count)
    with task.context.timer.stage("cache"), progress as advance, store.writer() as segment:
        for outputs in engine.stream(_iter_stacked(inputs, 1 if choice.device == "cpu" else engine.batch_size)):
            rows = outputs[OUTPUT].astype(np.float16)
            segment.append(list(itertools.islice(view_keys, len(rows))), rows)
            advance(len(rows))
    return store


def _iter_stacked(views: Iterator[Pixels], count: int) -> Iterator[Pixels]:
    """Yield `count` views (1, size, size, 3) at a time as one batch."""
    while chunk := list(itertools.islice(views, count)):
        yield chunk[0] if len(chunk) == 1 else np.concatenate(chunk)


def make_row_reader(store: ArrayCache, keys: Sequence[str]) -> Read:
    """Return the function that reads rows by index: all pictures in view 0, then all in view 1, and so on."""

    def read_rows(indices: Ints) -> Pixels:
        rows = [(int(index) % len(keys), int(index) // len(keys)) for index in indices]
        return store.read([augmentation_key(keys[row], view) for row, view in rows])

    return read_rows


def augmentation_key(key: str, number: int) -> str:
    """Return the key of one view of a picture."""
    return f"{key}-{number}"


def _describe_augment(augment: AugmentConfig) -> str:
    """Return the settings as text; the caches of before November 27, 2026 stay valid where their views are the same."""
    off = {
        name for name in ("vertical_mirror", "turn", "policy") if name not in augment.model_dump(exclude_defaults=True)
    }
    return augment.model_dump_json(exclude=off) + " unmirrored" * (augment.mirror == 0)


def _view_keys(key: str, views: int) -> list[str]:
    return [augmentation_key(key, number) for number in range(views)]
