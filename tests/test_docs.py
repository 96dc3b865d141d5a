"""What the documentation says is true: its commands and snippets run, in the order of the pages, in one folder.

Blocks in `sh` and `python` run, except those after a line `<!-- not run: REASON -->`. After a line
`<!-- run with: OPTIONS -->` the options are added to every training of the block: a long job is a short one. So are
`SMALL` to the trainings that name no backbone and no method, but not to those of the tutorial. Commands and snippets
run in the process of the test, since each would import for seconds; `tests/test_cli.py` has those of their own.
"""

from __future__ import annotations

import csv
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from bestiary.cli.app import COMMANDS
from bestiary.demo.dataset import SyntheticDataset
from bestiary.settings_reference import list_settings
from commands import Call, expand_patterns

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NO_PROSE = ("log.md", "glossary.md")
MARK = re.compile(r"<!-- (not run|run with): (.+) -->")
FENCE = re.compile(r"\s*```(.*)")
LANGUAGES = {"sh", "python", "text", "csv", "json", "toml", "yaml"}  # and the directives of MyST, in braces
EXECUTED = ("sh", "python")
SMALL = "--backbone lite0 --set picture.size=96 --set evaluate.resamples=200"


@dataclass(frozen=True)
class Block:
    """A block of code of a page. mark: "not run", "run with" or empty; text: its reason or its options."""

    page: str
    line: int
    language: str
    code: str
    mark: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def iter_blocks(path: Path) -> Iterator[Block]:
    """Yield the blocks of a page between fences; a directive of MyST has its name in braces as the language."""
    page, fence, mark, code = path.relative_to(DOCS).as_posix(), None, None, list[str]()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if fence is None:
            if fence := FENCE.match(line):
                code = []
            else:
                mark = MARK.match(line)
        elif line.strip() == "```":
            about = (mark[1], mark[2]) if mark else ("", "")
            yield Block(page, number - len(code), fence[1].strip(), "\n".join(code) + "\n", *about)
            fence = mark = None
        else:
            code.append(line)
    assert fence is None, f"{page}: a block has no end"


def list_pages() -> list[Path]:
    """Return the pages: the tutorial first, as a reader takes them, then the others by name."""
    pages = [path for path in sorted(DOCS.rglob("*.md")) if path.name not in NO_PROSE]
    return sorted(pages, key=lambda path: path.name != "tutorial.md")


BLOCKS = [block for path in list_pages() for block in iter_blocks(path)]
RUNNABLE = [block for block in BLOCKS if block.language in EXECUTED and block.mark != "not run"]


def add_options(line: str, block: Block) -> str:
    """Return a line of shell with the options of its block, or those that make a training small, if it trains.

    >>> add_options("bestiary train pictures", Block("a.md", 1, "sh", "", "run with", "--quiet"))
    'bestiary train pictures --quiet'
    """
    if not line.startswith("bestiary train "):
        return line
    if block.mark == "run with":
        return f"{line} {block.text}"
    is_small = block.page != "tutorial.md" and "--backbone" not in line and "--method" not in line
    return f"{line} {SMALL}" if is_small else line


# ---- A reader's folder ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, collection: SyntheticDataset) -> Path:
    """A folder as the reader has it: pictures by class, a table, camera traps with boxes, a graph, and new pictures."""
    folder = tmp_path_factory.mktemp("documentation")
    kinds = [kind for kind in sorted(collection.folder.iterdir()) if len(list(kind.iterdir())) >= 10]
    for kind in kinds:
        shutil.copytree(kind, folder / "pictures" / kind.name)
    for name in ("PICTURES", "other pictures"):
        shutil.copytree(folder / "pictures", folder / name)
    for kind in kinds[:2]:
        (folder / "forty" / kind.name).mkdir(parents=True)
        for path in sorted(kind.iterdir())[:20]:
            shutil.copy(path, folder / "forty" / kind.name)
    drawn = sorted(collection.kinds)
    (folder / "new").mkdir()
    for name in ("new/one.jpg", "new/two.jpg", "some.jpg"):
        shutil.copy(drawn[len(name)], folder / name)
    _write_tables(folder)
    _write_graph(folder / "features.onnx")
    return folder


def _write_tables(folder: Path) -> None:
    """Write `pictures.csv`, and `traps` with its table and the results of a detector: six cameras, bursts of two."""
    paths = sorted(path for path in (folder / "pictures").rglob("*") if path.is_file())
    (folder / "traps").mkdir()
    with (
        (folder / "pictures.csv").open("w", newline="") as table,
        (folder / "traps.csv").open("w", newline="") as traps,
    ):
        rows, shots = csv.writer(table), csv.writer(traps)
        rows.writerow(["path", "label"])
        shots.writerow(["File", "Species", "Camera", "Taken"])
        detections: list[dict[str, Any]] = []
        for number, path in enumerate(paths):
            name = f"{number:04}{path.suffix}"
            shutil.copy(path, folder / "traps" / name)
            rows.writerow([path.relative_to(folder).as_posix(), path.parent.name])
            taken = f"2026-05-{1 + number // 48:02} {number // 2 % 24:02}:00:{number % 2 * 20:02}"
            shots.writerow([name, path.parent.name, f"camera-{number // 2 % 6}", taken])
            box = {"category": "1", "conf": 0.9, "bbox": [0.1, 0.1, 0.8, 0.8]}
            detections.append({"file": name, "detections": [box]})
    about = {"format_version": "1.4", "detector": "drawn"}
    results = {"info": about, "detection_categories": {"1": "animal"}, "images": detections}
    (folder / "megadetector.json").write_text(json.dumps(results))


def _write_graph(path: Path) -> None:
    pytest.importorskip("onnx")
    importlib.import_module("foreign_graphs").draw_graph(path)


def _run_shell(block: Block, call: Call, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the lines of a block up to one that fails, and return what it says; "" if none does.

    Lines of other programs than bestiary are run by a shell.
    """
    for line in block.code.splitlines():
        program, *words = shlex.split(add_options(line, block))
        if program == "export":
            name, _, value = words[0].partition("=")
            monkeypatch.setenv(name, value.replace("/tmp", str(Path.cwd()), 1))  # nothing is left outside
        elif program == "bestiary":
            done = call(*expand_patterns(words))
            if done.code != 0 or "Traceback" in done.err or "cannot be read" in done.out:
                return f"{line}\nended with {done.code}: {done.err[-2000:]}"
        else:
            shell = subprocess.run(["sh", "-e", "-c", line], capture_output=True, text=True, check=False)
            if shell.returncode != 0:
                return f"{line}\nended with {shell.returncode}: {shell.stderr}"
    return ""


def _run_python(block: Block) -> str:
    """Run a snippet, and return its traceback; "" if it ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # snippets are short: they close no files
        try:
            exec(compile(block.code, block.name, "exec"), {"__name__": "__main__"})
        except Exception:
            return traceback.format_exc()
    return ""


@pytest.mark.slow
def test_every_command_and_snippet_runs(desk: Path, bestiary: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(desk)
    failures = []
    for block in RUNNABLE:
        with monkeypatch.context() as patch:
            says = _run_python(block) if block.language == "python" else _run_shell(block, bestiary, patch)
        if says:
            failures.append(f"{block.name}:\n{says}")
    assert not failures, "\n\n".join(failures)


def test_there_are_blocks_to_run_and_each_exception_has_a_reason() -> None:
    assert len(RUNNABLE) > 30
    skipped = [block for block in BLOCKS if block.mark == "not run"]
    assert len(skipped) < len(RUNNABLE) * 2 / 3
    assert all(len(block.text) > 10 for block in skipped)


def test_every_block_names_its_language() -> None:
    """A block without one would be neither run nor excused."""
    assert [block.name for block in BLOCKS if block.language not in LANGUAGES and block.language[:1] != "{"] == []


def test_commands_and_settings_that_pages_name_exist() -> None:
    settings = {setting.name for setting in list_settings()}
    for path in list_pages():
        text = path.read_text(encoding="utf-8")
        lines = [line for block in iter_blocks(path) if block.language == "sh" for line in block.code.splitlines()]
        named = [*re.findall(r"`(bestiary [^`]+)`", text), *(line for line in lines if line.startswith("bestiary "))]
        for command in re.findall(r"^bestiary ([a-z]+)", "\n".join(named), re.MULTILINE):
            assert command in COMMANDS, f"{path.name}: bestiary {command}"
        for name in re.findall(r"--set ['\"]?([a-z_]+\.[a-z_]+)=", text):
            assert name in {*settings, "section.key"}, f"{path.name}: {name}"


# ---- The built pages -----------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The ids of a page, its links, and what a browser loads with it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.assets: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value is not None}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical",):
            self.assets.append(values.get("href", ""))
        self.assets += [values[name] for name in ("src", "srcset", "poster", "data") if name in values]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built with warnings as errors."""
    for name in ("sphinx", "myst_parser", "pydata_sphinx_theme"):
        pytest.importorskip(name, reason="The documentation needs bestiary[docs].")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "-b", "html"]
    caches = ["-d", str(folder / "doctrees")]
    done = subprocess.run(
        [*command, *caches, str(DOCS), str(folder / "html")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}


@pytest.mark.slow
def test_the_site_asks_for_nothing_outside(site: Path, pages: dict[Path, Page]) -> None:
    assert len(pages) > 50
    outside = {address for page in pages.values() for address in page.assets if urlsplit(address).netloc}
    assert outside == set()
    for path in site.rglob("*.css"):
        addresses = re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")]+)", path.read_text(encoding="utf-8"))
        assert [address for address in addresses if urlsplit(address).netloc] == [], path


@pytest.mark.slow
def test_internal_links_lead_somewhere(pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            is_found = target in pages and (not address.fragment or unquote(address.fragment) in pages[target].ids)
            if not is_found and not (target.is_file() and target not in pages):
                broken.append(f"{path.name}: {link}")
    assert broken == []


@pytest.mark.slow
def test_every_page_is_in_the_navigation(site: Path, pages: dict[Path, Page]) -> None:
    """From the first page, by the links of the tables of contents alone, as the theme shows them."""
    sources = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    built = {path.relative_to(site).with_suffix("").as_posix() for path in pages}
    assert sources <= built
    reached, waiting = set(), [site / "index.html"]
    while waiting:
        path = waiting.pop()
        if path in reached or path not in pages:
            continue
        reached.add(path)
        waiting += [(path.parent / unquote(urlsplit(link).path)).resolve() for link in pages[path].links]
    assert {name for name in sources if site / f"{name}.html" not in reached} == set()


@pytest.mark.slow
def test_the_reference_is_whole(pages: dict[Path, Page], site: Path) -> None:
    import bestiary

    ids = pages[site / "reference" / "python.html"].ids
    assert [name for name in bestiary.__all__ if f"bestiary.{name}" not in ids and name != "__version__"] == []
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"bestiary-{name}" not in commands] == []
    settings = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    assert [setting.name for setting in list_settings() if setting.name not in settings] == []


@pytest.mark.slow
def test_search_and_dark_mode_work_from_the_disk(site: Path, browser: Any) -> None:
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / "search.html").as_uri() + "?q=bootstrap")
    page.wait_for_selector("#search-results li")
    page.goto((site / "statistics.html").as_uri())
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert [address for address in asked if not address.startswith(("file:", "data:", "blob:"))] == []
    context.close()
