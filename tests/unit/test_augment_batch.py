"""What the training loop gets: a function of (image, seed, epoch, index), and nothing else."""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import backbench
from backbench.config import AUGMENT_PRESETS, Augment, Preprocess, augment_preset
from backbench.errors import ConfigError
from backbench.inference.resize import prepare_batch
from backbench.training.augment import augment_batch

PREPROCESS = Preprocess(size=(24, 28), crop_fraction=0.9)
NUM_CLASSES = 5
EVERYTHING = Augment(
    crop="random-resized",
    flip=True,
    vertical_flip=True,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    jitter_probability=0.8,
    rand_augment=(2, 9),
    erasing=0.25,
)
SINGLE = {
    "random-resized": Augment(crop="random-resized"),
    "pad": Augment(crop="pad"),
    "flip": Augment(flip=True),
    "vertical flip": Augment(vertical_flip=True),
    "jitter": Augment(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    "RandAugment": Augment(rand_augment=(2, 9)),
    "erasing": Augment(erasing=0.5),
    "everything": EVERYTHING,
}


def make_images(num: int = 12, *, same_size: bool = False) -> list[np.ndarray]:
    """Read-only, as from a memory-mapped file."""
    rng = np.random.default_rng(0)
    sizes = [(32, 32) if same_size else (20 + 3 * row, 50 - 2 * row) for row in range(num)]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    for image in images:
        image.setflags(write=False)
    return images


def augmented(
    images: list[np.ndarray], augment: Augment, *, seed=0, epoch=0, step=0, indices=None, preprocess=PREPROCESS
) -> tuple[torch.Tensor, torch.Tensor]:
    num = len(images)
    targets = torch.eye(NUM_CLASSES)[torch.arange(num) % NUM_CLASSES]
    indices = np.arange(num) if indices is None else indices
    return augment_batch(
        images,
        targets,
        augment,
        preprocess,
        seed=seed,
        epoch=epoch,
        step=step,
        indices=indices,
        num_classes=NUM_CLASSES,
    )


def digests(batch: torch.Tensor) -> list[str]:
    return [hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest() for pixels in batch]


@pytest.mark.parametrize("exact", [False, True])
def test_all_off_is_what_evaluation_sees(exact: bool) -> None:
    images, targets = make_images(), torch.eye(12)
    batch, same = augment_batch(
        images,
        targets,
        Augment(),
        PREPROCESS,
        seed=0,
        epoch=0,
        step=0,
        indices=np.arange(12),
        num_classes=12,
        exact=exact,
    )
    assert torch.equal(batch, prepare_batch(images, PREPROCESS, exact=exact))
    assert torch.equal(same, targets)


def test_what_does_nothing_gives_what_evaluation_sees() -> None:
    """Through every step, so that the scale of the pixels and the normalisation are evaluation's."""
    preprocess = PREPROCESS.model_copy(update={"resize": "squash", "crop_fraction": 1.0})
    images = make_images(same_size=True)
    expected = prepare_batch(images, preprocess)
    batch, _ = augmented(images, Augment(brightness=1e-9, hue=1e-9), preprocess=preprocess)
    torch.testing.assert_close(batch, expected, rtol=0, atol=1e-5)
    whole = Augment(crop="random-resized", scale=(1.0, 1.0), ratio=(1.0, 1.0))
    batch, _ = augmented(images, whole, preprocess=preprocess)
    torch.testing.assert_close(batch, expected, rtol=0, atol=1e-5)


def test_padding_is_black() -> None:
    white = [np.full((24, 28, 3), 255, dtype=np.uint8)] * 40
    preprocess = Preprocess(size=(24, 28), resize="squash")
    batch, _ = augmented(white, Augment(crop="pad"), preprocess=preprocess)
    values = batch.permute(0, 2, 3, 1).reshape(-1, 3).unique(dim=0)
    mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
    torch.testing.assert_close(values, torch.stack([-mean / std, (1 - mean) / std]))


@pytest.mark.parametrize("augment", [*SINGLE.values(), Augment()], ids=[*SINGLE, "none"])
@pytest.mark.parametrize("same_size", [False, True])
def test_an_image_does_not_know_its_batch(augment: Augment, same_size: bool) -> None:
    images = make_images(same_size=same_size)
    whole, _ = augmented(images, augment, epoch=3)
    again, _ = augmented(images, augment, epoch=3, step=9)
    assert torch.equal(whole, again)
    shuffled = np.random.default_rng(1).permutation(len(images))
    for rows in (shuffled, shuffled[:5], shuffled[5:], *shuffled[:, None]):
        part, _ = augmented([images[row] for row in rows], augment, epoch=3, indices=rows, step=4)
        torch.testing.assert_close(part, whole[rows], rtol=0, atol=1e-5)


@pytest.mark.parametrize("augment", SINGLE.values(), ids=SINGLE)
def test_the_cache_of_the_machine_changes_nothing(augment: Augment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are worked on in blocks as large as a core's cache: each must get its own rows of what was drawn."""
    images = make_images()
    expected, _ = augmented(images, augment)
    for cache_bytes in (1, 5 * 24 * 28 * 12, 11 * 24 * 28 * 12):
        monkeypatch.setattr("backbench.training.augment.batch.CACHE_BYTES", cache_bytes)
        torch.testing.assert_close(augmented(images, augment)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(threads: int) -> None:
    images = make_images()
    expected, _ = augmented(images, EVERYTHING)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        torch.testing.assert_close(augmented(images, EVERYTHING)[0], expected, rtol=0, atol=1e-5)
    finally:
        torch.set_num_threads(before)


def test_epochs_and_seeds_all_differ() -> None:
    images = make_images()
    seen = [
        digest
        for seed, epoch in itertools.product(range(3), range(30))
        for digest in digests(augmented(images, EVERYTHING, seed=seed, epoch=epoch)[0])
    ]
    assert len(set(seen)) >= 0.99 * len(seen)


def test_equal_images_are_augmented_apart() -> None:
    batch, _ = augmented([make_images(1)[0]] * 20, EVERYTHING)
    assert len(set(digests(batch))) == 20


def test_one_augmentation_more_leaves_the_others_draws() -> None:
    images = make_images(40, same_size=True)
    plain, _ = augmented(images, Augment(crop="random-resized", flip=True))
    more, _ = augmented(images, Augment(crop="random-resized", flip=True, erasing=0.2, cutmix=0.0))
    is_same = (plain == more).all(dim=1)
    assert 0.3 < is_same.all(dim=(1, 2)).float().mean() < 1.0
    assert (is_same.float().mean(dim=(1, 2)) > 0.5).all()


def test_half_of_the_images_are_flipped() -> None:
    image = make_images(1)
    plain = prepare_batch(image, PREPROCESS)[0]
    batch, _ = augmented(image * 400, Augment(flip=True))
    flipped = sum(bool(torch.allclose(pixels, plain.flip(2), atol=1e-5)) for pixels in batch)
    kept = sum(bool(torch.allclose(pixels, plain, atol=1e-5)) for pixels in batch)
    assert flipped + kept == 400
    assert 160 < flipped < 240


@pytest.mark.parametrize("augment", [Augment(mixup=0.4), Augment(cutmix=1.0), AUGMENT_PRESETS["strong"]])
def test_mixing_is_a_function_of_seed_epoch_and_step(augment: Augment) -> None:
    images = make_images()
    first = augmented(images, augment, seed=1, epoch=2, step=3)
    again = augmented(images, augment, seed=1, epoch=2, step=3)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    for changed in ({"seed": 2}, {"epoch": 3}, {"step": 4}):
        other = augmented(images, augment, **{"seed": 1, "epoch": 2, "step": 3, **changed})
        assert not torch.equal(first[1], other[1]), changed
    torch.testing.assert_close(first[1].sum(dim=1), torch.ones(len(images)))
    assert (first[1] >= 0).all()


def test_mixed_targets_are_in_the_shares_of_the_pixels() -> None:
    """Images of one colour each: the mean of a mixed one is the mean of the colours, in the targets' shares."""
    colours = np.linspace(0, 255, NUM_CLASSES).astype(np.uint8)
    images = [np.full((24, 28, 3), colour, dtype=np.uint8) for colour in colours]
    plain = Preprocess(size=(24, 28), resize="squash", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    for step, augment in itertools.product(range(20), (Augment(mixup=1.0), Augment(cutmix=1.0))):
        batch, targets = augmented(images, augment, step=step, preprocess=plain)
        expected = targets @ torch.from_numpy(colours / 255).float()
        torch.testing.assert_close(batch.mean(dim=(1, 2, 3)), expected, rtol=0, atol=1e-5)


def test_a_batch_of_one_mixes_with_itself() -> None:
    images = make_images(1)
    for augment in (Augment(mixup=1.0), Augment(cutmix=1.0)):
        batch, targets = augmented(images, augment)
        torch.testing.assert_close(batch, prepare_batch(images, PREPROCESS))
        torch.testing.assert_close(targets, torch.eye(NUM_CLASSES)[:1])


def test_no_generator_is_read_or_moved() -> None:
    images = make_images()
    augment = AUGMENT_PRESETS["strong"].model_copy(update=EVERYTHING.model_dump(exclude={"mixup", "cutmix"}))

    def run(seed: int) -> torch.Tensor:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = [random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()]
        batch, _ = augmented(images, augment)
        after = [random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()]
        assert before == after
        return batch

    with torch.random.fork_rng(devices=[]):
        assert torch.equal(run(1), run(2))


@pytest.mark.parametrize("augment", SINGLE.values(), ids=SINGLE)
def test_the_batch_is_as_evaluations(augment: Augment) -> None:
    images = make_images()
    copies = [image.copy() for image in images]
    batch, targets = augmented(images, augment)
    assert batch.shape == (12, 3, 24, 28)
    assert batch.dtype == targets.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.isfinite(batch).all()
    mean, std = torch.tensor(PREPROCESS.mean)[:, None, None], torch.tensor(PREPROCESS.std)[:, None, None]
    pixels = batch * std + mean
    assert pixels.min() > -1e-5
    assert pixels.max() < 1 + 1e-5
    assert all(np.array_equal(one, other) for one, other in zip(images, copies, strict=True))


@pytest.mark.parametrize("augment", SINGLE.values(), ids=SINGLE)
def test_each_augmentation_changes_something(augment: Augment) -> None:
    images = make_images()
    assert not torch.equal(augmented(images, augment)[0], prepare_batch(images, PREPROCESS))


@pytest.mark.parametrize("wrong", [{"targets": torch.eye(3)}, {"indices": np.arange(2)}, {"num_classes": 4}])
def test_lengths_that_disagree_are_refused(wrong: dict) -> None:
    given = {"targets": torch.eye(5), "indices": np.arange(5), "num_classes": 5} | wrong
    with pytest.raises(ValueError, match="5 images"):
        augment_batch(
            make_images(5),
            given["targets"],
            Augment(),
            PREPROCESS,
            seed=0,
            epoch=0,
            step=0,
            indices=given["indices"],
            num_classes=given["num_classes"],
        )


def test_only_training_augments() -> None:
    """Seeds S0, S1, S3 and S4 augmented what they measured on: evaluation must not be able to."""
    root = Path(backbench.__file__).parent
    folders = ("stats", "data", "backbones", "inference", "classifier", "heads", "runs")
    measured = {folder: list(root.glob(f"{folder}/**/*.py")) for folder in folders}
    assert all(measured.values())  # the check looked at something in each
    for path in (path for paths in measured.values() for path in paths):
        assert not re.search(r"training\.augment|training import .*augment", path.read_text()), path
    assert any("training.augment" in path.read_text() for path in root.glob("training/*.py"))


# configuration


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop": "centre"},
        {"scale": (0.0, 1.0)},
        {"scale": (0.5, 0.2)},
        {"scale": (0.5, 1.5)},
        {"ratio": (0.0, 1.0)},
        {"ratio": (2.0, 1.0)},
        {"padding": 0},
        {"hue": 0.6},
        {"brightness": -0.1},
        {"jitter_probability": 1.1},
        {"rand_augment": (0, 9)},
        {"rand_augment": (2, 31)},
        {"rand_augment": (2,)},
        {"mixup": -1.0},
        {"cutmix": float("nan")},
        {"erasing": 2.0},
        {"mixupp": 0.2},
    ],
)
def test_wrong_values_are_refused_by_name(wrong: dict) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Augment(**wrong)


def test_presets_are_the_study() -> None:
    assert list(AUGMENT_PRESETS) == ["none", "basic", "strong", "randaugment"]
    assert AUGMENT_PRESETS["none"] == Augment()
    for name, preset in AUGMENT_PRESETS.items():
        assert augment_preset(name) == preset
        assert Augment.model_validate_json(preset.model_dump_json()) == preset  # model_copy does not validate
    assert len({preset.digest() for preset in AUGMENT_PRESETS.values()}) == 4
    with pytest.raises(ConfigError, match="'strong'"):
        augment_preset("strnog")
