"""A headless Chromium for tests of pages, and a watch over what a page does that it should not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@dataclass
class Watched:
    """A page with what it did: console errors and uncaught exceptions, dialogs, requests to other hosts."""

    page: Any
    errors: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def check_quiet(self) -> None:
        """Nothing in the console, no dialog, no request to a foreign host."""
        assert (self.errors, self.dialogs, self.foreign) == ([], [], [])


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's Chromium, driven by Playwright; the test is skipped, with the reason, where one is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    path = os.environ.get("BACKBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not path:
        pytest.skip("no Chromium: apt install chromium, or set BACKBENCH_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Watched]]:
    """Open an address in a context of its own: `open_page(address, width=390, javaScriptEnabled=False, ...)`."""
    contexts = []

    def open_one(address: str, *, width: int = 1280, height: int = 720, **options: Any) -> Watched:
        context = browser.new_context(
            viewport={"width": width, "height": height}, reduced_motion="reduce", **options
        )
        contexts.append(context)
        page = context.new_page()
        watched = Watched(page)
        home = address.partition("://")[2].partition("/")[0]

        def note_request(request: Any) -> None:
            scheme, _, rest = request.url.partition("://")
            if scheme in ("http", "https", "ws", "wss") and rest.partition("/")[0] != home:
                watched.foreign.append(request.url)

        def note_dialog(dialog: Any) -> None:
            watched.dialogs.append(dialog.message)
            dialog.dismiss()

        page.on("console", lambda said: watched.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: watched.errors.append(str(error)))
        page.on("dialog", note_dialog)
        page.on("request", note_request)
        page.goto(address)
        return watched

    yield open_one
    for context in contexts:
        context.close()
