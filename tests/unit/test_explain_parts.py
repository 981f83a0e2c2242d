"""Positions, first filters, embeddings, and the choice of images to explain."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image
from torch import nn

from backbench.backbones.architectures.vit import VisionTransformer
from backbench.backbones.architectures.vit_config import ViTConfig
from backbench.config import DataConfig, GreyScale, MethodConfig, RunConfig
from backbench.errors import ConfigError, DataError, MissingExtra, ModelError
from backbench.explain.embedding import embed_features
from backbench.explain.filters import first_filters, principal_filters
from backbench.explain.inside import draw_inside
from backbench.explain.of_runs import draw_map, name_runs
from backbench.explain.positions import position_similarity
from backbench.explain.samples import order_by_chance, order_by_interest, read_samples
from backbench.progress import Progress
from backbench.records.schema import Predictions
from backbench.registry import find_model
from backbench.runs.context import RunContext
from backbench.runs.run import run


def make_timm(name: str, **options: object) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=0, **options).eval()


def make_vit(size: tuple[int, int] = (32, 48)) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(ViTConfig(patch=8, width=24, depth=1, heads=2, hidden=24, image_size=size))


def test_positions_are_compared_patch_by_patch_without_the_class_token() -> None:
    body = make_vit()
    similarity = position_similarity(body)
    assert similarity.shape == (4, 6, 4, 6)
    patches = body.pos_embed[0, 1:].detach().double().numpy().reshape(4, 6, 24)
    one, other = patches[1, 2], patches[3, 5]
    expected = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert similarity[1, 2, 3, 5] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(np.einsum("abab->ab", similarity), 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "grid"),
    [
        ("vit_small_patch14_reg4_dinov2", {"img_size": 56, "depth": 1}, (4, 4)),
        ("deit_tiny_distilled_patch16_224", {"img_size": 64, "depth": 1}, (4, 4)),
        ("vit_tiny_patch16_224", {"img_size": (48, 80), "depth": 1}, (3, 5)),
        ("pit_ti_224", {"img_size": 64}, (7, 7)),
    ],
)
def test_positions_of_timms_transformers(name: str, options: dict[str, object], grid: tuple[int, int]) -> None:
    assert position_similarity(make_timm(name, **options)).shape == (*grid, *grid)


def test_networks_without_learned_positions_say_so() -> None:
    rotary = make_timm("vit_small_patch16_dinov3", img_size=64, depth=1)
    with pytest.raises(ModelError, match="rotary"):
        position_similarity(rotary)
    with pytest.raises(ModelError, match="has none"):
        position_similarity(make_timm("beit_base_patch16_224", img_size=64, depth=1, embed_dim=48, num_heads=3))
    with pytest.raises(ModelError, match="has none"):
        position_similarity(find_model("tiny_cnn").load(0).body)
    with pytest.raises(ModelError, match="has none"):
        position_similarity(make_timm("nest_tiny"))


def test_first_filters_show_weights_around_grey() -> None:
    convolution = nn.Conv2d(3, 4, 5)
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.weight[0, 1, 2, 3] = -2.0
        convolution.weight[0, 2, 0, 0] = 1.0
    filters = first_filters(nn.Sequential(convolution, nn.Conv2d(4, 4, 3)))
    assert filters.shape == (4, 3, 5, 5)
    assert (filters[0, 1, 2, 3], filters[0, 2, 0, 0], filters[0, 0, 0, 0]) == (0.0, 0.75, 0.5)
    assert (filters[1:] == 0.5).all()


def test_principal_filters_find_the_patterns_that_filters_are_made_of() -> None:
    rng = np.random.default_rng(0)
    patterns = np.linalg.qr(rng.normal(size=(48, 2)))[0].T
    weights = rng.normal(size=(200, 2)) * (5.0, 1.0) @ patterns
    convolution = nn.Conv2d(3, 200, 4)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor(weights, dtype=torch.float32).reshape(200, 3, 4, 4))
    found = principal_filters(convolution, 2) - 0.5
    assert found.shape == (2, 3, 4, 4)
    assert np.abs(found).max(axis=(1, 2, 3)) == pytest.approx((0.5, 0.5))
    for pattern, tile in zip(patterns, found.reshape(2, -1), strict=True):
        assert abs(pattern @ tile / np.linalg.norm(tile)) > 0.99
    assert principal_filters(convolution, 1000).shape == (48, 3, 4, 4)
    with pytest.raises(ConfigError, match="num is 0"):
        principal_filters(convolution, 0)
    with pytest.raises(ModelError, match="not start with a convolution"):
        first_filters(nn.Linear(3, 3))


def test_what_a_network_lacks_is_not_drawn() -> None:
    assert set(draw_inside(make_vit(), "vit")) == {"filters", "principal-filters", "positions"}
    assert set(draw_inside(find_model("tiny_cnn").load(0).body, "cnn")) == {"filters", "principal-filters"}
    assert draw_inside(nn.Flatten(), "pixels") == {}


def two_clusters(num: int = 24, dim: int = 60) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(num, dim)).astype(np.float32)
    values[: num // 2] += 12.0
    return values


@pytest.mark.parametrize("method", ["pca", "tsne", pytest.param("umap", marks=pytest.mark.slow)])
def test_clusters_stay_apart_and_the_picture_is_the_same_for_a_seed(method: str) -> None:
    if method == "umap":
        pytest.importorskip("umap")
    values = two_clusters()
    points = embed_features(values, method, seed=3)
    assert points.shape == (24, 2)
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points, embed_features(values, method, seed=3))
    centres = points[:12].mean(0), points[12:].mean(0)
    apart = np.linalg.norm(centres[0] - centres[1])
    radius = max(
        np.linalg.norm(points[:12] - centres[0], axis=1).max(),
        np.linalg.norm(points[12:] - centres[1], axis=1).max(),
    )
    assert apart > radius


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize("num", [0, 1, 2, 4, 5, 7])
def test_few_images_are_placed_too(method: str, num: int) -> None:
    points = embed_features(two_clusters(8)[:num], method)
    assert points.shape == (num, 2)
    assert np.isfinite(points).all()


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_features_that_are_all_alike_and_features_of_one_number(method: str) -> None:
    assert not embed_features(np.full((9, 4), 3.0, np.float32), method).any()
    assert np.isfinite(embed_features(np.arange(9.0)[:, None], method)).all()


def test_mistakes_of_an_embedding_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"unknown embedding 'tnse'.*'tsne'"):
        embed_features(two_clusters(), "tnse")
    with pytest.raises(ConfigError, match="finite"):
        embed_features(np.full((5, 2), np.nan), "pca")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingExtra, match=r"backbench\[umap\]"):
        embed_features(two_clusters())


def test_embedding_needs_no_torch() -> None:
    code = "import sys, backbench.explain.embedding; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_wrong_answers_come_first_the_surest_before_others() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3], [0.45, 0.55]], np.float32)
    labels = np.array([0, 0, 0, 1, 1])  # rows 2 (0.8) and 3 (0.7) are wrong
    predictions = Predictions(("a", "b", "c", "d", "e"), labels, probabilities, ("x", "y"))
    assert order_by_interest(predictions) == [2, 3, 1, 4, 0]


def test_a_fair_sample_has_to_do_with_the_names_of_images_alone() -> None:
    names = tuple(f"{number:03}.png" for number in range(200))
    labels = np.arange(200) % 2
    good = Predictions(names, labels, np.eye(2, dtype=np.float32)[labels], ("x", "y"))
    bad = Predictions(names[::-1], labels, np.eye(2, dtype=np.float32)[1 - labels], ("x", "y"))
    drawn = [names[row] for row in order_by_chance(good)[:30]]
    assert [names[::-1][row] for row in order_by_chance(bad)[:30]] == drawn
    assert len(set(drawn)) == 30
    assert drawn != sorted(drawn)


def test_named_images_know_their_class_from_their_folder(tmp_path: Path) -> None:
    for folder in ("bee", "other"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8), "red").save(tmp_path / folder / "one.png")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    samples, faults = read_samples([str(tmp_path)], 12, ["ant", "bee"])
    assert [(sample.name, sample.truth) for sample in samples] == [("one.png", "bee"), ("one.png", None)]
    assert len(faults) == 1
    assert "broken.png" in faults[0]
    with pytest.raises(DataError, match="no readable images"):
        read_samples([str(tmp_path / "broken.png")], 12, ["ant"])


def test_it_is_said_when_images_are_left_out(tmp_path: Path) -> None:
    said = []

    class Hearing(Progress):
        def say(self, text: str) -> None:
            said.append(text)

    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    samples, faults = read_samples([str(tmp_path)], 2, [], Hearing())
    assert (len(samples), faults) == (2, [])
    assert said == ["explaining the first 2 of 3 images; use --num for more"]


def test_a_map_of_runs_of_one_name_holds_each(tmp_path: Path) -> None:
    """They once wrote over one another, so that one map of two was drawn, with nothing said."""
    data = DataConfig(source="digits", limit=60)
    methods = (MethodConfig(name="knn", options={"ks": [1]}), MethodConfig(name="knn", options={"ks": [5]}))
    records = [
        run(RunConfig(data=data, model="pixels", method=method), RunContext(tmp_path)) for method in methods
    ]
    figure, faults = draw_map([tmp_path / record.run_id for record in records], "pca")
    assert faults == []
    written = " ".join(text.get_text() for text in figure.findobj(Text))
    for name in name_runs(records):
        assert name in written
    assert len(set(name_runs(records))) == 2


def test_images_with_more_than_8_bits_are_explained_by_the_scale_of_training(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 511, np.uint16)).save(tmp_path / "x.png")
    samples, _ = read_samples([str(tmp_path / "x.png")], 1, [], grey=GreyScale(integers=(0.0, 1022.0)))
    assert samples[0].image.mean() == 128
