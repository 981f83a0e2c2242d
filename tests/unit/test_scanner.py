"""Folders of every shape: each real file once, in an order of names alone, and nothing lost in silence."""

from __future__ import annotations

import os
import random
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbench.data import scanner
from backbench.data.left_out import find_lost, list_left_out
from backbench.data.scanner import Tree, scan_folder, scan_pictures
from backbench.errors import DataError

NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def add(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode("utf-8", "surrogateescape"))


def reasons(tree: Tree) -> dict[str, str]:
    return {ignored.path: ignored.reason for ignored in tree.ignored}


def test_class_folders(root: Path) -> None:
    add(root, "dog/2.png", "cat/b.jpg", "cat/a.JPEG")
    tree = scan_folder(root)
    assert tree.ids == ("cat/a.JPEG", "cat/b.jpg", "dog/2.png")
    assert tree.labels == ("cat", "cat", "dog")
    assert tree.parts == (None, None, None)
    assert tree.class_names == ("cat", "dog")
    assert tree.files == tuple(root / name for name in tree.ids)
    assert tree.ignored == ()
    assert tree.nested == ()


def test_folders_of_images_beside_splits_are_told_as_lost(root: Path) -> None:
    add(root, "train/cat/1.jpg", "test/cat/2.jpg", "train_augmented/cat/3.jpg", "masks/4.jpg", "notes/a.txt")
    add(root, "whole/dog/train/1.jpg")
    assert [entry.path for entry in find_lost(scan_folder(root).ignored)] == ["masks", "train_augmented", "whole"]


def test_paths_of_windows_that_became_names_are_the_cause(root: Path) -> None:
    add(root, "data\\cat\\1.jpg", "data\\dog\\1.jpg")
    with pytest.raises(DataError, match=r"1.jpg' contain backslashes.*Unpack it again with 'unzip'"):
        scan_folder(root)


@pytest.mark.parametrize("name", ["train.zip", "photos.tar.gz", "all.7z"])
def test_an_archive_in_place_of_images_is_the_cause(root: Path, name: str) -> None:
    add(root, name)
    with pytest.raises(DataError, match=rf"'{name}' is an archive: unpack it, and give the unpacked folder"):
        scan_folder(root)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_parts(root: Path, val: str) -> None:
    add(root, "train/cat/1.jpg", "train/dog/1.jpg", f"{val}/cat/1.jpg", "test/dog/1.jpg", "notes/a.txt")
    tree = scan_folder(root)
    assert dict(zip(tree.ids, tree.parts, strict=True)) == {
        "train/cat/1.jpg": "train",
        "train/dog/1.jpg": "train",
        f"{val}/cat/1.jpg": "val",
        "test/dog/1.jpg": "test",
    }
    assert sorted(tree.labels) == ["cat", "cat", "dog", "dog"]
    assert tree.class_names == ("cat", "dog")
    assert "beside train/" in reasons(tree)["notes"]


def test_a_class_may_be_called_train(root: Path) -> None:
    add(root, "train/1.jpg", "bus/1.jpg", "val/1.jpg")
    tree = scan_folder(root)
    assert tree.class_names == ("bus", "train", "val")
    assert set(tree.parts) == {None}
    add(root, "test/1.jpg")
    with pytest.raises(
        DataError, match=r"'test/' .* holds 1 image beside the class folders 'bus', 'train', 'val'"
    ):
        scan_folder(root)
    assert scan_folder(root, split_folders={}).class_names == ("bus", "test", "train", "val")
    assert scan_folder(root, ignore=["test"]).class_names == ("bus", "train", "val")


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["test/cat/1.jpg"], "no 'train/'"),
        (["test/cat/1.jpg", "val/cat/1.jpg"], "no 'train/'"),
        (["train/1.jpg", "test/1.jpg"], "no class folders"),
        (["train/1.jpg"], "no class folders"),
        (["train/", "test/cat/1.jpg"], "no class folders"),
        (["train/cat/1.jpg", "val/cat/1.jpg", "valid/cat/1.jpg"], "two folders for val"),
        (["train/cat/1.jpg", "bus/1.jpg"], "is ambiguous"),
        ([], "It has no files"),
        (["cat/", "dog/"], "holds no images"),
        (["1.jpg", "2.jpg", "3.png"], "3 of them images outside any class folder.*CSV"),
        (
            ["cat/1.txt", "cat/2.TXT", "cat/3.jxl", "README"],
            r"It has 4 files \(2 .txt, .*'cat/3.jxl': an unsupported image format",
        ),
        (["train/cat/1.txt"], "holds no images"),
    ],
)
def test_unusable_folders(root: Path, names: list[str], match: str) -> None:
    add(root, *names)
    with pytest.raises(DataError, match=match):
        scan_folder(root)


def test_missing_root_names_the_nearest(root: Path) -> None:
    with pytest.raises(DataError, match=r"no folder '.*foto.*Did you mean .*photos"):
        scan_folder(root.parent / "fotos")
    with pytest.raises(DataError, match=r"Did you mean .*photos"):
        scan_folder(root.parent / "phots" / "deeper")
    with pytest.raises(DataError, match="no 'xyzzy'"):
        scan_folder(root.parent / "xyzzy")


def test_file_as_root(root: Path) -> None:
    add(root, "labels.txt")
    with pytest.raises(DataError, match="is not a folder"):
        scan_folder(root / "labels.txt")


def test_what_is_ignored_is_reported(root: Path) -> None:
    add(
        root,
        *("cat/1.jpg", "cat/.2.jpg", "cat/._1.jpg", "cat/Thumbs.db", "cat/note.txt", "cat/raw.NEF", "cat/noext"),
        *(".git/x.jpg", "__MACOSX/cat/1.jpg", ".thumbs/1.jpg", "loose.jpg", "labels.csv", "empty/"),
    )
    tree = scan_folder(root)
    assert tree.ids == ("cat/1.jpg",)
    assert tree.class_names == ("cat", "empty")
    found = reasons(tree)
    for name in ("cat/.2.jpg", "cat/._1.jpg", "cat/Thumbs.db", ".git", "__MACOSX", ".thumbs"):
        assert "hidden" in found.pop(name)
    assert found == {
        "cat/note.txt": "not an image file (.txt)",
        "cat/raw.NEF": "an unsupported image format (.nef): convert it to PNG or JPEG",
        "cat/noext": "not an image file (no suffix)",
        "loose.jpg": "an image outside any class folder",
        "labels.csv": "not an image file (.csv)",
        "empty": "a class folder without images",
    }
    assert list(reasons(tree)) == sorted(reasons(tree))


def test_nested_folders_belong_to_their_class(root: Path) -> None:
    add(root, "cat/1.jpg", "cat/siamese/1.jpg", "cat/siamese/old/1.jpg", "cat/x.jpg/1.png")
    add(root, "cat/zebra.jpg")
    tree = scan_folder(root)
    assert set(tree.labels) == {"cat"}
    assert tree.ids == (
        "cat/1.jpg",
        "cat/siamese/1.jpg",
        "cat/siamese/old/1.jpg",
        "cat/x.jpg/1.png",
        "cat/zebra.jpg",
    )
    assert tree.nested == ("cat/siamese", "cat/siamese/old", "cat/x.jpg")


@pytest.mark.parametrize(
    ("first", "second", "match"),
    [("Cat", "cat", "case"), (NFC, NFD, "normalisation"), ("STRASSE", "stra\u00dfe", "case")],
)
@pytest.mark.parametrize("parts", [("", ""), ("train/", "train/"), ("train/", "test/")])
def test_twin_classes(root: Path, first: str, second: str, match: str, parts: tuple[str, str]) -> None:
    add(root, f"{parts[0]}{first}/1.jpg", f"{parts[1]}{second}/2.jpg")
    with pytest.raises(DataError, match=match) as error:
        scan_folder(root)
    assert ascii(parts[0] + first) in str(error.value)
    assert ascii(parts[1] + second) in str(error.value)


class TestLinks:
    def test_loops_end(self, root: Path) -> None:
        add(root, "cat/1.jpg", "dog/1.jpg", "dog/deep/2.jpg")
        (root / "cat" / "up").symlink_to("..")
        (root / "cat" / "self").symlink_to(".")
        (root / "dog" / "deep" / "loop").symlink_to("../../cat")
        (root / "again").symlink_to(".")
        tree = scan_folder(root)
        assert tree.ids == ("cat/1.jpg", "dog/1.jpg", "dog/deep/2.jpg")
        assert tree.class_names == ("cat", "dog")
        assert {path for path, why in reasons(tree).items() if "was already read" in why} == {
            "again",
            "cat/self",
            "cat/up",
            "dog/deep/loop",
        }

    def test_links_out_are_refused_unless_allowed(self, root: Path) -> None:
        add(root.parent, "store/b/1.jpg", "store/b/2.jpg", "store/c/3.jpg", "photos-2/1.jpg")
        add(root, "cat/1.jpg")
        (root / "cat" / "file.jpg").symlink_to(root.parent / "store/b/1.jpg")
        (root / "cat" / "folder").symlink_to(root.parent / "store/c")
        (root / "linked").symlink_to(root.parent / "store/b")
        (root / "sibling").symlink_to("../photos-2")  # its path starts with the root's
        (root / "above").symlink_to("../..")
        tree = scan_folder(root)
        assert tree.ids == ("cat/1.jpg",)
        assert tree.class_names == ("cat",)
        assert set(reasons(tree)) == {"cat/file.jpg", "cat/folder", "linked", "sibling", "above"}
        assert set(reasons(tree).values()) == {scanner.LINK_OUT}
        (root / "above").unlink()
        tree = scan_folder(root, follow_outside=True)
        assert tree.ids == ("cat/1.jpg", "cat/file.jpg", "cat/folder/3.jpg", "linked/2.jpg", "sibling/1.jpg")
        assert reasons(tree) == {
            "linked/1.jpg": "the same file as cat/file.jpg, which is in another class or split"
        }

    def test_a_part_that_is_a_link_out(self, root: Path) -> None:
        add(root.parent, "elsewhere/cat/1.jpg")
        add(root, "dog/1.jpg")
        (root / "train").symlink_to(root.parent / "elsewhere")
        with pytest.raises(DataError, match=r"'train' .* a link that leads out .*--follow-links"):
            scan_folder(root)
        assert scan_folder(root, ignore=["train"]).ids == ("dog/1.jpg",)

    def test_only_links_out(self, root: Path) -> None:
        add(root.parent, "store/1.jpg")
        add(root, "cat/")
        (root / "cat" / "1.jpg").symlink_to(root.parent / "store/1.jpg")
        with pytest.raises(DataError, match="1 links lead out"):
            scan_folder(root)

    def test_the_real_file_stands_before_its_links(self, root: Path) -> None:
        add(root, "cat/z.jpg")
        (root / "cat" / "a.jpg").symlink_to("z.jpg")
        add(root, "dog/1.jpg")
        (root / "a_link").symlink_to("dog")
        tree = scan_folder(root)
        assert tree.ids == ("cat/z.jpg", "dog/1.jpg")
        assert tree.class_names == ("cat", "dog")
        assert reasons(tree)["cat/a.jpg"] == "the same file as cat/z.jpg"

    def test_links_to_files_kept_in_a_hidden_store(self, root: Path) -> None:
        add(root, ".annex/0a1b", "cat/")
        (root / "cat" / "1.jpg").symlink_to("../.annex/0a1b")
        assert scan_folder(root).ids == ("cat/1.jpg",)

    @pytest.mark.parametrize(
        ("first", "second", "is_lost"),
        [
            ("cat/1.jpg", "cat/2.jpg", False),
            ("cat/1.jpg", "dog/1.jpg", True),
            ("train/cat/1.jpg", "test/cat/2.jpg", True),
            ("train/cat/1.jpg", "train/dog/1.jpg", True),
        ],
    )
    def test_one_file_in_two_classes_or_splits_is_told_as_lost(
        self, root: Path, first: str, second: str, is_lost: bool
    ) -> None:
        add(root, first, *(str(Path(name).with_name("own.jpg")) for name in (first, second)))
        os.link(root / first, root / second)
        lost = [entry.path for entry in find_lost(scan_folder(root).ignored)]
        assert lost == [second] * is_lost

    def test_hard_links(self, root: Path) -> None:
        add(root, "cat/1.jpg", "dog/2.jpg")
        os.link(root / "cat/1.jpg", root / "dog/1.jpg")
        tree = scan_folder(root)
        assert tree.ids == ("cat/1.jpg", "dog/2.jpg")
        assert reasons(tree) == {"dog/1.jpg": "the same file as cat/1.jpg, which is in another class or split"}

    def test_dead_and_circular_links(self, root: Path) -> None:
        add(root, "cat/1.jpg")
        (root / "cat" / "dead.jpg").symlink_to("nowhere")
        (root / "cat" / "circle.jpg").symlink_to("circle.jpg")
        (root / "circle").symlink_to("circle")
        found = reasons(scan_folder(root))
        assert found["cat/circle.jpg"] == "a link that leads in a circle"
        assert found["cat/dead.jpg"].startswith("a dead link")
        assert "circle" in found

    def test_root_may_be_a_link(self, root: Path) -> None:
        add(root, "cat/1.jpg")
        (root / "cat" / "2.jpg").symlink_to("1.jpg")
        (root.parent / "link").symlink_to(root)
        assert scan_folder(root.parent / "link").ids == ("cat/1.jpg",)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_pipes_are_not_opened(root: Path) -> None:
    add(root, "cat/1.jpg")
    os.mkfifo(root / "cat" / "pipe.jpg")
    tree = scan_folder(root)
    assert tree.ids == ("cat/1.jpg",)
    assert "not a file" in reasons(tree)["cat/pipe.jpg"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder_is_reported(root: Path) -> None:
    add(root, "cat/1.jpg", "dog/1.jpg")
    (root / "dog").chmod(0)
    try:
        tree = scan_folder(root)
    finally:
        (root / "dog").chmod(0o700)
    assert tree.class_names == ("cat", "dog")
    assert "can't be opened" in reasons(tree)["dog"]


def test_folder_that_vanishes_or_fails_is_reported(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(root, "cat/1.jpg", "dog/1.jpg")
    scandir = os.scandir

    def fail(path: str) -> os.DirEntry:
        if os.fspath(path).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    tree = scan_folder(root)
    assert tree.class_names == ("cat", "dog")
    assert reasons(tree) == {"dog": "can't be opened: Permission denied"}


def test_names_of_every_kind(root: Path) -> None:
    names = ["-rf.jpg", "a\nb.jpg", "\u05d0\u05d1.jpg", "\U0001f408.jpg", "n" * 251 + ".jpg", " .jpg", "<b>.jpg"]
    names += [f"{NFC}.jpg", f"{NFD}.jpg", "a.jpg.PNG", "1.jpg", "10.jpg", "2.jpg", "B.jpg", "a.jpg", "\\.jpg"]
    if sys.platform == "linux":
        names.append(os.fsdecode(b"\xff\xfe.jpg"))
    add(root, *(f"cat/{name}" for name in names))
    tree = scan_folder(root)
    assert set(tree.ids) == {f"cat/{name}" for name in names}
    keys = [unicodedata.normalize("NFC", sample_id) for sample_id in tree.ids]
    assert keys == sorted(keys)


def test_order_does_not_depend_on_creation_or_directory_order(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(12)
    names = [f"{label}/{index}.jpg" for label in ("b", "A", NFD, "z") for index in range(12)]
    rng.shuffle(names)
    add(root, *names)
    os.link(root / "b/3.jpg", root / "A/copy.jpg")
    (root / "A" / "zlink").symlink_to("../z")
    expected = scan_folder(root)
    scandir = os.scandir

    class Shuffled:
        def __init__(self, path: str) -> None:
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda entry: rng.random())

        def __enter__(self) -> list[os.DirEntry]:
            return self.entries

        def __exit__(self, *args: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Shuffled)
    for _ in range(5):
        assert scan_folder(root) == expected


def test_scanning_opens_no_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(root, "cat/1.jpg")
    refuse: Callable[..., None] = lambda *args, **options: pytest.fail("a file was opened")  # noqa: E731
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("os.open", refuse)
    assert len(scan_folder(root).ids) == 1


def make_random_tree(rng: random.Random, root: Path) -> None:
    """A tree of a few dozen entries of every kind, links among and out of them included."""
    folders = [root]
    stems = ["1", "a", "A", NFC, "-x", ".h", "\u05d0", "l\nf", "\U0001f408", "y" * 120, os.fsdecode(b"\xf0")]
    suffixes = [".jpg", ".JPG", ".Png", ".txt", "", ".heic"]
    (root.parent / "outside").mkdir()
    (root.parent / "outside" / "o.jpg").write_bytes(b"o")
    for _ in range(rng.randrange(1, 40)):
        path = rng.choice(folders) / (rng.choice(stems) + rng.choice(suffixes))
        if path.parent == root and rng.random() < 0.95:  # else twins would be everywhere
            path = root / f"{len(folders)}{path.name}"
        if os.path.lexists(path):
            continue
        kind = rng.choice(["file"] * 5 + ["folder"] * 4 + ["link", "link", "hard", "out", "loop", "pipe"])
        real = [entry for entry in root.rglob("*") if entry.is_file() and not entry.is_symlink()]
        if kind == "folder" or path.parent == root:
            path.mkdir()
            folders.append(path)
        elif kind == "file":
            path.write_bytes(b"same" if rng.random() < 0.3 else os.fsencode(path))
        elif kind == "hard" and real:
            os.link(rng.choice(real), path)
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            outside = rng.choice([root.parent / "outside", root.parent / "outside/o.jpg", Path("/")])
            path.symlink_to({"out": outside, "loop": Path("..")}.get(kind, rng.choice(folders + real)))


@pytest.mark.skipif(sys.platform != "linux", reason="makes names and links that not every system takes")
def test_random_trees(tmp_path: Path, test_scale: float) -> None:
    """Against a plain walk: every real image once and for its class, nothing from outside, twins refused."""
    num_scanned = 0
    for seed in range(int(50 * test_scale)):
        root = tmp_path / str(seed) / "root"
        root.mkdir(parents=True)
        make_random_tree(random.Random(seed), root)
        tops = [entry.name for entry in root.iterdir() if not entry.name.startswith(".")]
        folded = {unicodedata.normalize("NFC", name).casefold() for name in tops}
        expected = {}
        for folder, below, names in os.walk(root):
            below[:] = [name for name in below if not name.startswith(".")]
            for name in names:
                path = Path(folder, name)
                is_image = path.suffix.lower() in (".jpg", ".png") and not name.startswith(".")
                if is_image and path.parent != root and path.is_file() and not path.is_symlink():
                    expected.setdefault(path.stat().st_ino, path.relative_to(root).parts[0])
        if len(folded) < len(tops):
            with pytest.raises(DataError, match="differ only in"):
                scan_folder(root)
            continue
        if not expected:  # there may still be one that only a link leads to
            continue
        num_scanned += 1
        tree = scan_folder(root)
        inodes = [path.stat().st_ino for path in tree.files]
        assert len(set(inodes)) == len(inodes), f"seed {seed}"
        assert set(expected) <= set(inodes), f"seed {seed}"
        real_root = root.resolve()
        assert all(path.resolve().is_relative_to(real_root) for path in tree.files), f"seed {seed}"
        assert all(sample.split("/")[0] == label for sample, label in zip(tree.ids, tree.labels, strict=True))
        assert {name for name in tops if (root / name).is_dir() and not (root / name).is_symlink()} <= set(
            tree.class_names
        ), f"seed {seed}"
        assert all(path == root / name for path, name in zip(tree.files, tree.ids, strict=True))
        assert len(set(tree.ids) | {ignored.path for ignored in tree.ignored}) == len(tree.ids) + len(tree.ignored)
    assert num_scanned > 15 * test_scale, num_scanned


PIXELS = Image.fromarray(np.zeros((8, 8, 3), np.uint8))


def put(path: Path, form: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIXELS.save(path, form)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
@pytest.mark.parametrize("name", ["IMG0001", "0.jpg_large", "a.jpeg~", "b.img"])
def test_pictures_without_their_suffix_are_named(root: Path, form: str, name: str) -> None:
    add(root, "cat/1.jpg", "cat/notes", "cat/list.xyz")
    put(root / "cat" / name, form)
    tree = scan_folder(root)
    assert tree.ids == ("cat/1.jpg",)
    lost = {entry.path: entry.reason.lower() for entry in tree.ignored if entry.loss == "picture"}
    assert set(lost) == {f"cat/{name}"}
    assert f"looks like a {form.lower()} image" in lost[f"cat/{name}"]
    assert "rename" in lost[f"cat/{name}"]


@pytest.mark.parametrize(
    "start", [b"8BPS\0\1", b"\xff\x0a" + bytes(9), b"II*\0\x10\0\0\0CR\2\0", b"IIRO\x08\0\0\0"]
)
def test_pictures_of_other_formats_are_named_by_content(root: Path, start: bytes) -> None:
    add(root, "cat/1.jpg")
    (root / "cat" / "IMG_1").write_bytes(start)
    (entry,) = scan_folder(root).ignored
    assert (entry.loss, "unsupported" in entry.reason) == ("unread", True)


def test_what_is_lost_comes_before_litter(root: Path) -> None:
    add(root, "cat/1.jpg", "cat/raw.NEF", "cat/raw2.nef", "cat/readme.txt", "zoo/")
    add(root, *(f"cat/{name}" for name in (".DS_Store", "._1.jpg", "Thumbs.db", "desktop.ini", "@eaDir/1.jpg")))
    add(root, "__MACOSX/cat/._1.jpg", ".ipynb_checkpoints/1.jpg")
    put(root / "cat" / "NOSUFFIX", "JPEG")
    lines = list_left_out(scan_folder(root).ignored)
    assert [("nef" in line, "NOSUFFIX" in line, "system file" in line) for line in lines] == [
        (True, False, False),
        (False, True, False),
        (False, False, False),
        (False, False, False),
        (False, False, True),
    ]
    assert "'cat/raw.NEF', 'cat/raw2.nef': " in lines[0]
    assert "and 4 more: a hidden file or a system file" in lines[-1]


def test_many_reasons_are_cut_short_after_the_worst(root: Path) -> None:
    add(root, "cat/1.jpg", *(f"cat/{number}.x{number}" for number in range(20)), "cat/a.nef")
    (root / "cat" / ".DS_Store").write_bytes(b"Bud1")
    lines = list_left_out(scan_folder(root).ignored)
    assert ".nef" in lines[0]
    assert lines[-2].startswith("... and 11 more")
    assert lines[-1].startswith("'cat/.DS_Store': a hidden file or a system file")


class TestUnlabelledFolders:
    def test_all_pictures_below_and_what_is_lost(self, root: Path) -> None:
        add(root, "b/2.jpg", "10.png", "2.png", "b/.hidden.jpg", "c.jxl", "notes.txt")
        put(root / "NOSUFFIX", "PNG")
        files, left_out = scan_pictures(root)
        assert files == [root / "10.png", root / "2.png", root / "b" / "2.jpg"]
        assert [entry.path for entry in find_lost(left_out)] == ["NOSUFFIX", "c.jxl"]

    def test_links_out_are_not_followed_and_told(self, root: Path) -> None:
        add(root.parent, "store/1.jpg")
        add(root, "a.jpg")
        (root / "folder").symlink_to(root.parent / "store")
        (root / "file.jpg").symlink_to(root.parent / "store/1.jpg")
        (root / "inside.jpg").symlink_to("a.jpg")
        (root / "up").symlink_to(".")
        files, left_out = scan_pictures(root)
        assert files == [root / "a.jpg", root / "inside.jpg"]
        assert {entry.path: entry.reason for entry in find_lost(left_out)} == {
            "folder": scanner.LINK_OUT,
            "file.jpg": scanner.LINK_OUT,
        }

    def test_a_file_counts_under_each_of_its_names(self, root: Path) -> None:
        add(root, "a.jpg")
        os.link(root / "a.jpg", root / "b.jpg")
        assert scan_pictures(root)[0] == [root / "a.jpg", root / "b.jpg"]

    def test_a_folder_that_cannot_be_opened_is_told(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        add(root, "a.jpg", "shut/1.jpg")
        scandir = os.scandir

        def refuse(path: str) -> object:  # root may open everything
            if path.endswith("shut"):
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        files, left_out = scan_pictures(root)
        assert files == [root / "a.jpg"]
        assert [(e.path, e.reason, e.loss) for e in left_out] == [
            ("shut", "can't be opened: Permission denied", "unread")
        ]
        assert scan_folder(root.parent).ids == ("photos/a.jpg",)

    def test_a_folder_that_cannot_be_opened_itself_is_an_error(self, root: Path) -> None:
        with pytest.raises(DataError, match="can't be opened"):
            scan_pictures(root / "nowhere")
