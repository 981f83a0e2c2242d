"""The HTTP API: the same answers as `predict`, and a plain refusal for everything that is not a question."""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

import backbench
from backbench.classifier.bundle import write_bundle
from backbench.classifier.classifier import Classifier
from backbench.classifier.gallery import Gallery, Sample, to_jpeg
from backbench.classifier.strangeness import Strangeness
from backbench.errors import ConfigError
from backbench.explain.heat import Heat
from backbench.heads.head_modules import make_linear
from backbench.registry import find_model
from backbench.serve import app as serve_app
from backbench.serve import models as serve_models
from backbench.serve.app import make_app
from backbench.serve.inbox import list_entries
from backbench.serve.models import Model, is_calibrated, load_models, name_models
from backbench.serve.uploads import clean_name

NAMES = ("ant", "bee", "<img src=x onerror=alert(1)>")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def make_classifier(seed: int) -> Classifier:
    backbone = find_model("tiny_cnn").load(0)
    head = make_linear(backbone.facts.dim, len(NAMES), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        head.get_parameter("weight").mul_(20)
    return Classifier(backbone, head, NAMES, temperature=1.7, threshold=0.5)


def make_gallery(dim: int) -> Gallery:
    rng = np.random.default_rng(0)
    pictures = [to_jpeg(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8), 96, 75) for _ in range(4)]
    return Gallery(
        features=rng.normal(size=(3, dim)).astype(np.float16),
        ids=("a/1", "b/2", "c/3"),
        labels=NAMES,
        thumbnails=tuple(pictures[:3]),
        samples=(Sample("a/9", "ant", pictures[3]),),
    )


def encode(image_format: str, seed: int = 0, size: tuple[int, int] = (40, 60)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, image_format)
    return out.getvalue()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("bundles")
    one, two = make_classifier(1), make_classifier(2)
    dim = one.backbone.facts.dim
    gallery = make_gallery(dim)
    one.strangeness = Strangeness(
        np.zeros((1, dim)), np.zeros(dim), np.ones(dim), np.full(2, 1e-9)
    )  # of all images
    return [write_bundle(root / "one.bundle", one, gallery=gallery), write_bundle(root / "two.bundle", two)]


@pytest.fixture(scope="module")
def models(bundles: list[Path]) -> Iterator[list[Model]]:
    made = load_models(bundles, device="cpu")
    yield made
    for model in made:
        model.batcher.close()


@pytest.fixture
def client(models: list[Model], tmp_path: Path) -> TestClient:
    made = make_app(models, max_image_bytes=1_000_000, inbox=tmp_path / "inbox")
    return TestClient(made, base_url="http://127.0.0.1", raise_server_exceptions=False)


def ask(client: TestClient, data: bytes, name: str = "a.jpg", model: str = "one", **fields: Any) -> Any:
    return client.post("/api/predict", data={"model": model, **fields}, files={"image": (name, data)})


def answer(client: TestClient, data: bytes, **more: Any) -> dict[str, Any]:
    response = ask(client, data, **more)
    assert response.status_code == 200, response.text
    document = response.json()
    assert list(document) == ["schema", "predictions"]
    return dict(document["predictions"][0])


def test_fifty_images_of_mixed_formats_are_answered_as_by_predict(
    client: TestClient, bundles: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    paths = []
    for seed in range(50):
        kind = FORMATS[seed % len(FORMATS)]
        paths.append(folder / f"{seed:02d}.{kind.lower()}")
        paths[-1].write_bytes(encode(kind, seed, (20 + 5 * seed, 90 - seed)))
    for bundle in bundles:
        expected = backbench.load(bundle).predict(paths)
        for path, known in zip(paths, expected, strict=True):
            given = answer(client, path.read_bytes(), name=path.name, model=bundle.stem)
            same = {"path": path.name, "bundle": bundle.stem, "label": known.label, "unsure": known.is_unsure}
            assert {key: given[key] for key in same} == same
            assert set(given) == {*same, "confidence", "top", "is_strange"}
            assert given["is_strange"] == known.is_strange == {"one": True, "two": None}[bundle.stem]
            for one, (label, confidence) in zip(given["top"], known.top, strict=True):
                assert one["label"] == label
                assert abs(one["confidence"] - confidence) <= 1e-6


def test_every_answer_names_its_model_under_parallel_switching(client: TestClient, bundles: list[Path]) -> None:
    images = [encode("PNG", seed) for seed in range(4)]
    known = {
        (bundle.stem, row): found.confidence
        for bundle in bundles
        for row, found in enumerate(
            backbench.load(bundle).predict([np.asarray(Image.open(io.BytesIO(image))) for image in images])
        )
    }

    def switch(number: int) -> None:
        name, row = ("one", "two")[number % 2], number % 4
        given = answer(client, images[row], model=name)
        assert given["bundle"] == name
        assert abs(given["confidence"] - known[name, row]) <= 1e-6

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(switch, range(40)))


def test_models_are_listed_without_any_path(client: TestClient, bundles: list[Path]) -> None:
    response = client.get("/api/models")
    listed = response.json()["models"]
    assert [model["name"] for model in listed] == ["one", "two"]
    assert listed[0]["classes"] == list(NAMES)
    assert [model["has_gallery"] for model in listed] == [True, False]
    assert str(bundles[0].parent) not in response.text
    assert client.get("/healthz").json() == {"status": "ok", "models": 2}


def test_neighbours_only_where_asked_for_and_strangers_wherever_known(client: TestClient) -> None:
    given = answer(client, encode("PNG"), neighbours=2)
    assert [set(near) for near in given["neighbours"]] == [{"id", "label", "distance", "thumbnail"}] * 2
    assert given["neighbours"][0]["distance"] <= given["neighbours"][1]["distance"]
    assert given["is_strange"] is True
    picture = client.get(given["neighbours"][0]["thumbnail"])
    assert picture.headers["content-type"] == "image/jpeg"
    without = answer(client, encode("PNG"), model="two", neighbours=2)
    assert (without["neighbours"], without["is_strange"]) == ([], None)


@pytest.mark.parametrize("heat", [0.5, 0.0])
def test_an_explanation_is_a_picture_of_the_images_proportions_or_says_that_there_is_nothing(
    client: TestClient, heat: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explain(classifier: Any, image: np.ndarray, *, label: str | None) -> Heat:
        height, width = image.shape[:2]
        return Heat(np.full((2, 2), heat, np.float32), (0, 0, width, height), "Grad-CAM", "last", str(label))

    monkeypatch.setattr("backbench.explain.heat.explain_image", explain)
    given = answer(client, encode("PNG", size=(30, 60)), explain=1)
    if not heat:
        assert given["overlay"] is None
        assert given["overlay_error"] == "Grad-CAM: no evidence for it"
        return
    kind, _, data = given["overlay"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (60, 30)


def test_a_damaged_image_is_an_entry_with_its_error(client: TestClient) -> None:
    given = answer(client, encode("JPEG")[:700])
    assert (given["label"], given["unsure"]) == (None, True)
    assert "ends too early" in given["error"]
    assert answer(client, encode("JPEG"))["label"] in NAMES


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (b"hello", 415, "text"),
        (b"%PDF-1.4", 415, "PDF"),
        (b"<html></html>", 415, "web page"),
        (b"", 415, "empty"),
        (b"\0" * 2_000_000, 413, "too large"),
        (b"\0" * 1_010_000, 413, "too large"),
    ],
)
def test_what_is_no_image_is_refused(client: TestClient, data: bytes, status: int, said: str) -> None:
    response = ask(client, data)
    assert response.status_code == status
    assert said in response.json()["error"]


def test_a_bomb_is_refused_from_its_header(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded")

    out = io.BytesIO()
    Image.new("1", (5001, 5000)).save(out, "PNG")
    monkeypatch.setattr(serve_models, "decode_image", refuse)
    response = ask(client, out.getvalue())
    assert response.status_code == 413
    assert "25 million pixels" in response.json()["error"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"data": {"model": "one"}}, 415),
        ({"json": {"model": "one"}}, 415),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=a"}}, 400),
        ({"data": {"model": "one"}, "files": {"other": ("a", b"x")}}, 400),
        ({"files": {"image": ("a", b"x")}}, 400),
        ({"data": {"model": "one", "top": "0"}, "files": {"image": ("a", b"x")}}, 400),
        ({"data": {"model": "one", "top": "9" * 5000}, "files": {"image": ("a", b"x")}}, 400),
        ({"data": {f"f{row}": "1" for row in range(100)}, "files": {"image": ("a", b"x")}}, 400),
        ({"data": {"model": "x" * 100_000}, "files": {"image": ("a", b"x")}}, 400),
        ({"data": {"model": "one"}, "files": [("image", ("a", b"x")), ("image", ("b", b"x"))]}, 400),
    ],
)
def test_a_form_that_asks_nothing_is_refused(client: TestClient, arguments: Any, status: int) -> None:
    response = client.post("/api/predict", **arguments)
    assert response.status_code == status, response.text
    assert response.json()["error"]


def hostile_names() -> list[str]:
    parts = ["..", "../one", "/etc/passwd", "one/../one", "%2e%2e%2fone", "%252e%252e", "one\0",
             "file:///etc/passwd", "hf-hub:timm/resnet50", "local-dir:/etc", "http://127.0.0.1/x",
             "\\\\host\\share", "．．/one", "one ", " one", "ONE", "one.bundle", "~root",
             "<script>alert(1)</script>", "{{7*7}}", "$(id)", "one;id", "x" * 10_000,
             "\u202eeno", "one\n", ""]  # fmt: skip
    return [f"{prefix}{part}" for prefix in ("", "./", "models/", "../" * 9, "/proc/self/cwd/", "one#",
            "one?", "C:\\", "file:", "@", "-", "%00") for part in parts]  # fmt: skip


def test_only_names_in_the_table_are_models_and_nothing_is_opened(client: TestClient) -> None:
    names = hostile_names()
    assert len(names) >= 300
    image = encode("PNG")
    ask(client, image)  # whatever is loaded lazily is there now
    opened: list[Any] = []
    is_watching = True

    def watch(event: str, arguments: Any) -> None:
        if is_watching and event in ("open", "socket.connect", "subprocess.Popen", "import"):
            opened.append((event, arguments[0]))

    sys.addaudithook(watch)
    try:
        for name in names:
            response = ask(client, image, model=name)
            assert (
                response.status_code in (400, 404) if len(name) > 9000 or not name else response.status_code == 404
            )
            assert response.text == '{"error": "no such model; see /api/models for the names"}' or not name
    finally:
        is_watching = False
    assert not opened


@pytest.mark.parametrize(
    "path",
    ["/api/models/2/samples/0", "/api/models/0/samples/1", "/api/models/0/thumbnails/-1", "/redoc", "/docs/x",
     "/api/models/-1/samples/0", "/api/models/x/samples/0", "/page/..%2fapp.py", "/page/nothing",
     "/page/%2fetc%2fpasswd"],
)  # fmt: skip
def test_addresses_that_are_nothing_say_so(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, list(response.json())) == (404, ["error"])


def test_a_full_queue_asks_to_come_back(client: TestClient, models: list[Model], monkeypatch: Any) -> None:
    def refuse(_: Any) -> None:
        raise serve_app.Busy

    monkeypatch.setattr(models[0].batcher, "submit", refuse)
    response = ask(client, encode("PNG"))
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert client.get("/healthz").status_code == 200


def test_a_failure_tells_the_visitor_nothing_of_this_computer(
    client: TestClient, models: list[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(models[0].batcher, "submit", fail)
    response = ask(client, encode("PNG"))
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "Traceback" not in response.text


def test_requests_at_once_share_a_batch(models: list[Model], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    model = replace(models[0])
    may_go = threading.Event()

    def watch(questions: Any) -> Any:
        may_go.wait(10)
        sizes.append(len(questions))
        return model.answer(questions)

    monkeypatch.setattr(model.batcher, "_answer", watch)
    questions = [serve_models.Question(encode("PNG", seed), f"{seed}.png") for seed in range(12)]
    futures = [model.batcher.submit(question) for question in questions]
    may_go.set()
    replies = [future.result(30) for future in futures]
    alone = [model.answer([question])[0] for question in questions]
    for one, two in zip(replies, alone, strict=True):
        assert one.prediction.label == two.prediction.label
        assert abs(one.prediction.confidence - two.prediction.confidence) <= 1e-6
    assert len(sizes) < 12
    model.batcher.close()


def test_right_and_wrong_reach_the_inbox_and_can_be_taken_back(client: TestClient, tmp_path: Path) -> None:
    def say(data: bytes, verdict: str, label: str | None = None) -> Any:
        fields = {"model": "one", "verdict": verdict} | ({"label": label} if label else {})
        return client.post("/api/inbox", data=fields, files={"image": ("my moth.png", data)})

    image = encode("PNG")
    right, wrong = say(image, "right"), say(encode("WEBP"), "wrong", "moth")
    assert (right.status_code, wrong.json()["num_entries"]) == (200, 2)
    found = {entry.verdict: entry for entry in list_entries(tmp_path / "inbox")}
    assert found["right"].label == found["right"].answer == answer(client, image)["label"]
    assert (found["wrong"].label, found["wrong"].model, found["wrong"].part) == ("moth", "one", "train")
    assert (tmp_path / "inbox" / found["right"].image).read_bytes() == image
    gone = client.delete(f"/api/inbox/{right.json()['id']}")
    assert gone.json()["num_entries"] == 1
    assert client.delete(f"/api/inbox/{right.json()['id']}").status_code == 404
    assert say(image, "maybe").status_code == 400
    assert say(image, "wrong", "a\nb").status_code == 400
    assert say(encode("JPEG")[:700], "right").status_code == 400


def test_test_images_never_reach_the_inbox_and_questions_store_nothing(client: TestClient, tmp_path: Path) -> None:
    sample = client.get("/api/models/0/samples/0").content
    answer(client, sample)
    kept = client.post("/api/inbox", data={"model": "one", "verdict": "right"}, files={"image": ("a", sample)})
    assert kept.status_code == 409
    assert not (tmp_path / "inbox").exists()


def test_without_an_inbox_nothing_is_kept(models: list[Model]) -> None:
    client = TestClient(make_app(models), base_url="http://127.0.0.1")
    fields = {"model": "one", "verdict": "right"}
    assert client.post("/api/inbox", data=fields, files={"image": ("a", encode("PNG"))}).status_code == 404
    assert client.get("/api/models").json()["inbox"] == {"is_open": False, "num_entries": 0}


def test_an_upload_stays_in_memory(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("spooled to disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refuse)
    big = make_app(list(client.app.app.state.service.models.values()), max_image_bytes=9_000_000)
    data = encode("BMP", size=(1200, 1200))
    assert len(data) > 3_000_000
    assert answer(TestClient(big, base_url="http://127.0.0.1"), data)["label"] in NAMES


def test_pages_ask_no_other_host_and_hold_no_inline_code(client: TestClient) -> None:
    total = 0
    for name in ("", "docs", *(f"page/{path.name}" for path in serve_app.PAGE.iterdir())):
        response = client.get(f"/{name}")
        assert response.status_code == 200, name
        text = response.text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text.replace("http://127", "")
        assert "https://" not in text
        for forbidden in (
            "innerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            'onclick="',
            'style="',
            "<script>",
        ):
            assert forbidden not in text, (name, forbidden)
        total += len(response.content)
    assert total < 120_000


def test_the_schema_describes_the_form(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    form = paths["/api/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["image", "model"]
    assert json.dumps(paths)


def test_names_are_distinct_and_too_many_are_refused(tmp_path: Path, bundles: list[Path]) -> None:
    folders = [tmp_path / "a" / "m.bundle", tmp_path / "b" / "m.bundle", tmp_path / "m-2.bundle"]
    assert name_models(folders) == ["m", "m-2", "m-2-2"]
    with pytest.raises(ConfigError, match="no bundle"):
        load_models([tmp_path / "nothing"], device="cpu")


def test_uploads_have_plain_names_and_odd_temperatures_no_calibration() -> None:
    assert clean_name("C:\\fake\\a\nb\x1b.jpg") == "ab.jpg"
    assert clean_name("../../") == "image"
    assert len(clean_name("x" * 9000)) == 255
    assert [is_calibrated(value) for value in (1.0, 0.05, 20.0, 1.3)] == [False, False, False, True]
