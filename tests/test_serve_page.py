"""The page in a browser: predictions by mouse, keyboard and touch; nothing on the console."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("playwright", reason="Playwright is not installed (bestiary[dev])")

from playwright import sync_api as playwright

from bestiary.class_thresholds import ClassThreshold, as_bundle_values
from bestiary.inference.bundle import read_bundle
from browsers import serious_violations
from served import served
from tiny_model import coloured, write_run

pytestmark = pytest.mark.slow
WIDE = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DROP = """async (names) => {
    const carried = new DataTransfer();
    for (const [name, base64] of names) {
        const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
        carried.items.add(new File([bytes], name, { type: "image/png" }));
    }
    const event = EVENT;
    window.dispatchEvent(event);
}"""
AS_DROP = DROP.replace("EVENT", 'new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true })')
# Firefox ignores `clipboardData` in the constructor, and its clipboard without a window holds no pictures.
AS_PASTE = DROP.replace(
    "EVENT", 'Object.defineProperty(new ClipboardEvent("paste"), "clipboardData", { value: carried })'
)
LARGE = """(bytes) => {
    const carried = new DataTransfer();
    carried.items.add(new File([new Uint8Array(bytes)], "large.png", { type: "image/png" }));
    const input = document.querySelector("#files");
    input.files = carried.files;
    input.dispatchEvent(new Event("change"));
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(write_run(tmp_path_factory.mktemp("model") / "colours"), "--quiet") as (address, _):
        yield address


@pytest.fixture(scope="module")
def token_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(write_run(tmp_path_factory.mktemp("token") / "colours"), "--quiet", "--token", "sesame") as (
        address,
        _,
    ):
        yield address


@pytest.fixture(scope="module")
def threshold_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server whose model answers red only where it is nearly certain."""
    run = write_run(tmp_path_factory.mktemp("threshold") / "colours")
    chosen = ClassThreshold(0.95, 0.999, is_met=True, predicted=30, answered=25, correct=24, low=0.8, high=0.99)
    replace(read_bundle(run), class_thresholds=as_bundle_values({"red": chosen})).write(run)
    with served(run, "--quiet") as (address, _):
        yield address


@pytest.fixture(scope="module")
def plain_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server whose model has no exact heatmaps."""
    run = write_run(tmp_path_factory.mktemp("plain") / "colours")
    replace(read_bundle(run), no_heatmap="its features are its class token").write(run)
    with served(run, "--quiet") as (address, _):
        yield address


@pytest.fixture
def new_context(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a context, which is closed after the test."""
    contexts: list[Any] = []

    def make(**options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        return contexts[-1]

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def console() -> list[str]:
    """Messages on the console; the page fixture requires that there are none."""
    return []


@pytest.fixture
def new_page(new_context: Callable[..., Any], address: str, console: list[str]) -> Iterator[Any]:
    def make(**options: Any) -> Any:
        page = new_context(**(options or WIDE)).new_page()
        page.on("console", lambda message: console.append(message.text))
        page.on("pageerror", lambda error: console.append(str(error)))
        page.goto(address)
        playwright.expect(page.locator("#classes")).to_contain_text("blue, green, red")
        return page

    yield make
    assert console == []


def sent(*names: str) -> list[dict[str, Any]]:
    return [{"name": f"{name}.png", "mimeType": "image/png", "buffer": coloured(name)} for name in names]


def encoded(*names: str) -> list[list[str]]:
    import base64

    return [[f"{name}.png", base64.b64encode(coloured(name)).decode()] for name in names]


def labels(page: Any, count: int) -> list[str]:
    playwright.expect(page.locator(".card")).to_have_count(count)
    playwright.expect(page.locator(".wait")).to_have_count(0)
    return [str(text).split("\n")[0] for text in page.locator(".label").all_inner_texts()]


def test_dropped_pictures_get_predictions_in_order(new_page: Any) -> None:
    page = new_page()
    page.evaluate(AS_DROP, encoded("red", "blue", "grey"))
    assert labels(page, 3) == ["red", "blue", "Unknown"]
    assert page.locator(".card").nth(0).locator(".probabilities li").first.inner_text().split()[0] == "red"
    assert "Unlike every class" in page.locator(".card").nth(2).inner_text()
    page.evaluate(AS_PASTE, encoded("green"))
    assert labels(page, 4) == ["green", "red", "blue", "Unknown"]
    assert page.locator("#count").inner_text() == "4 pictures"


def test_the_heatmap_can_be_shown_and_hidden(new_page: Any) -> None:
    page = new_page()
    page.set_input_files("#files", sent("red"))
    assert labels(page, 1) == ["red"]
    canvas, button = page.locator("canvas"), page.get_by_role("button", name="Show heatmap")
    playwright.expect(canvas).to_be_hidden()
    button.click()
    playwright.expect(canvas).to_be_visible()
    picture = page.locator(".picture img").bounding_box()
    assert canvas.bounding_box() == pytest.approx(picture, abs=1)
    drawn = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((x) => x > 0)"
    assert canvas.evaluate(drawn)
    page.get_by_role("button", name="Hide heatmap").click()
    playwright.expect(canvas).to_be_hidden()


def test_everything_works_by_keyboard(new_page: Any) -> None:
    page = new_page()
    page.set_input_files("#files", sent("red", "blue"))
    assert labels(page, 2) == ["red", "blue"]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the predictions"
    seen = []
    for _ in range(7):  # to the last control; from there Firefox goes on to its own address bar
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent"))
    for name in ("Choose pictures", "Remove all", "Show heatmap", "Remove red.png", "Remove blue.png"):
        assert name in seen
    page.get_by_role("button", name="Remove red.png").press("Enter")
    assert labels(page, 1) == ["blue"]
    assert page.evaluate("document.activeElement.ariaLabel") == "Remove blue.png"
    page.get_by_role("button", name="Remove blue.png").press("Space")
    assert page.evaluate("document.activeElement.textContent") == "Choose pictures"


def test_a_screen_reader_announces_the_prediction(new_page: Any) -> None:
    page = new_page()
    page.set_input_files("#files", sent("red"))
    labels(page, 1)
    assert page.get_by_role("status").inner_text().startswith("red.png: red, ")
    page.set_input_files("#files", sent("grey"))
    labels(page, 2)
    assert "unknown" in page.get_by_role("status").inner_text()


@pytest.mark.parametrize("options", [WIDE, PHONE, {**WIDE, "color_scheme": "dark"}], ids=["wide", "phone", "dark"])
def test_the_page_fits_and_is_accessible(new_page: Any, options: dict[str, Any]) -> None:
    page = new_page(**options)
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is ("color_scheme" in options)
    assert serious_violations(page) == []
    page.set_input_files("#files", sent("red", "blue", "grey"))
    labels(page, 3)
    page.get_by_role("button", name="Show heatmap").first.click()
    playwright.expect(page.locator("canvas").first).to_be_visible()
    page.wait_for_timeout(400)  # until the cards are opaque: axe measures contrast
    assert serious_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("#photograph").is_visible() is bool(options.get("has_touch"))


def test_a_file_that_is_not_a_picture_shows_an_error_on_its_card(new_page: Any) -> None:
    page = new_page()
    page.set_input_files("#files", [{"name": "bad.png", "mimeType": "image/png", "buffer": b"no picture"}])
    assert labels(page, 1) == ["No prediction"]
    assert "not a picture" in page.locator(".note").inner_text()
    page.set_input_files("#files", [{"name": "film.mp4", "mimeType": "video/mp4", "buffer": b"no picture"}])
    assert labels(page, 2) == ["No prediction", "No prediction"]
    assert page.locator(".note").first.inner_text() == "This file is not a picture."
    assert page.get_by_role("button", name="Try again").count() == 1


def test_what_is_too_large_is_not_sent(new_page: Any) -> None:
    page = new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.evaluate(LARGE, 32_000_000)
    assert labels(page, 1) == ["No prediction"]
    assert "at most 31 MB" in page.locator(".note").inner_text()
    assert [url for url in requests if "predict" in url] == []


def test_the_api_documentation_loads_nothing_from_other_sites(new_page: Any, address: str) -> None:
    page = new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"{address}docs")
    playwright.expect(page.get_by_role("heading", name="Classify pictures")).to_be_visible()
    assert all(url.startswith((address, "data:")) for url in requests)
    assert serious_violations(page) == []


def test_the_token_is_asked_for_and_kept(new_context: Callable[..., Any], token_address: str) -> None:
    page = new_context().new_page()
    console: list[str] = []
    page.on("console", lambda message: console.append(message.text))
    page.goto(token_address.partition("#")[0])
    playwright.expect(page.get_by_label("This server requires a token")).to_be_visible()
    assert console == []
    for word, error in (("wrong", "Wrong token."), ("sesame", "")):
        page.get_by_label("This server requires a token").fill(word)
        page.get_by_role("button", name="Continue").click()
        playwright.expect(page.locator("#token-error")).to_have_text(error)
    playwright.expect(page.locator("#classes")).to_contain_text("red")
    page.reload()
    playwright.expect(page.locator("#classes")).to_contain_text("red")
    second = new_context().new_page()
    second.goto(token_address)
    playwright.expect(second.locator("#classes")).to_contain_text("red")
    assert "sesame" not in second.url


def test_a_picture_below_the_threshold_of_its_class_says_so(
    new_context: Callable[..., Any], threshold_address: str
) -> None:
    page = new_context(**WIDE).new_page()
    page.goto(threshold_address)
    playwright.expect(page.locator("#classes")).to_contain_text("red")
    page.evaluate(AS_DROP, encoded("red", "green", "grey"))
    assert labels(page, 3) == ["Unknown", "green", "Unknown"]
    notes = [page.locator(".card").nth(number).inner_text() for number in (0, 2)]
    assert "Less probable than the threshold of its class. The nearest class is red." in notes[0]
    assert "Unlike every class" in notes[1]


def test_a_model_without_exact_heatmaps_says_so(new_context: Callable[..., Any], plain_address: str) -> None:
    page = new_context(**WIDE).new_page()
    page.goto(plain_address)
    playwright.expect(page.locator("#classes")).to_contain_text("red")
    page.set_input_files("#files", sent("red"))
    assert labels(page, 1) == ["red"]
    legend = page.locator(".card .legend")
    expected = "No heatmaps: an exact one is not possible for tiny, as its features are its class token."
    playwright.expect(legend).to_have_text(expected)
    assert page.get_by_role("button", name="Show heatmap").count() == 0
    assert serious_violations(page) == []
