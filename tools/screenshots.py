"""Pictures of the report and of the serving page, light and dark, desktop and phone.

    python tools/screenshots.py REPORT.html OUT --serve RUN.bundle OTHER.bundle
    python tools/screenshots.py REPORT.html OUT --ranking      the ranking plot alone, as ranking.png

Needs the dev extra and a Chromium (`apt install chromium`, or the path in BACKBENCH_CHROMIUM).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

SIZES = {"desktop": (1280, 720), "phone": (390, 844), "narrow": (320, 700)}
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def find_chromium() -> str:
    """The browser to use. SystemExit, with what to do, where there is none."""
    found = os.environ.get("BACKBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        raise SystemExit("no Chromium here: apt install chromium, or set BACKBENCH_CHROMIUM to its path.")
    return found


def take_pictures(
    browser: Browser, address: str, out: Path, name: str, prepare: Callable[[Page], None] | None = None
) -> list[Path]:
    """The first screen and the whole page in each size and colour scheme, after `prepare` acted on the page."""
    taken = []
    for size, (width, height) in SIZES.items():
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
            )
            page = context.new_page()
            page.goto(address, wait_until="networkidle")
            if prepare is not None:
                prepare(page)
            for part in ("first", "whole"):
                path = out / f"{name}-{size}-{scheme}-{part}.png"
                page.screenshot(path=path, full_page=part == "whole")
                taken.append(path)
            context.close()
    return taken


def take_ranking(browser: Browser, address: str, out: Path) -> Path:
    """The plot of the first ranking on the page, with a margin, sharp on dense screens."""
    context = browser.new_context(viewport={"width": 1500, "height": 900}, device_scale_factor=2)
    page = context.new_page()
    page.goto(address, wait_until="networkidle")
    box = page.locator("figure.ranking").first.bounding_box()
    assert box is not None
    margin = 16
    clip = {"x": box["x"] - margin, "y": box["y"] - margin}
    page.screenshot(
        path=out / "ranking.png",
        clip=clip | {"width": box["width"] + 2 * margin, "height": box["height"] + 2 * margin},
    )
    context.close()
    return out / "ranking.png"


def compare_models(page: Page) -> None:
    """All models side by side on the first sample, with where they look."""
    page.click("#compare")
    page.wait_for_selector("#answer:not([aria-busy])")
    page.check("#heat-on")
    page.locator(".card .heat").nth(page.locator(".card").count() - 1).wait_for()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", help="an HTML file, or the address of a page that is being served")
    parser.add_argument("out", type=Path, help="folder for the pictures")
    parser.add_argument("--name", default="report", help="beginning of the file names")
    parser.add_argument(
        "--serve", nargs="+", default=[], metavar="BUNDLE", help="serve these, and take that page too"
    )
    parser.add_argument("--ranking", action="store_true", help="take the ranking plot alone")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    address = given.page if "://" in given.page else Path(given.page).resolve().as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        if given.ranking:
            taken = [take_ranking(browser, address, given.out)]
        else:
            taken = take_pictures(browser, address, given.out, given.name)
        if given.serve:
            with serving(given.serve) as address:
                taken += take_pictures(browser, address, given.out, "serve")
                if len(given.serve) > 1:
                    taken += take_pictures(browser, address, given.out, "serve-compared", compare_models)
        print("\n".join(map(str, taken)))
        browser.close()


@contextmanager
def serving(bundles: list[str]) -> Iterator[str]:
    """The address of `backbench serve` with these bundles, while the block runs."""
    command = [sys.executable, "-m", "backbench", "serve", *bundles, "--port", "0", "--no-inbox", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            said = ""
            while not said.endswith("}\n"):  # one document over several lines, as soon as requests are answered
                said += server.stdout.readline()
            yield json.loads(said)["url"]
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
