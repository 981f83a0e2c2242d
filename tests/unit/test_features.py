"""Extraction: right rows, the same bits in any order, nothing left behind, and honest about costs."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from backbench.backbones.core.base import Backbone
from backbench.config import Preprocess
from backbench.errors import BackbenchError, BadImage, BudgetExceeded, ModelError
from backbench.inference import features as module
from backbench.inference.cache import feature_path
from backbench.inference.features import Extraction, decide_batch_size, extract_features
from backbench.inference.resize import prepare_batch
from backbench.progress import Bar, Progress
from backbench.records.schema import ModelFacts
from backbench.registry import find_model


def make_backbone(body: nn.Module | None = None, dim: int = 8, digest: str = "a" * 64, side: int = 32) -> Backbone:
    if body is None:
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(dim)
        body = nn.Sequential(nn.Conv2d(3, dim, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        with torch.no_grad():
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    facts = ModelFacts(
        name="small",
        architecture="small",
        dim=dim,
        preprocess=Preprocess(size=(side, side)),
        num_parameters=0,
        flops=None,
        weights_digest=digest,
        pretrained_on=None,
    )
    return Backbone(body, facts)


class Pictures:
    """Images of several sizes with their hashes; counts who reads what."""

    def __init__(self, num: int = 40, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        sides = rng.choice([16, 24, 32, 40, 80], (num, 2))
        self.images = [rng.integers(0, 256, (*side, 3)).astype(np.uint8) for side in sides]
        self.hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in self.images]
        self.reads: list[int] = []

    @property
    def names(self) -> list[str]:
        return [f"image{row}" for row in range(len(self.images))]

    def read(self, row: int) -> np.ndarray:
        self.reads.append(row)
        return self.images[row]

    def reordered(self, rows: Sequence[int]) -> Pictures:
        other = Pictures(0)
        other.images = [self.images[row] for row in rows]
        other.hashes = [self.hashes[row] for row in rows]
        return other

    def extract(self, backbone: Backbone, **options: object) -> Extraction:
        return extract_features(backbone, self.read, self.hashes, names=self.names, **options)


def plain_features(backbone: Backbone, pictures: Pictures) -> np.ndarray:
    with torch.inference_mode():
        return backbone.eval()(prepare_batch(pictures.images, backbone.preprocess)).numpy()


def extraction_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("extract")]


@pytest.fixture(params=["cpu", "device"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways through the code: whole batches in workers, and workers that feed one device."""
    if request.param == "device":
        monkeypatch.setattr(module, "_features_on_cpu", module._features)
    return request.param


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_rows_are_those_of_the_plain_network(path: str, batch_size: int) -> None:
    backbone, pictures = make_backbone(), Pictures()
    extraction = pictures.extract(backbone, batch_size=batch_size)
    assert not extraction.from_cache
    assert extraction.values.dtype == np.float32
    np.testing.assert_allclose(extraction.values, plain_features(backbone, pictures), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("use_cache", [True, False])
def test_permuting_images_permutes_features_bit_for_bit(path: str, use_cache: bool) -> None:
    backbone, pictures = make_backbone(), Pictures()
    order = np.random.default_rng(1).permutation(40)
    one = pictures.extract(backbone, use_cache=use_cache, batch_size=7)
    other = pictures.reordered(order).extract(backbone, use_cache=use_cache, batch_size=7)
    assert np.array_equal(other.values, one.values[order])
    assert other.from_cache is use_cache


def test_who_is_in_a_batch_does_not_depend_on_the_order_of_the_images(path: str) -> None:
    class SeesItsMates(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) + x.mean()

    backbone, pictures = make_backbone(SeesItsMates(), dim=3), Pictures()
    order = np.random.default_rng(1).permutation(40)
    one = pictures.extract(backbone, use_cache=False, batch_size=7).values
    other = pictures.reordered(order).extract(backbone, use_cache=False, batch_size=7).values
    assert np.array_equal(other, one[order])


def test_a_backbone_in_train_mode_is_run_in_eval_mode_and_left_as_it_is() -> None:
    backbone, pictures = make_backbone(), Pictures()
    backbone.train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    one = pictures.extract(backbone, use_cache=False, batch_size=40).values
    other = pictures.extract(backbone, use_cache=False, batch_size=1).values
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one, plain_features(backbone, pictures), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())


def test_equal_images_are_read_once_and_get_equal_features(path: str) -> None:
    rows = [3, 1, 3, 2, 1, 3]
    pictures = Pictures().reordered(rows)
    backbone = make_backbone()
    extraction = pictures.extract(backbone)
    assert sorted(pictures.reads) == [0, 1, 3]
    assert extraction.cost.num_images == 3
    np.testing.assert_allclose(extraction.values, plain_features(backbone, pictures), rtol=1e-4, atol=1e-5)


def test_the_second_run_reads_nothing_and_computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, pictures = make_backbone(), Pictures()
    one = pictures.extract(backbone, precision="bf16")
    pictures.reads.clear()
    monkeypatch.setattr(module, "accelerate", None)
    other = pictures.extract(backbone, precision="bf16")
    assert not pictures.reads
    assert other.from_cache
    assert np.array_equal(one.values, other.values)
    assert other.cost.features_from_cache
    assert other.cost.seconds == one.cost.seconds
    assert not one.cost.features_from_cache


class DecidesByAttribute(nn.Module):
    """Two of these have the same weights and give other features."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).amax((2, 3))


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        (make_backbone(digest="b" * 64), {}),
        (make_backbone(side=31), {}),
        (make_backbone(), {"precision": "bf16"}),
        (make_backbone(), {"exact_resize": True}),
        (make_backbone(DecidesByAttribute(1)), {}),
        (make_backbone(DecidesByAttribute(2)), {}),
    ],
)
def test_other_weights_or_settings_are_never_served_from_the_cache(backbone: Backbone, options: dict) -> None:
    pictures = Pictures(3)
    pictures.extract(make_backbone())
    pictures.extract(make_backbone(DecidesByAttribute(3)))
    assert not pictures.extract(backbone, **options).from_cache


def test_a_tuned_backbone_is_neither_looked_up_nor_kept() -> None:
    backbone, pictures = make_backbone(), Pictures(5)
    pictures.extract(backbone, use_cache=False)
    assert not feature_path("x").parent.exists()
    pictures.extract(backbone)
    with torch.no_grad():
        backbone.body[0].weight.mul_(2.0)  # the facts still name the old weights
    tuned = pictures.extract(backbone, use_cache=False)
    assert not tuned.from_cache
    np.testing.assert_allclose(tuned.values, plain_features(backbone, pictures), rtol=1e-4, atol=1e-5)


def test_a_damaged_file_is_computed_again_with_a_warning() -> None:
    backbone, pictures = make_backbone(), Pictures(5)
    one = pictures.extract(backbone)
    (kept,) = feature_path("x").parent.iterdir()
    kept.write_bytes(kept.read_bytes()[:-5])
    warnings: list[str] = []

    class Heard(Progress):
        def warn(self, text: str) -> None:
            warnings.append(text)

    other = pictures.extract(backbone, progress=Heard())
    assert warnings
    assert not other.from_cache
    assert np.array_equal(one.values, other.values)
    assert pictures.extract(backbone).from_cache


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_name_the_image(path: str, value: float) -> None:
    class Breaks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            is_black = x.amax((1, 2, 3)) < -1.5  # the one black image
            return torch.where(is_black[:, None], value, x.mean((2, 3)))

    pictures = Pictures(20)
    pictures.images[13] = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(ModelError, match=r"image13.* not finite"):
        pictures.extract(make_backbone(Breaks(), dim=3))
    assert not feature_path("x").parent.exists()


def test_features_of_another_size_than_stated_are_refused() -> None:
    with pytest.raises(ModelError, match="shape"):
        Pictures(3).extract(make_backbone(dim=8).__class__(nn.Flatten(), make_backbone(dim=8).facts))


def failing_read(pictures: Pictures, error: BaseException) -> Callable[[int], np.ndarray]:
    def read(row: int) -> np.ndarray:
        if row == 13:
            raise error
        return pictures.images[row]

    return read


@pytest.mark.parametrize("error", [BadImage("image13", "is broken"), MemoryError(), KeyboardInterrupt()])
def test_errors_of_workers_come_through_and_no_thread_is_left(path: str, error: BaseException) -> None:
    pictures = Pictures(200)
    with pytest.raises(type(error)):
        extract_features(
            make_backbone(), failing_read(pictures, error), pictures.hashes, names=pictures.names, batch_size=4
        )
    assert not extraction_threads()
    assert not feature_path("x").parent.exists()


def test_an_interrupt_leaves_no_thread(path: str) -> None:
    class Interrupts(Progress):
        @contextmanager
        def bar(self, label: str, total: int, unit: str = "images") -> Iterator[Bar]:
            class Interrupting:
                def advance(self, num: int = 1) -> None:
                    raise KeyboardInterrupt

            yield Interrupting()

    threads = torch.get_num_threads()
    pictures = Pictures(100)
    with pytest.raises(KeyboardInterrupt):
        pictures.extract(make_backbone(), batch_size=2, progress=Interrupts())
    assert not extraction_threads()
    assert len(pictures.reads) < 100
    assert torch.get_num_threads() == threads


def test_decoding_runs_ahead_within_bounds(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "num_workers", lambda: 2)
    pictures = Pictures(300)
    ahead: list[int] = []

    class Watches(Progress):
        @contextmanager
        def bar(self, label: str, total: int, unit: str = "images") -> Iterator[Bar]:
            class Watching:
                done = 0

                def advance(self, num: int = 1) -> None:
                    time.sleep(0.02)  # lets the workers run as far ahead as they may
                    self.done += num
                    ahead.append(len(pictures.reads) - self.done)

            yield Watching()

    pictures.extract(make_backbone(), batch_size=4, progress=Watches())
    assert max(ahead) <= 4 * (2 * 2 + 2)


def test_the_bar_counts_every_distinct_image() -> None:
    told: list[object] = []

    class Watches(Progress):
        @contextmanager
        def bar(self, label: str, total: int, unit: str = "images") -> Iterator[Bar]:
            told.append((label, total))

            class Watching:
                def advance(self, num: int = 1) -> None:
                    told.append(num)

            yield Watching()

    Pictures(20).reordered([*range(20), 3, 4]).extract(make_backbone(), batch_size=6, progress=Watches())
    assert told == [("small", 20), 6, 6, 6, 2]


def test_work_that_can_not_end_in_time_stops_early(path: str) -> None:
    pictures = Pictures(400)

    def slow(row: int) -> np.ndarray:
        time.sleep(0.005)
        return pictures.read(row)

    with pytest.raises(BudgetExceeded, match="of 400 images") as caught:
        extract_features(
            make_backbone(),
            slow,
            pictures.hashes,
            names=pictures.names,
            batch_size=2,
            deadline=time.monotonic() + 0.4,
        )
    assert isinstance(caught.value, BackbenchError)
    assert len(pictures.reads) < 400
    assert not extraction_threads()


def test_work_is_stopped_by_what_its_speed_says_before_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(module, "num_workers", lambda: 2)

    def images_done(seconds_each: float) -> int:
        clock[0] = 100.0
        with Progress().bar("", 0) as bar:
            pace = module._Pace("small", 100, 160.0, bar)
            for done in range(100):
                clock[0] += seconds_each
                try:
                    pace.advance(1)
                except BudgetExceeded as error:
                    told.append(str(error))
                    return done + 1
        return 100

    told: list[str] = []
    assert images_done(0.5) == 100
    assert images_done(1.0) == 3
    assert "3 of 100 images took 3.0 s" in told[0]


def test_torch_has_its_threads_back(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        monkeypatch.setattr(module, "num_workers", lambda: 2)
        seen: list[int] = []
        Pictures(8).extract(make_backbone(Tells(seen), dim=3), batch_size=2)
        assert torch.get_num_threads() == 4
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 4
        if path == "cpu":
            assert seen[-1] == 2  # four threads shared out among two workers
    finally:
        torch.set_num_threads(before)


class Tells(nn.Module):
    """Notes how many threads torch would use."""

    def __init__(self, seen: list[int]) -> None:
        super().__init__()
        self.note = lambda: seen.append(torch.get_num_threads())  # a function is not copied with the network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.note()
        return x.mean((2, 3))


def test_a_deadline_far_away_does_not_matter() -> None:
    pictures = Pictures()
    deadline = time.monotonic() + 3600
    assert len(pictures.extract(make_backbone(), batch_size=2, deadline=deadline).values) == 40


def test_kept_features_are_served_whatever_the_deadline() -> None:
    pictures = Pictures(4)
    pictures.extract(make_backbone())
    assert pictures.extract(make_backbone(), deadline=time.monotonic() - 1).from_cache


def test_seconds_of_the_stages_come_from_where_they_are_spent() -> None:
    pictures = Pictures(4)
    marks = iter([(1.0, 2.0), (1.5, 4.0)])
    cost = pictures.extract(make_backbone(), stage_seconds=lambda: next(marks)).cost
    assert cost.seconds["read"] == 0.5
    assert cost.seconds["decode"] == 2.0
    assert cost.seconds["resize"] > 0
    assert cost.seconds["forward"] > 0
    assert cost.images_per_second
    assert cost.peak_memory_bytes
    assert pictures.extract(make_backbone(), use_cache=False).cost.seconds["decode"] > 0


def test_a_batch_too_large_for_the_device_is_halved(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = module._Work._forward
    tried: list[int] = []

    def scarce(self: module._Work, images: Sequence[object], rows: Sequence[int]) -> np.ndarray:
        tried.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError("no room")
        return plain(self, images, rows)

    monkeypatch.setattr(module._Work, "_forward", scarce)
    backbone, pictures = make_backbone(), Pictures()
    extraction = pictures.extract(backbone, batch_size=16)
    assert max(tried) == 16
    np.testing.assert_allclose(extraction.values, plain_features(backbone, pictures), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(
        module._Work, "_forward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no room"))
    )
    with pytest.raises(ModelError, match="memory"):
        pictures.extract(backbone, use_cache=False)


def test_what_less_than_fp32_moves_is_measured_and_kept_with_the_features() -> None:
    pictures = Pictures()
    assert pictures.extract(make_backbone()).cost.rounding is None
    rounding = pictures.extract(make_backbone(), precision="bf16").cost.rounding
    assert rounding is not None
    exact, rounded = (pictures.extract(make_backbone(), precision=each).values for each in ("fp32", "bf16"))
    rows = np.argsort(pictures.hashes)[:8]
    spread = np.linalg.norm(exact[rows] - exact[rows].mean(axis=0), axis=1).mean()
    assert rounding == pytest.approx(np.linalg.norm(rounded[rows] - exact[rows], axis=1).mean() / spread, rel=0.02)
    assert 0 < rounding < 0.1
    again = pictures.extract(make_backbone(), precision="bf16")
    assert again.from_cache
    assert again.cost.rounding == rounding


def test_a_network_that_less_than_fp32_breaks_is_found() -> None:
    class Lifted(nn.Module):
        """Images differ in what is small beside a number that all of them have."""

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch.mean(dim=(2, 3)) + 300.0

    backbone = make_backbone(Lifted(), dim=3)
    rounding = Pictures().extract(backbone, precision="bf16").cost.rounding
    assert rounding is not None
    assert rounding > 0.5


def test_where_there_is_nothing_to_compare_nothing_is_claimed() -> None:
    assert Pictures(1).extract(make_backbone(), precision="bf16").cost.rounding is None
    assert Pictures(0).extract(make_backbone(), precision="bf16").cost.rounding is None


def test_no_images_give_no_rows() -> None:
    extraction = Pictures(0).extract(make_backbone())
    assert extraction.values.shape == (0, 8)
    assert extraction.cost.images_per_second is None


def test_hashes_and_names_must_agree() -> None:
    with pytest.raises(ValueError, match="names"):
        extract_features(make_backbone(), Pictures(2).read, Pictures(2).hashes, names=["one"])


def test_batches_fit_the_input_and_the_device() -> None:
    assert decide_batch_size((224, 224), "cpu") == 8
    assert decide_batch_size((224, 224), "cuda") == 256
    assert decide_batch_size((518, 518), "cuda") == 47
    assert decide_batch_size((2048, 2048), "cpu") == 1
    assert decide_batch_size((32, 32), "cuda:1") == 1024


@pytest.mark.slow
@pytest.mark.parametrize("card", ["resnet18_to_layer3", "vit_tiny_patch16_224"])
def test_bf16_features_probe_as_well_as_fp32(shared: Path, card: str) -> None:
    """The difference of a quick probe (nearest class mean) on real weights and images."""
    load = find_model(str(shared / "weights" / f"{card}.toml")).load
    assert load is not None
    backbone = load(0)
    files = sorted((shared / "data" / "caltech-mini").glob("*/*.jpg"))[::3]
    labels = np.unique([file.parent.name for file in files], return_inverse=True)[1]
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]

    def read(row: int) -> np.ndarray:
        return np.asarray(Image.open(files[row]).convert("RGB"))

    accuracy = {}
    for precision in ("fp32", "bf16"):
        values = extract_features(
            backbone, read, hashes, names=[str(file) for file in files], precision=precision
        ).values
        is_train = np.arange(len(files)) % 2 == 0
        centred = values - values[is_train].mean(axis=0)
        centred /= np.linalg.norm(centred, axis=1, keepdims=True)
        means = np.stack([centred[is_train & (labels == label)].mean(axis=0) for label in range(labels.max() + 1)])
        accuracy[precision] = float(((centred @ means.T).argmax(axis=1) == labels)[~is_train].mean())
    print(f"{card}: fp32 {accuracy['fp32']:.4f}, bf16 {accuracy['bf16']:.4f}")
    assert accuracy["fp32"] > 0.8
    assert abs(accuracy["fp32"] - accuracy["bf16"]) <= 0.04


@pytest.mark.gpu
def test_cuda_gives_the_features_of_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    backbone, pictures = make_backbone(), Pictures()
    expected = pictures.extract(backbone).values
    for precision, tolerance in (("fp32", 2e-2), ("bf16", 5e-2)):
        found = pictures.extract(backbone, device="cuda", precision=precision)
        assert not found.from_cache
        np.testing.assert_allclose(found.values, expected, rtol=tolerance, atol=tolerance)
