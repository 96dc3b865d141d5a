"""What the frozen stages of a backbone give, computed once for a few views of each picture and kept on disk.

Fine-tuning the stages above then costs only what those cost. Views are drawn from the picture's content, the number of
the view and the augmentation, so that they are the same in every run and can be shared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bestiary.array_types import Ints, Pixels
from bestiary.batches.array_cache import ArrayCache
from bestiary.batches.augmentation import BatchRandom, augment
from bestiary.batches.loader import Read
from bestiary.batches.pixel_cache import PIXELS_VERSION, iter_pixel_batches
from bestiary.models.engine import Precision, fastest_engine
from bestiary.models.onnx_surgery import OUTPUT, FrozenStages
from bestiary.preprocess import Preprocessing, VerifiedFile
from bestiary.progress import Reporter
from bestiary.recipe import AugmentConfig

ACTIVATIONS_VERSION = 1  # raise it when the views change


@dataclass(frozen=True)
class AugmentedViews:
    """How many views of each picture are kept, and how the random ones are drawn.

    View 0 is the picture as it is, view 1 its mirror image, every other one is changed at random.
    """

    count: int
    augment: AugmentConfig

    def iter_views(self, picture: Pixels, key: str) -> Iterator[Pixels]:
        """Yield the views of one picture, uint8 (1, size, size, 3); `key` seeds the random ones."""
        yield from (picture, np.ascontiguousarray(picture[:, :, ::-1]))[: self.count]
        for number in range(2, self.count):
            digest = hashlib.sha256(f"{key}-{number}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
            changed = augment(
                torch.from_numpy(picture.copy()).permute(0, 3, 1, 2), self.augment, BatchRandom(generator)
            )
            yield changed.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def activation_cache(
    cache: Path, frozen_stages: FrozenStages, preprocess: Preprocessing, precision: Precision, augment: AugmentConfig
) -> ArrayCache:
    """Return the store of float16 (height, width, channels) activations for this lower part and these views."""
    asked = f"{augment.model_dump_json()} v{PIXELS_VERSION} v{ACTIVATIONS_VERSION}".encode()
    name = f"{hashlib.sha256(frozen_stages.graph + asked).hexdigest()[:16]}-{preprocess.fit}-{precision}"
    return ArrayCache(cache / "activations" / name, frozen_stages.shape, np.float16)


def fill_activation_cache(
    store: ArrayCache,
    paths: Sequence[Path],
    keys: Sequence[str],
    frozen_stages: FrozenStages,
    preprocess: Preprocessing,
    views: AugmentedViews,
    *,
    precision: Precision,
    threads: int,
    reporter: Reporter,
) -> None:
    """Compute what the store lacks of all views of these pictures.

    keys: the SHA-256 of the files. Raises SourceError if a file cannot be read any more, or has other content.
    """
    first = {key: at for at, key in reversed(list(enumerate(keys)))}
    missing = [
        at for key, at in first.items() if store.missing_keys([augmentation_key(key, v) for v in range(views.count)])
    ]
    if not missing:
        return
    engine = fastest_engine(frozen_stages.graph, threads=threads, precision=precision)
    files = [VerifiedFile(paths[at], keys[at]) for at in missing]
    pictures = iter_pixel_batches(files, preprocess, threads=threads, batch_size=1)
    shown = (
        one for at, picture in zip(missing, pictures, strict=True) for one in views.iter_views(picture, keys[at])
    )  # drawn while the engine works on those before
    wanted = (augmentation_key(keys[at], number) for at in missing for number in range(views.count))
    with reporter.progress("Computing activations", len(missing) * views.count) as advance, store.writer() as segment:
        for key, outputs in zip(wanted, engine.stream(shown), strict=True):
            segment.append([key], outputs[OUTPUT].astype(np.float16))
            advance(1)


def make_row_reader(store: ArrayCache, keys: Sequence[str]) -> Read:
    """Return the function that reads rows by position: all pictures in view 0, then all in view 1, and so on."""

    def read(positions: Ints) -> Pixels:
        rows = [(int(position) % len(keys), int(position) // len(keys)) for position in positions]
        return store.read([augmentation_key(keys[at], number) for at, number in rows])

    return read


def augmentation_key(key: str, number: int) -> str:
    """Return the key of one view of a picture."""
    return f"{key}-{number}"
