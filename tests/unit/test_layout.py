"""Splits that a person gave are used, or stop the work: never counted as classes, never left out unsaid."""

from __future__ import annotations

import shlex
import unicodedata
from pathlib import Path

import pytest

from backbench.config import DataConfig
from backbench.data.load import load_listing
from backbench.data.part_names import hints_at_part, is_filler, parse_part
from backbench.data.scanner import Tree, scan_folder
from backbench.errors import ConfigError, DataError

TRAIN = """
    train Train TRAIN training Training_Set train_images train-data trainset TrainImages train1 images_train
    Trainingsdaten Trainingsbilder entraînement apprentissage entrenamiento treino treinamento addestramento
    обучение тренировочная_выборка 训练集 訓練 学習用データ 훈련
""".split()  # noqa: SIM905
VAL = """
    val valid Validation validation_set dev dev-set development Validierung Validierungsdaten validación validação
    validazione валидация 验证集 驗證集 検証用 검증
""".split()  # noqa: SIM905
TEST = """
    test Test TESTING tests test_set test-images testset TestImages test2 eval evaluation Holdout held_out hold-out
    Testdaten Prüfung données_test prueba pruebas teste avaliação prova тест тестовая_выборка 测试集 測試 テスト
    テスト用データ 테스트
""".split()  # noqa: SIM905
NEITHER = """
    cat tennis contest testimonial latest trainer invalid valve images 2019 fold1 a x_ray test_dog attest
""".split()  # noqa: SIM905


@pytest.mark.parametrize(("names", "part"), [(TRAIN, "train"), (VAL, "val"), (TEST, "test")])
def test_names_of_splits_in_many_languages(names: list[str], part: str) -> None:
    for name in names:
        assert parse_part(name) == part, name
        assert parse_part(unicodedata.normalize("NFD", name.upper())) == part, name


@pytest.mark.parametrize("name", NEITHER)
def test_names_that_are_no_splits(name: str) -> None:
    assert parse_part(name) is None


def test_hints_and_fillers() -> None:
    assert hints_at_part("my_old_test") == "test"
    assert hints_at_part("train_test") is None
    assert hints_at_part("contest") is None
    assert is_filler("images")
    assert not is_filler("cat")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    return folder


def add(root: Path, *names: str) -> None:
    """Files with two classes each: 'train' stands for train/cat/0.jpg and train/dog/0.jpg."""
    for name in names:
        paths = (
            [name] if name.endswith((".jpg", ".csv", ".txt", "/")) else [f"{name}/cat/0.jpg", f"{name}/dog/0.jpg"]
        )
        for path in paths:
            target = root / path
            if path.endswith("/"):
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.encode())


def write(root: Path, name: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b"x")


def parts(tree: Tree) -> dict[str, int]:
    return {part: tree.parts.count(part) for part in ("train", "val", "test") if part in tree.parts}


@pytest.mark.parametrize("test", TEST)
@pytest.mark.parametrize("train", ["train", "Train_Images", "Trainingsdaten", "训练集"])
def test_a_test_folder_of_any_name_is_used(root: Path, train: str, test: str) -> None:
    add(root, train, test)
    tree = scan_folder(root)
    assert parts(tree) == {"train": 2, "test": 2}
    assert tree.class_names == ("cat", "dog")
    assert tree.part_folders == {train: "train", test: "test"}


def notes(root: Path, **options: object) -> str:
    # type: ignore[arg-type]
    return "\n".join(load_listing(DataConfig(source=str(root), **options)).facts.get("notes", ()))


def test_which_folder_is_which_split_is_said_where_names_leave_a_doubt(root: Path) -> None:
    add(root, "train", "val")
    assert "no test split is given" in notes(root)
    add(root, "test")
    assert notes(root) == ""
    (root / "test").rename(root / "eval")
    assert notes(root) == "Splits: train from 'train/', val from 'val/', test from 'eval/'"


@pytest.mark.parametrize("name", ["test", "Testing", "eval", "val", "テスト"])
def test_images_without_labels_stop(root: Path, name: str) -> None:
    add(root, "train", f"{name}/1.jpg", f"{name}/2.jpg")
    with pytest.raises(DataError, match=rf"'{name}/'.*no image with a label: 2 x an image outside.*--ignore"):
        scan_folder(root)
    tree = scan_folder(root, ignore=[name])
    assert parts(tree) == {"train": 2}
    assert [(entry.path, "--ignore" in entry.reason) for entry in tree.ignored] == [(name, True)]
    assert parts(scan_folder(root, has_split=True)) == {"train": 2}


@pytest.mark.parametrize("what", ["empty", "empty classes", "other files", "unreadable formats"])
def test_a_test_folder_without_images_stops(root: Path, what: str) -> None:
    names = {"empty": "", "empty classes": "cat/", "other files": "cat/a.txt", "unreadable formats": "cat/a.txt"}
    add(root, "train", f"test/{names[what]}")
    with pytest.raises(DataError, match=r"'test/'.*no image with a label.*No other test split"):
        scan_folder(root)


class TestLinks:
    def test_a_test_folder_that_leads_out(self, root: Path) -> None:
        add(root.parent, "shared")
        add(root, "train")
        (root / "test").symlink_to("../shared")
        with pytest.raises(
            DataError, match=r"'test'.*a link that leads out of the folder.*--follow-links.*--ignore test"
        ):
            scan_folder(root)
        assert parts(scan_folder(root, follow_outside=True)) == {"train": 2, "test": 2}
        assert parts(scan_folder(root, ignore=["test"])) == {"train": 2}

    @pytest.mark.parametrize("name", ["test", "old_test_images"])
    def test_a_dead_link(self, root: Path, name: str) -> None:
        add(root, "train")
        (root / name).symlink_to("../gone")
        with pytest.raises(DataError, match=rf"'{name}'.*a dead link"):
            scan_folder(root)

    def test_a_test_folder_that_leads_to_another_split(self, root: Path) -> None:
        add(root, "train", "val")
        (root / "test").symlink_to("val")
        with pytest.raises(DataError, match=r"'test/'.*already read"):
            scan_folder(root)

    def test_a_test_folder_that_leads_to_another_place_inside(self, root: Path) -> None:
        add(root, "train", "store/2020")
        (root / "test").symlink_to("store/2020")
        assert parts(scan_folder(root)) == {"train": 2, "test": 2}

    def test_a_test_folder_of_a_class_that_leads_out(self, root: Path) -> None:
        add(root.parent, "shared")
        add(root, "cat/train/1.jpg", "dog/train/1.jpg", "dog/test/1.jpg")
        (root / "cat" / "test").symlink_to("../../shared/cat")
        with pytest.raises(DataError, match=r"'cat/test/'.*1 x a link that leads out.*--follow-links"):
            scan_folder(root)
        assert parts(scan_folder(root, follow_outside=True)) == {"train": 2, "test": 2}

    def test_class_folders_that_lead_out(self, root: Path) -> None:
        add(root.parent, "shared")
        add(root, "train", "test/")
        (root / "test" / "cat").symlink_to("../../shared/cat")
        with pytest.raises(DataError, match=r"'test/'.*1 x a link that leads out"):
            scan_folder(root)


@pytest.mark.parametrize("name", ["2020", "my_old_test", "field_trial"])
def test_a_folder_that_looks_like_a_split_beside_train_stops(root: Path, name: str) -> None:
    add(root, "train", name)
    with pytest.raises(
        DataError, match=rf"'{name}/' beside 'train/'.*--split-folders train=train,{name}=test.*--ignore"
    ):
        scan_folder(root)
    assert parts(scan_folder(root, split_folders={"train": "train", name: "test"})) == {"train": 2, "test": 2}
    assert parts(scan_folder(root, ignore=[name])) == {"train": 2}
    add(root, "test")
    assert parts(scan_folder(root)) == {"train": 2, "test": 2}


def test_other_folders_beside_train_do_not_stop(root: Path) -> None:
    add(root, "train", "notes/a.txt", "masks/x/1.jpg", "weights/")
    assert parts(scan_folder(root)) == {"train": 2}


@pytest.mark.parametrize("names", [("2019", "2020"), ("fold1", "fold2", "fold3"), ("a", "b")])
def test_folders_with_the_same_folders_in_them_are_no_classes(root: Path, names: tuple[str, ...]) -> None:
    add(root, *names)
    with pytest.raises(DataError, match=r"hold the same sub-folders \('cat', 'dog'\).*--split-folders none"):
        scan_folder(root)
    assert scan_folder(root, split_folders={}).class_names == names
    assert parts(scan_folder(root, split_folders={names[0]: "train", names[1]: "test"})) == {"train": 2, "test": 2}


def test_classes_with_folders_of_one_kind_are_classes(root: Path) -> None:
    add(root, "cat/images/1.jpg", "dog/images/1.jpg", "emu/images/1.jpg", "emu/more/1.jpg")
    assert scan_folder(root).class_names == ("cat", "dog", "emu")


@pytest.mark.parametrize("around", ["chest", "chest/chest", "data/images", "a/b/c"])
def test_single_folders_around_are_looked_through(root: Path, around: str) -> None:
    add(root, f"{around}/train", f"{around}/test", "README.txt", "docs/a.txt")
    assert parts(scan_folder(root)) == {"train": 2, "test": 2}
    assert f"{around}/train/cat/0.jpg" in scan_folder(root).ids


def test_a_single_folder_around_classes(root: Path) -> None:
    add(root, "images", "meta/classes.txt", "empty/")
    tree = scan_folder(root)
    assert tree.class_names == ("cat", "dog")
    assert {entry.path for entry in tree.ignored} == {"meta", "empty"}


def test_a_split_inside_a_single_folder_can_be_left_out(root: Path) -> None:
    add(root, "chest/train", "chest/test/1.jpg")
    with pytest.raises(DataError, match=r"'chest/test/'.*--ignore chest/test"):
        scan_folder(root)
    assert (
        parts(scan_folder(root, ignore=["chest/test"]))
        == parts(scan_folder(root, ignore=["test/"]))
        == {"train": 2}
    )


def test_folders_of_images_and_of_labels_inside_a_split(root: Path) -> None:
    add(root, "train/images", "train/labels/a.txt", "test/images", "test/labels/a.txt")
    assert parts(scan_folder(root)) == {"train": 2, "test": 2}


def test_classes_that_hold_splits(root: Path) -> None:
    add(root, "cat/train/1.jpg", "cat/test/2.jpg", "dog/Train/1.jpg", "dog/testing/deep/2.jpg", "dog/masks/3.jpg")
    tree = scan_folder(root)
    assert parts(tree) == {"train": 2, "test": 2}
    assert tree.class_names == ("cat", "dog")
    assert "Splits from the folders in each class" in notes(root)


def test_some_classes_that_hold_splits_stop(root: Path) -> None:
    add(root, "cat/train/1.jpg", "cat/test/2.jpg", "dog/1.jpg")
    with pytest.raises(DataError, match=r"class folder 'cat/'.*'test/'.*--split-folders none"):
        scan_folder(root)
    assert scan_folder(root, split_folders={}).class_names == ("cat", "dog")


def test_flat_splits_are_no_classes(root: Path) -> None:
    add(root, "train/1.jpg", "test/1.jpg", "notes/a.txt")
    with pytest.raises(DataError, match="no class folders"):
        scan_folder(root)


@pytest.mark.parametrize(
    "name",
    ["test", "hidden_test", "test_unlabeled", "testA", "kaggle-test", "validation", "val2017", "Prüfung neu"],
)
def test_images_without_labels_beside_class_folders_are_no_class(root: Path, name: str) -> None:
    add(root, "cat/1.jpg", "dog/1.jpg", f"{name}/1.jpg")
    with pytest.raises(DataError, match=rf"'{name}/'.*1 image beside the class folders 'cat', 'dog'.*--ignore"):
        scan_folder(root)
    assert scan_folder(root, ignore=[name]).class_names == ("cat", "dog")
    assert name in scan_folder(root, split_folders={}).class_names


@pytest.mark.parametrize(
    "names", [("train", "plane", "bus"), ("test_a", "test_b", "test_c"), ("contest", "latest")]
)
def test_classes_whose_names_only_sound_like_splits(root: Path, names: tuple[str, ...]) -> None:
    add(root, *(f"{name}/1.jpg" for name in names))
    assert set(scan_folder(root).class_names) == set(names)


TEST_FILES = [
    "test.csv",
    "TEST.txt",
    "meta/test_list.txt",
    "splits/testlist01.txt",
    "test.zip",
    "test.tar.gz",
    "test",
]


@pytest.mark.parametrize("name", TEST_FILES)
@pytest.mark.parametrize(
    "layout", [("cat/1.jpg", "dog/1.jpg"), ("train",), ("images/cat/1.jpg", "images/dog/1.jpg")]
)
def test_a_list_of_test_images_stops(root: Path, name: str, layout: tuple[str, ...]) -> None:
    add(root, *layout)
    write(root, name)
    with pytest.raises(DataError, match=rf"'{name}'.*list or archive of test images.*--split.*--ignore {name}"):
        scan_folder(root)
    assert set(scan_folder(root, ignore=[name]).labels) == {"cat", "dog"}
    assert set(scan_folder(root, has_split=True).labels) == {"cat", "dog"}


@pytest.mark.parametrize("name", ["test set's", "my test", "$HOME test", "测试集"])
def test_the_way_out_can_be_copied_into_a_shell(root: Path, name: str) -> None:
    add(root, "train/cat/1.jpg", "train/dog/1.jpg", f"{name}/1.jpg")
    with pytest.raises(DataError) as told:
        scan_folder(root)
    word = shlex.split(str(told.value).partition("--ignore ")[2])[0].removesuffix(".")
    assert word == name
    assert parts(scan_folder(root, ignore=[word])) == {"train": 2}


@pytest.mark.parametrize(
    "name", ["latest.csv", "contest", "requirements.txt", "test.py", "train.csv", "test_model.pth"]
)
def test_other_files_do_not_stop(root: Path, name: str) -> None:
    add(root, "train")
    write(root, name)
    assert parts(scan_folder(root)) == {"train": 2}


def test_a_test_folder_inside_a_folder_beside_train_stops(root: Path) -> None:
    add(root, "train", "extra/test")
    with pytest.raises(DataError, match=r"'extra/test/' beside 'train/'.*--ignore extra"):
        scan_folder(root)
    assert parts(scan_folder(root, ignore=["extra"])) == {"train": 2}


def test_a_list_beside_a_test_folder_is_no_matter(root: Path) -> None:
    add(root, "train", "test", "test.csv")
    assert parts(scan_folder(root)) == {"train": 2, "test": 2}


def test_what_was_named_must_be_there(root: Path) -> None:
    add(root, "train", "test")
    with pytest.raises(ConfigError, match=r"--ignore tset: .*Did you mean 'test'"):
        scan_folder(root, ignore=["tset"])
    with pytest.raises(ConfigError, match=r"--ignore no/where: .*Entries: 'test', 'train'"):
        scan_folder(root, ignore=["no/where"])
    with pytest.raises(ConfigError, match=r"no folder 'tset'. Did you mean 'test'"):
        scan_folder(root, split_folders={"train": "train", "tset": "test"})
    with pytest.raises(ConfigError, match="no folder for train"):
        scan_folder(root, split_folders={"test": "test"})


def test_single_files_can_be_left_out(root: Path) -> None:
    add(root, "cat/1.jpg", "cat/2.jpg", "dog/a/1.jpg", "dog/a/2.jpg", "dog/3.jpg")
    assert scan_folder(root, ignore=["cat/2.jpg", "dog/a"]).ids == ("cat/1.jpg", "dog/3.jpg")


def test_a_test_folder_beside_the_train_folder_that_was_given_is_named(root: Path) -> None:
    add(root, "train", "test")
    listing = load_listing(DataConfig(source=str(root / "train")))
    assert f"give the folder of both: {root}" in listing.facts["warnings"][0]
