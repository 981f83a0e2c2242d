"""Large images wait for one another: no more pixels are held at once than the cap says; none waits for ever."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbench.config import DataConfig
from backbench.data import census, decode
from backbench.data.in_flight import PixelGate
from backbench.data.load import load_data
from backbench.errors import BadImage
from backbench.inference import features
from backbench.registry import find_model
from listings import write_image

PIXELS = 40 * 30


class Watch:
    """How much is held at once, at most."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.lock = threading.Lock()

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1


def make_image(seed: int = 0) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> PixelGate:
    """Room for two images."""
    small = PixelGate(2 * PIXELS)
    for module in (decode, census, features):
        monkeypatch.setattr(module, "GATE", small)
    return small


def test_decoding_threads_hold_no_more_than_the_cap(gate: PixelGate, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, whole = Watch(), decode.to_rgb

    def watched(*arguments: object) -> Image.Image:
        with watch:
            return whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(decode, "to_rgb", watched)
    data = make_image()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: decode.decode_image(data, "x", max_pixels=PIXELS), range(24)))
    assert all(np.array_equal(image, found[0]) for image in found)
    assert watch.most == 2


def test_features_hold_an_image_until_it_is_cut_to_size(
    gate: PixelGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(24):
        write_image(tmp_path / "set" / "ab"[number % 2] / f"{number}.png", number, (40, 30))
    data = load_data(DataConfig(source=str(tmp_path / "set")))
    data.store.cap_bytes = 0
    data.store._kept.clear()
    watch, reduce = Watch(), features.reduce_image

    def watched(*arguments: object, **options: object) -> features.Reduced:
        with watch:
            return reduce(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "reduce_image", watched)
    monkeypatch.setattr(features, "num_workers", lambda: 8)
    extracted = features.extract_features(
        find_model("tiny_cnn").load(0),
        data.read,
        data.manifest.hashes,
        names=data.manifest.ids,
        batch_size=3,
        use_cache=False,
    )
    assert len(extracted.values) == 24
    assert watch.most == 2
    assert gate._held == 0


def test_an_image_above_the_cap_goes_alone_and_does_not_wait_for_ever() -> None:
    gate, watch = PixelGate(10), Watch()

    def work(_: int) -> None:
        with gate.hold(1000), watch:
            pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    assert watch.most == 1
    assert gate._held == 0


def test_a_broken_image_gives_its_room_back(gate: PixelGate) -> None:
    data = make_image()
    for _ in range(5):
        with pytest.raises(BadImage), gate.kept():
            decode.decode_image(data[:-30], "x", max_pixels=PIXELS)
        with pytest.raises(BadImage):
            decode.decode_image(data[:-30], "x", max_pixels=PIXELS)
    assert gate._held == 0


def test_two_images_in_one_block_do_not_lock_threads_against_each_other() -> None:
    gate = PixelGate(2)
    both = threading.Barrier(2)

    def work(_: int) -> int:
        with gate.kept():
            with gate.hold(1):
                pass
            both.wait(10)
            with gate.hold(2):
                return 1

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(work, range(2), timeout=30)) == 2
    assert gate._held == 0
