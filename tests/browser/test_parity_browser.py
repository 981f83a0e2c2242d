"""The page fetches what Python answers for fifty images of mixed formats, and shows it rounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import backbench
from browser.test_serve_browser import NAMES, Server, make_bundle, start, wait_for_answer
from mixed_images import write_mixed_images

TOLERANCE = 1e-6
NUM_IMAGES = 50


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("parity") / "one.bundle", NAMES, 0, "ant")


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Server]:
    yield from start([bundle], bundle.parent / "inbox")


def shown_shares(confidence: float) -> set[str]:
    """How the page may show it: whole percents; of a value on the edge of two, either."""
    found = set()
    for near in (confidence - TOLERANCE, confidence + TOLERANCE):
        whole = math.floor(100 * near + 0.5)
        found.add(">99" if whole >= 100 else "<1" if whole < 1 else str(whole))
    return found


def test_the_page_fetches_and_shows_what_python_answers(
    server: Server, bundle: Path, tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    paths = write_mixed_images(tmp_path / "mixed", NUM_IMAGES)
    expected = {Path(answer.path).name: answer for answer in backbench.load(bundle).predict(paths, top=len(NAMES))}
    watched = open_page(server.url)
    page = watched.page
    wait_for_answer(page)
    responses: list[Any] = []
    page.on("response", lambda response: responses.append(response))
    page.set_input_files("#files", [str(path) for path in paths])
    page.wait_for_selector(f"#batch:has-text('{NUM_IMAGES} of {NUM_IMAGES} answered')")
    fetched = {}
    for response in responses:
        if response.url.endswith("/api/predict"):
            (entry,) = response.json()["predictions"]
            fetched[entry["path"]] = entry
    names = page.locator("#batch tbody td:first-child").all_inner_texts()
    cells = page.locator("#batch tbody td:nth-child(2)").all_inner_texts()
    shown = dict(zip((name.strip() for name in names), cells, strict=True))
    assert fetched.keys() == shown.keys() == expected.keys()
    for name, answer in expected.items():
        known = dict(answer.top)
        told = {best["label"]: best["confidence"] for best in fetched[name]["top"]}
        assert fetched[name]["label"] == answer.label
        assert max(abs(told[label] - known[label]) for label in told) <= TOLERANCE, name
        assert answer.confidence is not None
        assert shown[name].split(",")[0] in {
            f"{answer.label} {share}" for share in shown_shares(answer.confidence)
        }
    watched.check_quiet()
