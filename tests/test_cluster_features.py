"""`train --cluster`: features of a probe are computed by Ray Data, and equal those of one process to the last digit."""

from __future__ import annotations

import hashlib
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("ray")
pytest.importorskip("onnx")

import bestiary as public
from bestiary.box import Crop, PictureFile, Region, content_key
from bestiary.cluster import chunks as cluster_chunks
from bestiary.cluster.ray_table_map import RayTableMap, open_table_map
from bestiary.context import Context
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import MachineError, RecipeError, SourceError
from bestiary.models import cluster_features
from bestiary.models.backbones import bundled_backbone
from bestiary.models.engine import has_bfloat16, has_openvino
from bestiary.models.features import FeatureCache
from bestiary.preprocess import Preprocessing
from bestiary.progress import SilentReporter
from bestiary.recipe_sections import FeaturesConfig
from bestiary.table_map import TableMap
from table_maps import KillOnce, LocalMap, wrap_functions

SIZE = 64
ENGINES = [
    ("onnxruntime", "float32"),
    *([("openvino", "float32")] if has_openvino() else []),
    *([("openvino", "bfloat16")] if has_bfloat16() else []),
]


class Notices(SilentReporter):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def info(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the backbone graph and nothing else."""
    folder = tmp_path_factory.mktemp("graphs")
    assert make_cache(folder).graph.is_file()
    return folder


@pytest.fixture
def table_map(local_ray: Any) -> Iterator[RayTableMap]:
    with open_table_map("local") as opened:
        assert opened is not None
        yield opened


def make_cache(folder: Path, cluster: TableMap | None = None, engine: str = "onnxruntime", **more: Any) -> FeatureCache:
    settings = FeaturesConfig.model_validate({"engine": engine, "precision": more.pop("precision", "float32")})
    context = Context(threads=2, cache=folder, features=settings, cluster=cluster, **more)
    return FeatureCache(bundled_backbone("lite0"), Preprocessing(SIZE), settings.precision, context)  # type: ignore[arg-type]


def copy(graphs: Path, folder: Path) -> Path:
    return Path(shutil.copytree(graphs, folder))


def pictures_of(collection: SyntheticDataset, count: int) -> tuple[list[PictureFile], list[str]]:
    """Return files and their keys: whole pictures, and after the 30th, or last, four regions of one picture."""
    paths = sorted(collection.kinds)[:count]
    keys = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    regions = [Region(4 * i, 8, 48, 40) for i in range(4)]
    crops = [Crop(paths[0], region) for region in regions]
    region_keys = [content_key(keys[0], region) for region in regions]
    return [*paths[:30], *crops, *paths[30:]], [*keys[:30], *region_keys, *keys[30:]]


@pytest.mark.parametrize(("engine", "precision"), ENGINES)
def test_features_equal_those_of_one_process_to_the_last_digit(
    engine: str,
    precision: str,
    collection: SyntheticDataset,
    graphs: Path,
    table_map: RayTableMap,
    tmp_path: Path,
) -> None:
    files, keys = pictures_of(collection, 75)
    here = make_cache(copy(graphs, tmp_path / "here"), None, engine, precision=precision)
    there = make_cache(copy(graphs, tmp_path / "there"), table_map, engine, precision=precision)
    for mirrored, turns in ((False, 0), (True, 1)):
        expected, rows = (
            replace(cache, mirrored=mirrored, quarter_turns=turns).features(files, keys)[:] for cache in (here, there)
        )
        assert expected.shape == (79, 1280)
        assert len(np.unique(expected, axis=0)) == 79
        np.testing.assert_array_equal(rows, expected)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows kills in another way")
def test_a_worker_that_dies_loses_no_picture_and_repeats_none(
    collection: SyntheticDataset,
    graphs: Path,
    table_map: RayTableMap,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    files, keys = pictures_of(collection, 110)
    marker = tmp_path / "killed"
    expected = make_cache(copy(graphs, tmp_path / "here")).features(files, keys)[:]
    monkeypatch.setattr(cluster_chunks, "MAX_ROWS", 32)
    counts = wrap_functions(monkeypatch, lambda function: KillOnce(function, str(files[70]), marker))
    there = make_cache(copy(graphs, tmp_path / "there"), table_map)
    there.fill(files[:20], keys[:20])
    np.testing.assert_array_equal(there.features(files, keys)[:], expected)
    assert marker.exists()
    assert sum(counts) == len(files)  # the first 20 were not computed again
    assert len(counts) >= 4


@pytest.mark.slow
def test_a_probe_that_is_trained_with_a_cluster_equals_that_of_one_process(
    collection: SyntheticDataset, local_ray: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = {
        "data": {"classes": ["bird", "fish", "spider"]},
        "picture": {"size": SIZE},
        "model": {"backbone": "lite0"},
        "features": {"engine": "onnxruntime"},
        "probe": {"regularisation": [0.01]},
        "evaluate": {"resamples": 100},
    }
    runs = []
    for name, cluster in {"here": None, "there": "local"}.items():
        monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path / f"cache-{name}"))
        runs.append(public.train(collection.folder, recipe=recipe, out=tmp_path / name, threads=1, cluster=cluster))
    here, there = (run.path for run in runs)
    for name in ("predictions.parquet", "pictures.parquet", "findings.parquet", "model.onnx"):
        assert (here / name).read_bytes() == (there / name).read_bytes(), name


def test_a_file_that_was_changed_is_refused_as_in_one_process(
    collection: SyntheticDataset, graphs: Path, tmp_path: Path
) -> None:
    files, keys = pictures_of(collection, 6)
    changed = tmp_path / "changed.jpg"
    changed.write_bytes(Path(str(files[1])).read_bytes())
    with pytest.raises(SourceError, match=r"changed\.jpg was changed after it was measured"):
        make_cache(graphs, LocalMap()).fill([changed], keys[:1])
    with pytest.raises(SourceError, match=r"gone\.jpg\. It could be read before"):
        make_cache(graphs, LocalMap()).fill([tmp_path / "gone.jpg"], ["0" * 64])


def test_a_node_that_does_not_share_the_pictures_is_named_with_the_path(
    collection: SyntheticDataset, graphs: Path, tmp_path: Path
) -> None:
    files, keys = pictures_of(collection, 6)
    moved = pl.col("path").str.replace("/collection/", "/elsewhere/")
    cache = make_cache(copy(graphs, tmp_path / "there"), LocalMap(lambda rows: rows.with_columns(moved)))
    with pytest.raises(MachineError) as error:
        cache.fill(files, keys)
    assert f'The node "n1" does not see {files[0]} as this computer does' in str(error.value)
    assert "a file system that all nodes share" in str(error.value)
    assert "could be read before" not in str(error.value)


def test_a_node_that_cannot_compute_by_the_choice_is_named(
    collection: SyntheticDataset, graphs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files, keys = pictures_of(collection, 6)
    monkeypatch.setattr(cluster_features, "explain_impossible", lambda settings: f"no {settings.engine} is there")
    cache = make_cache(copy(graphs, tmp_path / "there"), LocalMap())
    with pytest.raises(MachineError, match='"n1" cannot compute features: ONNX Runtime in float32 is not possible'):
        cache.fill(files, keys)


def test_another_kind_of_processor_is_reported_once(collection: SyntheticDataset, graphs: Path, tmp_path: Path) -> None:
    files, keys = pictures_of(collection, 6)
    notices = Notices()
    cluster = LocalMap(answer=lambda rows: rows.with_columns(kernels=pl.lit("ONNX Runtime on a pocket calculator")))
    make_cache(copy(graphs, tmp_path / "there"), cluster, reporter=notices).fill(files, keys)
    assert len(notices.texts) == 1
    assert "pocket calculator" in notices.texts[0]
    assert "agree but for rounding" in notices.texts[0]
    same = Notices()
    make_cache(copy(graphs, tmp_path / "same"), LocalMap(), reporter=same).fill(files, keys)
    assert same.texts == []


def test_an_accelerator_is_refused_with_a_cluster(graphs: Path) -> None:
    cache = make_cache(graphs, LocalMap())
    context = replace(cache.context, features=FeaturesConfig(device="cuda"))
    with pytest.raises(RecipeError, match="not possible with --cluster"):
        _ = replace(cache, context=context).engine_choice
