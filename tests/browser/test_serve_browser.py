"""The page to try models in a real browser: answers, mistakes, phones, keys, hostile names and hostile pages."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image

from backbench.classifier.bundle import write_bundle
from backbench.classifier.classifier import Classifier
from backbench.classifier.gallery import Gallery, Sample, to_jpeg
from backbench.classifier.strangeness import Strangeness
from backbench.heads.head_modules import make_linear
from backbench.registry import find_model
from backbench.report.text import in_csv
from backbench.serve.app import make_app
from backbench.serve.inbox import list_entries
from backbench.serve.models import load_models

NAMES = ("ant", "bee", "cow", "dog", "eel", "fly", "gnu")
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    '"><svg onload=alert(1)>',
    "'-alert(1)-'",
    "javascript:alert(1)",
    "{{7*7}}",
    "${7*7}",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "@SUM(1)",
    "-1",
    "\x1b[31mred",
    "\u202egnp.exe",
    "a\u200bb",
    "<b>bold</b>",
    "&lt;i&gt;",
    "<!--",
    "]]>",
    "<iframe src=//evil.example>",
    "<a href=//evil.example>a</a>",
    "<style>*{display:none}</style>",
    "<base href=//evil.example>",
    "<meta http-equiv=refresh content=0>",
    "\\",
    "`",
    "x" * 10_000,
    "\ufeff",
    "%3Cscript%3E",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "onmouseover=alert(1)",
    "\n\n",
    "\t",
    "NUL",
    "CON",
    "..",
    "/etc/passwd",
    "data:text/html,<script>alert(1)</script>",
    "<details open ontoggle=alert(1)>",
    "<video src=x onerror=alert(1)>",
    "<object data=//evil.example>",
    "url(//evil.example)",
    "<template><script>alert(1)</script></template>",
    "<link rel=stylesheet href=//evil.example>",
    "😀",
    "مرحبا",
    "{%raw%}",
    "<x onclick=alert(1)>",
    "<embed src=//evil.example>",
    "<input autofocus onfocus=alert(1)>",
    "__proto__",
    "constructor",
    "toString",
    "<marquee onstart=alert(1)>",
    "<body onload=alert(1)>",
    "\u2028alert(1)",
    "';alert(1);//",
    "<svg/onload=alert(1)>",
    "<<script>alert(1)//<</script>",
    "<img src=//evil.example/x.png>",
    "null",
]


@dataclass
class Server:
    url: str
    inbox: Path


def make_bundle(folder: Path, names: tuple[str, ...], seed: int, label: str, threshold: float = 0.0) -> Path:
    backbone = find_model("tiny_cnn").load(0)
    head = make_linear(backbone.facts.dim, len(names), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        head.get_parameter("weight").mul_(20)
    rng = np.random.default_rng(seed)
    pictures = [to_jpeg(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8), 96, 75) for _ in range(7)]
    gallery = Gallery(
        features=rng.normal(size=(4, backbone.facts.dim)).astype(np.float16),
        ids=tuple(f"{label}/{row}" for row in range(4)),
        labels=(label, *names[:3]),
        thumbnails=tuple(pictures[:4]),
        samples=tuple(Sample(f"{label}/s{row}", label, picture) for row, picture in enumerate(pictures[4:])),
    )
    classifier = Classifier(backbone, head, names, temperature=1.3, threshold=threshold)
    dim = backbone.facts.dim
    classifier.strangeness = Strangeness(np.zeros((1, dim)), np.zeros(dim), np.ones(dim), np.full(2, 1e-9))
    return write_bundle(folder, classifier, gallery=gallery)


def start(bundles: list[Path], inbox: Path) -> Iterator[Server]:
    models = load_models(bundles, device="cpu")
    listening = socket.create_server(("127.0.0.1", 0))
    made = make_app(models, max_image_bytes=2_000_000, inbox=inbox)
    server = uvicorn.Server(uvicorn.Config(made, log_level="error", ws="none", lifespan="off"))
    # A test that fails does not come back to end it.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield Server(f"http://127.0.0.1:{listening.getsockname()[1]}/", inbox)
    server.should_exit = True
    thread.join(30)
    listening.close()
    for model in models:
        model.batcher.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("serve")
    bundles = [
        make_bundle(root / f"{name}.bundle", NAMES, seed, "ant") for seed, name in enumerate(("one", "two"))
    ]
    bundles.append(make_bundle(root / "careful.bundle", NAMES, 2, "bee", threshold=1.0))
    yield from start(bundles, root / "inbox")


@pytest.fixture
def images(tmp_path: Path) -> dict[str, str]:
    """Files to upload, by what they are."""
    rng = np.random.default_rng(5)
    good = Image.fromarray(rng.integers(0, 255, (60, 90, 3), dtype=np.uint8))
    out = io.BytesIO()
    good.save(out, "JPEG")
    made = {"good.jpg": out.getvalue(), "broken.jpg": out.getvalue()[:900], "text.png": b"no image at all"}
    made["heavy.jpg"] = out.getvalue() + b"\0" * 2_000_000
    wide = io.BytesIO()
    Image.new("1", (5100, 5000)).save(wide, "PNG")
    made["wide.png"] = wide.getvalue()
    good.rotate(180).save(other := io.BytesIO(), "JPEG")
    made["other.jpg"] = other.getvalue()
    good.save(undrawn := io.BytesIO(), "TIFF")  # which Chromium does not draw
    made["undrawn.tiff"] = undrawn.getvalue()
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    return {name: str(tmp_path / name) for name in made}


def wait_for_answer(page: Any) -> str:
    page.wait_for_selector("#answer:not([aria-busy]) #detail:not(.waiting) .label")
    return str(page.locator("#detail .label").inner_text())


def chips(page: Any) -> list[str]:
    """The models' names, as the page shows them."""
    return [text.strip() for text in page.locator("#models button:not(#compare)").all_inner_texts()]


def upload(page: Any, *paths: str) -> str:
    page.set_input_files("#files", list(paths))
    page.wait_for_selector(f"#caption:has-text('{Path(paths[0]).name}')")
    return wait_for_answer(page)


def test_the_first_screen_answers_a_sample_and_asks_no_one_else(
    server: Server, open_page: Callable[..., Any]
) -> None:
    watched = open_page(server.url, height=800)
    assert wait_for_answer(watched.page) in NAMES
    assert "by its label" in watched.page.locator("#detail").inner_text()
    assert watched.page.locator("#sample-list img").count() == 3
    assert watched.page.locator(".dot-row:visible").count() == 5
    assert watched.page.locator(".near img").count() == 3
    assert not watched.page.locator(".verdict").count()  # test images are not for the inbox
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= 1280
    watched.check_quiet()


def test_good_broken_and_huge_files_are_answered_in_words(
    server: Server, images: dict[str, str], open_page: Callable[..., Any]
) -> None:
    watched = open_page(server.url)
    page = watched.page
    wait_for_answer(page)
    assert upload(page, images["good.jpg"]) in NAMES
    assert "unlike the training images" in page.locator("#detail").inner_text()
    for name, said in (
        ("broken.jpg", "ends too early"),
        ("text.png", "not an image of a known format"),
        ("heavy.jpg", "at most 2.0 MB"),
        ("wide.png", "at most 25 million"),
    ):
        assert upload(page, images[name]) == "No answer"
        assert said in page.locator("#detail").inner_text()
    assert upload(page, images["good.jpg"]) in NAMES
    watched.check_quiet()


def test_models_switch_and_compare_on_the_same_image(
    server: Server, images: dict[str, str], open_page: Callable[..., Any]
) -> None:
    watched = open_page(server.url)
    page = watched.page
    wait_for_answer(page)
    upload(page, images["good.jpg"])
    page.keyboard.press("3")
    page.wait_for_selector("#detail:has-text('careful')")
    assert wait_for_answer(page).startswith("not sure: ")
    page.click("#compare")
    page.wait_for_selector(".agreement")
    page.wait_for_selector("#answer:not([aria-busy])")
    assert page.locator(".row").count() == 3
    sentence = page.locator(".agreement").inner_text()
    assert "say" in sentence or "disagree" in sentence
    assert "good.jpg" in page.locator("#caption").inner_text()
    page.locator(".row").nth(1).click()
    page.wait_for_selector("#detail:has-text('two')")
    watched.check_quiet()


SLOW = """what => {
  const quick = window.fetch;
  window.fetch = async (...request) => {
    if (String(request[0]).includes(what)) await new Promise((done) => setTimeout(done, 1200));
    return quick(...request);
  };
}"""


def test_nothing_can_be_judged_while_the_answer_shown_is_of_another_image(
    server: Server, images: dict[str, str], open_page: Callable[..., Any]
) -> None:
    watched = open_page(server.url)
    page = watched.page
    wait_for_answer(page)
    upload(page, images["good.jpg"])
    before = list(server.inbox.glob("*"))
    page.evaluate(SLOW, "/api/predict")
    page.set_input_files("#files", images["other.jpg"])
    page.wait_for_selector("#caption:has-text('other.jpg')")
    page.keyboard.press("y")
    assert page.locator("#detail.waiting").count() == 1
    assert page.evaluate("document.getElementById('detail').inert")
    wait_for_answer(page)
    assert not page.evaluate("document.getElementById('detail').inert")
    assert list(server.inbox.glob("*")) == before
    watched.check_quiet()


def test_a_sample_that_comes_late_does_not_replace_a_later_choice(
    server: Server, images: dict[str, str], open_page: Callable[..., Any]
) -> None:
    watched = open_page(server.url)
    page = watched.page
    wait_for_answer(page)
    page.evaluate(SLOW, "/samples/1")
    page.locator("#sample-list button").nth(1).click()
    upload(page, images["good.jpg"])
    page.wait_for_timeout(1600)
    assert "good.jpg" in page.locator("#caption").inner_text()
    watched.check_quiet()


def test_keys_stay_where_they_were_when_a_list_is_drawn_anew(
    server: Server, open_page: Callable[..., Any]
) -> None:
    page = open_page(server.url).page
    wait_for_answer(page)
    page.locator("#models button").nth(1).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail:has-text('two')")
    assert page.evaluate("document.activeElement.title").startswith("two")
    page.locator("#sample-list button").nth(2).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#caption:has-text('test image 3')")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"


def test_who_is_not_sure_is_not_counted_as_saying_something(server: Server, open_page: Callable[..., Any]) -> None:
    page = open_page(server.url).page
    wait_for_answer(page)
    said = page.evaluate("""async () => {
        const { sayAgreement } = await import("/page/words.js");
        const of = (label, unsure) => ({ label, unsure });
        return [
            sayAgreement([of("a", true), of("a", true)]),
            sayAgreement([of("a", false), of("a", false), of("b", true)]),
            sayAgreement([of("a", false), of("b", true), of("b", true)]),
            sayAgreement([of("a", false), of("b", false)]),
            sayAgreement([of("a", true), of("a", true), of("b", true)]),
        ];
    }""")
    assert said == [
        "Neither is sure", "2 of 3 say a", "1 of 3 says a", "They disagree: a / b", "None of the 3 is sure",
    ]  # fmt: skip


def test_models_side_by_side_show_chances_heat_and_neighbours_of_each(
    server: Server, images: dict[str, str], open_page: Callable[..., Any]
) -> None:
    watched = open_page(server.url)
    page = watched.page
    wait_for_answer(page)
    upload(page, images["good.jpg"])
    assert not page.locator("#side").is_visible()
    page.click("#compare")
    page.wait_for_selector("#answer:not([aria-busy])")
    cards = page.locator(".card")
    assert cards.locator("h3").all_inner_texts() == [chip.split()[0] for chip in chips(page)]
    for number in range(3):
        card = cards.nth(number)
        assert card.locator(".dot-row").count() == 5
        assert card.locator(".near img").count() == 3
        said = page.locator(".row strong").nth(number).inner_text()
        assert said in card.locator("strong").inner_text()  # 'not sure: ant or bee' of the careful one
    assert "not sure" in cards.nth(2).inner_text()
    assert not page.locator("#detail .dot-row").count()  # said once
    assert not page.locator(".card .heat").count()
    page.keyboard.press("h")
    page.locator(".card .heat").nth(2).wait_for()
    widths = page.evaluate("[...document.querySelectorAll('.card .heat')].map(image => image.naturalWidth)")
    assert all(widths)
    drawn = page.evaluate("[...document.querySelectorAll('.card .heat')].map(image => image.src)")
    assert len(set(drawn)) == 3  # the heads differ, so each looks elsewhere
    page.locator("#heat-strength").fill("40")
    assert page.evaluate("getComputedStyle(document.querySelector('.card .heat')).opacity") == "0.4"
    page.keyboard.press("2")
    page.locator(".card").nth(2).wait_for(state="detached")
    assert page.locator(".card").count() == 2
    page.click("#compare")
    assert not page.locator("#side").is_visible()
    assert page.locator("#detail .dot-row:visible").count() == 5
    watched.check_quiet()


@pytest.mark.parametrize(("width", "is_dark"), [(390, False), (320, True)])
def test_phones_scroll_in_one_direction_alone(
    server: Server, open_page: Callable[..., Any], width: int, is_dark: bool
) -> None:
    watched = open_page(
        server.url, width=width, height=844, has_touch=True, is_mobile=True,
        color_scheme="dark" if is_dark else "light",
    )  # fmt: skip
    page = watched.page
    wait_for_answer(page)
    page.click("#compare")
    page.wait_for_selector(".agreement")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(21, 24, 28)" if is_dark else "rgb(250, 250, 247)"
    )
    small = page.evaluate(
        "[...document.querySelectorAll('button')].filter(b => b.offsetHeight && b.offsetHeight < 24).length"
    )
    assert small == 0
    watched.check_quiet()


def test_right_and_wrong_by_keys_with_undo(
    server: Server, images: dict[str, str], open_page: Callable[..., Any]
) -> None:
    watched = open_page(server.url)
    page = watched.page
    wait_for_answer(page)
    answer = upload(page, images["good.jpg"])
    page.keyboard.press("y")
    page.wait_for_selector(f".verdict:has-text('Saved as {answer}')")
    (entry,) = list_entries(server.inbox)
    assert (entry.verdict, entry.label, entry.name) == ("right", answer, "good.jpg")
    page.click("text=Undo")
    page.wait_for_selector(".verdict button:has-text('Right')")
    assert list_entries(server.inbox) == []
    page.keyboard.press("n")
    page.keyboard.type("yak")
    page.keyboard.press("Enter")
    page.wait_for_selector(".verdict:has-text('Saved as yak')")
    (entry,) = list_entries(server.inbox)
    assert (entry.verdict, entry.label) == ("wrong", "yak")
    watched.check_quiet()


def test_many_files_become_a_table_with_the_failed_in_it(
    server: Server, images: dict[str, str], open_page: Callable[..., Any]
) -> None:
    watched = open_page(server.url)
    page = watched.page
    wait_for_answer(page)
    upload(page, *(images[name] for name in ("good.jpg", "broken.jpg", "text.png", "undrawn.tiff")))
    page.wait_for_selector("#batch:has-text('4 of 4 answered, 2 failed')")
    assert page.locator("#batch tbody tr:visible").count() == 4
    assert not page.locator("#batch progress").is_visible()
    # a file that the browser can't draw has no broken picture, whether the server can read it or not
    page.locator("#batch .blank").nth(1).wait_for()
    assert page.locator("#batch tr:has-text('undrawn.tiff') .blank").count() == 1
    assert page.locator("#batch tbody img").count() == 2
    page.click("#batch button:has-text('Failed (2)')")
    assert page.locator("#batch tbody tr:visible").count() == 2
    assert page.evaluate("document.activeElement.textContent") == "Failed (2)"
    assert page.locator("#batch button[aria-pressed=true]").all_inner_texts() == ["Failed (2)"]
    with page.expect_download() as download:
        page.click("text=Save as CSV")
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0] == "path,bundle,label,confidence,unsure,unlike_training,error"
    assert len(lines) == 5
    assert lines[1].startswith("good.jpg,one,")
    assert "ends too early" in lines[2]
    assert lines[4].startswith("undrawn.tiff,one,")
    # other models answer the same images: the table and the file are of those that are shown
    page.click("#compare")
    page.wait_for_selector("#batch:has-text('4 of 4 answered, 2 failed')")
    page.wait_for_selector("#answer:not([aria-busy])")
    assert page.locator("#batch thead th").count() == 4
    assert page.locator("#batch button[aria-pressed=true]").all_inner_texts() == ["Failed (2)"]
    page.click("#batch button:has-text('All (4)')")
    assert page.locator("#batch tr:has-text('good.jpg') td strong").count() == 3
    with page.expect_download() as download:
        page.click("text=Save as CSV")
    assert len(Path(download.value.path()).read_text().splitlines()) == 1 + 3 * 4
    page.click("#compare")
    assert page.locator("#batch thead th").count() == 2
    assert page.locator("#batch tr:has-text('good.jpg') td strong").count() == 1  # kept, not asked again
    watched.check_quiet()


def test_filters_of_a_table_that_still_fills_count_what_is_there_and_show_it(
    server: Server, images: dict[str, str], open_page: Callable[..., Any]
) -> None:
    page = open_page(server.url).page
    wait_for_answer(page)
    found = page.evaluate("""async () => {
        const { Batch } = await import("/page/batch.js");
        const place = document.getElementById("batch");
        const images = ["a", "b", "c"].map((name) => ({ blob: new Blob(["x"]), name }));
        const told = [];
        const check = async () => { if (turn > 0) note(); turn += 1; return "can't be read"; };
        const batch = new Batch(place, images, [{ name: "one", short: "one" }], { check, onShow: () => {} });
        const seen = () => [...place.querySelectorAll("tbody tr")].filter((row) => row.checkVisibility()).length;
        const failed = () => place.querySelector(".batch-head button:nth-last-of-type(2)");
        const isFilling = () => place.querySelector("progress").checkVisibility();
        failed().click();
        const note = () => told.push([failed().textContent, seen(), isFilling()]);
        note();
        let turn = 0;
        await batch.run();
        note();
        return told;
    }""")
    assert found[0] == ["Failed (0)", 0, True]
    assert found[-1] == ["Failed (3)", 3, False]


def test_a_lost_server_keeps_the_image_and_offers_to_try_again(
    server: Server, images: dict[str, str], open_page: Callable[..., Any]
) -> None:
    watched = open_page(server.url)
    page = watched.page
    wait_for_answer(page)
    page.route("**/api/predict", lambda route: route.abort())
    page.set_input_files("#files", images["good.jpg"])
    page.wait_for_selector("#banner:has-text('does not answer')")
    page.unroute("**/api/predict")
    page.click("#banner button")
    assert wait_for_answer(page) in NAMES
    assert page.locator("#banner").is_hidden()
    assert (watched.dialogs, watched.foreign) == ([], [])


def test_a_refused_camera_is_explained_and_the_page_goes_on(server: Server, open_page: Callable[..., Any]) -> None:
    watched = open_page(server.url)
    page = watched.page
    wait_for_answer(page)
    page.click("#camera")
    page.wait_for_selector("#camera-note:has-text('hoose a file instead')")
    assert page.locator("#shoot").is_disabled()
    page.click("#camera-close")
    page.locator("#sample-list button").nth(1).click()
    assert wait_for_answer(page) in NAMES
    watched.check_quiet()


def test_hostile_names_are_text(tmp_path: Path, images: dict[str, str], open_page: Callable[..., Any]) -> None:
    assert len(HOSTILE) == len(set(HOSTILE)) == 60
    folder = tmp_path / "<img src=x onerror=alert(2)>.bundle"
    bundles = [
        make_bundle(folder, tuple(HOSTILE), 0, HOSTILE[0]),
        make_bundle(tmp_path / "b", tuple(HOSTILE[::-1]), 1, HOSTILE[1]),
    ]
    for running in start(bundles, tmp_path / "inbox"):
        watched = open_page(running.url)
        page = watched.page
        page.wait_for_selector("#detail .label")
        page.set_input_files("#files", {"name": "<svg onload=alert(3)>.jpg", "mimeType": "image/jpeg",
                                        "buffer": Path(images["good.jpg"]).read_bytes()})  # fmt: skip
        page.wait_for_selector("#caption:has-text('<svg onload=alert(3)>.jpg')")
        wait_for_answer(page)
        page.click("summary")
        shown = page.locator(".dot-row > :first-child").all_text_contents()
        assert len(shown) == 50
        assert set(shown) <= set(HOSTILE)
        page.click("#compare")
        page.wait_for_selector("#answer:not([aria-busy]) .agreement")
        shown = page.locator(".card .dot-row > :first-child").all_text_contents()
        assert len(shown) == 10
        assert set(shown) <= set(HOSTILE)
        page.keyboard.press("n")
        page.wait_for_selector("#class-names", state="attached")
        assert page.locator("#class-names option").count() == 60
        injected = page.evaluate(
            "document.querySelectorAll('main script, svg, iframe, object, embed, style, a[href*=evil]').length"
        )
        assert injected == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        page.goto(running.url + "docs")
        page.wait_for_selector("pre")
        watched.check_quiet()


ATTACKS = """<!doctype html><title>attack</title><script>
const url = "%s";
const done = {};
const form = () => {
  const data = new FormData();
  data.append("model", "one"); data.append("verdict", "wrong"); data.append("label", "evil");
  const bytes = Uint8Array.from(atob("%s"), (c) => c.charCodeAt(0));
  data.append("image", new Blob([bytes], {type: "image/png"}), "a.png");
  return data;
};
const attempt = async (name, act) => { try { done[name] = await act(); } catch { done[name] = false; } };
(async () => {
  await attempt("read", async () => (await fetch(url + "api/models")).ok);
  await attempt("post", async () => (await fetch(url + "api/inbox", {method: "POST", body: form()})).ok);
  await attempt("blind post", async () => {
    await fetch(url + "api/inbox", {method: "POST", body: form(), mode: "no-cors"});
    return false;
  });
  await attempt("beacon", async () => { navigator.sendBeacon(url + "api/inbox", form()); return false; });
  await attempt("delete", async () => (await fetch(url + "api/inbox/" + "0".repeat(32), {method: "DELETE"})).ok);
  await attempt("xhr", () => new Promise((resolve) => {
    const request = new XMLHttpRequest();
    request.onload = () => resolve(true); request.onerror = () => resolve(false);
    request.open("GET", url + "openapi.json"); request.send();
  }));
  await attempt("picture", () => new Promise((resolve) => {
    const image = new Image(); image.onload = () => resolve(true); image.onerror = () => resolve(false);
    image.src = url + "api/models/0/thumbnails/0";
  }));
  await attempt("frame", () => new Promise((resolve) => {
    const frame = document.createElement("iframe");
    frame.onload = () => {
      try { resolve(Boolean(frame.contentDocument.body.innerText)); } catch { resolve(false); }
    };
    frame.src = url; document.body.append(frame);
  }));
  window.done = done;
})();
</script><body></body>"""


def test_pages_of_another_origin_get_nothing(
    server: Server, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    import base64

    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, "PNG")
    page_bytes = (ATTACKS % (server.url, base64.b64encode(picture.getvalue()).decode())).encode()

    class Attacker(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page_bytes)

        def log_message(self, *_: Any) -> None:
            pass

    before = list_entries(server.inbox) if server.inbox.exists() else []
    with HTTPServer(("127.0.0.1", 0), Attacker) as attacker:
        thread = threading.Thread(target=attacker.serve_forever)
        thread.start()
        watched = open_page(f"http://127.0.0.1:{attacker.server_port}/")
        watched.page.wait_for_function("window.done")
        done = watched.page.evaluate("window.done")
        attacker.shutdown()
        thread.join()
    assert len(done) == 8
    assert not any(done.values()), done
    assert (list_entries(server.inbox) if server.inbox.exists() else []) == before


def test_words_claim_no_more_than_the_test_part_can_show(server: Server, open_page: Callable[..., Any]) -> None:
    page = open_page(server.url).page
    said = page.evaluate(
        """async () => {
          const { saySureness, sayLabel, sayAgreement, csvCell } = await import("/page/words.js");
          const top = [{ label: "moth" }, { label: "bee" }];
          const reply = (confidence, more) => ({ label: "moth", confidence, top, unsure: false, ...more });
          const known = { is_calibrated: true, calibration_error: 0.05, accuracy: { n: 60 } };
          return [
            saySureness(reply(0.83), known), saySureness(reply(0.999), known),
            saySureness(reply(0.999), { is_calibrated: true, calibration_error: 0 }),
            saySureness(reply(0.9), { ...known, calibration_error: 0.06 }),
            saySureness(reply(0.9), { ...known, calibration_error: null }),
            saySureness(reply(0.9), { is_calibrated: false }),
            saySureness(reply(0.99, { is_strange: true }), known), sayLabel(reply(0.5, { unsure: true })),
            sayAgreement([reply(1), reply(1), { label: "bee" }]), sayAgreement([reply(1), { label: "bee" }]),
            csvCell('=a"b'), csvCell("a\\x1b[2J\\u202eb\\u2028\\x9b\\n"), csvCell(" =1"), csvCell("é\\u{1F600}"),
          ];
        }"""
    )
    assert said == [
        "fairly sure (83 of 100 such predictions are correct)",
        "sure (more than 95 of 100 such predictions are correct)",
        "sure (more than 99 of 100 such predictions are correct)",
        "fairly sure (confidence 90 of 100; calibration not confirmed)",
        "fairly sure (confidence 90 of 100; calibration not confirmed)",
        "fairly sure (confidence 90 of 100; not calibrated)",
        "confidence 99 of 100, unreliable for images like this",
        "not sure: moth or bee",
        "2 of 3 say moth",
        "They disagree: moth / bee",
        '"\'=a""b"',
        in_csv("a\x1b[2J\u202eb\u2028\x9b\n"),
        in_csv(" =1"),
        in_csv("é\U0001f600"),
    ]
