"""What every test stands on: fixed seeds, a cache of its own, drawn collections, and the real pictures if there."""

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from bestiary.demo.dataset import SyntheticDataset, make_synthetic_dataset
from browsers import EXECUTABLES, SharedBrowsers
from commands import Call, Done
from ray_cluster import SharedRay, TwoNodes
from scheduling import group_of_file, sort_key
from skips import pytest_make_collect_report, pytest_runtest_makereport

__all__ = ["pytest_make_collect_report", "pytest_runtest_makereport"]  # hooks: pytest finds them here

# A busy machine is no fault of a test: neither a deadline nor a limit on the time for drawing.
settings.register_profile("bestiary", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bestiary")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run the tests that take over five seconds as well")


SHARED_RAY, SHARED_BROWSERS = SharedRay(), SharedBrowsers()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class FileGroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of_file(nodeid.partition("::")[0])

    return FileGroupScheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # A docstring's example has no fixtures.
    items.sort(key=lambda item: sort_key(item.path.name, getattr(item, "fixturenames", ())))
    if config.getoption("--run-slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow; add --run-slow"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    fixtures = getattr(item, "fixturenames", ())
    SHARED_RAY.stop_before(fixtures)
    SHARED_BROWSERS.stop_before(fixtures)


def pytest_sessionfinish() -> None:
    SHARED_RAY.stop()
    SHARED_BROWSERS.stop()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For the whole session, so that fixtures of any scope and the processes that tests start share it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BESTIARY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(params=list(EXECUTABLES))
def browser(request: pytest.FixtureRequest) -> Any:
    """Chromium, and Firefox; they stay open for the next test."""
    return SHARED_BROWSERS.get(request.param)


@pytest.fixture
def local_ray() -> Any:
    """The module `ray`, connected to two processors of this computer; a command with `--cluster local` uses them."""
    _require_ray()
    return SHARED_RAY.local()


@pytest.fixture
def two_nodes() -> TwoNodes:
    """A cluster of two nodes on this computer, not connected yet; the test may remove the second."""
    _require_ray()
    return SHARED_RAY.two_nodes()


def _require_ray() -> None:
    pytest.importorskip("ray")
    if not os.access(Path.home(), os.W_OK):
        pytest.skip("Ray keeps the token of a cluster in the home, which cannot be written here.")


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # for libraries that still use numpy's global generator
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def bestiary(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Run a command in this process, in an empty folder."""
    from bestiary import cli

    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["bestiary", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0 if code is None else 1, out, err)

    return call


@pytest.fixture(scope="session")
def animals10() -> Path:
    """The real pictures: ten folders with Italian names."""
    named = os.environ.get("BESTIARY_ANIMALS10")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "animals10" / "raw-img"
    if not folder.is_dir():
        pytest.skip(f"There are no Animals-10 pictures at {folder}; set BESTIARY_ANIMALS10 to their folder.")
    return folder


@pytest.fixture(scope="session")
def field_files() -> Path:
    """Small real files of camera-trap formats: see tests/test_formats_camera_traps.py for what each is."""
    named = os.environ.get("BESTIARY_FIELD")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "field"
    if not folder.is_dir():
        pytest.skip(f"There are no files of camera-trap formats at {folder}; set BESTIARY_FIELD to their folder.")
    return folder


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> SyntheticDataset:
    """120 sound pictures of ten kinds. Shared: copy what you change."""
    return make_synthetic_dataset(tmp_path_factory.mktemp("drawn") / "collection", pictures=120, seed=1, faults=False)


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> SyntheticDataset:
    """240 pictures of ten kinds, and every fault that a collection can have. Shared: copy what you change."""
    return make_synthetic_dataset(tmp_path_factory.mktemp("drawn") / "faulty", pictures=240, seed=2)


@pytest.fixture(scope="session")
def probed(faulty: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: a probe on four kinds of `faulty`, at 64 pixels to be quick. Shared: copy what you change."""
    pytest.importorskip("sklearn")
    from bestiary.flow import train
    from bestiary.recipe import Recipe

    asked = {
        "data": {"classes": ["bird", "fish", "spider", "rabbit"]},
        "picture": {"size": 64},
        "model": {"backbone": "lite0"},
        "probe": {"regularisation": [0.001, 0.01]},
        "evaluate": {"resamples": 200},
    }
    return train(faulty.folder, recipe=Recipe.of(asked), out=tmp_path_factory.mktemp("runs") / "probed", threads=2).path
