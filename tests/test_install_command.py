"""The command in messages about a missing package works for the way in which bestiary was installed."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bestiary import install_command as module
from bestiary.errors import MissingExtraError, import_optional
from bestiary.install_command import install_command


class Distribution:
    """A distribution whose `direct_url.json` has this text."""

    def __init__(self, text: str | None) -> None:
        self.text = text

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self.text


@pytest.fixture(autouse=True)
def own_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: str(Path(sys.executable).with_name(name)))


def install_from(monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any] | None) -> None:
    text = None if origin is None else json.dumps(origin)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution(text))


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, 'pip install "bestiary[tune]"'),
        (
            {"url": "file:///home/me/bestiary%20of%20mine", "dir_info": {"editable": True}},
            'pip install -e "/home/me/bestiary of mine[tune]"',
        ),
        ({"url": "file:///home/me/bestiary", "dir_info": {}}, 'pip install "/home/me/bestiary[tune]"'),
        (
            {"url": "https://example.org/bestiary.git", "vcs_info": {"vcs": "git", "commit_id": "1"}},
            'pip install "bestiary[tune] @ git+https://example.org/bestiary.git"',
        ),
        (
            {"url": "file:///tmp/bestiary-0.1.0-py3-none-any.whl", "archive_info": {}},
            'pip install "bestiary[tune] @ file:///tmp/bestiary-0.1.0-py3-none-any.whl"',
        ),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="the paths are those of POSIX")
def test_the_command_follows_the_recorded_origin(
    monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any] | None, expected: str
) -> None:
    install_from(monkeypatch, origin)
    assert install_command("tune") == expected


def test_in_the_checkout_itself_the_path_is_a_dot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_from(monkeypatch, {"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
    monkeypatch.chdir(tmp_path)
    assert install_command("tune") == 'pip install -e ".[tune]"'


def test_a_checkout_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    checkout = Path(module.__file__).parents[2]
    monkeypatch.chdir(checkout)
    assert install_command("torch") == 'pip install -e ".[torch]"'


def test_another_pip_on_the_path_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_from(monkeypatch, None)
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/pip")
    monkeypatch.chdir(tmp_path)
    assert install_command("tune") == f'{sys.executable} -m pip install "bestiary[tune]"'
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    assert install_command("tune") == f'{Path(".venv/bin/python")} -m pip install "bestiary[tune]"'


def test_a_missing_package_is_told_with_the_command() -> None:
    with pytest.raises(MissingExtraError, match=r'"no_such_package".*Add it with: pip install .*\[tune\]"'):
        import_optional("no_such_package", extra="tune")
