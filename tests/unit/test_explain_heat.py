"""Heat over an image: its box, its class, its kind, and the colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from backbench.backbones.core.weights import digest_weights
from backbench.classifier.classifier import Classifier
from backbench.config import Preprocess
from backbench.errors import ConfigError
from backbench.explain.heat import RAMP, Heat, colour, explain_image, explain_images, overlay, seen_box
from backbench.explain.samples import Sample
from backbench.explain.sheet import Explanation, draw_explanations
from backbench.heads.head_modules import make_linear
from backbench.inference.resize import prepare_batch
from backbench.registry import find_model

NAMES = ("ant", "bee", "cow")


def make_classifier(model: str = "tiny_vit") -> Classifier:
    backbone = find_model(model).load(0)
    head = make_linear(backbone.facts.dim, len(NAMES), torch.Generator().manual_seed(1))
    with torch.no_grad():
        head.get_parameter("weight").mul_(20)
    return Classifier(backbone, head, NAMES).eval()


def make_images(num: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (40 + 9 * row, 70 - 5 * row, 3), dtype=np.uint8) for row in range(num)]


def make_heat(values: np.ndarray, box: tuple[float, float, float, float]) -> Heat:
    return Heat(values.astype(np.float32), box, "Grad-CAM", "layer4", "ant")


@pytest.mark.parametrize(
    ("model", "kind", "said"),
    [
        ("tiny_vit", "auto", "attention rollout"),
        ("tiny_vit", "attention", "attention, last layer"),
        ("tiny_vit", "grad-cam", "Grad-CAM"),
        ("tiny_cnn", "auto", "Grad-CAM"),
    ],
)
def test_each_kind_explains_the_answer_and_changes_nothing(model: str, kind: str, said: str) -> None:
    classifier, images = make_classifier(model), make_images()
    before = digest_weights(classifier)
    heats = explain_images(classifier, images, kind=kind)
    assert [heat.kind for heat in heats] == [said] * 3
    assert [heat.label for heat in heats] == [answer.label for answer in classifier.predict(images)]
    for heat in heats:
        assert heat.values.dtype == np.float32
        assert heat.values.shape[0] == heat.values.shape[1] > 1
        assert (heat.values.min(), heat.values.max()) == pytest.approx((0.0, 1.0), abs=1e-6)
    assert digest_weights(classifier) == before


def test_many_images_come_in_order_and_as_one_by_one() -> None:
    classifier, images = make_classifier(), make_images(11)
    for heat, image in zip(explain_images(classifier, images), images, strict=True):
        np.testing.assert_allclose(heat.values, explain_image(classifier, image).values, atol=1e-4)
    assert explain_images(classifier, []) == []


def test_a_map_with_nothing_in_it_is_said_in_words_and_on_the_sheet() -> None:
    box = (0.0, 0.0, 8.0, 8.0)
    empty, found = make_heat(np.zeros((2, 2)), box), make_heat(np.eye(2), box)
    assert found.summary == "Grad-CAM"
    assert empty.summary == "Grad-CAM: no evidence for it"
    assert replace(empty, kind="attention rollout").summary == "attention rollout: the same everywhere"
    sample = Sample("a.png", np.zeros((8, 8, 3), np.uint8), "bee")
    for heat, is_empty in ((found, False), (empty, True)):
        row = [Explanation("ant", 0.8, is_unsure=True, heat=heat)]
        figure = draw_explanations([sample], [("tiny_cnn", "ridge")], [row], title="t")
        told = [text.get_text() for axes in figure.axes for text in axes.texts]
        assert (", 80.0 %, no heat" in told) is is_empty
        assert any("No heat: no evidence in the image" in text for text in told) is is_empty


def test_another_class_is_explained_on_demand() -> None:
    classifier, image = make_classifier("tiny_cnn"), make_images(1)[0]
    heats = {name: explain_image(classifier, image, label=name) for name in NAMES}
    assert [heat.label for heat in heats.values()] == list(NAMES)
    assert not np.allclose(heats["ant"].values, heats["bee"].values, atol=0.05)


def test_mistakes_are_named() -> None:
    classifier, images = make_classifier(), make_images(2)
    with pytest.raises(ConfigError, match=r"unknown class 'bea'.*'bee'"):
        explain_image(classifier, images[0], label="bea")
    with pytest.raises(ConfigError, match="1 labels for 2 images"):
        explain_images(classifier, images, labels=["ant"])
    with pytest.raises(ConfigError, match=r"unknown kind of explanation 'gradcam'.*'grad-cam'"):
        explain_images(classifier, images, kind="gradcam")
    with pytest.raises(ConfigError, match="between 0 and 1"):
        overlay(images[0], explain_image(classifier, images[0]), strength=1.5)


@pytest.mark.parametrize(("height", "width"), [(100, 300), (300, 100), (90, 90), (17, 640)])
@pytest.mark.parametrize("resize", ["short-side", "squash"])
@pytest.mark.parametrize("fraction", [1.0, 0.875])
def test_the_box_is_what_the_network_saw(height: int, width: int, resize: str, fraction: float) -> None:
    """A white spot inside the box reaches the batch; one outside it, away from the edge, does not."""
    preprocess = Preprocess(size=(32, 32), resize=resize, crop_fraction=fraction, mean=(0, 0, 0), std=(1, 1, 1))
    left, top, right, bottom = seen_box(preprocess, height, width)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    columns = np.arange(width)[None].repeat(height, 0)
    rows = np.arange(height)[:, None].repeat(width, 1)
    inside = (columns >= left - 1) & (columns <= right + 1) & (rows >= top - 1) & (rows <= bottom + 1)
    image = np.where(inside[..., None], 120, 255).astype(np.uint8).repeat(3, -1)
    margin = prepare_batch([image], preprocess, exact=True)[0, 0, 2:-2, 2:-2]
    assert margin.max() < 0.53
    image = np.where(inside[..., None], 255, 0).astype(np.uint8).repeat(3, -1)
    assert prepare_batch([image], preprocess, exact=True).min() > 0.55


def test_the_overlay_keeps_proportions_marks_the_place_and_greys_the_rest() -> None:
    image = np.zeros((60, 120, 3), np.uint8)
    image[..., 0] = 200
    values = np.zeros((4, 4))
    values[0, 3] = 1.0  # upper right
    made = overlay(image, make_heat(values, (30.0, 0.0, 90.0, 60.0)))
    assert made.shape == image.shape
    assert made.dtype == np.uint8
    assert (np.ptp(made[:, :30], axis=-1) == 0).all()
    assert (np.ptp(made[:, 90:], axis=-1) == 0).all()
    inside = made[:, 30:90].astype(int)
    assert inside[5, 55].sum() > inside[50, 5].sum() + 100
    np.testing.assert_array_equal(
        overlay(image, make_heat(values, (30, 0, 90, 60)), strength=0.0)[:, 30:90, 0], 200
    )


def test_the_photograph_stays_visible_everywhere() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::8] = 255
    for level in (0.0, 0.5, 1.0):
        made = overlay(stripes, make_heat(np.full((4, 4), level), (0, 0, 64, 64))).astype(int)
        assert (made[:, 0] - made[:, 4]).min() > 80


def test_a_box_of_less_than_a_pixel_is_drawn() -> None:
    image = np.zeros((1, 500, 3), np.uint8)
    assert overlay(image, make_heat(np.ones((2, 2)), (249.6, 0.0, 250.4, 1.0))).shape == image.shape


def test_each_colour_is_lighter_than_the_one_before() -> None:
    shades = colour(np.linspace(0, 1, 101)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(shades) > 0).all()
    np.testing.assert_array_equal(colour(np.array([0.0, 1.0])), RAMP[[0, -1]])
