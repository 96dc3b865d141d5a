"""`PictureClassifier`: scikit-learn estimator that trains as `bestiary train` does."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from bestiary import files as files_module
from bestiary import run_folder, table
from bestiary.array_types import Array, Floats, Pixels
from bestiary.context import Context
from bestiary.costs import choose_labels, cost_matrix
from bestiary.data.arrays import FlatImageShape, NumberRange, check_image_array, to_rgb, write_png_files
from bestiary.data.assign_splits import assign_splits
from bestiary.data.dataset import audit_listing
from bestiary.data.sources import PictureEntry, PictureList
from bestiary.errors import InputError, SourceError
from bestiary.evaluation.evaluate import predict_val_split
from bestiary.export.finalize import train_and_finalize
from bestiary.inference.predictor import FAST_ENGINE_MIN_PICTURES, EngineName, Predictor
from bestiary.machine import available_cores
from bestiary.picture import resize_to_square
from bestiary.preprocess import Source
from bestiary.recipe import Recipe
from bestiary.training.backbone_choice import settle_single_backbone
from bestiary.training.task import load_task, record_engine

ARRAY_FOLDER = "given"  # the folder of pictures that were passed as arrays
TABLES = ("pictures", "findings", "predictions")
INPUT_ATTRIBUTES = ("n_features_in_", "feature_names_in_", "row_shape_", "number_range_")
ALTERNATIVES = {"classes": "pass only pictures of these classes", "folds": "use scikit-learn's cross_validate"}
UNPICKLED_ATTRIBUTES = ("_predictors", "_remove")


class NumberRangeWarning(UserWarning):
    """The numbers of arrays are on another scale than those of training, such as 0 to 1 in place of 0 to 255."""


class PictureClassifier(ClassifierMixin, BaseEstimator):
    """A picture classifier for scikit-learn: `PictureClassifier().fit(paths, labels).predict(more_paths)`.

    X: paths, (n,) or (n, 1); pictures uint8 (n, height, width, 3) or (n, height, width); or rows of numbers
    (n, height * width), as in scikit-learn's own picture datasets; on the scale of training, else predictions warn with
    NumberRangeWarning. y: labels of any type, (n,).

    method, backbone, seed: as in `bestiary train`; settings: the rest of a recipe, as in `Recipe.of`; threads: default
    all cores; picture_shape: (height, width) or (height, width, 3) of a row, guessed by default.

    `fit` audits the pictures, splits off a validation set (duplicates stay in one split), trains, calibrates and
    verifies the model as `train` does. There is no test split: the caller of `score` holds out test pictures. `run_` is
    the run folder. It is deleted with the classifier; `save` copies it for `bestiary predict`, `serve` or `review`. A
    pickle contains the files of the run, but no pictures.
    """

    def __init__(
        self,
        *,
        method: str = "probe",
        backbone: str = "lite2",
        seed: int = 0,
        threads: int | None = None,
        picture_shape: Sequence[int] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Store the parameters unchanged; `fit` validates them."""
        self.method = method
        self.backbone = backbone
        self.seed = seed
        self.threads = threads
        self.picture_shape = picture_shape
        self.settings = settings

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803 - scikit-learn's names
        """Train on pictures and their labels; return the classifier.

        Raises InputError (a UserError and a ValueError) for invalid input; warns about unreadable files that it skips.
        """
        recipe = self._build_recipe()
        pictures, y = self._validate_training_data(X, y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        home = self._make_run_folder()
        by_path = isinstance(pictures, list)
        paths = pictures if isinstance(pictures, list) else write_png_files(self._pixels(pictures), home / ARRAY_FOLDER)
        names = self._label_names()
        listing = PictureList([PictureEntry(path, names[code]) for path, code in zip(paths, codes, strict=True)])
        try:
            context = Context(threads=self.threads or available_cores(), features=recipe.feature_settings)
            self.run_ = _train_run(listing, home / "run", recipe, context, cache_scan=by_path)
        except SourceError as error:
            raise InputError(str(error)) from error
        _warn_skipped(self.run_)
        return self

    def predict(self, X: Any) -> Array:  # noqa: N803
        """Return the label of each picture, (n,): the most probable one, or with costs that of least expected cost.

        Raises InputError, naming the picture, if one is unreadable.
        """
        probabilities = self.predict_proba(X)
        labels: Array = self.classes_[choose_labels(probabilities, self._costs())]
        return labels

    def predict_proba(self, X: Any) -> Floats:  # noqa: N803
        """Return calibrated probabilities, float64 (n, classes), in the order of `classes_`.

        Warns with NumberRangeWarning if numbers are on another scale than in `fit`.
        """
        check_is_fitted(self)
        pictures = self._validate_input(X, reset=False)
        self._warn_range(pictures)
        predictor = self._predictor("fastest" if len(pictures) >= FAST_ENGINE_MIN_PICTURES else "onnxruntime")
        probabilities = np.empty((len(pictures), len(self.classes_)))
        names = self._label_names()
        for row, prediction in enumerate(predictor.predict_many(self._predictor_inputs(pictures, predictor))):
            if prediction.error is not None:
                raise InputError(prediction.error)
            probabilities[row] = [prediction.probabilities[name] for name in names]
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return probabilities

    def save(self, path: Path | str) -> Path:
        """Copy the run to a folder, which must be new or empty, and return it."""
        check_is_fitted(self)
        folder = Path(path)
        run_folder.require_free_folder(folder)
        shutil.copytree(self.run_, folder, dirs_exist_ok=True)
        arrays = self.run_.parent / ARRAY_FOLDER
        if arrays.exists():
            shutil.copytree(arrays, folder / ARRAY_FOLDER)
            new_path = pl.col("path").str.replace(str(arrays), str(folder.absolute() / ARRAY_FOLDER), literal=True)
            for file in (folder / f"{name}.parquet" for name in TABLES):
                table.write(table.read(file, {}).with_columns(new_path), file)
        return folder

    def _build_recipe(self) -> Recipe:
        settings = self.settings or {}
        for setting, alternative in ALTERNATIVES.items():
            if setting in settings.get("data", {}):
                raise InputError(f"data.{setting} is not for PictureClassifier: {alternative}.")
        if settings.get("evaluate", {}).get("thresholds"):
            raise InputError(
                "evaluate.thresholds is not for PictureClassifier, whose predict names a class for every picture:"
                " compare predict_proba with a threshold of yours, or use bestiary.train and bestiary.predict."
            )
        model = {**settings.get("model", {}), "method": self.method, "backbone": self.backbone}
        return Recipe.of({**settings, "model": model, "seed": self.seed})

    def _costs(self) -> Floats:
        """Return the costs in the order of `classes_`; empty without costs."""
        entries = self._build_recipe().evaluate.costs
        return cost_matrix(entries, self._label_names()) if entries else np.empty(0)

    def _label_names(self) -> list[str]:
        """Return the class names in the run."""
        return [str(value) for value in self.classes_]

    def _validate_training_data(self, X: Any, y: Any) -> tuple[list[Path] | Array, Array]:  # noqa: N803
        for name in INPUT_ATTRIBUTES:
            self.__dict__.pop(name, None)
        pictures = self._validate_input(X, reset=True)
        y = validate_data(self, "no_validation", y, reset=False)
        check_classification_targets(y)
        check_consistent_length(pictures, y)
        if isinstance(pictures, list):
            return pictures, y
        self.number_range_ = NumberRange.of(pictures)
        if pictures.ndim == 2:
            self.row_shape_ = FlatImageShape.of(pictures, self.picture_shape)
        return pictures, y

    def _warn_range(self, pictures: list[Path] | Array) -> None:
        """Warn if the numbers of arrays are on another scale than those of training."""
        if isinstance(pictures, list) or not hasattr(self, "number_range_"):  # or fitted by an older version
            return
        if mismatch := self.number_range_.describe_mismatch(pictures):
            message = f"{mismatch} Predictions will be wrong unless both are on the same scale: scale X as in fit."
            warnings.warn(message, NumberRangeWarning, stacklevel=3)

    def _validate_input(self, X: Any, *, reset: bool) -> list[Path] | Array:  # noqa: N803
        """Return paths, pictures uint8 (n, height, width[, channels]), or rows of numbers (n, numbers)."""
        paths = _as_paths(X)
        if paths is not None:
            if np.asarray(X).ndim == 2:
                validate_data(self, X, reset=reset, skip_check_array=True)
            return paths
        if not hasattr(X, "tocsr") and np.asarray(X).ndim > 2:
            return check_image_array(np.asarray(X))
        rows: Array = validate_data(self, X, reset=reset)
        return rows

    def _predictor_inputs(self, pictures: list[Path] | Array, predictor: Predictor) -> Iterable[Source]:
        """Return the predictor's input: paths, or pixels in the size of the model's input."""
        if isinstance(pictures, list):
            return pictures
        preprocess = predictor.bundle.preprocess
        return (resize_to_square(picture, preprocess.size, preprocess.fit) for picture in self._pixels(pictures))

    def _pixels(self, pictures: Array) -> Iterable[Pixels]:
        if pictures.ndim > 2:
            return map(to_rgb, pictures)
        if not hasattr(self, "row_shape_"):
            raise InputError("This classifier was not fitted on rows of numbers; pass paths, or pictures as uint8.")
        return map(self.row_shape_.picture, pictures)

    def _make_run_folder(self) -> Path:
        """Create the folder of the next run, deleted with the classifier; delete that of the last run."""
        if "_remove" in self.__dict__:
            self.__dict__["_remove"]()
        home = Path(tempfile.mkdtemp(prefix="bestiary-"))
        self._predictors: dict[EngineName, Predictor] = {}
        self._remove = weakref.finalize(self, _remove_run_folder, home, os.getpid())
        return home

    def _predictor(self, engine: EngineName) -> Predictor:
        if engine not in self._predictors:
            device = run_folder.load_recipe(self.run_).features.device
            self._predictors[engine] = Predictor(self.run_, threads=self.threads, engine=engine, device=device)
        return self._predictors[engine]

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is a run."""
        return hasattr(self, "run_")

    def __sklearn_tags__(self) -> Any:
        """Return the tags, which declare the types of X."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.three_d_array = True  # one_d_array would mean numbers
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Return parameters and fitted attributes, the run as the bytes of its files."""
        state = {key: value for key, value in super().__getstate__().items() if key not in UNPICKLED_ATTRIBUTES}
        if "run_" in state:
            files = (file for file in sorted(self.run_.iterdir()) if file.is_file())
            state["run_"] = {file.name: file.read_bytes() for file in files}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state, with the run in a new folder."""
        files = state.get("run_", {})
        super().__setstate__({key: value for key, value in state.items() if key != "run_"})
        if files:
            run = self._make_run_folder() / "run"
            run.mkdir()
            for name, content in files.items():
                (run / name).write_bytes(content)
            self.run_ = run


def _train_run(listing: PictureList, out: Path, recipe: Recipe, context: Context, *, cache_scan: bool) -> Path:
    """Return `out`, a run with a calibrated, verified model and no test split; audit, split and model as in `train`.

    cache_scan: whether measurements of the files are cached.
    """
    recipe = settle_single_backbone(recipe, context)
    scan_context = context if cache_scan else replace(context, cache=None)
    dataset = audit_listing(listing, recipe.data, recipe.limits, scan_context)
    pictures, digest = assign_splits(dataset, recipe.data, seed=recipe.seed, with_test=False)
    facts = {"threads": context.threads, "split digest": digest, "passed over": dict(dataset.passed_over)}

    def contents(folder: Path) -> None:
        files_module.write_json(folder / "environment.json", run_folder.collect_environment(facts))
        table.write(pictures, folder / "pictures.parquet")
        table.write(dataset.findings, folder / "findings.parquet")

    run = run_folder.create_run_folder(out, recipe, contents=contents)
    trained, model = train_and_finalize(record_engine(load_task(run, context)))
    run_folder.update_environment(run, trained.notes)
    table.write(predict_val_split(pictures, trained, model), run / "predictions.parquet")
    return run


def _as_paths(X: Any) -> list[Path] | None:  # noqa: N803
    """Return X as paths if it contains text or paths, (n,) or (n, 1), else None."""
    if isinstance(X, str | os.PathLike):
        raise InputError(f'X is "{X}"; expected several paths, for example sorted(Path("pictures").glob("*/*.jpg")).')
    if hasattr(X, "tocsr"):  # sparse: left to scikit-learn's own error
        return None
    cells = np.asarray(X)
    if cells.dtype.kind not in "UTO" or not cells.size:
        return None
    if not all(isinstance(cell, str | os.PathLike) for cell in cells.flat):
        return None
    if cells.ndim > 2 or cells.shape[1:] not in ((), (1,)):
        raise InputError(f"X contains text of shape {cells.shape}; expected one path for each picture: (n,) or (n, 1).")
    return [Path(cell) for cell in cells.flat]


def _warn_skipped(run: Path) -> None:
    pictures = table.read(run / "pictures.parquet", table.PICTURES)
    errors = pictures.filter(pl.col("error").is_not_null())
    if errors.height:
        path, error = errors["path"][0], errors["error"][0]
        first = error if path in error else f"{path}: {error}"
        warnings.warn(
            f"Skipped {errors.height:,} of {pictures.height:,} pictures, which cannot be used. The first: {first}",
            stacklevel=3,
        )


def _remove_run_folder(home: Path, process: int) -> None:
    if os.getpid() == process:  # not in a forked process: the files belong to its parent
        shutil.rmtree(home, ignore_errors=True)
