"""The report in a real browser: sorting, filtering, images, phones, hostile names, no scripts."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backbench.explain.evidence import make_thumbnail
from backbench.report.page.inputs import Evidence, FeatureMap
from backbench.report.page.render import render_report
from backbench.report.page.view import wanted_images
from backbench.report.ranked import DataDetails, rank_runs
from reports import HOSTILE_NAMES, make_failure, make_runs

pytestmark = pytest.mark.browser


def write_page(folder: Path, ranked, **changes) -> str:
    """A report with pictures and a map, as the address of a file."""
    picture = make_thumbnail(np.full((40, 60, 3), 90, np.uint8))
    rows = np.arange(len(ranked.ids))
    positions = np.random.default_rng(0).random((len(rows), 2))
    evidence = Evidence(
        thumbnails=dict.fromkeys(wanted_images(ranked), picture),
        maps=(FeatureMap(ranked.candidates[0].row.model, "pca", rows, positions),),
    )
    path = folder / "report.html"
    path.write_text(render_report([ranked], [replace(evidence, **changes)]), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    runs = make_runs((0.95, 0.8, 0.6, 0.4), classes=("cat", "dog", "owl", "fox"))
    ranked = rank_runs([*runs, make_failure()], DataDetails(num_openings=3))
    return write_page(tmp_path_factory.mktemp("page"), ranked)


def models(page) -> list[str]:
    return page.locator("table.runs tbody tr:visible th").all_inner_texts()


def test_a_heading_sorts_both_ways_and_says_so(open_page, address):
    watched = open_page(address)
    page = watched.page
    assert models(page)[:2] == ["model_0", "model_1"]
    page.get_by_role("button", name="Accuracy %").click()
    head = page.locator("th", has_text="Accuracy %").first
    assert head.get_attribute("aria-sort") == "descending"
    head.get_by_role("button").click()
    assert models(page)[0] == "colour"
    assert head.get_attribute("aria-sort") == "ascending"
    assert page.locator("[aria-sort]").count() == 1
    assert "lowest first" in page.locator("#said").inner_text()
    watched.check_quiet()


def test_the_filter_and_the_boxes_hide_rows_and_columns(open_page, address):
    watched = open_page(address)
    page = watched.page
    page.get_by_label("baselines").uncheck()
    assert "colour" not in models(page)
    page.get_by_label("Filter").fill("model_2")
    assert models(page) == ["model_2"]
    assert not page.get_by_role("button", name="Log loss").is_visible()
    page.get_by_label("all columns").check()
    assert page.get_by_role("button", name="Log loss").is_visible()
    watched.check_quiet()


def test_copies_are_markdown_and_csv_of_what_is_shown(open_page, address):
    watched = open_page(address, permissions=["clipboard-read", "clipboard-write"])
    page = watched.page
    page.get_by_label("Filter").fill("model_1")
    page.get_by_role("button", name="Copy as CSV").click()
    page.get_by_role("button", name="Copied").wait_for()
    lines = list(csv.reader(io.StringIO(page.evaluate("navigator.clipboard.readText()"))))
    assert [line[1] for line in lines] == ["Model", "model_1"]
    page.get_by_role("button", name="Copy as Markdown").click()
    page.wait_for_function("navigator.clipboard.readText().then(text => text.startsWith('| Rank'))")
    watched.check_quiet()


def test_a_cell_of_the_matrix_shows_its_images_and_an_image_opens(open_page, address):
    watched = open_page(address)
    page = watched.page
    total = page.locator(".wrong .card").count()
    page.get_by_text("All predictions of the best row as a matrix").click()
    cell = page.locator("button.cell").first
    truth, answer = (("cat", "dog", "owl", "fox")[int(at)] for at in cell.get_attribute("data-pair").split("|"))
    expected = int(cell.inner_text())
    cell.click()
    assert page.locator(".wrong .card:visible").count() == expected < total
    assert (
        page.locator(".of-cell").inner_text().startswith(f"{truth} taken for {answer}: {expected} of {expected}")
    )
    page.locator(".wrong .card:visible button.photo").first.click()
    dialog = page.locator("#viewer")
    assert f"true {truth}" in dialog.inner_text()
    assert answer in dialog.inner_text()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    page.get_by_role("button", name="Show all again").click()
    assert page.locator(".wrong .card[hidden]").count() == 0
    watched.check_quiet()


def test_a_drawn_cell_says_what_it_is_and_shows_an_image_even_of_a_rare_mistake(open_page, tmp_path):
    classes = [f"kind {number}" for number in range(16)]
    runs = make_runs((0.1, 0.05), classes=classes, num_images=800, has_control=False)
    watched = open_page(write_page(tmp_path, rank_runs(runs)))
    page = watched.page
    page.get_by_text("All predictions of the best row as a matrix").click()
    shown = {card.get_attribute("data-pair") for card in page.locator(".wrong .card").all()}
    cells = {cell.get_attribute("data-pair"): cell for cell in page.locator(".cells rect:not(.same)").all()}
    assert len(cells) > len(shown) > 48  # one for each kind of mistake, as far as the page goes
    pair = next(pair for pair in cells if pair in shown)
    truth, answer = (classes[int(at)] for at in pair.split("|"))
    cells[pair].hover()
    assert f"{truth} taken for {answer}: {cells[pair].get_attribute('data-n')}." in page.inner_text(".pointed-at")
    cells[pair].click()
    assert {card.get_attribute("data-pair") for card in page.locator(".wrong .card:visible").all()} == {pair}
    cells[next(pair for pair in cells if pair not in shown)].click()
    assert "none of" in page.inner_text(".of-cell")
    watched.check_quiet()


def test_the_map_names_the_point_under_the_pointer_and_points_out_a_class(open_page, address):
    watched = open_page(address)
    page = watched.page
    page.locator(".highlight").select_option("owl")
    assert page.locator("path.pointed").count() == 1
    page.locator(".map-frame").scroll_into_view_if_needed()
    box = page.locator(".map-frame").bounding_box()
    x, y, label = page.evaluate("""() => {
        const data = JSON.parse(document.querySelector("script.data").textContent);
        return [data.maps[0].x[0] / 1000, data.maps[0].y[0] / 1000, data.classes[data.maps[0].class[0]]];
    }""")
    page.mouse.move(box["x"] + (0.02 + 0.96 * x) * box["width"], box["y"] + (0.98 - 0.96 * y) * box["height"])
    assert label in page.locator(".tip").inner_text()
    watched.check_quiet()


def test_the_keyboard_alone_reaches_the_verdict_sorts_and_opens_an_image(open_page, address):
    watched = open_page(address)
    page = watched.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    page.locator("th button.sort").nth(3).focus()
    page.keyboard.press("Enter")
    assert page.locator("[aria-sort=descending]").count() == 1
    page.locator(".wrong button.photo").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#viewer").is_visible()
    watched.check_quiet()


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_no_width_scrolls_sideways(open_page, address, width):
    watched = open_page(address, width=width, height=800)
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    watched.check_quiet()


def test_the_first_screen_holds_verdict_boxes_and_plot_on_a_desktop(open_page, address):
    page = open_page(address).page
    for part in (".first h1", ".first .ranking", ".first .boxes"):
        box = page.locator(part).bounding_box()
        assert box["y"] + box["height"] <= 720


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_schemes_and_the_switch_turns_it(open_page, address, scheme):
    watched = open_page(address, color_scheme=scheme)
    page = watched.page
    faint = page.evaluate(CONTRASTS)
    assert faint == []
    before = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != before
    watched.check_quiet()


CONTRASTS = """() => {
  const light = (text) => {
    const parts = text.match(/[\\d.]+/g).map(Number);
    const [r, g, b] = parts.map((v) => v / 255)
      .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!/^rgba.*, 0\\)$/.test(colour) && colour !== "transparent") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  const texts = "p, li, td, th, dt, dd, h1, h2, h3, a, button, summary, figcaption";
  for (const node of document.querySelectorAll(texts)) {
    if (!node.offsetParent || !node.textContent.trim()) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push(node.tagName + ": " + node.textContent.trim().slice(0, 40));
  }
  return found;
}"""


def test_without_scripts_everything_is_there(open_page, address):
    watched = open_page(address, java_script_enabled=False)
    page = watched.page
    assert models(page) == ["model_0", "model_1", "model_2", "model_3", "colour", "broken"]
    assert page.get_by_text("Log loss").first.is_visible()  # no column is hidden where nothing could show it
    assert not page.get_by_text("Copy as CSV").is_visible()
    page.locator(".pairs summary").first.click()
    assert page.locator(".pairs .thumb").first.is_visible()
    watched.check_quiet()


def test_sixty_hostile_names_open_no_dialog_and_inject_nothing(open_page, tmp_path):
    runs = make_runs(
        (0.3,) * 6,
        classes=HOSTILE_NAMES,
        num_images=2 * len(HOSTILE_NAMES),
        models=HOSTILE_NAMES[:6],
        image_name="{label}/{number}",
        data_name=HOSTILE_NAMES[0],
    )
    details = DataDetails(skipped=tuple((name, name) for name in HOSTILE_NAMES), warnings=HOSTILE_NAMES)
    address = write_page(tmp_path, rank_runs(runs, details), notes=HOSTILE_NAMES)
    watched = open_page(address)
    page = watched.page
    for box in page.locator("details").all():
        box.evaluate("node => { node.open = true; }")
    page.locator(".wrong button.photo").first.click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Accuracy %").click()
    assert page.evaluate("document.scripts.length") == 2
    injected = "iframe, object, embed, base, form:not([method=dialog]), math, template, meta[http-equiv=refresh]"
    assert page.locator(injected).count() == 0
    attributes = """() => [...document.querySelectorAll("*")].flatMap(node => [...node.attributes])
        .filter(one => one.name.startsWith("on") || one.name === "style" || one.name === "autofocus").length"""
    assert page.evaluate(attributes) == 0
    assert "<img src=x onerror=alert(1)>" in page.inner_text("body")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    watched.check_quiet()


def test_a_printed_page_shows_the_pair_tests_and_no_buttons(open_page, address):
    page = open_page(address).page
    page.emulate_media(media="print")
    assert not page.get_by_role("button", name="Copy as CSV").is_visible()
    assert page.locator("table.versus").is_visible()
    assert len(page.pdf()) > 10_000
