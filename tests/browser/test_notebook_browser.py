"""The pieces for notebooks in a real browser: nothing runs, nothing is fetched, readable on light and on dark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backbench.report.notebook import render_classifier, render_ranking, render_run
from backbench.report.ranked import rank_runs
from backbench.report.summary import Sentence
from reports import HOSTILE_NAMES, make_runs


def write_page(target: Path, *, page: str, text: str) -> str:
    """All three pieces, with hostile names, in a page of these colours; its address."""
    names = [f"{name}{row}" for row, name in enumerate(HOSTILE_NAMES)]
    runs = make_runs([0.9, 0.85, 0.5], classes=names, models=names[:3], data_name=names[0])
    ranked = replace(
        rank_runs(runs), warnings=HOSTILE_NAMES, sentences=tuple(Sentence(name, "lead") for name in HOSTILE_NAMES)
    )
    epochs = [
        {
            "epoch": float(n),
            "train_accuracy": 0.4 + n / 10,
            "train_loss": 1.2,
            "val_accuracy": 0.5,
            "val_loss": 1.0,
        }
        for n in (1, 2)
    ]
    history = {names[1]: {"best_epoch": 2, "ended": names[2], "history": epochs}}
    facts = runs[0].record.model
    assert facts is not None
    pieces = [
        render_ranking(ranked),
        render_run(replace(runs[0], history=history), Path(names[1])),
        render_classifier(facts, names, num_bytes=5, temperature=2.0, threshold=0.4, device="cpu"),
    ]
    style = f"background:{page};color:{text};margin:8px"
    body = f'<!doctype html><meta charset="utf-8"><body style="{style}">{"".join(pieces)}</body>'
    target.write_bytes(body.encode("utf-8", "backslashreplace"))
    return target.as_uri()


@pytest.mark.parametrize(
    ("page_colour", "text_colour"), [("#ffffff", "rgb(17, 17, 17)"), ("#111111", "rgb(221, 221, 221)")]
)
@pytest.mark.parametrize("width", [1280, 390])
def test_pieces_are_inert_and_take_the_colours_around_them(
    tmp_path: Path, open_page: Callable[..., Any], page_colour: str, text_colour: str, width: int
) -> None:
    address = write_page(tmp_path / "pieces.html", page=page_colour, text=text_colour)
    # the scheme of the system is the opposite of the notebook's: it must not matter
    scheme = "dark" if page_colour == "#ffffff" else "light"
    watched = open_page(address, width=width, color_scheme=scheme)
    page = watched.page
    assert page.locator(".backbench").count() == 3
    assert (
        page.locator("script, img, iframe, object, embed, a, link, form, input, base, meta[http-equiv]").count()
        == 0
    )
    for selector in (".backbench .lead", ".backbench tbody th", ".backbench dd", ".backbench li"):
        assert page.locator(selector).first.evaluate("e => getComputedStyle(e).color") == text_colour
    backgrounds = page.evaluate(
        "[...new Set([...document.querySelectorAll('.backbench, .backbench *')].map("
        "e => getComputedStyle(e).backgroundColor))]"
    )
    assert backgrounds == ["rgba(0, 0, 0, 0)"]
    assert page.locator(".whisker").first.evaluate("e => e.getBoundingClientRect().width") >= 100
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # a wide table scrolls in its own box
    watched.check_quiet()
