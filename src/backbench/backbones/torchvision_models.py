"""torchvision's classification models with their default weights: `torchvision/resnet18`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from backbench.backbones.core.model_index import find_torch_file, rows_of, torch_file
from backbench.config import Preprocess
from backbench.registry import ModelSpec

PREFIX = "torchvision/"


def list_specs() -> list[ModelSpec]:
    """All models, from the packaged index."""
    return [_spec(row) for row in rows_of("torchvision").values()]


def resolve(name: str) -> ModelSpec | None:
    """The spec of `torchvision/NAME`; None for other names."""
    row = rows_of("torchvision").get(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    return None if row is None else _spec(row)


def _spec(row: dict[str, Any]) -> ModelSpec:
    return ModelSpec(
        name=PREFIX + row["name"],
        summary=f"{row['num_parameters'] / 1e6:.1f} M parameters, {row['size']} px, {row['pretrained_on']}",
        load=partial(_load, row["name"]),
        load_head=partial(_load_head, row["name"]),
        blueprint=partial(_blueprint, row["name"]),
        pretrained_on=row["pretrained_on"],
        num_parameters=row["num_parameters"],
        input_size=row["size"],
        flops=row["flops"],
        licence=row["licence"],
        download_bytes=row["download_bytes"],
        find_weights=partial(find_torch_file, row["url"]),
        ask=partial(_ask, row),
        check=partial(_check, row["name"]),
    )


def _load(name: str, _seed: int, file: Path | None = None) -> Any:
    """The backbone, its weights from `file`, this machine, or a download; the seed has no effect."""
    from backbench.backbones.core.fetch import fetch_from_address
    from backbench.backbones.core.measure import Origin, make_backbone
    from backbench.backbones.loaders import torchvision as torchvision_body

    row = rows_of("torchvision")[name]
    file = file or fetch_from_address(row["url"], PREFIX + name, torch_file(row["url"]))
    return make_backbone(
        torchvision_body.load_pretrained(name, file, row["size"]),
        name=PREFIX + name,
        architecture=PREFIX + name,
        preprocess=decide_preprocess(row),
        origin=Origin(row["pretrained_on"], row["licence"], row["weights"]),
        build=_blueprint(name)[0],
    )


def _blueprint(name: str) -> Any:
    from backbench.backbones.core.build import Build
    from backbench.backbones.loaders import torchvision as torchvision_body

    row = rows_of("torchvision")[name]
    options = torchvision_body.published_options(name, row["size"])
    return Build.model_validate({"architecture": PREFIX + name, "options": options}), decide_preprocess(row)


def _load_head(name: str, file: Path | None = None) -> Any:
    """The published classifier, for ImageNet-1k; ModelError if it is not one linear layer."""
    from backbench.backbones.core import original_head
    from backbench.backbones.core.fetch import fetch_from_address
    from backbench.backbones.loaders import torchvision as torchvision_body

    row = rows_of("torchvision")[name]
    file = file or fetch_from_address(row["url"], PREFIX + name, torch_file(row["url"]))
    network = torchvision_body.load_network(name, file, row["size"])
    classes, size = original_head.read_subset("imagenet-1k"), (row["size"], row["size"])
    return original_head.take_torchvision_head(network, classes, name=PREFIX + name, size=size)


def _ask(row: dict[str, Any]) -> None:
    from backbench.backbones.core.fetch import ask_address

    ask_address(row["url"], PREFIX + row["name"], torch_file(row["url"]))


def _check(name: str, file: Path | None = None) -> None:
    row = rows_of("torchvision")[name]
    file = file or find_torch_file(row["url"])
    if file is None:
        return
    from backbench.backbones.core.dry import check_body
    from backbench.backbones.loaders import torchvision as torchvision_body

    load = partial(torchvision_body.load_network, name, file, row["size"])
    check_body(load, load)


def decide_preprocess(row: dict[str, Any]) -> Preprocess:
    """torchvision's preprocessing for these weights: the same values as its `weights.transforms()`.

    They come from the index, like the URL, so that preprocessing and weights always match.
    """
    return Preprocess(
        size=(row["size"], row["size"]),
        crop_fraction=row["crop_fraction"],
        interpolation=row["interpolation"],
        mean=row["mean"],
        std=row["std"],
    )
