"""Caltech archives in the published form, small: from a server, on disk, damaged and incomplete."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbench.config import DataConfig
from backbench.data.load import load_data, load_listing
from backbench.data.sources import caltech
from backbench.data.sources.caltech import CALTECH101, CALTECH256, Archive, load_named
from backbench.data.survey import survey
from backbench.errors import ConfigError, DataError, DownloadError
from backbench.progress import SILENT
from backbench.registry import find_source, list_sources
from backbench.runtime import cache_folder

CONFIG = DataConfig(source="caltech256")
SMALL101 = replace(CALTECH101, num_images=22, num_classes=3, num_clutter=6, num_bytes=1_000_000)
SMALL256 = replace(CALTECH256, num_images=22, num_classes=3, num_clutter=6, num_bytes=1_000_000)
FOLDERS = {
    "caltech101": {"accordion": 8, "Faces_easy": 8, "BACKGROUND_Google": 6},
    "caltech256": {"001.ak47": 8, "253.faces-easy-101": 8, "257.clutter": 6},
}


def draw(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def make_members(archive: Archive) -> dict[str, bytes]:
    """Path -> content, with the kinds of litter that the published archives hold."""
    members: dict[str, bytes] = {}
    for number, (folder, num) in enumerate(FOLDERS[archive.name].items()):
        for row in range(1, num + 1):
            name = f"image_{row:04d}.jpg" if archive.name == "caltech101" else f"{folder[:3]}_{row:04d}.jpg"
            members[f"{archive.folder}/{folder}/{name}"] = draw(100 * number + row)
    first = f"{archive.folder}/{next(iter(FOLDERS[archive.name]))}"
    return members | {f"{first}/RENAME2": b"#!/bin/sh", f"{first}/more/001_0001.jpg": draw(7)}


def pack_tar(members: dict[str, bytes], mode: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as packed:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            packed.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def pack(archive: Archive, members: dict[str, bytes] | None = None) -> bytes:
    """As published: a tar, or a zip that holds a tar.gz."""
    members = make_members(archive) if members is None else members
    if archive.inner is None:
        return pack_tar(members, "w")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        packed.writestr("caltech-101/101_ObjectCategories.tar.gz", pack_tar(members, "w:gz"))
        packed.writestr("caltech-101/Annotations.tar", b"outlines")
        packed.writestr("__MACOSX/caltech-101/._101_ObjectCategories.tar.gz", b"litter")
    return stream.getvalue()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    service = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=service.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{service.server_port}", folder
    service.shutdown()
    thread.join()
    service.server_close()


def serve(archive: Archive, url: str, folder: Path, data: bytes | None = None) -> Archive:
    """The archive as it lies on the server, with the checksum of what was served at first."""
    data = pack(archive) if data is None else data
    (folder / archive.file_name).write_bytes(data)
    md5 = hashlib.md5(data).hexdigest()
    return replace(archive, url=f"{url}/{archive.file_name}", md5=md5, num_bytes=len(data))


@pytest.mark.parametrize("archive", [SMALL101, SMALL256], ids=["101", "256"])
def test_an_archive_is_fetched_once_and_unpacked(archive: Archive, server: tuple[str, Path]) -> None:
    url, folder = server
    archive = serve(archive, url, folder)
    first = load_named(archive, False, CONFIG, SILENT)
    (folder / archive.file_name).unlink()
    again = load_named(archive, False, CONFIG, SILENT)
    assert len(first) == 16
    assert first.ids == again.ids
    assert set(first.parts) == {None}
    assert first.files is not None
    assert all(file.is_file() for file in first.files)
    assert {entry.path.rpartition("/")[2] for entry in first.ignored} == {"RENAME2", "more"}
    assert [path.name for path in (cache_folder() / "downloads").glob(archive.file_name)] == []
    assert len(list((cache_folder() / "datasets").glob("[!.]*"))) == 1


def test_class_names_lose_their_number_and_ids_keep_it(server: tuple[str, Path]) -> None:
    listing = load_named(serve(SMALL256, *server), False, CONFIG, SILENT)
    assert listing.class_names == ("ak47", "faces-easy-101")
    assert set(listing.labels) == {"ak47", "faces-easy-101"}
    assert listing.ids[0] == "001.ak47/001_0001.jpg"


@pytest.mark.parametrize(
    ("archive", "clutter"), [(SMALL101, "BACKGROUND_Google"), (SMALL256, "clutter")], ids=["101", "256"]
)
def test_clutter_is_left_out_and_said_or_kept(archive: Archive, clutter: str, server: tuple[str, Path]) -> None:
    archive = serve(archive, *server)
    without = load_named(archive, False, CONFIG, SILENT)
    kept = load_named(archive, True, CONFIG, SILENT)
    assert clutter not in without.labels
    assert without.facts["left_out"] == {clutter: 6}
    assert f"{archive.name}+clutter" in without.facts["warnings"][0]
    assert kept.labels.count(clutter) == 6
    assert kept.name == f"{archive.name}+clutter"
    assert "warnings" not in kept.facts


def test_a_wrong_checksum_ends_in_a_download_error(server: tuple[str, Path]) -> None:
    archive = replace(serve(SMALL256, *server), md5="0" * 32)
    with pytest.raises(DownloadError, match="MD5 is"):
        load_named(archive, False, CONFIG, SILENT)
    assert not list((cache_folder() / "datasets").glob("*"))


@pytest.mark.parametrize("body", [b"<!DOCTYPE html><html>please log in</html>", b""])
def test_another_body_than_an_archive_is_refused(body: bytes, server: tuple[str, Path]) -> None:
    url, folder = server
    archive = replace(serve(SMALL256, url, folder, body), md5=CALTECH256.md5, num_bytes=None)
    with pytest.raises(DownloadError, match=r"web page|MD5"):
        load_named(archive, False, CONFIG, SILENT)


def test_a_file_that_is_not_on_the_server_is_named(server: tuple[str, Path]) -> None:
    url, folder = server
    archive = serve(SMALL256, url, folder)
    (folder / archive.file_name).unlink()
    with pytest.raises(DownloadError, match=r"256_ObjectCategories\.tar.*404"):
        load_named(archive, False, CONFIG, SILENT)


@pytest.mark.parametrize("archive", [SMALL101, SMALL256], ids=["101", "256"])
def test_a_truncated_archive_leaves_nothing(archive: Archive, server: tuple[str, Path]) -> None:
    data = pack(archive)
    with pytest.raises(DownloadError, match=r"damaged|truncated|cut"):
        load_named(serve(archive, *server, data[: len(data) // 2]), False, CONFIG, SILENT)
    assert not [path for path in (cache_folder() / "datasets").iterdir() if not path.name.endswith(".lock")]


def test_a_zip_without_the_inner_archive_is_refused(server: tuple[str, Path]) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        packed.writestr("other/readme.txt", b"hello")
    with pytest.raises(DownloadError, match=r"holds no 101_ObjectCategories\.tar\.gz"):
        load_named(serve(SMALL101, *server, stream.getvalue()), False, CONFIG, SILENT)


def test_a_member_outside_the_folder_is_refused(server: tuple[str, Path]) -> None:
    data = pack(SMALL256, make_members(SMALL256) | {"../../escaped.jpg": b"x"})
    with pytest.raises(DownloadError, match="refused"):
        load_named(serve(SMALL256, *server, data), False, CONFIG, SILENT)
    assert not list(cache_folder().rglob("escaped.jpg"))


def test_other_counts_than_published_are_refused(server: tuple[str, Path]) -> None:
    members = make_members(SMALL256)
    del members["256_ObjectCategories/001.ak47/001_0003.jpg"]
    with pytest.raises(DataError, match="21 images instead of 22"):
        load_named(serve(SMALL256, *server, pack(SMALL256, members)), False, CONFIG, SILENT)


def test_an_image_removed_from_the_cache_is_noticed(server: tuple[str, Path]) -> None:
    archive = serve(SMALL256, *server)
    listing = load_named(archive, False, CONFIG, SILENT)
    assert listing.files is not None
    listing.files[0].unlink()
    with pytest.raises(DataError, match=r"21 images instead of 22.*Delete '.*caltech256-[0-9a-f]{16}'"):
        load_named(archive, False, CONFIG, SILENT)


def test_two_class_folders_of_one_name_are_refused(server: tuple[str, Path]) -> None:
    members = {
        name.replace("253.faces-easy-101", "002.ak47"): data for name, data in make_members(SMALL256).items()
    }
    with pytest.raises(DataError, match="same name: 'ak47'"):
        load_named(serve(SMALL256, *server, pack(SMALL256, members)), False, CONFIG, SILENT)


@pytest.mark.parametrize("name", ["256_ObjectCategories.tar", "caltech-101.zip", "101_ObjectCategories.tar.gz"])
def test_an_archive_on_disk_is_taken_by_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caltech, "ARCHIVES", (SMALL101, SMALL256))
    archive = SMALL256 if name.startswith("256") else SMALL101
    data = pack(archive) if name == archive.file_name else pack_tar(make_members(archive), "w:gz")
    (tmp_path / name).write_bytes(data)
    found = load_data(DataConfig(source=str(tmp_path / name)))
    assert len(found.manifest) == 16
    assert all(found.manifest.counts.values())
    assert any("differs from the published" in warning for warning in found.warnings)
    md5 = hashlib.md5(data).hexdigest()
    known = replace(archive, md5=md5, inner=None if archive.inner is None else (archive.inner[0], md5))
    monkeypatch.setattr(caltech, "ARCHIVES", (known,))
    again = load_listing(DataConfig(source=str(tmp_path / name)))
    assert not any("differs from the published" in warning for warning in again.facts["warnings"])


def test_an_archive_on_disk_with_other_counts_is_said_not_to_be_the_published_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caltech, "ARCHIVES", (SMALL256,))
    members = make_members(SMALL256)
    del members["256_ObjectCategories/001.ak47/001_0003.jpg"]
    path = tmp_path / SMALL256.file_name
    path.write_bytes(pack(SMALL256, members))
    with pytest.raises(DataError, match=r"21 images instead of 22.*tar is not the published archive: its MD5 is"):
        load_listing(DataConfig(source=str(path)))


def test_a_damaged_archive_on_disk_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "256_ObjectCategories.tar").write_bytes(b"no archive")
    with pytest.raises(DataError, match="backbench rank caltech256"):
        load_listing(DataConfig(source=str(tmp_path / "256_ObjectCategories.tar")))


def unpack(archive: Archive, root: Path) -> Path:
    for name, data in make_members(archive).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root / archive.folder


@pytest.mark.parametrize("archive", [SMALL101, SMALL256], ids=["101", "256"])
def test_a_whole_set_that_was_unpacked_by_hand_is_the_published_one(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caltech, "ARCHIVES", (SMALL101, SMALL256))
    top = unpack(archive, tmp_path)
    listing = load_listing(DataConfig(source=str(top)))
    assert (listing.name, len(listing)) == (archive.name, 16)
    assert set(listing.class_names) == (
        {"accordion", "Faces_easy"} if archive is SMALL101 else {"ak47", "faces-easy-101"}
    )
    assert "is used without its class" in listing.facts["warnings"][0]


def test_some_images_of_a_set_are_an_ordinary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caltech, "ARCHIVES", (SMALL101, SMALL256))
    top = unpack(SMALL256, tmp_path)
    (top / "001.ak47" / "001_0003.jpg").unlink()
    listing = load_listing(DataConfig(source=str(top)))
    assert listing.class_names == ("001.ak47", "253.faces-easy-101", "257.clutter")
    assert len(listing) == 22
    assert [entry.path for entry in listing.ignored] == ["001.ak47/RENAME2"]


def test_the_published_facts() -> None:
    by_name = {spec.name: spec for spec in list_sources()}
    assert (by_name["caltech256"].num_images, by_name["caltech256"].num_classes) == (29_780, 256)
    assert (by_name["caltech256+clutter"].num_images, by_name["caltech256+clutter"].num_classes) == (30_607, 257)
    assert (by_name["caltech101"].num_images, by_name["caltech101"].num_classes) == (8_677, 101)
    assert (by_name["caltech101+clutter"].num_images, by_name["caltech101+clutter"].num_classes) == (9_144, 102)
    assert all(by_name[name].citation and by_name[name].licence for name in by_name if name.startswith("caltech"))


def test_before_the_download_the_survey_knows_counts_parts_and_size() -> None:
    found = survey(DataConfig(source="caltech256"))
    assert found.num_images == 29_780
    assert found.parts == {"train": 19_059, "val": 4_765, "test": 5_956}
    assert str(found.class_counts) == "80-800"
    assert found.download_bytes == 1_183_006_720
    spec = find_source("caltech256")
    assert spec is not None
    (cache_folder() / spec.facts["folder"]).mkdir(parents=True)
    assert survey(DataConfig(source="caltech256")).download_bytes == 0


def test_named_sets_have_no_columns() -> None:
    with pytest.raises(ConfigError, match="only tables have columns"):
        load_listing(DataConfig(source="caltech101", label_column="label"))
