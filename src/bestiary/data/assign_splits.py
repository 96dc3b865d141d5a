"""Assigns pictures to training, validation and test, or to folds; groups of duplicates stay together."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from bestiary import table
from bestiary.data.dataset import AuditedDataset
from bestiary.data.split import (
    SplitItem,
    missing_splits,
    require_all_splits,
    split_digest,
    stratified_group_folds_by_content,
    stratified_group_split_unchecked,
)
from bestiary.errors import SourceError
from bestiary.recipe import DataConfig
from bestiary.text import format_names

FOLD_COLUMNS = ("fold", "dealt_as", "dealt_in")  # beside those of `table.PICTURES`, with cross-validation
MIN_GROUPS = 3  # of a class in cross-validation


def assign_splits(
    collection: AuditedDataset, data: DataConfig, *, seed: int, with_test: bool = True
) -> tuple[pl.DataFrame, str]:
    """Return `table.PICTURES` with `split` filled in, and a digest of who is where.

    A split that the source brings is kept; where it has no validation part, one is taken from training. With
    `data.folds` there is no test part, and a column `fold` says in which fold a picture is tested, from 1. Without
    `with_test` there is none either: the caller holds test pictures back. Raises SourceError, naming the class and
    what to do, when there are too few classes or pictures.
    """
    pictures = collection.pictures
    usable = pictures.filter(pl.col("error").is_null())
    _check_classes(usable, data)
    known = _add_split_label(pictures.filter(pl.col("error").is_null() | pl.col("dropped")), data)
    given = usable["given_split"]
    if given.null_count() < usable.height:
        usable = usable.with_columns(split=_existing_split(usable, known, data, seed))
    else:
        shares = {"val": data.val_fraction}
        if with_test and not data.folds:
            shares = {"test": data.test_fraction, **shares}
        usable = _split_stratified(known, shares, seed)
        if data.folds:
            return _assign_folds(pictures, known, usable, data, seed)
    found = split_digest(_split_items(usable), usable["split"].to_list())
    pictures = pictures.drop("split").join(usable.select("row_id", "split"), on="row_id", how="left")
    return pictures.select([*table.PICTURES, *_measures(pictures)]).sort("row_id"), found


def why_not_trainable(collection: AuditedDataset, data: DataConfig, *, seed: int) -> str | None:
    """Return why these pictures cannot be trained on as they are, or None: for who only looks at them."""
    try:
        assign_splits(collection, data, seed=seed)
    except SourceError as error:
        return str(error)
    return None


def select_fold(pictures: pl.DataFrame, fold: int, data: DataConfig, *, seed: int) -> pl.DataFrame:
    """Return the pictures as fold number `fold` (from 1) sees them: `table.PICTURES` with its own test and validation.

    shown: what `assign_splits` gives with `data.folds`. As there, who is corrected or dropped moves nobody else.
    """
    rest = _split_stratified(pictures.filter(pl.col("dealt_in") != fold), {"val": data.val_fraction}, seed)
    own = rest.select("row_id", own="split")
    test = pl.when(pl.col("split").is_not_null()).then(pl.lit("test"))
    joined = pictures.join(own, on="row_id", how="left", maintain_order="left")
    return joined.with_columns(split=pl.coalesce("own", test)).select([*table.PICTURES, *_measures(pictures)])


def count_groups_per_class(pictures: pl.DataFrame) -> dict[str, int]:
    """Return how many different pictures, groups of duplicates, each class has among those that are used."""
    used = pictures.filter(pl.col("split").is_not_null())
    return dict(used.group_by("label").agg(pl.col("group").n_unique()).sort("label").iter_rows())


def _assign_folds(
    pictures: pl.DataFrame, candidates: pl.DataFrame, usable: pl.DataFrame, data: DataConfig, seed: int
) -> tuple[pl.DataFrame, str]:
    for label, groups in count_groups_per_class(usable).items():
        if groups < MIN_GROUPS:
            raise SourceError(
                f'Class "{label}" has {groups} different pictures; cross-validation needs {MIN_GROUPS}: one to learn'
                " from, one to validate, one to test. Add pictures, or leave the class out with --classes."
            )
    as_found = _split_items(candidates.with_columns(label="given_label"))
    folds = pl.Series("fold", stratified_group_folds_by_content(as_found, folds=data.folds, seed=seed), pl.Int32) + 1
    candidates = candidates.with_columns(folds)
    usable = usable.join(candidates.select("row_id", "fold"), on="row_id", how="left", maintain_order="left")
    found = split_digest(_split_items(usable), [f"fold {fold}" for fold in usable["fold"]])
    pictures = pictures.drop("split").join(usable.select("row_id", "split", "fold"), on="row_id", how="left")
    # What was dropped is tested in no fold, and yet dealt out with the rest: that leaves everybody else in his place.
    pictures = pictures.join(candidates.select("row_id", "dealt_as", dealt_in="fold"), on="row_id", how="left")
    shown = pictures.select([*table.PICTURES, *_measures(pictures), *FOLD_COLUMNS]).sort("row_id")
    for fold in range(1, data.folds + 1):  # now, not after the folds before it were trained
        try:
            select_fold(shown, fold, data, seed=seed)
        except SourceError as error:
            raise SourceError(f"With fold {fold} of {data.folds} held back: {error}") from None
    return shown, found


def _measures(pictures: pl.DataFrame) -> list[str]:
    """Return the columns of `table.MEASURES` that are there: a table that others made may lack them."""
    return [name for name in table.MEASURES if name in pictures.columns]


def _check_classes(usable: pl.DataFrame, data: DataConfig) -> None:
    counts = usable.group_by("label").len().sort("len", "label")
    if counts.height < 2:
        only = f'only one class, "{counts["label"][0]}"' if counts.height else "no pictures that can be read"
        raise SourceError(f"There is {only}. A classifier needs two or more: one folder of pictures for each.")
    label, few = counts.row(0)
    if few < data.min_per_class:
        others = counts.filter(pl.col("len") < data.min_per_class)["label"].to_list()[1:]
        lower = ", or lower --set data.min_per_class" if few >= MIN_GROUPS else ""
        raise SourceError(
            f'Class "{label}" has {few} picture{"s" * (few != 1)} that can be read; at least {data.min_per_class} are'
            f" needed. {f'Too few have also {format_names(others)}. ' if others else ''}Add pictures{',' if lower else ' or'}"
            f" leave {'the classes' if others else 'the class'} out with --classes{lower}."
        )


def _split_items(usable: pl.DataFrame) -> list[SplitItem]:
    return [SplitItem(*row) for row in usable.select("sha256", "label", "group").iter_rows()]


def _add_split_label(candidates: pl.DataFrame, data: DataConfig) -> pl.DataFrame:
    """Return the pictures with the label that they are dealt out by as `dealt_as`: the one that they were found with.

    Of labels too small to be a class before corrections, there is no split to keep.
    """
    sizes = pl.len().over("given_label")
    return candidates.with_columns(dealt_as=pl.when(sizes >= data.min_per_class).then("given_label").otherwise("label"))


def _split_stratified(candidates: pl.DataFrame, split_fractions: Mapping[str, float], seed: int) -> pl.DataFrame:
    """Return the usable pictures with their part as `split`; `candidates` has the dropped ones as well, and `dealt_as`.

    The parts are those of the pictures as they were found: who is corrected stays where it was, and moves nobody
    else. Only where a class would have nothing in a part, its own groups are dealt again, as they are now. Raises
    SourceError, naming the class, if that does not help.
    """
    before = candidates.with_columns(label="dealt_as")
    parts = pl.Series("split", stratified_group_split_unchecked(_split_items(before), split_fractions, seed=seed))
    usable = candidates.with_columns(parts).filter(pl.col("error").is_null())
    labels = sorted(usable["label"].unique())
    for label in labels:
        if missing_splits(_splits_of_label(usable, label), split_fractions):
            inside = usable["group"].is_in(usable.filter(pl.col("label") == label)["group"].implode())
            own = usable.filter(inside).with_columns(label=pl.lit(label))
            anew = pl.DataFrame(
                {
                    "row_id": own["row_id"],
                    "anew": stratified_group_split_unchecked(_split_items(own), split_fractions, seed=seed),
                }
            )
            usable = usable.join(anew, on="row_id", how="left", maintain_order="left")
            usable = usable.with_columns(split=pl.coalesce("anew", "split")).drop("anew")
    for label in labels:
        require_all_splits(label, _splits_of_label(usable, label), split_fractions)
    return usable


def _splits_of_label(usable: pl.DataFrame, label: str) -> list[str]:
    return usable.filter(pl.col("label") == label)["split"].to_list()


def _existing_split(usable: pl.DataFrame, candidates: pl.DataFrame, data: DataConfig, seed: int) -> pl.Series:
    given = usable["given_split"]
    if data.folds:
        raise SourceError(
            "The source brings its own split, and cross-validation would deal anew. Leave --folds out to keep the"
            " split, or give the pictures without it."
        )
    if missing := given.null_count():
        raise SourceError(f"{missing:,} of {usable.height:,} pictures have no split. Give all of them one, or none.")
    if absent := {"train", "test"} - set(given):
        raise SourceError(
            f"The split that the source brings has no {' and no '.join(sorted(absent))} part. Add one, or have all"
            " dealt anew: give the parts as sources of their own (bestiary train PICTURES/train PICTURES/val), or a"
            " table without split."
        )
    if unseen := set(usable["label"]) - set(usable.filter(given == "train")["label"]):
        raise SourceError(
            f'Class "{min(unseen)}" has no training picture in the split that the source brings. Add some, or leave'
            " the class out with --classes."
        )
    if "val" in set(given):
        return given
    training = candidates.filter(pl.col("given_split") == "train")
    shared = _split_stratified(training, {"val": data.val_fraction}, seed).select("row_id", "split")
    return usable.drop("split").join(shared, on="row_id", how="left", maintain_order="left")["split"].fill_null("test")


def describe_splits(pictures: pl.DataFrame, collection: AuditedDataset) -> str:
    """Return one sentence on what will be used."""
    used = pictures.filter(pl.col("split").is_not_null())
    parts = {name: used.filter(pl.col("split") == name).height for name in table.SPLITS}
    tested = f"{parts['test']:,} to test" if "fold" not in used.columns else f"{used['fold'].n_unique()} folds to test"
    left_out = pictures.height - used.height
    groups = used.height - used["group"].n_unique()
    unseen = sorted(set(used["label"]) - set(used.filter(pl.col("split") == "val")["label"])) if parts["val"] else []
    return (
        f"{used.height:,} pictures of {used['label'].n_unique()} classes: {parts['train']:,} to train,"
        f" {parts['val']:,} to validate, {tested}. {groups:,} duplicates kept on one side,"
        f" {left_out:,} files left out, {collection.findings['is_issue'].sum():,} findings."
        + (f" No picture to validate has the split for {format_names(unseen)}." if unseen else "")
    )
