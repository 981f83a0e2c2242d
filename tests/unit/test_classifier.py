"""The classifier: one inference path, the same numbers as evaluation, broken images, heads as modules."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from backbench.classifier.classifier import Classifier
from backbench.config import GreyScale
from backbench.errors import ConfigError, DataError, ModelError
from backbench.heads.head_modules import HeadModule, build_head, make_linear, make_mlp, to_module
from backbench.heads.heads import CosineHead, Head, LinearHead, NeighbourHead, normalise_rows
from backbench.inference.features import extract_features
from backbench.inference.resize import prepare_batch
from backbench.progress import Progress
from backbench.registry import find_model
from backbench.stats.calibrate import softmax

NAMES = ("ant", "bee", "cow")
DIM = 24


def make_classifier(model: str = "tiny_cnn", **arguments: float) -> Classifier:
    backbone = find_model(model).load(0)
    head = make_linear(backbone.facts.dim, len(NAMES), torch.Generator().manual_seed(1))
    with torch.no_grad():
        head.get_parameter("weight").mul_(20)  # answers that differ
    return Classifier(backbone, head, NAMES, **arguments)


def make_images(num: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (20 + 7 * row % 40, 45 - 3 * row % 30, 3), dtype=np.uint8) for row in range(num)]


def make_heads() -> dict[str, Head]:
    rng = np.random.default_rng(3)
    mean, scale = rng.normal(size=DIM).astype(np.float32), rng.uniform(0.5, 2, DIM).astype(np.float32)
    stored = normalise_rows(rng.normal(size=(50, DIM)).astype(np.float32), mean, scale)
    directions = normalise_rows(rng.normal(size=(3, DIM)).astype(np.float32), 0.0, 1.0)
    bias = rng.normal(size=3).astype(np.float32)
    return {
        "linear": LinearHead(rng.normal(size=(3, DIM)).astype(np.float32), bias),
        "cosine": CosineHead(mean, directions, bias, 7.3),
        "neighbours": NeighbourHead(stored, rng.integers(0, 3, 50), mean, scale, 3, 5, 0.07),
    }


@pytest.mark.parametrize("kind", ["linear", "cosine", "neighbours"])
def test_a_solved_head_gives_the_same_logits_as_a_module_also_when_rebuilt(kind: str) -> None:
    head = make_heads()[kind]
    values = np.random.default_rng(4).normal(size=(70, DIM)).astype(np.float32)
    values[0] = 0.0
    values[1] *= np.float32(1e20)
    if kind == "linear":
        values[1] = 1.0
    expected = head.logits(values)
    module = to_module(head)
    again = build_head(type(module.spec).model_validate_json(module.spec.model_dump_json()))
    again.load_state_dict(module.state_dict(), strict=True)
    for one in (module, again):
        given = one(torch.from_numpy(values)).detach().numpy()
        np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5)
    assert module.spec.kind == kind


def test_a_module_shares_no_memory_with_the_solved_head() -> None:
    head = make_heads()["linear"]
    assert isinstance(head, LinearHead)
    module, before = to_module(head), head.weights.copy()
    with torch.no_grad():
        module.get_parameter("weight").zero_()
    np.testing.assert_array_equal(head.weights, before)


def test_fresh_heads_come_from_their_generator_and_leave_torchs_own_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()

    def make(seed: int) -> list[HeadModule]:
        rng = torch.Generator().manual_seed(seed)
        return [make_linear(DIM, 3, rng), make_mlp(DIM, 8, 3, 0.5, rng)]

    for one, same, other in zip(make(1), make(1), make(2), strict=True):
        values = torch.randn(4, DIM, generator=torch.Generator().manual_seed(0))
        assert torch.equal(one(values), same(values))
        assert not torch.equal(one(values), other(values))
        assert all(parameter.requires_grad for parameter in one.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_of_heads_acts_in_training_only() -> None:
    rng = torch.Generator().manual_seed(0)
    for head in (make_linear(DIM, 3, rng, dropout=0.5), make_mlp(DIM, 64, 3, 0.5, rng)):
        values = torch.randn(4, DIM, generator=rng)
        assert torch.equal(head(values), head(values))
        head.train()
        assert not torch.equal(head(values), head(values))


def test_logits_are_those_of_the_plain_network() -> None:
    classifier, images = make_classifier(), make_images()
    batch = prepare_batch(images, classifier.preprocess)
    with torch.no_grad():
        expected = classifier(batch).numpy()
    given = classifier.logits_for(images.__getitem__, len(images))
    np.testing.assert_allclose(given, expected, atol=1e-4 * np.abs(expected).max())
    assert given.dtype == np.float32


def test_a_probe_as_classifier_answers_as_its_evaluation_did() -> None:
    backbone, images = find_model("tiny_vit").load(0), make_images(30)
    hashes = [f"{row * 7919 % 30:02d}" for row in range(30)]  # evaluation batches images in another order
    values = extract_features(backbone, images.__getitem__, hashes, names=hashes).values
    weights = np.random.default_rng(0).normal(size=(3, backbone.facts.dim)).astype(np.float32)
    head = LinearHead(weights * np.float32(0.2), np.zeros(3, np.float32))
    expected = softmax(head.logits(values))
    classifier = Classifier(backbone, to_module(head), NAMES)
    for answer, row in zip(classifier.predict(images), expected, strict=True):
        assert answer.label == NAMES[row.argmax()]
        assert abs(answer.confidence - row.max()) <= 1e-6
        assert {label: pytest.approx(row[NAMES.index(label)], abs=1e-6) for label, _ in answer.top} == dict(
            answer.top
        )


def test_modes_and_weights_are_left_alone_and_changed_weights_are_noticed() -> None:
    classifier, images = make_classifier(), make_images(2)
    classifier.head.train()
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    first = classifier.predict(images)
    assert classifier.predict(images) == first
    assert classifier.head.training
    assert not classifier.backbone.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())
    with torch.no_grad():
        for parameter in classifier.backbone.parameters():
            parameter.add_(0.1)
    assert classifier.predict(images) != first
    assert classifier.predict(images) == copy.deepcopy(classifier).predict(images)


def test_temperature_top_and_threshold() -> None:
    images = make_images()
    plain, cool = make_classifier(), make_classifier(temperature=4.0)
    for one, two in zip(plain.predict(images, top=2), cool.predict(images, top=9), strict=True):
        assert one.label == two.label
        assert one.confidence is not None
        assert two.confidence is not None
        assert one.confidence > two.confidence
        assert (len(one.top), len(two.top)) == (2, 3)
        assert one.top[0] == (one.label, one.confidence)
        assert sum(share for _, share in two.top) == pytest.approx(1.0)
        assert not one.is_unsure
    confidence = sorted(answer.confidence for answer in plain.predict(images))
    careful = make_classifier(threshold=confidence[3])
    assert sum(answer.is_unsure for answer in careful.predict(images)) == 3
    with pytest.raises(ConfigError, match="top is 0"):
        plain.predict(images, top=0)


def test_paths_folders_arrays_and_pictures_give_the_same_answers(tmp_path: Path) -> None:
    classifier, images = make_classifier(), make_images(3)
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    names = [folder / "2.png", folder / "b" / "1.PNG", folder / "10.png"]
    for image, name in zip(images, names, strict=True):
        Image.fromarray(image).save(name)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"")
    found = classifier.predict(folder)
    assert {answer.path for answer in found} == {str(name) for name in names}
    assert found == classifier.predict(str(folder))  # in the same order
    by_path = {answer.path: answer for answer in found}
    in_memory = classifier.predict([images[0], Image.fromarray(images[1]), images[2][None]])
    assert [answer.path for answer in in_memory] == ["[0]", "[1]", "[2]"]
    for name, answer in zip(names, in_memory, strict=True):
        assert answer.top == by_path[str(name)].top
        assert classifier.predict(name)[0].label == answer.label
    assert classifier.predict([]) == []


def test_a_broken_image_is_an_answer_with_an_error_and_harms_no_other(tmp_path: Path) -> None:
    classifier, images = make_classifier(), make_images(3)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not an image at all")
    found = classifier.predict([images[0], broken, images[1], tmp_path / "absent.png"])
    alone = classifier.predict(images[:2])
    assert [answer.error is None for answer in found] == [True, False, True, False]
    for answer, other in zip((found[0], found[2]), alone, strict=True):
        assert answer.label == other.label
        assert abs(answer.confidence - other.confidence) <= 1e-6
    assert found[1].label is None
    assert found[1].confidence is None
    assert found[1].top == ()
    assert found[1].is_unsure
    assert "text" in str(found[1].error)
    assert "no such file" in str(found[3].error)


def test_what_is_lost_in_a_folder_is_an_answer_with_an_error(tmp_path: Path) -> None:
    """One law with `scan`: what can't be read stops nothing, and what seems a picture is not dropped."""
    classifier, images = make_classifier(), make_images(2)
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(images[0]).save(folder / "good.avif", quality=100)
    Image.fromarray(images[1]).save(folder / "NOSUFFIX", "JPEG")
    Image.fromarray(images[1]).save(tmp_path / "outside.png")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "raw.cr2").write_bytes(b"II*\0\x10\0\0\0CR")
    (folder / ".DS_Store").write_bytes(b"Bud1")
    progress = Heard()
    found = {Path(answer.path).name: answer.error for answer in classifier.predict(folder, progress=progress)}
    assert list(found) == ["good.avif", "NOSUFFIX", "link.png", "raw.cr2"]
    assert found["good.avif"] is None
    assert "looks like a JPEG" in str(found["NOSUFFIX"])
    assert "link" in str(found["link.png"])
    assert "unsupported" in str(found["raw.cr2"])
    (warning,) = progress.warnings
    assert "3 pictures or folders are left out" in warning
    assert ".DS_Store" not in warning
    assert classifier.predict(folder / "NOSUFFIX")[0].error is None  # named itself, it is read by its content
    (folder / "good.avif").unlink()
    assert len(classifier.predict(folder)) == 3


def test_what_is_not_used_of_a_file_is_said(tmp_path: Path) -> None:
    classifier = make_classifier()
    first, second = (Image.fromarray(image) for image in make_images(2))
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    Image.fromarray(np.full((30, 30), 900, np.uint16)).save(tmp_path / "b.png")
    progress = Heard()
    assert [answer.error for answer in classifier.predict(tmp_path, progress=progress)] == [None, None]
    assert any("several pages" in warning and "a.tif" in warning for warning in progress.warnings)
    assert any("more than 8 bits" in warning and "b.png" in warning for warning in progress.warnings)
    classifier.grey = GreyScale(integers=(0, 1023))
    progress = Heard()
    classifier.predict(tmp_path / "b.png", progress=progress)
    assert not progress.warnings


class Heard(Progress):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    classifier = make_classifier("pixels")
    for item in (np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), 7, [None]):
        with pytest.raises(ConfigError, match="is not an image"):
            classifier.predict(item)
    with pytest.raises(DataError, match="holds no images"):
        classifier.predict(tmp_path)


def test_a_head_that_does_not_fit_is_refused() -> None:
    backbone = find_model("pixels").load(0)
    rng = torch.Generator()
    with pytest.raises(ModelError, match="3 class names for a head with 2"):
        Classifier(backbone, make_linear(768, 2, rng), NAMES)
    with pytest.raises(ModelError, match="a head for 5 features"):
        Classifier(backbone, make_linear(5, 3, rng), NAMES)
    with pytest.raises(ModelError, match="can't be converted"):
        to_module(nn.Linear(2, 2))  # type: ignore[arg-type]


def test_logits_that_are_not_finite_are_refused() -> None:
    classifier = make_classifier()
    with torch.no_grad():
        classifier.head.get_parameter("bias").fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        classifier.predict(make_images(1))
