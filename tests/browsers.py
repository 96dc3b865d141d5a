"""The browsers of the page tests: the system's Chromium and Firefox without a window, both driven by Playwright.

`SharedBrowsers` keeps them for the tests that follow one another: Firefox takes some seconds of a processor to start,
for each pair of preferences.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from typing import Any

import pytest

EXECUTABLES = {
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
    "firefox": ("firefox-esr", "firefox"),
}
PATIENCE_MILLISECONDS = 120_000


class Firefox:
    """Firefox by WebDriver BiDi, with the interface of Playwright's `Browser` as far as the tests use it.

    BiDi of the Firefox that distributions ship emulates neither a colour scheme nor a touch screen. Here they are
    preferences, each pair of them in a process of its own. There is no mobile layout: a phone is a window as narrow.
    """

    def __init__(self, playwright: Any, executable: str) -> None:
        self._playwright = playwright
        self._executable = executable
        self._processes: dict[tuple[bool, bool], Any] = {}

    def new_context(
        self, *, color_scheme: str = "light", has_touch: bool = False, is_mobile: bool = False, **options: Any
    ) -> Any:
        is_light = color_scheme == "light"
        if (is_light, has_touch) not in self._processes:
            self._processes[is_light, has_touch] = self._playwright.firefox.launch(
                channel="moz-firefox",  # by BiDi: Playwright's own protocol needs its patched Firefox
                executable_path=self._executable,
                timeout=PATIENCE_MILLISECONDS,
                firefox_user_prefs={
                    "layout.css.prefers-color-scheme.content-override": int(is_light),
                    "dom.maxtouchpoints.testing.value": 5 if has_touch else 0,
                },
            )
        return _patient(self._processes[is_light, has_touch].new_context(**options))

    def close(self) -> None:
        for process in self._processes.values():
            process.close()


class Chromium:
    """Chromium, with the interface of Playwright's `Browser` as far as the tests use it."""

    def __init__(self, playwright: Any, executable: str) -> None:
        self._process = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox"], timeout=PATIENCE_MILLISECONDS
        )

    def new_context(self, **options: Any) -> Any:
        return _patient(self._process.new_context(**options))

    def close(self) -> None:
        self._process.close()


def _patient(context: Any) -> Any:
    """Let a context wait long: a busy machine is no fault of a test."""
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    return context


class SharedBrowsers:
    """The browsers that the tests of this process share while they follow one another. No other event loop can run."""

    FIXTURE = "browser"

    def __init__(self) -> None:
        self._playwright: Any = None
        self._browsers: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        """Return a browser; skip the test, with a reason, if it is not installed or too old for Playwright."""
        playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (bestiary[dev])")
        executable = next(filter(None, map(shutil.which, EXECUTABLES[name])), None)
        if executable is None:
            pytest.skip(f"{name.capitalize()} is not installed (apt-get install {EXECUTABLES[name][0]})")
        if name not in self._browsers:
            playwright.expect.set_options(timeout=PATIENCE_MILLISECONDS)
            self._playwright = self._playwright or playwright.sync_playwright().start()
            self._browsers[name] = _launch(self._playwright, name, executable, playwright.Error)
        return self._browsers[name]

    def stop(self) -> None:
        """Close the browsers, and end Playwright's event loop."""
        while self._browsers:
            self._browsers.popitem()[1].close()
        if self._playwright is not None:
            self._playwright.stop()
            self._playwright = None

    def stop_before(self, fixtures: Collection[str]) -> None:
        """Close the browsers before a test with these fixtures if it takes none."""
        if self.FIXTURE not in fixtures:
            self.stop()


def _launch(playwright: Any, name: str, executable: str, error_type: type[Exception]) -> Any:
    if name == "chromium":
        return Chromium(playwright, executable)
    browser = Firefox(playwright, executable)
    try:
        browser.new_context().close()
    except error_type as error:
        browser.close()
        if "unknown command" in str(error):
            pytest.skip(f"{executable} is too old for Playwright, or Playwright too new for it: {error}")
        raise
    return browser


def is_firefox(browser: Any) -> bool:
    """Return whether a browser is Firefox."""
    return isinstance(browser, Firefox)


def tap(locator: Any) -> None:
    """Tap an element; click it in Firefox, where Playwright's taps do nothing by BiDi."""
    locator.click() if _runs_in_firefox(locator.page) else locator.tap()


def serious_violations(page: Any) -> list[str]:
    """Return the serious violations of accessibility that axe finds in a page, in Chromium; none in Firefox.

    Its rules look at the document and its computed styles, which are the same there, and take ten seconds for a report.
    """
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    violations = [] if _runs_in_firefox(page) else axe.run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][:2]}" for one in violations if one["impact"] in ("serious", "critical")]


def _runs_in_firefox(page: Any) -> bool:
    return bool(page.context.browser.browser_type.name == "firefox")
