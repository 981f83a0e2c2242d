"""A frozen beginning runs once, and training on from its activations is training the whole network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from backbench.backbones.core.base import Backbone
from backbench.backbones.core.weights import digest_weights
from backbench.classifier.classifier import Classifier
from backbench.config import Augment, Recipe
from backbench.heads.head_modules import make_linear
from backbench.progress import SILENT
from backbench.registry import find_model
from backbench.runtime import make_torch_rng
from backbench.task import Part
from backbench.training import phases, prefix
from backbench.training.batches import ImageBatches
from backbench.training.checkpoint import Workspace
from backbench.training.optimise import Phase
from backbench.training.phases import head_names, last_stages
from backbench.training.prefix import cut_prefix
from backbench.training.train import fit

NUM = 22
IMAGES = np.random.default_rng(0).integers(0, 128, (NUM, 32, 32, 3), dtype=np.uint8)
IMAGES[1::2] += 100  # so that there is something to learn


def make_classifier(model: str) -> Classifier:
    load = find_model(model).load
    assert load is not None
    backbone = load(0)
    return Classifier(backbone, make_linear(backbone.facts.dim, 2, make_torch_rng(0, "head")), ("a", "b"))


def make_batches(classifier: Classifier) -> ImageBatches:
    rows = np.arange(NUM)
    parts = [Part(chosen, chosen % 2, tuple(str(row) for row in chosen)) for chosen in (rows[:16], rows[16:])]
    return ImageBatches(
        lambda row: IMAGES[row], parts[0], parts[1], 2, classifier.preprocess, Augment(), 0.0, 0, "cpu"
    )


def last_parts(classifier: Classifier, num: int) -> frozenset[str]:
    body = {f"backbone.body.{name}" for name in last_stages(classifier.backbone.body, num)}
    return head_names(classifier) | body


@pytest.mark.parametrize(("model", "num"), [("tiny_cnn", 1), ("tiny_cnn", 3), ("tiny_vit", 2), ("cnn", 1)])
def test_training_on_from_activations_is_training_the_whole_network(model: str, num: int, tmp_path: Path) -> None:
    results = []
    for number in range(2):
        classifier = make_classifier(model)
        batches = make_batches(classifier)
        phase = Phase("x", last_parts(classifier, num), Recipe(epochs=2, batch_size=8, learning_rate=1e-3))
        workspace = Workspace(tmp_path / str(number))
        if number == 0:
            fit(classifier, batches, phase, class_names=("a", "b"), workspace=workspace)
        else:
            rest = cut_prefix(classifier, phase.trainable, batches, precision="fp32")
            assert rest is not None
            before = digest_weights(classifier)
            with rest.replaying():
                fit(classifier, rest.batches, phase, class_names=("a", "b"), workspace=workspace)
            assert digest_weights(classifier) != before
        with torch.no_grad():
            results.append((classifier(batches.load(0, 0, np.arange(16))[0]), classifier.state_dict()))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-3, atol=1e-3)
    assert results[0][1].keys() == results[1][1].keys()


def test_what_is_frozen_first_does_not_run_again(tmp_path: Path) -> None:
    classifier = make_classifier("tiny_vit")
    batches = make_batches(classifier)
    phase = Phase("x", last_parts(classifier, 2), Recipe(epochs=3, batch_size=8, learning_rate=1e-3))
    rest = cut_prefix(classifier, phase.trainable, batches, precision="fp32")
    assert rest is not None
    calls: list[str] = []
    body = classifier.backbone.body
    for path in ("patch_embed.proj", "blocks.0.attn", "blocks.5.attn"):
        body.get_submodule(path).register_forward_hook(lambda *_, path=path: calls.append(path))
    with rest.replaying():
        fit(classifier, rest.batches, phase, class_names=("a", "b"), workspace=Workspace(tmp_path))
    assert set(calls) == {"blocks.5.attn"}
    classifier(batches.load(0, 0, np.arange(4))[0])
    assert set(calls) == {"patch_embed.proj", "blocks.0.attn", "blocks.5.attn"}


class Skipping(nn.Module):
    """What `second` gives is added to what `first` gave: the network can be gone on with after `first` alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 4, 3)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        maps = self.first(batch)
        return self.third(maps + self.second(maps)).mean((2, 3))


def make_skipping() -> Classifier:
    facts = make_classifier("tiny_cnn").backbone.facts.model_copy(update={"dim": 4})
    torch.manual_seed(0)
    return Classifier(Backbone(Skipping(), facts), make_linear(4, 2, make_torch_rng(0, "h")), ("a", "b"))


def test_a_skip_connection_out_of_the_frozen_part_is_noticed() -> None:
    classifier = make_skipping()
    trainable = head_names(classifier) | {"backbone.body.third.weight", "backbone.body.third.bias"}
    batches = make_batches(classifier)
    images, _ = batches.load(0, 0, np.arange(16))
    rest = cut_prefix(classifier, trainable, batches, precision="fp32")
    assert rest is not None
    assert rest.boundary == "first"
    with torch.no_grad():
        whole = classifier(images)
        with rest.replaying():
            shortened = classifier(rest.batches.load(0, 0, np.arange(16))[0])
    torch.testing.assert_close(shortened, whole)


def test_nothing_is_cut_where_nothing_is_frozen_first_or_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = make_classifier("tiny_cnn")
    batches = make_batches(classifier)
    everything = frozenset(name for name, _ in classifier.named_parameters())
    assert cut_prefix(classifier, everything, batches, precision="fp32") is None
    monkeypatch.setattr(prefix, "MAX_KEPT_BYTES", 1000)
    assert cut_prefix(classifier, last_parts(classifier, 1), batches, precision="fp32") is None


def test_a_network_that_fails_while_replayed_is_put_back() -> None:
    classifier = make_classifier("tiny_cnn")
    batches = make_batches(classifier)
    rest = cut_prefix(classifier, last_parts(classifier, 1), batches, precision="fp32")
    assert rest is not None
    images, _ = batches.load(0, 0, np.arange(4))
    before = classifier(images)
    with pytest.raises(KeyError), rest.replaying():
        raise KeyError("anything")
    torch.testing.assert_close(classifier(images), before, rtol=0, atol=0)


def test_a_beginning_that_does_not_fit_into_memory_runs_in_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory, injected")

    classifier = make_classifier("tiny_cnn")
    phase = Phase("x", last_parts(classifier, 1), Recipe())
    task = SimpleNamespace(precision="fp32", device="cpu")
    assert phases._cut_prefix(classifier, phase, make_batches(classifier), task, SILENT) is not None
    monkeypatch.setattr(phases, "cut_prefix", run_out)
    assert phases._cut_prefix(classifier, phase, make_batches(classifier), task, SILENT) is None
