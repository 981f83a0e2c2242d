"""The original classifier, mapped: which classes stand for which, and that the figures are the network's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from backbench.backbones.core.original_head import (
    OriginalHead,
    classes_of_size,
    read_head_classes,
    read_lemmas,
    read_subset,
    take_timm_head,
    take_torchvision_head,
)
from backbench.backbones.loaders.timm import make_network
from backbench.classifier.bundle import load_bundle
from backbench.cli.parse import with_map
from backbench.config import DataConfig, MethodConfig, RunConfig
from backbench.data.class_names import map_classes, match_names
from backbench.data.synsets import ID, TABLES, find_table, plain_name, read_table
from backbench.errors import ConfigError, DataError, ModelError
from backbench.heads.class_mapping import find_counterparts, read_map
from backbench.heads.head_modules import HeadSpec, build_head, to_module
from backbench.heads.heads import GroupedHead
from backbench.methods import zeroshot
from backbench.registry import find_method, find_model, resolve_options
from backbench.report.record_text import render_record
from backbench.runs import probe
from backbench.runs.context import RunContext
from backbench.runs.run import adapt as adapt_model
from backbench.stats.calibrate import softmax
from backbench.task import Features, Task

IMAGENET = read_subset("imagenet-1k")
TABBY, TIGER_CAT, BEAGLE, SORREL = "n02123045", "n02123159", "n02088364", "n02389026"


# ---- the tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_every_id_of_a_table_is_a_class_of_imagenet(table: str) -> None:
    known = read_lemmas()
    classes = read_table(table)
    assert len(classes) == {"cifar10": 10, "cifar100": 100, "caltech101": 102, "caltech256": 257}[table]
    for name, ids in classes.items():
        assert plain_name(name) == name
        assert len(set(ids)) == len(ids)
        assert all(ID.fullmatch(each) and each in known for each in ids), name


@pytest.mark.parametrize(
    ("table", "name", "ids"),
    [
        ("cifar10", "dog", set(IMAGENET[151:269])),
        ("cifar10", "bird", set(IMAGENET[7:25]) | set(IMAGENET[80:101]) | set(IMAGENET[127:147])),
        ("cifar10", "cat", set(IMAGENET[281:286])),
        ("cifar10", "deer", set()),
        ("cifar10", "horse", {SORREL}),
        ("cifar100", "snake", set(IMAGENET[52:69])),
        ("caltech101", "faces easy", set()),
        ("caltech101", "grand piano", {"n03452741"}),
        ("caltech256", "fire truck", {"n03345487"}),
    ],
)
def test_tables_hold_what_imagenet_1k_has(table: str, name: str, ids: set[str]) -> None:
    assert set(read_table(table)[name]) & set(IMAGENET) == ids


@pytest.mark.parametrize("table", ["cifar10", "cifar100"])
def test_no_class_of_imagenet_stands_for_two_of_cifar(table: str) -> None:
    every = [each for ids in read_table(table).values() for each in ids]
    assert len(every) == len(set(every))


def test_folders_find_their_table(shared: Path) -> None:
    for folder, table in (
        ("cifar10-mini/test", "cifar10"),
        ("cifar100-mini/test", "cifar100"),
        ("caltech-mini", "caltech101"),
    ):
        assert find_table([path.name for path in (shared / "data" / folder).iterdir()]) == table
    assert find_table(["113.hummingbird", "056.dog", "252.car-side-101"]) == "caltech256"
    assert find_table(["dog", "cat", "wug"]) is None


def test_names_of_folders_are_understood() -> None:
    assert plain_name("Water_Lilly") == "water lilly"
    assert plain_name("101.head-phones") == "head phones"
    assert plain_name("252.car-side-101") == "car side"
    assert plain_name(TABBY) == TABBY


# ---- the search by words ---------------------------------------------------------------------------------------


def search(name: str, head: Sequence[str] = IMAGENET) -> tuple[str, set[str]]:
    found = find_counterparts([name], head, {}, "none")[name]
    return found.source, {read_lemmas()[each][0] for each in found.ids}


@pytest.fixture
def no_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk", None)


@pytest.mark.usefixtures("no_wordnet")
@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("goldfish", "word", {"goldfish"}),
        ("Goldfishes", "word", {"goldfish"}),
        ("grand_piano", "word", {"grand piano"}),
        ("Soccer-Balls", "word", {"soccer ball"}),
        ("sports cars", "word", {"sports car"}),
        ("ice bears", "word", {"ice bear"}),
        ("spaniels", "last word", {"Blenheim spaniel", "Brittany spaniel", "cocker spaniel", "clumber"}),
    ],
)
def test_words_find_classes(name: str, source: str, expected: set[str]) -> None:
    found, lemmas = search(name)
    assert found == source
    assert expected <= lemmas
    assert len(lemmas) < 40


@pytest.mark.usefixtures("no_wordnet")
def test_definitions_find_what_no_word_names() -> None:
    source, lemmas = search("sheepdog", [each for each in IMAGENET if each != "n02105641"])
    assert source == "last word"
    source, lemmas = search("antelope")
    assert source == "definition"
    assert {"hartebeest", "impala"} & lemmas
    assert search("xyzzy") == ("none", set())


def test_ids_as_class_names_mean_themselves() -> None:
    found = find_counterparts([TABBY, SORREL], IMAGENET, {}, "auto")
    assert [(each.source, each.ids) for each in found.values()] == [
        ("same name", (TABBY,)),
        ("same name", (SORREL,)),
    ]
    assert find_counterparts(["big cat"], ["Big_cat", "dog"], {}, "auto")["big cat"].ids == ("Big_cat",)


def test_wordnet_is_asked_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def sense(number: int, *below: Any) -> Any:
        return SimpleNamespace(offset=lambda: number, hyponyms=lambda: below, closure=lambda step: list(below))

    corpus = ModuleType("nltk.corpus")
    corpus.wordnet = SimpleNamespace(  # type: ignore[attr-defined]
        synsets=lambda name, pos: [sense(2124075 - 999, sense(2123045), sense(2123159))] if name == "moggy" else []
    )
    monkeypatch.setitem(sys.modules, "nltk", ModuleType("nltk"))
    monkeypatch.setitem(sys.modules, "nltk.corpus", corpus)
    assert search("moggy") == ("WordNet", {"tabby", "tiger cat"})
    assert search("goldfish")[0] == "word"


# ---- what the user says ----------------------------------------------------------------------------------------


def write_rows(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_map_beats_everything_and_is_kept_in_the_options(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "map.csv", "class,synset", f"cat,{BEAGLE}", f"cat,{SORREL}", "dog,")
    options = resolve_options(find_method("zeroshot"), MethodConfig(name="zeroshot", options={"map": str(file)}))
    assert options.mapping == {"cat": (BEAGLE, SORREL), "dog": ()}  # type: ignore[attr-defined]
    assert options.map is None  # type: ignore[attr-defined]
    again = zeroshot.ZeroShotOptions.model_validate(json.loads(options.model_dump_json()))
    assert again == options
    found = find_counterparts(["cat", "dog", "horse"], IMAGENET, again.mapping, "auto")
    assert [each.ids for each in found.values()] == [(BEAGLE, SORREL), (), (SORREL,)]
    assert found["horse"].source == "table cifar10"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "The map '.*map.csv' is empty"),
        (["cat"], "The map '.*map.csv': line 1"),
        (["class,id", "cat,n02123045,more"], "line 2"),
        ([",n02123045"], "line 1"),
    ],
)
def test_a_map_of_another_form_is_explained(tmp_path: Path, rows: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_map(write_rows(tmp_path / "map.csv", *rows))


def test_a_map_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        zeroshot.ZeroShotOptions(map=str(tmp_path / "none.csv"))
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00cat")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_map(tmp_path / "bad.csv")


def test_a_map_or_table_for_other_classes_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"The map names the class 'cats'.*Nearest: cat"):
        find_counterparts(["cat", "dog"], IMAGENET, {"cats": (TABBY,)}, "auto")
    with pytest.raises(ConfigError, match=r"'hors'.*horse"):
        find_counterparts(["cat", "hors"], IMAGENET, {}, "cifar10")


def test_an_id_that_is_no_class_of_the_model_is_refused_with_the_nearest() -> None:
    typo = TABBY[:-1] + "z"
    with pytest.raises(ConfigError, match=rf"The map gives '{typo}' for the class 'cat'.*{TABBY[:-2]}"):
        find_counterparts(["cat", "dog"], IMAGENET, {"cat": (BEAGLE, typo)}, "auto")
    with pytest.raises(ConfigError, match="'banana bread'"):
        find_counterparts(["cat", "dog"], IMAGENET, {"cat": ("banana bread",)}, "auto")


# ---- the head --------------------------------------------------------------------------------------------------


def random_head(rows: int, dim: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, dim)).astype(np.float32), rng.standard_normal(rows).astype(np.float32)


def test_a_group_has_the_sum_of_its_probabilities() -> None:
    weights, bias = random_head(5)
    head = GroupedHead(weights, bias, np.array([0, 2, 0, 3, 2]), 4)
    values = np.random.default_rng(1).standard_normal((9, 6)).astype(np.float32)
    fine = softmax(values @ weights.T + bias)
    expected = np.stack([fine[:, 0] + fine[:, 2], np.zeros(9), fine[:, 1] + fine[:, 4], fine[:, 3]], axis=1)
    found = softmax(head.logits(values))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found[:, 1] == 0).all()
    assert np.isfinite(head.logits(values * 1e4)).all()


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_the_module_gives_the_same_and_is_rebuilt(scale: float) -> None:
    weights, bias = random_head(5)
    head = GroupedHead(weights, bias, np.array([0, 2, 0, 3, 2]), 4)
    values = scale * np.random.default_rng(1).standard_normal((9, 6)).astype(np.float32)
    module = to_module(head)
    np.testing.assert_allclose(module(torch.from_numpy(values)).numpy(), head.logits(values), rtol=1e-5, atol=1e-5)
    again = build_head(HeadSpec.model_validate(module.spec.model_dump()))
    again.load_state_dict(module.state_dict(), strict=True)
    assert torch.equal(again(torch.from_numpy(values)), module(torch.from_numpy(values)))
    with pytest.raises(ModelError, match="needs rows"):
        build_head(HeadSpec(kind="grouped", dim=3, classes=2))


# ---- the method ------------------------------------------------------------------------------------------------


def make_task(class_names: tuple[str, ...], labels: Sequence[int], load_head: Callable[[], Any] | None) -> Task:
    values = np.random.default_rng(3).standard_normal((len(labels), 6)).astype(np.float32)
    ids = tuple(str(number) for number in range(len(labels)))
    part = Features(values, np.array(labels, dtype=np.int64), ids)
    return Task(part, part, class_names, load_head=load_head)


def original() -> OriginalHead:
    weights, bias = random_head(1000)
    return OriginalHead(weights, bias, IMAGENET)


def test_coverage_is_said_and_the_uncovered_class_is_never_answered() -> None:
    task = make_task(("cat", "deer", "dog"), [0, 1, 2, 2], original)
    fitted = zeroshot.adapt(task, zeroshot.ZeroShotOptions())
    assert fitted.fitted_on == "nothing"
    assert fitted.choices["coverage"] == "2 of 3 classes"
    assert fitted.choices["unmapped"] == ["deer"]
    assert fitted.choices["mapping"]["cat"][0] == "n02123045 tabby"
    assert len(fitted.choices["mapping"]["dog"]) == 118
    assert fitted.choices["sources"]["cat"] == "table cifar10"
    assert "never predict deer" in fitted.warnings[0]
    assert (softmax(fitted.head.logits(task.train.values))[:, 1] == 0).all()
    assert fitted.val_logits is None  # an impossible answer can't be calibrated
    json.dumps(fitted.choices, allow_nan=False)
    covered = zeroshot.adapt(make_task(("cat", "deer", "dog"), [0, 2], original), zeroshot.ZeroShotOptions())
    assert covered.val_logits is not None


def test_training_images_have_no_say() -> None:
    options = zeroshot.ZeroShotOptions()
    first = zeroshot.adapt(make_task(("cat", "dog"), [0, 1, 1], original), options)
    other = zeroshot.adapt(make_task(("cat", "dog"), [1, 0, 0], original), options)
    values = np.ones((2, 6), dtype=np.float32)
    np.testing.assert_array_equal(first.head.logits(values), other.head.logits(values))


def test_guesses_and_shared_counterparts_are_warned_of() -> None:
    task = make_task(("cougar_body", "cougar_face"), [0, 1], original)
    assert "it always predicts cougar_body" in zeroshot.adapt(task, zeroshot.ZeroShotOptions()).warnings[0]
    task = make_task(("goldfish", "tench"), [0, 1], original)
    assert "guessed from words" in zeroshot.adapt(task, zeroshot.ZeroShotOptions(table="none")).warnings[0]


def test_without_a_classifier_or_a_counterpart_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="head_classes"):
        zeroshot.adapt(make_task(("cat", "dog"), [0, 1], None), zeroshot.ZeroShotOptions())
    with pytest.raises(ConfigError, match=r"--map FILE"):
        zeroshot.adapt(make_task(("xyzzy", "plugh"), [0, 1], original), zeroshot.ZeroShotOptions())


def test_what_can_not_be_mapped_is_refused_before_features_and_leaves_nothing(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "extract_for", lambda *_, **__: pytest.fail("features were computed"))
    card = make_card(tmp_path, [TABBY, BEAGLE])
    mapping = {name: ["n99999999"] for name in ("circle", "cross", "stripes")}
    for model, options, said in (("tiny_cnn", {}, "head_classes"), (str(card), {"mapping": mapping}, "n99999999")):
        spec = find_model(model)
        config = RunConfig(
            data=DataConfig(source=str(photos)),
            model=spec.name,
            model_file=spec.file,
            method=MethodConfig(name="zeroshot", options=options),
        )
        with pytest.raises(ConfigError, match=said):
            adapt_model(config, RunContext(tmp_path / "refused"))
    assert not list((tmp_path / "refused").glob("[!.]*"))
    assert not list((tmp_path / "refused").glob(".working/*"))


# ---- original classifiers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), [("test_vit", 160), ("test_efficientnet", 160), ("test_resnet", 160)])
def test_a_timm_head_is_that_of_the_network(name: str, size: int) -> None:
    network = make_network(name, {"num_classes": 7}).eval()
    head = take_timm_head(network, [str(row) for row in range(7)], name=name, size=(size, size))
    batch = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        # type: ignore[operator]
        features = network.forward_head(network.forward_features(batch), pre_logits=True).numpy()
        expected = network(batch).numpy()
    np.testing.assert_allclose(features @ head.weights.T + head.bias, expected, atol=1e-4)


def test_a_head_of_another_form_is_refused() -> None:
    from torchvision import models

    squeezenet = models.squeezenet1_1(weights=None, num_classes=5).eval()
    with pytest.raises(ModelError, match="original classifier of squeeze"):
        take_torchvision_head(squeezenet, list("abcde"), name="squeeze", size=(64, 64))
    resnet = models.resnet18(weights=None, num_classes=5).eval()
    with pytest.raises(ModelError, match="5 rows for 3 known classes"):
        take_torchvision_head(resnet, list("abc"), name="resnet", size=(64, 64))
    assert take_torchvision_head(resnet, list("abcde"), name="resnet", size=(64, 64)).weights.shape == (5, 512)


def test_what_rows_mean_is_read_or_refused(tmp_path: Path) -> None:
    assert read_head_classes("ImageNet-1k", tmp_path, "card") == IMAGENET
    write_rows(tmp_path / "classes.txt", TABBY, "", BEAGLE)
    assert read_head_classes("classes.txt", tmp_path, "card") == (TABBY, BEAGLE)
    with pytest.raises(ModelError, match="nearest: imagenet-1k"):
        read_head_classes("imagenet1k", tmp_path, "card")
    assert len(classes_of_size(21843, "x")) == 21843
    with pytest.raises(ModelError, match="no subset of ImageNet"):
        classes_of_size(37, "x")
    with pytest.raises(ModelError, match="published without one"):
        classes_of_size(0, "x")


# ---- from the command to the bundle ----------------------------------------------------------------------------


def make_card(folder: Path, classes: Sequence[str]) -> Path:
    network = make_network("test_resnet", {"num_classes": len(classes)})
    save_file(network.state_dict(), folder / "net.safetensors")
    (folder / "classes.txt").write_text("\n".join(classes))
    (folder / "net.toml").write_text(
        f"""name = "net"
architecture = "timm/test_resnet"
weights = "net.safetensors"
head_classes = "classes.txt"
[options]
num_classes = {len(classes)}
[preprocess]
size = 32
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
"""
    )
    return folder / "net.toml"


def test_a_run_leaves_a_bundle_that_predicts_as_the_network_did(tmp_path: Path, photos: Path) -> None:
    torch.manual_seed(0)
    card = make_card(tmp_path, ["x", "y", TABBY, "stripes"])
    file = write_rows(tmp_path / "map.csv", "circle,x", "circle,y", f"cross,{TABBY}")
    config = RunConfig(
        data=DataConfig(source=str(photos)),
        model="net",
        model_file=str(card),
        method=MethodConfig(name="zeroshot", options={"map": str(file)}),
    )
    adapted = adapt_model(config, RunContext(tmp_path / "runs", with_gallery=False))
    method = adapted.record.method
    assert method is not None
    assert method.choices["coverage"] == "3 of 3 classes"
    assert method.options["mapping"]["circle"] == ["x", "y"]
    assert adapt_model(config, RunContext(tmp_path / "runs", with_gallery=False)).record == adapted.record
    shown = " ".join(render_record(adapted.record, width=120).split())
    assert "Mapping circle: x, y; cross: tabby; stripes: stripes" in shown
    classifier = load_bundle(adapted.bundle)
    network = make_network("test_resnet", {"num_classes": 4}).eval()
    from safetensors.torch import load_file

    network.load_state_dict(load_file(tmp_path / "net.safetensors"))
    batch = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        fine = network(batch).softmax(dim=1)
        found = classifier(batch).softmax(dim=1)
    torch.testing.assert_close(found, torch.stack([fine[:, 0] + fine[:, 1], fine[:, 2], fine[:, 3]], dim=1))
    file.write_text(f"circle,{TABBY}\n")
    assert (
        adapt_model(config, RunContext(tmp_path / "runs", with_gallery=False)).record.run_id
        != adapted.record.run_id
    )


def test_models_without_their_classifier_have_none_to_load(tmp_path: Path) -> None:
    assert find_model("pixels").load_head is None
    assert find_model("resnet18.a1_in1k").load_head is not None
    assert find_model("torchvision/resnet18").load_head is not None
    card = make_card(tmp_path, ["a", "b"])
    assert find_model(str(card)).load_head is not None
    card.write_text("\n".join(line for line in card.read_text().splitlines() if "head_classes" not in line))
    assert find_model(str(card)).load_head is None
    card.write_text(
        card.read_text().replace("[options]", 'head_classes = "classes.txt"\nfeature_layer = "layer1"\n[options]')
    )
    assert find_model(str(card)).load_head is None  # its features are not what the classifier was made for


def test_real_weights_answer_as_published(shared: Path) -> None:
    """A tabby is a cat: the network of the shared weights, on the real CIFAR-10 images of a few classes."""
    from PIL import Image

    spec = find_model(str(shared / "weights" / "mobilenetv2_100.toml"))
    head, backbone = spec.load_head(), spec.load(0)  # type: ignore[misc]
    from backbench.inference.resize import prepare_batch

    names = ("airplane", "ship", "bird", "truck")
    paths = [sorted((shared / "data/cifar10-mini/test" / name).iterdir())[:5] for name in names]
    images = [np.asarray(Image.open(path).convert("RGB")) for group in paths for path in group]
    with torch.inference_mode():
        features = backbone(prepare_batch(images, backbone.preprocess)).numpy()
    part = Features(features, np.repeat(np.arange(4), 5), tuple(map(str, range(20))))
    fitted = zeroshot.adapt(Task(part, part, names, load_head=lambda: head), zeroshot.ZeroShotOptions())
    assert fitted.choices["val_accuracy"] >= 0.6


def test_classes_of_another_source_are_mapped_onto_their_like_and_never_onto_a_kind_of_it() -> None:
    caltech = (
        "029.billiards",
        "072.fire-truck",
        "178.school-bus",
        "221.tennis-court",
        "126.light-house",
        "145.motorbikes-101",
    )
    theirs = ("Table", "Truck", "Bus", "Lighthouse", "Motorcycle")
    assert match_names(theirs, caltech) == {"Lighthouse": "126.light-house", "Motorcycle": "145.motorbikes-101"}
    assert match_names(("Goldfish", "Cats"), ("aquarium_fish", "cat")) == {
        "Cats": "cat",
        "Goldfish": "aquarium_fish",
    }


def test_a_class_with_almost_the_name_is_refused_unless_the_images_are_of_another_data_set() -> None:
    with pytest.raises(DataError, match="Did you mean 'boat'"):
        map_classes(["boot", "cat"], ["boat", "cat"])
    assert map_classes(["boot", "cat"], ["boat", "cat"], is_other=True) == {"cat": "cat"}
    assert map_classes(["boot", "dock", "cat"], ["boat", "dog", "cat"]) == {"cat": "cat"}  # most are unknown
    with pytest.raises(DataError, match="does not know 1 class"):
        map_classes(["boot"], ["dog"], is_other=True)


def test_a_map_goes_to_the_method_that_takes_it_and_to_no_other() -> None:
    logistic, zeroshot = MethodConfig(name="logistic"), MethodConfig(name="zeroshot", options={"table": "none"})
    assert with_map([logistic, zeroshot], None) == (logistic, zeroshot)
    first, second = with_map([logistic, zeroshot], "mine.csv")
    assert first == logistic
    assert second.options == {"table": "none", "map": "mine.csv"}
    with pytest.raises(
        ConfigError, match=r"--map mine\.csv works only with the method zeroshot, not with logistic"
    ):
        with_map([logistic], "mine.csv")
