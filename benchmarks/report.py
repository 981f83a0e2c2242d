"""The report of 20 runs on 10,000 test images: bytes, seconds to make it, and how long a browser takes to open it.

    python benchmarks/report.py [--rounds 5] [--out benchmarks/results/report.md]

Records and predictions are made up (`tests/reports.py`); pictures are noise of the size that the report embeds,
which JPEG compresses worst. Needs the dev extra and a Chromium. Browser times are by the page's own clock, from
the start of the navigation: least, median; the least is what other work on the machine disturbed least.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, sync_playwright

from backbench.explain.evidence import make_thumbnail
from backbench.report.page.inputs import Evidence, FeatureMap
from backbench.report.page.render import render_report
from backbench.report.page.view import wanted_images
from backbench.report.ranked import DataDetails, rank_runs

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]
from screenshots import FLAGS, find_chromium  # noqa: E402

from reports import make_runs  # noqa: E402

NUM_RUNS, NUM_IMAGES = 20, 10_000
CLOCK = """async () => {
  while (!performance.getEntriesByName("first-contentful-paint").length) {
    await new Promise((done) => setTimeout(done, 20));
  }
  const opened = performance.getEntriesByType("navigation")[0];
  const start = performance.now();
  document.querySelector("table.runs th button").click();
  document.body.getBoundingClientRect();
  return {
    "first paint": performance.getEntriesByName("first-contentful-paint")[0].startTime,
    "usable": opened.domContentLoadedEventEnd,
    "sort": performance.now() - start,
  };
}"""


def make_page(num_classes: int) -> tuple[str, float]:
    """The page, and the CPU-seconds from records and predictions to its text."""
    rng = np.random.default_rng(0)
    classes = [f"class {number:03d}" for number in range(num_classes)]
    runs = make_runs(np.linspace(0.93, 0.6, NUM_RUNS).tolist(), num_images=NUM_IMAGES, classes=classes)
    start = time.process_time()
    ranked = rank_runs(runs, DataDetails(num_openings=3))
    spent = time.process_time() - start
    noise = lambda: make_thumbnail(rng.integers(0, 255, (96, 128, 3), dtype=np.uint8))  # noqa: E731
    rows = np.arange(0, NUM_IMAGES, NUM_IMAGES // 600)
    evidence = Evidence(
        thumbnails={image: noise() for image in wanted_images(ranked)},
        maps=tuple(
            FeatureMap(entry.row.model, "t-SNE, seed 0", rows, rng.random((len(rows), 2)))
            for entry in ranked.candidates[:4]
        ),
    )
    start = time.process_time()
    page = render_report([ranked], [evidence])
    return page, spent + time.process_time() - start


def open_page(browser: Browser, path: Path, rounds: int) -> dict[str, str]:
    """Milliseconds of each mark, least and median."""
    found: list[dict[str, Any]] = []
    for _ in range(rounds):
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.goto(path.as_uri())
        found.append(page.evaluate(CLOCK))
        page.close()
    times = {mark: sorted(one[mark] for one in found) for mark in found[0]}
    return {mark: f"{values[0]:.0f}, {statistics.median(values):.0f}" for mark, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        "# The report",
        "",
        f"`python benchmarks/report.py --rounds {options.rounds}`, {time.strftime('%Y-%m-%d')}, Python "
        f"{platform.python_version()}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores. {NUM_RUNS} runs, "
        f"{NUM_IMAGES:,} test images, four maps, all pictures embedded.",
        "",
        "| classes | MB | made in, CPU-s | first paint, ms | usable, ms | sorted in, ms |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        for num_classes in (10, 20, 100, 500):
            page, spent = make_page(num_classes)
            path = Path(folder) / "report.html"
            path.write_text(page, encoding="utf-8")
            marks = open_page(browser, path, options.rounds)
            size = path.stat().st_size / 1e6
            shown = " | ".join(marks[mark] for mark in ("first paint", "usable", "sort"))
            lines.append(f"| {num_classes} | {size:.1f} | {spent:.1f} | {shown} |")
        browser.close()
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
