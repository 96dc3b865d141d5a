"""PictureClassifier: its own behaviour, and scikit-learn's estimator checks."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("sklearn")

from numpy.typing import NDArray
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from bestiary import PictureClassifier, Predictor, UserError
from bestiary.classifier import NumberRangeWarning
from bestiary.data.arrays import FlatImageShape, NumberRange
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import InputError, RecipeError, RunError
from bestiary.picture import decode

KINDS = ("bird", "fish", "spider")
NUMBERS = {"bird": 10, "fish": 9, "spider": -1}  # as text, they would sort differently
QUICK: dict[str, Any] = {"picture": {"size": 64}, "probe": {"regularisation": [0.01]}, "data": {"min_per_class": 3}}


def quick(**settings: Any) -> PictureClassifier:
    return PictureClassifier(**{"backbone": "lite0", "threads": 1, "settings": QUICK, **settings})


@pytest.fixture(scope="module")
def files(collection: SyntheticDataset) -> tuple[list[Path], list[str]]:
    """62 pictures of three kinds, and their labels."""
    paths = [path for kind in KINDS for path in sorted((collection.folder / kind).iterdir())]
    return paths, [path.parent.name for path in paths]


@pytest.fixture(scope="module")
def fitted(files: tuple[list[Path], list[str]]) -> PictureClassifier:
    """Fitted on numbers as labels. Shared: clone what you change."""
    paths, labels = files
    return quick().fit(paths, [NUMBERS[label] for label in labels])


def blobs(n: int = 36) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
    """Noisy pictures of two colours, uint8 (n, 12, 16, 3)."""
    labels = np.array(["red", "blue"])[np.arange(n) % 2]
    pictures = np.random.default_rng(3).integers(0, 120, (n, 12, 16, 3), np.uint8)
    pictures[labels == "red", ..., 0] += 120
    pictures[labels == "blue", ..., 2] += 120
    return pictures, labels


def test_fit_on_paths_and_labels_of_the_original_type(
    fitted: PictureClassifier, files: tuple[list[Path], list[str]]
) -> None:
    paths, labels = files
    assert fitted.classes_.tolist() == [-1, 9, 10]
    assert fitted.predict(paths).dtype == fitted.classes_.dtype
    assert fitted.score(paths, [NUMBERS[label] for label in labels]) >= 0.8


def test_predictions_equal_those_of_the_predictor(
    fitted: PictureClassifier, files: tuple[list[Path], list[str]]
) -> None:
    paths = files[0][::5]
    answers = list(Predictor(fitted.run_, threads=1).predict_many(paths))
    expected = [[answer.probabilities[str(name)] for name in fitted.classes_] for answer in answers]
    np.testing.assert_allclose(fitted.predict_proba(paths), expected, atol=1e-6)
    assert [str(label) for label in fitted.predict(paths)] == [answer.label for answer in answers]


@pytest.mark.parametrize(
    "shaped", [list, lambda paths: [str(p) for p in paths], lambda paths: [[str(p)] for p in paths]]
)
def test_paths_may_be_texts_and_a_column(
    shaped: Any, fitted: PictureClassifier, files: tuple[list[Path], list[str]]
) -> None:
    some = files[0][:2]
    np.testing.assert_array_equal(fitted.predict_proba(shaped(some)), fitted.predict_proba(some))


def test_there_is_a_validation_split_and_no_test_split(fitted: PictureClassifier) -> None:
    pictures = pl.read_parquet(fitted.run_ / "pictures.parquet")
    assert set(pictures["split"]) == {"train", "val"}
    predictions = pl.read_parquet(fitted.run_ / "predictions.parquet")
    assert predictions["row_id"].to_list() == pictures.filter(pl.col("split") == "val")["row_id"].to_list()
    assert not (fitted.run_ / "metrics.json").exists()


def test_duplicates_stay_in_one_split(files: tuple[list[Path], list[str]]) -> None:
    paths, labels = files
    model = quick().fit([*paths, *paths], [*labels, *labels])
    sides = (
        pl.read_parquet(model.run_ / "pictures.parquet").group_by("sha256").agg(pl.col("split").n_unique(), pl.len())
    )
    assert sides["split"].to_list() == [1] * len(paths)
    assert sides["len"].min() == 2


def test_pictures_as_arrays_rows_and_files_are_the_same_pictures(tmp_path: Path) -> None:
    pictures, labels = blobs()
    paths = [tmp_path / f"{number}.png" for number in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path, compress_level=1)  # the split goes by content, to the byte
    from_files = quick().fit(paths, labels).predict_proba(paths)
    from_arrays = quick().fit(pictures, labels)
    from_rows = quick(picture_shape=(12, 16, 3)).fit(pictures.reshape(len(pictures), -1), labels)
    np.testing.assert_array_equal(from_arrays.predict_proba(pictures), from_files)
    np.testing.assert_array_equal(from_rows.predict_proba(pictures.reshape(len(pictures), -1)), from_files)
    np.testing.assert_array_equal(from_arrays.predict_proba(paths), from_files)
    assert from_rows.n_features_in_ == 12 * 16 * 3
    assert not hasattr(from_arrays, "n_features_in_")


def test_numbers_become_grey_from_the_least_to_the_greatest() -> None:
    rows = np.array([[0.0, 0.5, 1.0, 0.25], [0.5, 0.5, 0.5, 0.5]])
    shape = FlatImageShape.of(rows, None)
    assert shape.picture(rows[0])[..., 1].tolist() == [[0, 128], [255, 64]]
    assert shape.picture(np.array([-9.0, 9.0, 0.0, 1.0]))[..., 2].tolist() == [[0, 255], [0, 255]]
    assert FlatImageShape.of(np.zeros((1, 12), np.uint8), None) == FlatImageShape(2, 2, 3, 0.0, 255.0)
    assert FlatImageShape.of(np.zeros((2, 5)), None).picture(np.zeros(5)).shape == (1, 5, 3)


BYTES = np.arange(256, dtype=np.float64).reshape(4, 64)


@pytest.mark.parametrize(
    ("trained", "asked", "is_told"),
    [
        (BYTES, BYTES / 255, True),
        (BYTES / 255, BYTES, True),
        (BYTES.astype(np.uint8), BYTES / 255, True),
        (BYTES.astype(np.uint8), (BYTES / 255).astype(np.uint8).reshape(1, 256), True),
        ((BYTES > 200).astype(np.uint8).reshape(1, 256), BYTES.astype(np.uint8), True),
        (BYTES / 16, BYTES, True),
        (BYTES / 255, BYTES / 127.5 - 1, True),
        (BYTES, BYTES.astype(np.uint8), False),
        (BYTES.astype(np.uint8), BYTES, False),
        (BYTES, BYTES[:1] / 2, False),
        (BYTES, np.zeros((1, 64)), False),  # a black picture
        (BYTES, BYTES + 20, False),
        (BYTES.astype(np.uint8), (120 + BYTES[:1] / 17).astype(np.uint8), False),  # in fog
        (BYTES.astype(np.uint8), (BYTES[:1] / 20).astype(np.uint8), False),  # at night
        (BYTES * 257, BYTES.astype(np.uint8), True),  # of 16 bits
        (np.zeros((2, 64)), np.zeros((2, 64)), False),
    ],
)
def test_numbers_on_another_scale_are_noticed(trained: Any, asked: Any, is_told: bool) -> None:
    assert bool(NumberRange.of(trained).describe_mismatch(asked)) == is_told


@pytest.mark.parametrize("shape", [(36, -1), (36, 12, 16, 3)])
def test_predictions_on_another_scale_warn(shape: tuple[int, ...]) -> None:
    pictures, labels = blobs()
    X = pictures.reshape(shape)  # noqa: N806
    model = quick(picture_shape=(12, 16, 3)).fit(X, labels)
    model.predict(X)
    model.predict(X[:1])
    dim = np.rint(X / 255).astype(np.uint8) if X.ndim > 2 else X / 255
    with pytest.warns(NumberRangeWarning, match="The numbers range from 0 to .*; those of training from 0 to 255"):
        model.predict(dim)
    again = pickle.loads(pickle.dumps(model))
    with pytest.warns(NumberRangeWarning, match="same scale"):
        again.predict_proba(dim)
    del again.number_range_  # as in a pickle of an older version
    again.predict_proba(dim)


def test_a_pickle_contains_the_files_of_the_model_only(
    fitted: PictureClassifier, files: tuple[list[Path], list[str]]
) -> None:
    content = pickle.dumps(fitted)
    assert b"bestiary.inference" not in content
    again = pickle.loads(content)
    assert again.run_ != fitted.run_
    np.testing.assert_array_equal(again.predict_proba(files[0]), fitted.predict_proba(files[0]))
    assert {file.name for file in again.run_.iterdir()} == {file.name for file in fitted.run_.iterdir()}


def test_the_run_is_deleted_with_the_classifier_unless_saved(tmp_path: Path) -> None:
    pictures, labels = blobs()
    model = quick().fit(pictures, labels)
    first, expected = model.run_, model.predict_proba(pictures[:4])
    run = model.fit(pictures, labels).run_
    assert not first.exists()
    kept = model.save(tmp_path / "kept")
    del model
    gc.collect()
    assert not run.parent.exists()
    paths = [Path(path) for path in pl.read_parquet(kept / "pictures.parquet")["path"]]
    assert all(path.is_relative_to(kept) for path in paths)
    np.testing.assert_array_equal(decode(paths[1]), pictures[1])
    answers = Predictor(kept, threads=1).predict_many(paths[:4])
    np.testing.assert_allclose(
        [[a.probabilities[name] for name in ("blue", "red")] for a in answers], expected, atol=1e-6
    )


def test_save_refuses_a_folder_that_is_not_empty(fitted: PictureClassifier, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(RunError, match="exists already"):
        fitted.save(tmp_path)


def test_it_works_within_scikit_learn(files: tuple[list[Path], list[str]]) -> None:
    paths, labels = files
    scores = cross_val_score(quick(), np.array(paths, str), labels, cv=2)
    assert scores.shape == (2,)
    assert scores.mean() > 0.6


def test_settings_are_parameters() -> None:
    model = quick(seed=3)
    assert clone(model).get_params() == model.get_params()
    assert model.set_params(backbone="lite2").backbone == "lite2"
    with pytest.raises(RecipeError, match='Unknown setting "picture.siez"'):
        quick(settings={"picture": {"siez": 3}}).fit(*blobs())
    with pytest.raises(InputError, match=r"data\.classes is not for PictureClassifier"):
        quick(settings={"data": {"classes": ["red"]}}).fit(*blobs())


def test_an_unreadable_file_is_skipped_in_fit_with_a_warning_and_an_error_in_predict(
    files: tuple[list[Path], list[str]], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    paths, labels = files
    with pytest.warns(UserWarning, match=r"^Skipped 1 of 63 pictures, which cannot be used\. The first: .*broken\.jpg"):
        model = quick().fit([*paths, broken], [*labels, "fish"])
    with pytest.raises(InputError, match=r"broken\.jpg"):
        model.predict([*paths[:2], broken])


@pytest.mark.parametrize(
    ("X", "y", "says"),
    [
        ("cat.jpg", ["cat"], r'X is "cat\.jpg"; expected several paths'),
        ([["a.jpg", "b.jpg"]], ["cat"], r"text of shape \(1, 2\); expected one path for each picture"),
        (np.zeros((2, 4, 4, 3)), [0, 1], r"float64 of shape \(2, 4, 4, 3\); expected pictures as uint8"),
        (np.zeros((2, 4, 4, 2), np.uint8), [0, 1], r"uint8 of shape \(2, 4, 4, 2\); expected"),
        (np.zeros((2, 7)), [0, 1], r"picture_shape = \(2, 3\) does not match rows of 7 numbers"),
        (["a.jpg", "b.jpg"], ["cat"], r"inconsistent numbers of samples"),
        (["a.jpg", "b.jpg"], None, r"requires y to be passed"),
        (["a.jpg"], ["cat"], r"no readable picture"),
        (blobs(8)[0], ["one"] * 8, r'only one class, "one"'),
    ],
)
def test_invalid_input_is_explained(X: Any, y: Any, says: str) -> None:  # noqa: N803
    with pytest.raises(ValueError, match=says):
        quick(picture_shape=(2, 3)).fit(X, y)


def test_predict_before_fit_and_on_another_kind_of_input(fitted: PictureClassifier) -> None:
    with pytest.raises(NotFittedError):
        quick().predict(["cat.jpg"])
    with pytest.raises(InputError, match="not fitted on rows of numbers") as caught:
        fitted.predict(np.zeros((2, 16)))
    assert isinstance(caught.value, UserError)


# ---- scikit-learn's estimator checks --------------------------------------------------------------------------------
# The checks use rows of a few numbers, which become pictures of a few pixels. near_duplicates is off: two pictures of
# two pixels are always near-duplicates.
OF_CHECKS = quick(
    settings={
        "picture": {"size": 64},
        "probe": {"regularisation": [0.3]},
        "data": {"min_per_class": 3, "near_duplicates": False},
        "evaluate": {"resamples": 100, "learning_curve": "off"},  # of test scores, which the checks do not see
    }
)
Test = Callable[[Any, Any], None]
checks: Callable[[Test], Test] = parametrize_with_checks([OF_CHECKS])  # none of them is expected to fail


@pytest.mark.slow
@checks
def test_estimator_checks(estimator: Any, check: Any) -> None:
    check(estimator)
