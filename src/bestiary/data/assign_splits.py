"""Assigns pictures to training, validation and test, or to folds; duplicates, given groups and sites stay together."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from bestiary import table
from bestiary.data.dataset import AuditedDataset
from bestiary.data.picture_groups import require_divisible_sites
from bestiary.data.split import (
    MORE_GROUPS,
    SplitItem,
    missing_splits,
    require_all_splits,
    split_digest,
    stratified_group_folds_by_content,
    stratified_group_split_unchecked,
)
from bestiary.data.split_parts import require_trainable_parts
from bestiary.errors import SourceError
from bestiary.few_groups import describe_few_groups
from bestiary.finding_counts import count_findings
from bestiary.recipe import Recipe
from bestiary.recipe_sections import DataConfig
from bestiary.text import format_count, format_names

FOLD_COLUMNS = ("fold", "dealt_as", "dealt_in")  # added to those of `table.PICTURES` by cross-validation
MIN_GROUPS = 3  # of a class in cross-validation


def assign_splits(
    dataset: AuditedDataset, data: DataConfig, *, seed: int, with_test: bool = True
) -> tuple[pl.DataFrame, str]:
    """Return `table.PICTURES` with `split` filled in, and the digest of the split.

    A split of the source is kept; a missing validation part, with `data.split` "draw-test" a missing test part, is
    drawn from training. With `data.folds` there is
    no test split, and a column `fold` names the fold that tests a picture, from 1. Without `with_test` there is none
    either: the caller holds test pictures back. Raises SourceError, naming the class, if there are too few classes or
    pictures.
    """
    pictures = dataset.pictures
    usable = pictures.filter(pl.col("error").is_null())
    _check_classes(usable, data)
    candidates = _add_split_label(pictures.filter(pl.col("error").is_null() | pl.col("dropped")), data)
    has_split = usable["given_split"].null_count() < usable.height
    if not has_split and "site" in usable.columns and usable["site"].count():
        require_divisible_sites(usable["site"].to_list(), usable["label"].to_list())
    if has_split:
        usable = usable.with_columns(split=_existing_split(usable, candidates, data, seed))
    else:
        fractions = {"test": data.test_fraction} if with_test and not data.folds else {}
        usable = _split_stratified(candidates, fractions | {"val": data.val_fraction}, seed)
    if data.folds:
        return _assign_folds(pictures, candidates, usable, data, seed)
    digest = split_digest(_split_items(usable), usable["split"].to_list())
    pictures = pictures.drop("split").join(
        usable.select("row_id", "split"), on="row_id", how="left", maintain_order="left"
    )
    return pictures.select([*table.PICTURES, *_measures(pictures)]).sort("row_id"), digest


def why_not_trainable(dataset: AuditedDataset, data: DataConfig, *, seed: int) -> str | None:
    """Return why a model cannot be trained on these pictures as they are, or None if it can."""
    try:
        assign_splits(dataset, data, seed=seed)
    except SourceError as error:
        return str(error)
    return None


def split_if_trainable(dataset: AuditedDataset, recipe: Recipe) -> pl.DataFrame | None:
    """Return the pictures with the split that training with this recipe would give them, None if it is refused."""
    try:
        return assign_splits(dataset, recipe.data, seed=recipe.seed)[0]
    except SourceError:
        return None


def select_fold(pictures: pl.DataFrame, fold: int, data: DataConfig, *, seed: int) -> pl.DataFrame:
    """Return `table.PICTURES` with the training, validation and test split of one fold, from 1.

    pictures: as `assign_splits` returns them with `data.folds`. Corrected or dropped pictures move no other picture.
    """
    rest = _split_stratified(pictures.filter(pl.col("dealt_in") != fold), {"val": data.val_fraction}, seed)
    test = pl.when(pl.col("split").is_not_null()).then(pl.lit("test"))
    joined = pictures.join(rest.select("row_id", own="split"), on="row_id", how="left", maintain_order="left")
    return joined.with_columns(split=pl.coalesce("own", test)).select([*table.PICTURES, *_measures(pictures)])


def count_groups_per_class(pictures: pl.DataFrame) -> dict[str, int]:
    """Return the number of groups per class among the pictures in use: of duplicates, given groups and sites."""
    used = pictures.filter(pl.col("split").is_not_null())
    return dict(used.group_by("label").agg(pl.col("group").n_unique()).sort("label").iter_rows())


def describe_splits(pictures: pl.DataFrame, dataset: AuditedDataset) -> str:
    """Return a summary of the split as text."""
    used = pictures.filter(pl.col("split").is_not_null())
    counts = {name: used.filter(pl.col("split") == name).height for name in table.SPLITS}
    tested = f"{counts['test']:,} test" if "fold" not in used.columns else f"{used['fold'].n_unique()} test folds"
    missing = sorted(set(used["label"]) - set(used.filter(pl.col("split") == "val")["label"])) if counts["val"] else []
    duplicates = used.height - table.with_duplicate_groups(used)["group"].n_unique()
    findings = count_findings(dataset.findings, dataset.label_issues).describe()
    return (
        f"{format_count(used.height, 'picture')} of {format_count(used['label'].n_unique(), 'class', 'classes')}:"
        f" {counts['train']:,} training, {counts['val']:,} validation, {tested}."
        f" {format_count(duplicates, 'duplicate')} kept in one split,"
        f" {format_count(pictures.height - used.height, 'file')} left out. {findings}"
        + (f" The split has no validation pictures for: {format_names(missing)}." if missing else "")
        + (f" {few}" if (few := describe_few_groups(pictures)) else "")
    )


def _assign_folds(
    pictures: pl.DataFrame, candidates: pl.DataFrame, usable: pl.DataFrame, data: DataConfig, seed: int
) -> tuple[pl.DataFrame, str]:
    for label, groups in count_groups_per_class(usable).items():
        if groups < MIN_GROUPS and _has_groups(usable):
            raise SourceError(
                f'Class "{label}" has pictures of {groups} group{"s" * (groups != 1)}, and no group is divided;'
                f" cross-validation needs {MIN_GROUPS}: one each for training, validation and test. {MORE_GROUPS}"
            )
        if groups < MIN_GROUPS:
            raise SourceError(
                f'Class "{label}" has {groups} different pictures, duplicates counted once; cross-validation needs'
                f" {MIN_GROUPS}: one each for training, validation and test. Add pictures, leave the class out with"
                " --classes, or count near-duplicates as different: --set data.near_duplicates=false."
            )
    # Folds are assigned by the labels before corrections, and to dropped pictures too, so that no other picture moves.
    items = _split_items(candidates.with_columns(label="given_label"))
    folds = pl.Series("fold", stratified_group_folds_by_content(items, folds=data.folds, seed=seed), pl.Int32) + 1
    candidates = candidates.with_columns(folds)
    usable = usable.join(candidates.select("row_id", "fold"), on="row_id", how="left", maintain_order="left")
    digest = split_digest(_split_items(usable), [f"fold {fold}" for fold in usable["fold"]])
    pictures = pictures.drop("split").join(
        usable.select("row_id", "split", "fold"), on="row_id", how="left", maintain_order="left"
    )
    pictures = pictures.join(
        candidates.select("row_id", "dealt_as", dealt_in="fold"), on="row_id", how="left", maintain_order="left"
    )
    pictures = pictures.select([*table.PICTURES, *_measures(pictures), *FOLD_COLUMNS]).sort("row_id")
    for fold in range(1, data.folds + 1):  # fail before the first fold is trained
        try:
            select_fold(pictures, fold, data, seed=seed)
        except SourceError as error:
            raise SourceError(f"With fold {fold} of {data.folds} as the test split: {error}") from None
    return pictures, digest


def _measures(pictures: pl.DataFrame) -> list[str]:
    """Return the columns of the tables of `table` that older runs lack, as far as the table has them."""
    return [name for name in table.MEASURES | table.DEPTH | table.GROUPING | table.CROPS if name in pictures.columns]


def _check_classes(usable: pl.DataFrame, data: DataConfig) -> None:
    counts = usable.group_by("label").len().sort("len", "label")
    if counts.height < 2:
        only = f'only one class, "{counts["label"][0]}"' if counts.height else "no readable picture"
        raise SourceError(f"There is {only}. A classifier needs two or more: one folder of pictures for each.")
    label, count = counts.row(0)
    if count < data.min_per_class:
        others = counts.filter(pl.col("len") < data.min_per_class)["label"].to_list()[1:]
        also = f" Also too small: {format_names(others)}." if others else ""
        lower = ", or lower --set data.min_per_class" if count >= MIN_GROUPS else ""
        raise SourceError(
            f'Class "{label}" has {count} readable picture{"s" * (count != 1)}; at least {data.min_per_class} are'
            f" needed.{also} Add pictures{',' if lower else ' or'} leave {'the classes' if others else 'the class'} out"
            f" with --classes{lower}."
        )


def _split_items(usable: pl.DataFrame) -> list[SplitItem]:
    return [SplitItem(*row) for row in usable.select("sha256", "label", "group").iter_rows()]


def _add_split_label(candidates: pl.DataFrame, data: DataConfig) -> pl.DataFrame:
    """Add `dealt_as`, the label that decides the split: the one before corrections.

    A label too small to be a class before corrections has no split to preserve.
    """
    sizes = pl.len().over("given_label")
    return candidates.with_columns(dealt_as=pl.when(sizes >= data.min_per_class).then("given_label").otherwise("label"))


def _split_stratified(candidates: pl.DataFrame, split_fractions: Mapping[str, float], seed: int) -> pl.DataFrame:
    """Return the usable pictures with their `split`; `candidates` has `dealt_as`, and the dropped pictures too.

    Pictures are split by their labels before corrections: a corrected picture stays in its split, and moves no other.
    Only if a class would lack a split, its own groups are split again by the corrected labels. Raises SourceError,
    naming the class, if that does not help.
    """
    items = _split_items(candidates.with_columns(label="dealt_as"))
    splits = pl.Series("split", stratified_group_split_unchecked(items, split_fractions, seed=seed))
    usable = candidates.with_columns(splits).filter(pl.col("error").is_null())
    labels, present = sorted(usable["label"].unique()), _splits_by_label(usable)
    for label in labels:
        if missing_splits(present[label], split_fractions):
            inside = usable["group"].is_in(usable.filter(pl.col("label") == label)["group"].implode())
            own = _split_items(usable.filter(inside).with_columns(label=pl.lit(label)))
            again = stratified_group_split_unchecked(own, split_fractions, seed=seed)
            usable = usable.with_columns(usable["split"].scatter(inside.arg_true(), again))
            present = _splits_by_label(usable)
    for label in labels:
        if missing_splits(present[label], split_fractions):
            rows = usable.filter(pl.col("label") == label)
            groups, has_groups = rows["group"].n_unique(), _has_groups(usable)
            require_all_splits(label, rows["split"].to_list(), groups, split_fractions, has_groups=has_groups)
    return usable


def _has_groups(pictures: pl.DataFrame) -> bool:
    """Return whether pictures have given groups or sites; otherwise groups are those of duplicates."""
    return any(name in pictures.columns and pictures[name].count() > 0 for name in ("given_group", "site"))


def _splits_by_label(usable: pl.DataFrame) -> dict[str, list[str]]:
    """Return the splits in which each label has pictures: the table is read once, however many labels there are."""
    return dict(usable.group_by("label", maintain_order=True).agg(pl.col("split").unique()).iter_rows())


def _existing_split(usable: pl.DataFrame, candidates: pl.DataFrame, data: DataConfig, seed: int) -> pl.Series:
    """Return the split of the source, with a validation part; raise SourceError if it cannot be used."""
    split = usable["given_split"]
    require_trainable_parts(split, data)
    if unseen := set(usable["label"]) - set(usable.filter(split == "train")["label"]):
        raise SourceError(
            f'Class "{min(unseen)}" has no training picture in the split of the source. Add some, or leave the class'
            " out with --classes."
        )
    fractions = {"test": data.test_fraction, "val": data.val_fraction}
    drawn = {part: fraction for part, fraction in fractions.items() if part not in set(split)}
    if not drawn:
        return split
    training = candidates.filter(pl.col("given_split") == "train")
    resplit = _split_stratified(training, drawn, seed).select("row_id", "split")
    joined = usable.drop("split").join(resplit, on="row_id", how="left", maintain_order="left")
    return joined["split"].fill_null(split)
