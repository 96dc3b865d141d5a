"""Model-based audit: label errors and outliers, found with the features of a frozen backbone.

The features are cached: training a probe on the same pictures does not compute them again.
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from bestiary import table
from bestiary.context import Context
from bestiary.data.apply_corrections import mark_resolved_issues
from bestiary.data.assign_splits import split_if_trainable
from bestiary.data.audit import sort_findings
from bestiary.data.dataset import AuditedDataset
from bestiary.data.deep_ranges import collection_rules
from bestiary.data.joined_groups import groups_without_sites
from bestiary.errors import MissingExtraError, import_optional
from bestiary.evaluation.label_issues import find_model_issues
from bestiary.machine import trim_memory
from bestiary.models.backbone import Backbone
from bestiary.models.backbones import bundled_backbone, recipe_backbone, uses_features
from bestiary.models.features import features_by_split, training_feature_cache
from bestiary.preprocess import Preprocessing
from bestiary.recipe import Recipe, ResolvedRecipe
from bestiary.training.backbone_choice import settle_backbone

MODEL_CHECKS = ("suspect-label", "outlier")
ALL_CHECKS = ("shortcut", *MODEL_CHECKS)
BACKBONE = "lite2"  # where the recipe uses no features of its own
# Of the folds: the same features have the same findings, whatever the seed of a run. It decides the split, and that the
# precision of a picture's features: where training features are in bfloat16, borderline findings may depend on it.
SEED = 0


def add_model_issues(
    dataset: AuditedDataset, recipe: ResolvedRecipe, context: Context, splits: pl.DataFrame | None = None
) -> AuditedDataset:
    """Return the dataset with the findings "suspect-label" and "outlier", or with the reason why they were skipped.

    splits: the pictures' `row_id, split`; by default those that training with this recipe would give them. Features
    are computed as training needs them, so that both name the same pictures. Out-of-fold models are trained on no
    duplicate and no picture of the same given group; sites do not count here. Findings that applied corrections settle
    are marked as resolved. `data.suspects` turns this off. Raises SourceError if a picture cannot be read any more.
    """
    dataset = _find_model_issues(dataset, recipe, context, splits)
    if dataset.corrected is None:
        return dataset
    decisions = dataset.corrected.decisions
    return replace(dataset, findings=mark_resolved_issues(dataset.findings, dataset.pictures, decisions))


def skipped_check_messages(dataset: AuditedDataset) -> list[str]:
    """Return one sentence for each reason why checks were skipped."""
    by_reason: dict[str, list[str]] = {}
    for check, reason in dataset.not_looked_for.items():
        by_reason.setdefault(reason.rstrip("."), []).append(check)
    return [f"Skipped checks: {', '.join(sorted(checks))}. Reason: {reason}." for reason, checks in by_reason.items()]


def describe_model_issues(dataset: AuditedDataset) -> list[str]:
    """Return sentences about skipped checks, and about how many suspect labels are expected to be wrong."""
    expected = [] if dataset.label_issues is None else [dataset.label_issues.describe()]
    return [*skipped_check_messages(dataset), *expected]


def _find_model_issues(
    dataset: AuditedDataset, recipe: ResolvedRecipe, context: Context, splits: pl.DataFrame | None
) -> AuditedDataset:
    # A model that knows every site finds more wrong labels: only duplicates and bursts share their errors.
    groups = pl.Series("group", groups_without_sites(dataset.pictures))
    pictures = dataset.pictures.with_columns(groups).filter(pl.col("error").is_null()).sort("row_id")
    if not recipe.data.suspects:
        return _mark_skipped(dataset, ALL_CHECKS, "data.suspects is false")
    if pictures["label"].n_unique() < 2:
        return _mark_skipped(dataset, MODEL_CHECKS, "at least two classes are needed")
    backbone, preprocess = _backbone_and_preprocessing(recipe, context)
    own = _feature_splits(dataset, pictures, recipe, splits)
    # As training decodes them: a range of all pictures would be another one, and all features computed twice.
    preprocess = replace(preprocess, rules=collection_rules(pictures.filter(pl.Series(own) == "train")))
    try:
        import_optional("cleanlab", extra="train")
        cache = training_feature_cache(backbone, preprocess, context)
        files, keys = table.list_files(pictures), pictures["sha256"].to_list()
        features = features_by_split(cache, files, keys, own)
    except MissingExtraError as error:
        return _mark_skipped(dataset, MODEL_CHECKS, str(error))
    with context.reporter.progress("Checking labels", pictures.height) as advance:
        issues = find_model_issues(
            pictures, features, seed=SEED, precision=cache.precision, advance=advance, cache=context.cache
        )
    trim_memory()
    findings = sort_findings(pl.concat([dataset.findings, issues.findings]))
    return replace(dataset, findings=findings, label_issues=issues.labels)


def settle_label_check(requested: Recipe, context: Context) -> Recipe:
    """Return the recipe of an audit, with the own input size of the backbone that checks the labels."""
    return settle_backbone(requested, context) if uses_features(requested) else requested


def _feature_splits(
    dataset: AuditedDataset, pictures: pl.DataFrame, recipe: ResolvedRecipe, splits: pl.DataFrame | None
) -> list[str]:
    """Return the split that decides how each picture's features are computed: training where no probe will use them."""
    if not uses_features(recipe):
        return ["train"] * pictures.height
    splits = split_if_trainable(dataset, recipe) if splits is None else splits
    if splits is None:  # training would be refused
        return ["train"] * pictures.height
    joined = pictures.select("row_id").join(
        splits.select("row_id", "split"), on="row_id", how="left", maintain_order="left"
    )
    own: list[str] = joined["split"].fill_null("train").to_list()
    return own


def _backbone_and_preprocessing(recipe: ResolvedRecipe, context: Context) -> tuple[Backbone, Preprocessing]:
    """Return backbone and preprocessing: the recipe's own where its features are used."""
    if not uses_features(recipe):
        backbone = bundled_backbone(BACKBONE)
        return backbone, replace(recipe.preprocessing, size=backbone.size)
    return recipe_backbone(recipe, context.require_cache()), recipe.preprocessing


def _mark_skipped(dataset: AuditedDataset, checks: tuple[str, ...], reason: str) -> AuditedDataset:
    return replace(dataset, not_looked_for={**dataset.not_looked_for, **dict.fromkeys(checks, reason)})
