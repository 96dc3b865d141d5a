"""The second look of an audit, for what takes a model to see: labels that are probably wrong, and strange pictures.

The features are those of the probe, in its cache: what is computed here is not computed again when a probe is trained.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from bestiary.context import Context
from bestiary.data.audit import sort_findings
from bestiary.data.dataset import AuditedDataset
from bestiary.errors import MissingExtraError, import_optional
from bestiary.evaluation.label_issues import model_issue_findings
from bestiary.machine import trim_memory
from bestiary.models.efficientnet_lite import BACKBONES
from bestiary.models.features import FeatureCache, training_precision
from bestiary.preprocess import Preprocessing
from bestiary.progress import Reporter
from bestiary.recipe import ResolvedRecipe

LEARNED_CHECKS = ("suspect-label", "outlier")
ALL_CHECKS = ("shortcut", *LEARNED_CHECKS)
BACKBONE = "lite2"  # where the recipe names none of the bundled ones
SEED = 0  # of the folds: the same pictures have the same suspects, whatever seed a run is split by


def add_model_issues(
    dataset: AuditedDataset, recipe: ResolvedRecipe, *, threads: int, cache: Path, reporter: Reporter
) -> AuditedDataset:
    """Return the audit with the findings "suspect-label" and "outlier" added, or with the reason why they are missing.

    recipe: resolved; `data.suspects` turns this off. Raises SourceError if a picture cannot be read any more.
    """
    pictures = dataset.pictures.filter(pl.col("error").is_null()).sort("row_id")
    if not recipe.data.suspects:
        return _mark_skipped(dataset, ALL_CHECKS, "data.suspects is false")
    if pictures["label"].n_unique() < 2:
        return _mark_skipped(dataset, LEARNED_CHECKS, "it takes two classes or more")
    backbone, view = _backbone_and_preprocessing(recipe)
    try:
        import_optional("cleanlab", extra="train")
        keys, paths = pictures["sha256"].to_list(), [Path(path) for path in pictures["path"]]
        context = Context(threads=threads, reporter=reporter, cache=cache)
        features = FeatureCache(backbone, view, training_precision(), context).features(paths, keys)
    except MissingExtraError as error:
        return _mark_skipped(dataset, LEARNED_CHECKS, str(error))
    with reporter.progress("Doubting labels", pictures.height) as advance:
        learned = model_issue_findings(pictures, features, seed=SEED)
        advance(pictures.height)
    trim_memory()
    return replace(dataset, findings=sort_findings(pl.concat([dataset.findings, learned])))


def _backbone_and_preprocessing(recipe: ResolvedRecipe) -> tuple[str, Preprocessing]:
    """Return the backbone and the way of looking at pictures: the recipe's own if it is one of the bundled."""
    if recipe.model.method == "scratch" or recipe.model.backbone not in BACKBONES:
        return BACKBONE, replace(recipe.preprocessing, size=BACKBONES[BACKBONE].size)
    return recipe.model.backbone, recipe.preprocessing


def skipped_check_messages(dataset: AuditedDataset) -> list[str]:
    """Return one sentence for each reason why something was not looked for."""
    by_reason: dict[str, list[str]] = {}
    for check, reason in dataset.not_looked_for.items():
        by_reason.setdefault(reason.rstrip("."), []).append(check)
    return [f"Not looked for: {', '.join(sorted(checks))}. Reason: {reason}." for reason, checks in by_reason.items()]


def _mark_skipped(dataset: AuditedDataset, checks: tuple[str, ...], reason: str) -> AuditedDataset:
    return replace(dataset, not_looked_for={**dataset.not_looked_for, **dict.fromkeys(checks, reason)})
