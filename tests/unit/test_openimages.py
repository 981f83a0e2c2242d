"""Open Images in its published formats, small: labels lifted, images of several classes, parts, and downloads."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from backbench.config import DataConfig
from backbench.data import openimages_download
from backbench.data.listing import Listing
from backbench.data.load import load_data, load_listing
from backbench.data.openimages_download import Missing, fetch_images
from backbench.data.sources.openimages import describe_mapping
from backbench.errors import ConfigError, DataError, DownloadError
from backbench.progress import SILENT
from backbench.registry import find_source, list_sources
from listings import write_image

NAMES = {
    "/m/animal": "Animal",
    "/m/dog": "Dog",
    "/m/cat": "Cat",
    "/m/husky": "Husky",
    "/m/car": "Car",
    "/m/wheel": "Wheel",
    "/m/taxi": "Taxi, yellow",
}
HIERARCHY = {
    "LabelName": "/m/0bl9f",
    "Subcategory": [
        {
            "LabelName": "/m/animal",
            "Subcategory": [
                {"LabelName": "/m/dog", "Subcategory": [{"LabelName": "/m/husky"}]},
                {"LabelName": "/m/cat"},
            ],
        },
        {"LabelName": "/m/car", "Subcategory": [{"LabelName": "/m/taxi"}], "Part": [{"LabelName": "/m/wheel"}]},
    ],
}


def make_id(number: int) -> str:
    return f"{number:016x}"


def write_table(path: Path, rows: Sequence[tuple[int, str, int]]) -> None:
    """Rows of (image number, label, confidence) as image-level labels, or as boxes where the name says so."""
    if "bbox" in path.name:
        lines = ["ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"]
        lines += [
            f"{make_id(n)},xclick,{label},{confidence},0.1,0.2,0.3,0.4,0,0,0" for n, label, confidence in rows
        ]
    else:
        lines = ["ImageID,Source,LabelName,Confidence"]
        lines += [f"{make_id(n)},verification,{label},{confidence}" for n, label, confidence in rows]
    path.write_text("\n".join(lines) + "\n")


def make_folder(
    root: Path,
    rows: Sequence[tuple[int, str, int]],
    classes: str = "",
    *,
    table: str = "validation-annotations-human-imagelabels.csv",
    images: Sequence[int] | None = None,
    below: str = "",
) -> Path:
    root.mkdir(exist_ok=True)
    names = [f'{label},"{name}"' if "," in name else f"{label},{name}" for label, name in NAMES.items()]
    (root / "class-descriptions-boxable.csv").write_text("\n".join(names))
    (root / "bbox_labels_600_hierarchy.json").write_text(json.dumps(HIERARCHY))
    if classes:
        (root / "classes.txt").write_text(classes)
    write_table(root / table, rows)
    for number in {row[0] for row in rows} if images is None else images:
        write_jpeg(root / below / f"{make_id(number)}.jpg", number)
    return root


def write_jpeg(path: Path, seed: int) -> None:
    image = Image.open(write_image(path.with_suffix(".png"), seed))
    image.save(path, "JPEG")
    path.with_suffix(".png").unlink()


def load(folder: Path, modifier: str = "") -> Listing:
    return load_listing(DataConfig(source=f"openimages:{folder}{modifier}"))


def labels_of(listing: Listing) -> dict[int, str]:
    return {int(Path(name).stem, 16): label for name, label in zip(listing.ids, listing.labels, strict=True)}


def test_labels_are_lifted_to_the_nearest_wanted_class(tmp_path: Path) -> None:
    rows = [(1, "/m/husky", 1), (2, "/m/cat", 1), (3, "/m/taxi", 1), (4, "/m/animal", 1)]
    listing = load(make_folder(tmp_path, rows, "Dog\nAnimal,beast\ncar"))
    assert labels_of(listing) == {1: "Dog", 2: "beast", 3: "Car", 4: "beast"}
    assert listing.class_names == ("Car", "Dog", "beast")


def test_only_verified_positive_labels_count(tmp_path: Path) -> None:
    rows = [(1, "/m/dog", 1), (1, "/m/cat", 0), (2, "/m/cat", 0), (3, "/m/cat", 1)]
    listing = load(make_folder(tmp_path, rows, "Dog\nCat"))
    assert labels_of(listing) == {1: "Dog", 3: "Cat"}
    assert [entry.reason for entry in listing.ignored] == ["no verified label of a wanted class"]


def test_images_of_two_wanted_classes_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [(1, "/m/dog", 1), (1, "/m/car", 1), (2, "/m/dog", 1), (3, "/m/car", 1)]
    listing = load(make_folder(tmp_path, rows, "Dog\nCar"))
    assert labels_of(listing) == {2: "Dog", 3: "Car"}
    assert listing.facts["left_out"] == {"several classes": 1, "no wanted class": 0}
    assert listing.ignored[0].reason == "shows several classes: 'Car', 'Dog'"
    assert any("1 image of several" in warning for warning in listing.facts["warnings"])


def test_a_kind_and_what_it_is_a_kind_of_are_one_class(tmp_path: Path) -> None:
    rows = [(1, "/m/dog", 1), (1, "/m/animal", 1), (1, "/m/husky", 1), (2, "/m/animal", 1)]
    assert labels_of(load(make_folder(tmp_path, rows, "Dog\nAnimal"))) == {1: "Dog", 2: "Animal"}


def test_a_part_of_a_thing_is_no_kind_of_it(tmp_path: Path) -> None:
    rows = [(1, "/m/wheel", 1), (2, "/m/car", 1)]
    assert labels_of(load(make_folder(tmp_path, rows, "Car"))) == {2: "Car"}


def test_several_labels_may_be_called_one_class_and_the_mapping_says_so(tmp_path: Path) -> None:
    rows = [(1, "/m/dog", 1), (2, "/m/cat", 1), (2, "/m/dog", 1), (3, "/m/taxi", 1), (4, "/m/car", 1)]
    classes = '# ours\nDog,pet\n/m/cat,pet\n"Taxi, yellow",vehicle\nCar,vehicle\n'
    listing = load(make_folder(tmp_path, rows, classes))
    assert labels_of(listing) == {1: "pet", 2: "pet", 3: "vehicle", 4: "vehicle"}
    assert listing.facts["mapping"][0] == {"class": "pet", "label": "/m/dog", "label_name": "Dog", "num_images": 2}
    assert describe_mapping(listing) == ["pet: Dog 2, Cat 1", "vehicle: Car 1, Taxi, yellow 1"]


def test_without_a_list_all_classes_are_wanted_and_boxes_count(tmp_path: Path) -> None:
    rows = [(1, "/m/husky", 1), (1, "/m/husky", 1), (2, "/m/taxi", 1), (3, "/m/taxi", 1), (3, "/m/cat", 1)]
    listing = load(make_folder(tmp_path, rows, table="oidv6-train-annotations-bbox.csv", below="train"))
    assert labels_of(listing) == {1: "Husky", 2: "Taxi, yellow"}
    assert listing.ids[0] == f"train/{make_id(1)}.jpg"


def test_parts_are_kept_where_there_is_a_train_part(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, [(1, "/m/dog", 1), (2, "/m/cat", 1)], "Dog\nCat")
    assert load(folder).parts == (None, None)
    write_table(folder / "oidv7-train-annotations-human-imagelabels.csv", [(3, "/m/dog", 1), (4, "/m/cat", 1)])
    write_table(folder / "test-annotations-human-imagelabels-boxable.csv", [(5, "/m/dog", 1)])
    for number in (3, 4, 5):
        write_jpeg(folder / "train" / f"{make_id(number)}.jpg", number)
    assert load(folder).parts == ("val", "val", "train", "train", "test")


def test_a_header_in_the_descriptions_is_no_class(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, [(1, "/m/dog", 1), (2, "/m/cat", 1)])
    old = folder / "class-descriptions-boxable.csv"
    (folder / "oidv7-class-descriptions.csv").write_text("LabelName,DisplayName\n" + old.read_text())
    old.unlink()
    assert labels_of(load(folder)) == {1: "Dog", 2: "Cat"}


def test_without_a_hierarchy_nothing_is_lifted_and_that_is_said(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, [(1, "/m/husky", 1), (2, "/m/dog", 1)], "Dog")
    (folder / "bbox_labels_600_hierarchy.json").unlink()
    listing = load(folder)
    assert labels_of(listing) == {2: "Dog"}
    assert any("no hierarchy" in warning for warning in listing.facts["warnings"])


def test_such_a_folder_can_be_split_and_read(tmp_path: Path) -> None:
    rows = [(number, ["/m/dog", "/m/car"][number % 2], 1) for number in range(20)]
    folder = make_folder(tmp_path, rows, "Dog\nCar")
    data = load_data(DataConfig(source=f"openimages:{folder}"))
    assert data.manifest.counts == {"train": 12, "val": 4, "test": 4}
    assert data.read(0).shape == (5, 7, 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("classes.txt", "Doog", "unknown class of Open Images 'Doog'.*'Dog'"),
        ("classes.txt", "Dog,a\n/m/dog,b", "two names, 'a' and 'b'"),
        ("classes.txt", "Dog,a,b", "row 1: expected a name"),
        ("classes.txt", "# nothing", "the list has no class"),
        ("class-descriptions-boxable.csv", "Dog", "row 1: 'Dog' is not a label id"),
        ("class-descriptions-boxable.csv", "<!doctype html>", "not a label id"),
        ("bbox_labels_600_hierarchy.json", "<html>", "not valid JSON"),
        ("bbox_labels_600_hierarchy.json", "[1]", "not a hierarchy"),
        ("bbox_labels_600_hierarchy.json", "[" * 100_000, "not valid JSON"),
        ("bbox_labels_600_hierarchy.json", '{"LabelName": "/m/a", "Subcategory": [3]}', "not a hierarchy"),
        ("validation-annotations-human-imagelabels.csv", "<!doctype html>", "missing column 'ImageID'"),
        ("validation-annotations-human-imagelabels.csv", "", "missing column 'ImageID'"),
        (
            "validation-annotations-human-imagelabels.csv",
            "ImageID,Source,LabelName,Confidence\n0001,verific",
            "row 2: 2 fields, not 4. The download may be incomplete",
        ),
        (
            "validation-annotations-human-imagelabels.csv",
            "ImageID,Source,LabelName,Confidence\n../../x,v,/m/dog,1",
            "'../../x' is not an image id",
        ),
        ("validation-annotations-human-imagelabels.csv", "ImageID,LabelName,Confidence\n\xff", "not a valid CSV"),
    ],
)
def test_damaged_files_are_clear_errors(name: str, content: str, message: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, [(1, "/m/dog", 1), (2, "/m/cat", 1)], "Dog\nCat")
    (folder / name).write_bytes(content.encode("latin-1"))
    with pytest.raises((ConfigError, DataError), match=message):
        load(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("class-descriptions-boxable.csv", "holds no class descriptions"),
        ("validation-annotations-human-imagelabels.csv", "holds no annotations"),
    ],
)
def test_missing_files_are_named(name: str, message: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, [(1, "/m/dog", 1)])
    (folder / name).unlink()
    with pytest.raises(DataError, match=message):
        load(folder)


def test_a_folder_that_is_not_there_and_one_without_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        load(tmp_path / "absent")
    folder = make_folder(tmp_path, [(1, "/m/dog", 1)], images=[])
    with pytest.raises(DataError, match=r"1 suitable images are not on disk.*\+download"):
        load(folder)


@pytest.mark.parametrize("modifier", ["+download=abc", "+dwnload", "+download=", "+"])
def test_a_mistyped_option_is_named_with_what_is_allowed(modifier: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(ConfigError, match=r"not an option of openimages.*\+download=200"):
        find_source(f"openimages:{tmp_path / 'set'}{modifier}")
    (tmp_path / f"set{modifier}").mkdir()  # a folder may be called anything
    assert find_source(f"openimages:{tmp_path / 'set'}{modifier}") is not None


def test_a_mistyped_stand_in_keeps_its_prefix() -> None:
    with pytest.raises(ConfigError, match=r"'generated:cifar1'.*'generated:cifar10'"):
        find_source("generated:cifar1")


def test_the_name_of_a_source_holds_the_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = find_source("openimages:subset+download=20")
    assert spec is not None
    assert spec.name == f"openimages:{tmp_path / 'subset'}+download=20"
    assert not spec.is_embedded
    assert find_source("openimage:subset") is None
    assert any(spec.name == "openimages:FOLDER" and spec.citation for spec in list_sources())


class Server:
    """Serves JPEG files as `/PART/ID.jpg`; counts what is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.url = ""


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("served"))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append(self.path)
            path = server.folder / self.path.lstrip("/")
            body = path.read_bytes() if path.is_file() else b""
            self.send_response(200 if path.is_file() else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    service = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=service.serve_forever)
    thread.start()
    server.url = f"http://127.0.0.1:{service.server_port}"
    monkeypatch.setattr(openimages_download, "BASE_URL", server.url)
    yield server
    service.shutdown()
    thread.join()
    service.server_close()


def test_what_is_missing_is_listed_fetched_and_not_fetched_again(tmp_path: Path, server: Server) -> None:
    rows = [(1, "/m/dog", 1), (2, "/m/cat", 1), (3, "/m/cat", 1), (4, "/m/dog", 1), (4, "/m/cat", 1)]
    folder = make_folder(tmp_path / "subset", rows, "Dog\nCat", images=[1])
    for number in (1, 2, 3, 4):
        write_jpeg(server.folder / "validation" / f"{make_id(number)}.jpg", number)
    assert load(folder).facts["not_on_disk"] == 2
    listing = load(folder, "+download")
    assert labels_of(listing) == {1: "Dog", 2: "Cat", 3: "Cat"}
    assert listing.facts["not_on_disk"] == 0
    lines = (folder / "image_ids.txt").read_text().splitlines()
    assert sorted(lines) == [f"validation/{make_id(2)}", f"validation/{make_id(3)}"]
    assert len(server.asked) == 2
    load(folder, "+download")
    assert len(server.asked) == 2
    assert sorted(path.name for path in (folder / "validation").iterdir()) == [
        f"{make_id(2)}.jpg",
        f"{make_id(3)}.jpg",
    ]
    assert not (folder / ".fetching").exists()


def test_no_more_of_a_class_than_asked_for_are_fetched(tmp_path: Path, server: Server) -> None:
    rows = [(number, ["/m/dog", "/m/cat"][number % 2], 1) for number in range(12)]
    folder = make_folder(tmp_path / "subset", rows, "Dog\nCat", images=[0])
    for number in range(12):
        write_jpeg(server.folder / "validation" / f"{make_id(number)}.jpg", number)
    listing = load(folder, "+download=3")
    assert (listing.labels.count("Dog"), listing.labels.count("Cat")) == (3, 3)
    assert load(folder, "+download=3").ids == listing.ids


@pytest.mark.parametrize("body", [b"<!DOCTYPE html><html></html>", b"no image at all", None])
def test_what_is_no_image_or_absent_is_left_out(body: bytes | None, tmp_path: Path, server: Server) -> None:
    folder = make_folder(tmp_path / "subset", [(1, "/m/dog", 1), (2, "/m/cat", 1)], images=[])
    write_jpeg(server.folder / "validation" / f"{make_id(1)}.jpg", 1)
    if body is not None:
        (server.folder / "validation" / f"{make_id(2)}.jpg").write_bytes(body)
    listing = load(folder, "+download")
    assert labels_of(listing) == {1: "Dog"}
    assert listing.facts["not_on_disk"] == 1
    assert [path.name for path in (folder / "validation").iterdir()] == [f"{make_id(1)}.jpg"]


def test_a_fetch_that_can_not_succeed_stops_and_names_the_list(tmp_path: Path, server: Server) -> None:
    images = [Missing("train", make_id(number)) for number in range(200)]
    with pytest.raises(DownloadError, match=r"403.*image_ids\.txt.*official downloader"):
        fetch_images(tmp_path, images, SILENT, max_pixels=1000, base_url=server.url)
    assert len(server.asked) == 64
    pauses: list[float] = []
    with pytest.raises(DownloadError, match="image_ids"):
        fetch_images(
            tmp_path, images[:2], SILENT, max_pixels=1000, base_url="http://127.0.0.1:9", sleep=pauses.append
        )
    assert pauses
    assert len((tmp_path / "image_ids.txt").read_text().splitlines()) == 2


def test_annotations_of_no_part_can_not_be_fetched(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, [(1, "/m/dog", 1)], table="annotations-bbox.csv", images=[])
    with pytest.raises(DataError, match="does not give the split"):
        load(folder, "+download")
