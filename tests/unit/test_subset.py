"""A subset of Open Images for the classes of two sets, from a loopback server in the published formats."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_openimages import make_id, write_jpeg

from backbench.cli import app
from backbench.config import DataConfig
from backbench.data import openimages_download, openimages_files
from backbench.data.class_names import match_names
from backbench.data.load import load_listing
from backbench.errors import ConfigError, DataError
from backbench.studies.subset import SubsetRequest, get_subset, plan_subset

NAMES = {
    "/m/0jbk": "Animal",
    "/m/01dws": "Bear",
    "/m/0633h": "Polar bear",
    "/m/03fj2": "Goldfish",
    "/m/01940j": "Backpack",
    "/m/01x_v": "Camel",
    "/m/0k4j": "Car",
    "/m/0h8mzrc": "Wall clock",
}
HIERARCHY = {
    "LabelName": "/m/0bl9f",
    "Subcategory": [
        {
            "LabelName": "/m/0jbk",
            "Subcategory": [
                {"LabelName": "/m/01dws", "Subcategory": [{"LabelName": "/m/0633h"}]},
                {"LabelName": "/m/03fj2"},
                {"LabelName": "/m/01x_v"},
            ],
        },
        {"LabelName": "/m/01940j"},
        {"LabelName": "/m/0k4j"},
    ],
}
LABELS = ["/m/01dws", "/m/0633h", "/m/03fj2", "/m/01940j", "/m/01x_v", "/m/0k4j"]
DESCRIPTIONS_FILE = "class-descriptions-boxable.csv"
HIERARCHY_FILE = "bbox_labels_600_hierarchy.json"
LABELS_FILE = "test-annotations-human-imagelabels-boxable.csv"


class Server:
    """The published files and images; counts what is fetched, and what was only asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []
        self.asked: list[str] = []

    def put(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("published"))

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            server.asked.append(self.path)
            self.answer(has_body=False)

        def do_GET(self) -> None:
            server.fetched.append(self.path)
            self.answer(has_body=True)

        def answer(self, *, has_body: bool) -> None:
            path = server.folder / self.path.lstrip("/")
            body = path.read_bytes() if path.is_file() else b""
            self.send_response(200 if path.is_file() else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if has_body:
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    service = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=service.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{service.server_port}"
    monkeypatch.setattr(openimages_files, "FILES_URL", url)
    monkeypatch.setattr(openimages_download, "BASE_URL", url)
    publish(server)
    yield server
    service.shutdown()
    thread.join()
    service.server_close()


def publish(server: Server) -> None:
    """24 images, four of each label; one of two labels, one whose label is only a guess."""
    server.put(f"v5/{DESCRIPTIONS_FILE}", "".join(f"{label},{name}\n" for label, name in NAMES.items()))
    server.put(f"2018_04/{HIERARCHY_FILE}", json.dumps(HIERARCHY))
    rows = [(number, LABELS[number % 6], 1) for number in range(24)]
    rows += [(24, "/m/01dws", 1), (24, "/m/0k4j", 1), (25, "/m/01x_v", 0)]
    lines = [f"{make_id(number)},verification,{label},{sure}" for number, label, sure in rows]
    server.put(f"v5/{LABELS_FILE}", "\n".join(["ImageID,Source,LabelName,Confidence", *lines]) + "\n")
    (server.folder / "test").mkdir()
    for number in range(26):
        write_jpeg(server.folder / "test" / f"{make_id(number)}.jpg", number)


def request(folder: Path, *classes: str, num: int = 2, parts: tuple[str, ...] = ("test",)) -> SubsetRequest:
    return SubsetRequest(folder, classes or ("caltech256", "cifar100"), num, parts)


def call(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["study", "openimages", *arguments], catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


def test_the_plan_names_the_files_and_writes_nothing(tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "subset"
    plan = plan_subset(request(folder, parts=("validation", "test")))
    assert [file.name for file in plan.files] == [
        DESCRIPTIONS_FILE,
        HIERARCHY_FILE,
        "validation-annotations-human-imagelabels-boxable.csv",
        LABELS_FILE,
    ]
    assert {file.state for file in plan.files} == {"missing"}
    size = (server.folder / "v5" / DESCRIPTIONS_FILE).stat().st_size
    assert plan.files[0].published_bytes == size
    assert plan.files[2].published_bytes is None  # this server lacks it
    assert server.fetched == []
    assert not folder.exists()
    status, text, _ = call(str(folder), "--classes", "cifar100")
    assert status == 0
    assert f"missing  {DESCRIPTIONS_FILE}" in text
    assert "--classes cifar100 --per-class 50 --split test --download" in text


def test_what_is_missing_is_fetched_once_and_serves_as_images_of_both_sets(tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "subset"
    arguments = [str(folder), "--classes", "caltech256", "--classes", "cifar100", "--per-class", "2", "--download"]
    status, text, _ = call(*arguments, "--quiet", "--json")
    document = json.loads(text)
    assert status == 0
    assert [file["state"] for file in document["files"]] == ["there"] * 3
    assert document["files"][2]["found"] == "27 labels of 26 images"
    classes = {each["name"]: each for each in document["classes"]}
    assert list(classes) == ["Backpack", "Bear", "Camel", "Goldfish"]  # no car in either; a polar bear is a bear
    assert classes["Bear"]["stands_for"] == {"caltech256": "bear", "cifar100": "bear"}
    assert classes["Goldfish"]["stands_for"] == {"caltech256": "goldfish", "cifar100": "aquarium fish"}
    assert classes["Backpack"]["stands_for"] == {"caltech256": "backpack"}
    assert all((each["on_disk"], each["missing"]) == (2, 0) for each in classes.values())
    assert "zebra" in document["unmatched"]["caltech256"]
    assert "bear" not in document["unmatched"]["cifar100"]
    assert (folder / "classes.txt").read_text().splitlines() == list(classes)
    images = [path for path in server.fetched if path.startswith("/test/")]
    assert len(images) == len(set(images)) == 8
    listing = load_listing(DataConfig(source=f"openimages:{folder}"))
    assert len(listing) == 8
    assert set(match_names(listing.labels, ["bear", "aquarium_fish", "camel"])) == {"Bear", "Goldfish", "Camel"}
    server.fetched.clear()
    status, text, _ = call(*arguments, "--quiet")
    assert (status, server.fetched) == (0, [])
    assert "4 classes, 8 images present, nothing is missing." in text


def test_only_what_is_missing_is_fetched(tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "subset"
    get_subset(request(folder))
    gone = next((folder / "test").iterdir())
    gone.unlink()
    (folder / HIERARCHY_FILE).unlink()
    server.fetched.clear()
    plan = plan_subset(request(folder))
    assert [file.state for file in plan.files] == ["there", "missing", "there"]
    assert not plan.is_readable
    assert get_subset(request(folder)).is_whole
    assert server.fetched == [f"/2018_04/{HIERARCHY_FILE}", f"/test/{gone.name}"]
    more = plan_subset(request(folder, num=3))
    assert len(more.images) == 4
    assert {image.part for image in more.images} == {"test"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            LABELS_FILE,
            "ImageID,Source,LabelName,Confidence\n0001,verification,/m/01dws\n",
            "row 2: 3 fields, not 4",
        ),
        (LABELS_FILE, "ImageID,Source,LabelName,Confidence\n", "no rows below the header"),
        (LABELS_FILE, "<html>quota</html>\n", "its first row is"),
        (DESCRIPTIONS_FILE, "<html>\n", "not a label id and name"),
        (HIERARCHY_FILE, '{"LabelName": ', "not valid JSON"),
        (HIERARCHY_FILE, json.dumps(HIERARCHY) + " ", "bytes, but the published file"),
    ],
)
def test_a_damaged_file_is_named_and_never_replaced_unasked(
    name: str, text: str, said: str, tmp_path: Path, server: Server
) -> None:
    folder = tmp_path / "subset"
    get_subset(request(folder))
    (folder / name).write_text(text)
    status, printed, _ = call(str(folder), "--classes", "cifar100")
    assert status == 1
    assert f"damaged  {name}" in printed
    assert said in printed
    with pytest.raises(DataError, match="the same command downloads it again"):
        get_subset(request(folder))
    assert (folder / name).read_text() == text
    (folder / name).unlink()
    assert get_subset(request(folder)).is_whole


def test_a_list_of_ones_own_and_one_that_is_there_already(tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "subset"
    names = tmp_path / "mine.txt"
    names.write_text("# ours\ncamels\n\nunicorn\n")
    plan = get_subset(request(folder, str(names)))
    assert [each.name for each in plan.classes] == ["Camel"]
    assert plan.unmatched == {str(names): ["unicorn"]}
    with pytest.raises(ConfigError, match=r"classes.txt has other classes than --classes cifar100"):
        plan_subset(request(folder, "cifar100"))
    there = SubsetRequest(folder, (), 2, ("test",))
    assert [each.name for each in plan_subset(there).classes] == ["Camel"]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ((), r"which classes\? Give --classes, a data set with known classes \(cifar10, cifar100"),
        (("cifar1000",), "--classes cifar1000: there is no such file or data set"),
        (("EMPTY",), "the file names no class"),
        (("BYTES",), "can't be read as text in UTF-8"),
    ],
)
def test_classes_that_there_are_not_are_refused_before_anything_is_asked(
    classes: tuple[str, ...], said: str, tmp_path: Path, server: Server
) -> None:
    (tmp_path / "EMPTY").write_text("# nothing\n")
    (tmp_path / "BYTES").write_bytes(b"\xff\xfe\x00\xd8")
    given = tuple(str(tmp_path / name) if name.isupper() else name for name in classes)
    for act in (plan_subset, get_subset):
        with pytest.raises(ConfigError, match=said):
            act(SubsetRequest(tmp_path / "subset", given, 2, ("test",)))
    assert server.asked == server.fetched == []
    assert not (tmp_path / "subset").exists()


def test_without_a_network_the_plan_says_what_it_can_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def refuse(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    status, text, _ = call(str(tmp_path / "subset"), "--classes", "cifar100")
    assert status == 0
    assert text.count("unknown size: the server does not answer") == 3
    assert "Classes and images are known after these files are downloaded." in text
    assert len(asked) == 1
