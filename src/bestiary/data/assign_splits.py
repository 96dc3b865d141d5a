"""Assigns pictures to training, validation and test, or to folds; groups of duplicates stay together."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from bestiary import table
from bestiary.data.dataset import Audited
from bestiary.data.split import Item, check, content_folds, deal, digest, lacking
from bestiary.errors import SourceError
from bestiary.recipe import DataConfig
from bestiary.text import format_names

FOLD_COLUMNS = ("fold", "dealt_as", "dealt_in")  # beside those of `table.PICTURES`, with cross-validation
LEAST_GROUPS = 3  # of a class in cross-validation


def divided(collection: Audited, data: DataConfig, *, seed: int, with_test: bool = True) -> tuple[pl.DataFrame, str]:
    """Return `table.PICTURES` with `split` filled in, and a digest of who is where.

    A split that the source brings is kept; where it has no validation part, one is taken from training. With
    `data.folds` there is no test part, and a column `fold` says in which fold a picture is tested, from 1. Without
    `with_test` there is none either: the caller holds test pictures back. Raises SourceError, naming the class and
    what to do, when there are too few classes or pictures.
    """
    pictures = collection.pictures
    usable = pictures.filter(pl.col("error").is_null())
    _check_classes(usable, data)
    known = _dealt_as(pictures.filter(pl.col("error").is_null() | pl.col("dropped")), data)
    given = usable["given_split"]
    if given.null_count() < usable.height:
        usable = usable.with_columns(split=_given(usable, known, data, seed))
    else:
        shares = {"val": data.val_fraction}
        if with_test and not data.folds:
            shares = {"test": data.test_fraction, **shares}
        usable = _dealt(known, shares, seed)
        if data.folds:
            return _folded(pictures, known, usable, data, seed)
    found = digest(_items(usable), usable["split"].to_list())
    pictures = pictures.drop("split").join(usable.select("row_id", "split"), on="row_id", how="left")
    return pictures.select([*table.PICTURES, *_measures(pictures)]).sort("row_id"), found


def refusal(collection: Audited, data: DataConfig, *, seed: int) -> str | None:
    """Return why these pictures cannot be trained on as they are, or None: for who only looks at them."""
    try:
        divided(collection, data, seed=seed)
    except SourceError as error:
        return str(error)
    return None


def fold_split(shown: pl.DataFrame, fold: int, data: DataConfig, *, seed: int) -> pl.DataFrame:
    """Return the pictures as fold number `fold` (from 1) sees them: `table.PICTURES` with its own test and validation.

    shown: what `divided` gives with `data.folds`. As there, who is corrected or dropped moves nobody else.
    """
    rest = _dealt(shown.filter(pl.col("dealt_in") != fold), {"val": data.val_fraction}, seed)
    own = rest.select("row_id", own="split")
    test = pl.when(pl.col("split").is_not_null()).then(pl.lit("test"))
    joined = shown.join(own, on="row_id", how="left", maintain_order="left")
    return joined.with_columns(split=pl.coalesce("own", test)).select([*table.PICTURES, *_measures(shown)])


def groups_of_classes(shown: pl.DataFrame) -> dict[str, int]:
    """Return how many different pictures, groups of duplicates, each class has among those that are used."""
    used = shown.filter(pl.col("split").is_not_null())
    return dict(used.group_by("label").agg(pl.col("group").n_unique()).sort("label").iter_rows())


def _folded(
    pictures: pl.DataFrame, known: pl.DataFrame, usable: pl.DataFrame, data: DataConfig, seed: int
) -> tuple[pl.DataFrame, str]:
    for label, groups in groups_of_classes(usable).items():
        if groups < LEAST_GROUPS:
            raise SourceError(
                f'Class "{label}" has {groups} different pictures; cross-validation needs {LEAST_GROUPS}: one to learn'
                " from, one to validate, one to test. Add pictures, or leave the class out with --classes."
            )
    as_found = _items(known.with_columns(label="given_label"))
    folds = pl.Series("fold", content_folds(as_found, folds=data.folds, seed=seed), pl.Int32) + 1
    known = known.with_columns(folds)
    usable = usable.join(known.select("row_id", "fold"), on="row_id", how="left", maintain_order="left")
    found = digest(_items(usable), [f"fold {fold}" for fold in usable["fold"]])
    pictures = pictures.drop("split").join(usable.select("row_id", "split", "fold"), on="row_id", how="left")
    # What was dropped is tested in no fold, and yet dealt out with the rest: that leaves everybody else in his place.
    pictures = pictures.join(known.select("row_id", "dealt_as", dealt_in="fold"), on="row_id", how="left")
    shown = pictures.select([*table.PICTURES, *_measures(pictures), *FOLD_COLUMNS]).sort("row_id")
    for fold in range(1, data.folds + 1):  # now, not after the folds before it were trained
        try:
            fold_split(shown, fold, data, seed=seed)
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
        lower = ", or lower --set data.min_per_class" if few >= LEAST_GROUPS else ""
        raise SourceError(
            f'Class "{label}" has {few} picture{"s" * (few != 1)} that can be read; at least {data.min_per_class} are'
            f" needed. {f'Too few have also {format_names(others)}. ' if others else ''}Add pictures{',' if lower else ' or'}"
            f" leave {'the classes' if others else 'the class'} out with --classes{lower}."
        )


def _items(usable: pl.DataFrame) -> list[Item]:
    return [Item(*row) for row in usable.select("sha256", "label", "group").iter_rows()]


def _dealt_as(known: pl.DataFrame, data: DataConfig) -> pl.DataFrame:
    """Return the pictures with the label that they are dealt out by as `dealt_as`: the one that they were found with.

    Of labels too small to be a class before corrections, there is no split to keep.
    """
    sizes = pl.len().over("given_label")
    return known.with_columns(dealt_as=pl.when(sizes >= data.min_per_class).then("given_label").otherwise("label"))


def _dealt(known: pl.DataFrame, shares: Mapping[str, float], seed: int) -> pl.DataFrame:
    """Return the usable pictures with their part as `split`; `known` has the dropped ones as well, and `dealt_as`.

    The parts are those of the pictures as they were found: who is corrected stays where it was, and moves nobody
    else. Only where a class would have nothing in a part, its own groups are dealt again, as they are now. Raises
    SourceError, naming the class, if that does not help.
    """
    before = known.with_columns(label="dealt_as")
    parts = pl.Series("split", deal(_items(before), shares, seed=seed))
    usable = known.with_columns(parts).filter(pl.col("error").is_null())
    labels = sorted(usable["label"].unique())
    for label in labels:
        if lacking(_parts_of(usable, label), shares):
            inside = usable["group"].is_in(usable.filter(pl.col("label") == label)["group"].implode())
            own = usable.filter(inside).with_columns(label=pl.lit(label))
            anew = pl.DataFrame({"row_id": own["row_id"], "anew": deal(_items(own), shares, seed=seed)})
            usable = usable.join(anew, on="row_id", how="left", maintain_order="left")
            usable = usable.with_columns(split=pl.coalesce("anew", "split")).drop("anew")
    for label in labels:
        check(label, _parts_of(usable, label), shares)
    return usable


def _parts_of(usable: pl.DataFrame, label: str) -> list[str]:
    return usable.filter(pl.col("label") == label)["split"].to_list()


def _given(usable: pl.DataFrame, known: pl.DataFrame, data: DataConfig, seed: int) -> pl.Series:
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
    training = known.filter(pl.col("given_split") == "train")
    shared = _dealt(training, {"val": data.val_fraction}, seed).select("row_id", "split")
    return usable.drop("split").join(shared, on="row_id", how="left", maintain_order="left")["split"].fill_null("test")


def described(pictures: pl.DataFrame, collection: Audited) -> str:
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
