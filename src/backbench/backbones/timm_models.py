"""Every pretrained model of timm, by its name: `resnet50.a1_in1k`, or `resnet50` for timm's default weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from backbench.backbones.core.model_index import (
    default_tag,
    find_in_hub_cache,
    find_torch_file,
    hub_repo,
    rows_of,
    torch_file,
)
from backbench.registry import ModelSpec


def list_specs() -> list[ModelSpec]:
    """All models, from the packaged index."""
    return [_spec(row) for row in rows_of("timm").values()]


def resolve(name: str) -> ModelSpec | None:
    """The spec of a timm name, with or without its tag, with or without 'timm/' before it; None if unknown.

    Only names in the packaged index reach timm, which would open 'local-dir:/...' as a folder and download
    'hf-hub:...' as a repository.
    """
    name = name.removeprefix("timm/")
    if "." not in name:
        tag = default_tag(name)
        name = f"{name}.{tag}" if tag else name
    row = rows_of("timm").get(name)
    return None if row is None else _spec(row)


def _find_weights(row: dict[str, Any]) -> Path | None:
    repo = hub_repo(row)
    return find_torch_file(row["url"]) if repo is None else find_in_hub_cache(repo)


def _spec(row: dict[str, Any]) -> ModelSpec:
    return ModelSpec(
        name=row["name"],
        summary=f"{row['num_parameters'] / 1e6:.1f} M parameters, {row['height']} px, {row['pretrained_on']}",
        load=partial(_load, row["name"]),
        load_head=partial(_load_head, row["name"]),
        blueprint=partial(_blueprint, row["name"]),
        pretrained_on=row["pretrained_on"],
        num_parameters=row["num_parameters"],
        input_size=row["height"],
        flops=row["flops"],
        licence=row["licence"],
        download_bytes=row["download_bytes"],
        find_weights=partial(_find_weights, row),
        ask=partial(_ask, row),
        check=partial(_check, row["name"]),
    )


def _load(name: str, _seed: int, file: Path | None = None) -> Any:
    """The backbone, its weights from `file`, this machine, or a download; the seed has no effect."""
    from backbench.backbones.core.build import Build
    from backbench.backbones.core.measure import Origin, make_backbone
    from backbench.backbones.loaders import timm as timm_body

    row = rows_of("timm")[name]
    body = timm_body.load_pretrained(name, file or _weights_file(row))
    source = hub_repo(row) or row["url"]
    return make_backbone(
        body,
        name=name,
        architecture=f"timm/{name.partition('.')[0]}",
        preprocess=timm_body.decide_preprocess(body),
        origin=Origin(row["pretrained_on"], row["licence"], source),
        build=Build(architecture=f"timm/{name}"),  # with its tag, which decides the image size
    )


def _blueprint(name: str) -> Any:
    from backbench.backbones.core.build import Build
    from backbench.backbones.loaders import timm as timm_body

    return Build(architecture=f"timm/{name}"), timm_body.published_preprocess(name)


def _load_head(name: str, file: Path | None = None) -> Any:
    """The published classifier; ModelError if its classes are not a subset of ImageNet."""
    from backbench.backbones.core import original_head
    from backbench.backbones.loaders import timm as timm_body

    network: Any = timm_body.load_network(name, file or _weights_file(rows_of("timm")[name]))
    classes = original_head.classes_of_size(network.num_classes, name)
    size = timm_body.decide_preprocess(network).size
    return original_head.take_timm_head(network, classes, name=name, size=size)


def _ask(row: dict[str, Any]) -> None:
    from backbench.backbones.core.fetch import ask_address, ask_hub

    repo = hub_repo(row)
    if repo is None:
        ask_address(row["url"], row["name"], torch_file(row["url"]))
    else:
        ask_hub(repo, row["name"])


def _check(name: str, file: Path | None = None) -> None:
    file = file or _find_weights(rows_of("timm")[name])
    if file is None:
        return
    from backbench.backbones.core.dry import check_body
    from backbench.backbones.loaders import timm as timm_body

    load = partial(timm_body.load_network, name, file)
    check_body(load, load)


def _weights_file(row: dict[str, Any]) -> Path:
    from backbench.backbones.core.fetch import fetch_from_address, fetch_from_hub

    repo = hub_repo(row)
    if repo is None:
        return fetch_from_address(row["url"], row["name"], torch_file(row["url"]))
    return fetch_from_hub(repo, row["name"])
