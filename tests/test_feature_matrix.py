"""Rows on disk are what an array of them would be, and never more of it in memory than is asked for."""

from __future__ import annotations

import errno
import gc
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from full_disk import largest_file

pytest.importorskip("sklearn")

from bestiary.batches import feature_matrix as rows_module
from bestiary.batches.array_cache import ArrayCache
from bestiary.batches.feature_matrix import DiskMatrix, fit_scaler, iter_chunks, load_features
from bestiary.errors import IntegrityError, MachineError
from bestiary.evaluation.group_scores import FoldPredictor
from bestiary.evaluation.label_issues import cross_val_probabilities
from bestiary.evaluation.learning_curve import learning_curve
from bestiary.evaluation.outliers import own_class_similarity
from bestiary.models.features import LabelledFeatures
from bestiary.models.neighbours import nearest_neighbours
from bestiary.models.ood import PrincipalSubspace

COUNT, CHANNELS = 300, 12
VALUES = np.random.default_rng(0).normal(0, 1, (COUNT, CHANNELS)).astype(np.float16)
LABELS = np.arange(COUNT, dtype=np.int64) % 3
GROUPS = np.arange(COUNT, dtype=np.int64)


@pytest.fixture
def kept(tmp_path: Path) -> DiskMatrix:
    """VALUES on disk, written in two goes."""
    found = DiskMatrix(tmp_path, CHANNELS, np.float16)
    found.append(VALUES[:7])
    found.append(VALUES[7:])
    return found


@pytest.mark.parametrize(
    "places",
    [
        slice(None),
        slice(5, 20),
        slice(290, 400),
        slice(20, 5),
        slice(0, 300, 7),
        np.array([3, 4, 5, 299, 0, 0, 1]),
        np.array([], np.int64),
        LABELS == 1,
        np.zeros(COUNT, bool),
    ],
    ids=["all", "some", "beyond", "none", "every seventh", "places", "no place", "flags", "no flag"],
)
def test_some_rows_are_those_of_the_array(kept: DiskMatrix, places: slice | npt.NDArray[np.int64]) -> None:
    found = kept[places]
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, VALUES[places])


def test_it_has_the_shape_of_the_array_and_goes_by_pieces(kept: DiskMatrix) -> None:
    assert (len(kept), kept.shape, kept.dtype) == (COUNT, VALUES.shape, VALUES.dtype)
    np.testing.assert_array_equal(np.concatenate(list(iter_chunks(kept))), VALUES)
    with pytest.raises(IndexError, match="there are 300"):
        kept[np.array([300])]


def test_what_is_computed_of_them_is_what_an_array_gives(kept: DiskMatrix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "CHUNK_ROWS", 64)
    for one, other in zip(fit_scaler(kept), fit_scaler(VALUES), strict=True):
        np.testing.assert_array_equal(one, other)
    space = PrincipalSubspace.fit(VALUES)
    np.testing.assert_array_equal(PrincipalSubspace.fit(kept).directions, space.directions)
    np.testing.assert_allclose(space.inside_norm(kept), space.inside_norm(VALUES), rtol=1e-12)
    np.testing.assert_array_equal(
        own_class_similarity(kept, LABELS, GROUPS, seed=0), own_class_similarity(VALUES, LABELS, GROUPS, seed=0)
    )
    np.testing.assert_array_equal(
        cross_val_probabilities(kept, LABELS, GROUPS, 3, seed=0),
        cross_val_probabilities(VALUES, LABELS, GROUPS, 3, seed=0),
    )
    whole = LabelledFeatures(VALUES.astype(np.float32), LABELS)
    curves = [
        learning_curve(known, whole, (GROUPS, GROUPS), ("cat", "dog", "owl"), c_value=0.1, seed=0)
        for known in (LabelledFeatures(kept, LABELS), LabelledFeatures(VALUES, LABELS))
    ]
    assert curves[0] == curves[1]


def test_the_most_alike_are_found_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, groups = VALUES[:20], np.arange(1000, 1020)
    groups[3] = GROUPS[33]
    whole = nearest_neighbours(asked, VALUES[20:], groups, GROUPS[20:], 4)
    monkeypatch.setattr("bestiary.models.neighbours.ROWS_AT_ONCE", 37)
    np.testing.assert_array_equal(nearest_neighbours(asked, VALUES[20:], groups, GROUPS[20:], 4), whole)
    mean, scale = fit_scaler(VALUES[20:])
    seen = (VALUES - mean) / scale
    cosine = seen @ seen.T / np.outer(*[np.linalg.norm(seen, axis=1)] * 2)
    expected = np.argsort(-np.delete(cosine[3, 20:], 13))[:4]
    np.testing.assert_array_equal(whole[3], expected + (expected >= 13))


def filled(folder: Path, first: int, last: int) -> ArrayCache:
    store = ArrayCache(folder, (CHANNELS,), np.float16)
    with store.writer() as segment:
        segment.append([f"picture-{row}" for row in range(first, last)], VALUES[first:last])
    return store


def test_many_are_gathered_on_disk_in_the_order_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = filled(tmp_path / "plain", 0, 100), filled(tmp_path / "mirrored", 100, 200)
    order = np.random.default_rng(1).permutation(200)
    wanted = [(stores[row // 100], f"picture-{row}") for row in order.tolist()]
    few = load_features(wanted)
    assert isinstance(few, np.ndarray)
    assert few.dtype == np.float32
    monkeypatch.setattr(rows_module, "MAX_MEMORY_BYTES", 1_000)
    monkeypatch.setattr(rows_module, "CHUNK_ROWS", 64)
    many = load_features(wanted)
    assert isinstance(many, DiskMatrix)
    np.testing.assert_array_equal(few, VALUES[order])
    np.testing.assert_array_equal(many[:], VALUES[order])
    next((tmp_path / "plain").glob("*.rows")).unlink()
    with pytest.raises(IntegrityError, match="cannot be read"):
        load_features(wanted)


def test_the_file_is_gone_when_nobody_needs_it(tmp_path: Path) -> None:
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("open files are listed on Linux only")
    gc.collect()  # files of tests before this one
    before = len(list(folder.iterdir()))
    found = DiskMatrix(tmp_path, CHANNELS, np.float16)
    assert len(list(folder.iterdir())) == before + 1
    assert list(tmp_path.iterdir()) == []  # it has no name: a process that is killed leaves nothing behind
    del found
    gc.collect()
    assert len(list(folder.iterdir())) == before


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = DiskMatrix(tmp_path, CHANNELS, np.float16)
    with pytest.raises(MachineError, match="BESTIARY_CACHE"), largest_file(1_000):
        found.append(VALUES)

    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(MachineError, match=f"Cannot write to {tmp_path}: No space left"):
        DiskMatrix(tmp_path, CHANNELS, np.float16)


def test_heads_of_folds_read_rows_on_disk_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 rows on disk, as those of mixed precisions are, are never all in memory; the labels are the same."""
    rng = np.random.default_rng(1)
    count = 6 * rows_module.CHUNK_ROWS
    labels = np.arange(count, dtype=np.int64) % 3
    values = (rng.normal(0, 1, (count, CHANNELS)) + np.eye(3, CHANNELS)[labels] * 3).astype(np.float32)
    matrix = DiskMatrix(tmp_path, CHANNELS, np.float32)
    matrix.append(values)
    is_tested = rng.random(count) < 0.2
    expected = FoldPredictor(values, labels, 3, 0.01, "none", 0)._predict_fold(~is_tested, is_tested)
    read, largest = DiskMatrix.__getitem__, list[int]()

    def counted(self: DiskMatrix, indices: slice | npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        rows = read(self, indices)
        largest.append(len(rows))
        return rows

    monkeypatch.setattr(DiskMatrix, "__getitem__", counted)
    predicted = FoldPredictor(matrix, labels, 3, 0.01, "none", 0)._predict_fold(~is_tested, is_tested)
    assert (predicted == expected).mean() > 0.995
    assert (predicted == labels[is_tested]).mean() > 0.9
    assert max(largest) < count / 2
