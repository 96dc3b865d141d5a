"""The feature cache: features are computed once, by the right graph, and kept apart by what decides their values."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

from bestiary.array_types import Array, Pixels
from bestiary.context import Context
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import RunError, SourceError
from bestiary.models import features
from bestiary.models.backbones import bundled_backbone
from bestiary.models.engine import OnnxRuntimeEngine, run_batch
from bestiary.models.engine_choice import BFLOAT16, FOLDER
from bestiary.models.features import FeatureCache, has_features, load_stacked
from bestiary.preprocess import Preprocessing, VerifiedFile

SIZE = 64


@pytest.fixture(scope="module")
def cache_with_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    assert feature_cache(folder).graph.parent == folder / "trunks"  # users' caches: the name cannot change
    return folder


@pytest.fixture
def folder(cache_with_graph: Path, tmp_path: Path) -> Path:
    """A cache folder with the backbone graph and nothing else."""
    return Path(shutil.copytree(cache_with_graph, tmp_path / "cache"))


def feature_cache(folder: Path) -> FeatureCache:
    return FeatureCache(bundled_backbone("lite0"), Preprocessing(SIZE), "float32", Context(threads=1, cache=folder))


def pictures_of(collection: SyntheticDataset, count: int) -> tuple[list[Path], list[str]]:
    paths = sorted(collection.kinds)[:count]
    return paths, [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def features_of(folder: Path, paths: list[Path], keys: list[str]) -> Array:
    return feature_cache(folder).features(paths, keys)[:]


def pooled_maps(graph: Path, images: Pixels) -> Array:
    pooled: Array = run_batch(OnnxRuntimeEngine(graph, threads=1), images)["maps"].mean(axis=(2, 3))
    return pooled


def test_features_are_the_mean_of_the_maps(folder: Path, collection: SyntheticDataset) -> None:
    paths, keys = pictures_of(collection, 20)
    cache = feature_cache(folder)
    assert len(cache.missing([*keys, keys[0]])) == 20
    cache.fill(paths, keys)
    images = np.stack([Preprocessing(SIZE).load_pixels(path) for path in paths])
    assert cache.missing(keys) == []
    assert cache.store.dtype == np.float32
    assert replace(cache, precision="bfloat16").store.dtype == np.float16
    assert cache.load(keys).shape == (20, cache.channels)
    np.testing.assert_allclose(cache.load(keys)[:], pooled_maps(cache.graph, images), atol=2e-3)


def test_features_are_computed_once(
    folder: Path, collection: SyntheticDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, keys = pictures_of(collection, 12)
    first = features_of(folder, paths[:8], keys[:8])
    seen: list[VerifiedFile] = []
    batches = features.iter_pixel_batches

    def watched(
        some: list[VerifiedFile], preprocess: Preprocessing, *, threads: int, batch_size: int
    ) -> Iterator[Pixels]:
        seen.extend(some)
        return batches(some, preprocess, threads=threads, batch_size=batch_size)

    monkeypatch.setattr(features, "iter_pixel_batches", watched)
    whole = features_of(folder, paths, keys)
    assert [pinned.path for pinned in seen] == paths[8:]
    np.testing.assert_array_equal(whole[:8], first)

    monkeypatch.setattr(features, "make_engine", lambda *_, **__: pytest.fail("computed again"))
    np.testing.assert_array_equal(features_of(folder, paths, keys), whole)


def test_features_that_differ_are_kept_apart(folder: Path) -> None:
    cache = feature_cache(folder)
    caches = [
        cache,
        replace(cache, precision="bfloat16"),
        replace(cache, mirrored=True),
        *(replace(cache, quarter_turns=number) for number in (1, 2, 3)),
        replace(cache, preprocess=Preprocessing(SIZE, "crop")),
        replace(cache, preprocess=Preprocessing(2 * SIZE)),
    ]
    assert len({cache.store.folder for cache in caches}) == len(caches)


def test_the_folders_of_existing_caches_stay_valid(folder: Path) -> None:
    cache = feature_cache(folder)
    assert not has_features(folder)
    assert cache.store.folder == folder / "features" / f"{cache.graph.stem}-squash-float32-v2-unrounded"
    mirrored = replace(cache, precision="bfloat16", mirrored=True)
    assert mirrored.store.folder.name == f"{cache.graph.stem}-squash-bfloat16-mirrored-v2"


def test_an_interrupted_computation_goes_on_where_it_was(
    folder: Path, cache_with_graph: Path, collection: SyntheticDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    paths, keys = pictures_of(collection, 40)
    whole = features.iter_pixel_batches

    def stopped(some: list[Path], preprocess: Preprocessing, *, threads: int, batch_size: int) -> Iterator[Pixels]:
        yield from whole(some[:32], preprocess, threads=threads, batch_size=batch_size)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(features, "iter_pixel_batches", stopped)
        with pytest.raises(KeyboardInterrupt):
            features_of(folder, paths, keys)
    assert has_features(folder)
    assert 0 < len(feature_cache(folder).missing(keys)) < 40
    other = Path(shutil.copytree(cache_with_graph, tmp_path / "other"))
    shutil.copytree(folder / FOLDER, other / FOLDER)  # the same engine: two measurements may choose different ones
    np.testing.assert_array_equal(features_of(folder, paths, keys), features_of(other, paths, keys))


def test_a_picture_that_vanished_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"gone\.jpg"):
        features_of(folder, [tmp_path / "gone.jpg"], ["key"])


def test_features_that_are_not_finite_are_refused(
    folder: Path, collection: SyntheticDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        name, batch_size = "broken", 8

        def stream(self, batches: Iterator[Pixels]) -> Iterator[dict[str, Array]]:
            for number, images in enumerate(batches):
                values = np.full((len(images), 1280), 1e5, np.float32)
                values[-1, 7] = np.nan if number else 1e5
                yield {"features": values}

    monkeypatch.setattr(features, "make_engine", lambda *_, **__: Broken())
    paths, keys = pictures_of(collection, 12)
    with pytest.raises(RunError, match=rf'"lite0" gives features that are NaN or infinite, for {paths[8]} or one of'):
        features_of(folder, paths, keys)
    assert len(feature_cache(folder).missing(keys)) == 4  # nothing of the batch is stored
    half = replace(feature_cache(folder), precision="bfloat16")
    object.__setattr__(half, "engine_choice", BFLOAT16)
    with pytest.raises(RunError, match=r"too large for 16 bits: --set features\.precision=float32"):
        half.fill(paths[:2], keys[:2])


def test_mirrored_features_are_those_of_the_mirror_image(folder: Path, collection: SyntheticDataset) -> None:
    paths, keys = pictures_of(collection, 4)
    plain = feature_cache(folder)
    mirrored = replace(plain, mirrored=True)
    for cache in (plain, mirrored):
        cache.fill(paths, keys)
    images = np.stack([Preprocessing(SIZE).load_pixels(path)[:, ::-1] for path in paths])
    expected = pooled_maps(plain.graph, images)
    np.testing.assert_allclose(mirrored.store.read(keys), expected, atol=2e-3)
    stacked = load_stacked([(plain, keys[0]), (mirrored, keys[1]), (plain, keys[1])])[:]
    np.testing.assert_array_equal(stacked[[0, 2]], plain.load(keys[:2])[:])
    np.testing.assert_array_equal(stacked[[1]], mirrored.load(keys[1:2])[:])


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_features_of_a_quarter_turn_are_those_of_the_turned_picture(
    folder: Path, collection: SyntheticDataset, quarters: int
) -> None:
    paths, keys = pictures_of(collection, 4)
    turned = replace(feature_cache(folder), quarter_turns=quarters)
    turned.fill(paths, keys)
    images = np.stack([np.rot90(Preprocessing(SIZE).load_pixels(path), quarters) for path in paths])
    np.testing.assert_allclose(turned.store.read(keys), pooled_maps(turned.graph, images), atol=2e-3)
