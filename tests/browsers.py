"""The browsers of the page tests: the system's Chromium and Firefox without a window, both driven by Playwright."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

EXECUTABLES = {
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
    "firefox": ("firefox-esr", "firefox"),
}


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
                firefox_user_prefs={
                    "layout.css.prefers-color-scheme.content-override": int(is_light),
                    "dom.maxtouchpoints.testing.value": 5 if has_touch else 0,
                },
            )
        return self._processes[is_light, has_touch].new_context(**options)

    def close(self) -> None:
        for process in self._processes.values():
            process.close()


@contextlib.contextmanager
def opened_browser(name: str) -> Iterator[Any]:
    """Yield a browser; skip the test, with a reason, if it is not installed or too old for Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (bestiary[dev])")
    executable = next(filter(None, map(shutil.which, EXECUTABLES[name])), None)
    if executable is None:
        pytest.skip(f"{name.capitalize()} is not installed (apt-get install {EXECUTABLES[name][0]})")
    with playwright.sync_playwright() as started:
        if name == "chromium":
            browser: Any = started.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        else:
            browser = Firefox(started, executable)
            try:
                browser.new_context().close()
            except playwright.Error as error:
                browser.close()
                if "unknown command" in str(error):
                    pytest.skip(f"{executable} is too old for Playwright, or Playwright too new for it: {error}")
                raise
        yield browser
        browser.close()


def tap(locator: Any) -> None:
    """Tap an element; click it in Firefox, where Playwright's taps do nothing by BiDi."""
    is_firefox = locator.page.context.browser.browser_type.name == "firefox"
    locator.click() if is_firefox else locator.tap()
