"""What the README and the map of CONTRIBUTING say is true: commands and Python run, links and paths lead to files."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from bestiary.demo.dataset import SyntheticDataset
from commands import Call, expand_patterns

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line.partition("#")[0].strip() for block in blocks("") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.removeprefix(".venv/bin/").startswith("bestiary ")]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, collection: SyntheticDataset) -> Path:
    """A folder as the README's reader has it: pictures by class, and some new ones."""
    folder = tmp_path_factory.mktemp("desk")
    for kind in collection.folder.iterdir():
        if len(list(kind.iterdir())) >= 10:
            shutil.copytree(kind, folder / "pictures" / kind.name)
    for name in ("PICTURES", "other pictures"):
        shutil.copytree(folder / "pictures", folder / name)
    drawn = sorted(collection.kinds)
    (folder / "new").mkdir()
    for name in ("new/one.jpg", "new/two.jpg", "some.jpg", "other.png", "new.jpg"):
        shutil.copy(drawn[len(name)], folder / name)
    return folder


def test_there_are_commands_to_try() -> None:
    assert {words[0] for words in commands()} >= {"train", "predict"}


@pytest.mark.slow
def test_the_commands_run(desk: Path, bestiary: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    for words in commands():
        done = bestiary(*expand_patterns(words))
        assert done.code == 0, done.err
        assert done.out


@pytest.mark.slow
def test_the_python_runs(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    for number, block in enumerate(blocks("python")):
        exec(compile(block, f"README.md, block {number} in Python", "exec"), {"__name__": "__main__"})


def test_the_paths_of_the_map_exist() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = guide.partition("## Where things are")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \|", table, flags=re.MULTILINE)[2:]
    named = [path for row in rows for path in re.findall(r"`([^`]+)`", row)]
    assert len(named) > 10
    for path in named:
        assert (ROOT / path).exists() or (ROOT / "src/bestiary" / path).exists(), path


def test_its_links_lead_to_files_and_headings() -> None:
    links = re.findall(r"\]\(([^)#]+)#?([^)]*)\)", README)
    assert len(links) > 20
    assert [target for target, _ in links if not (ROOT / target).exists()] == []
    named = [(ROOT / target, heading) for target, heading in links if heading]
    assert named
    for page, heading in named:
        titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert heading in [title.lower().replace(" ", "-") for title in titles], f"{page}#{heading}"
