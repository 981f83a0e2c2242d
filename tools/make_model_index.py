"""Make the packaged index of timm's and torchvision's pretrained models: `python tools/make_model_index.py`.

The index lets `backbench list models` and every look-up answer without importing torch. It is made on the meta
device: no weights are downloaded, nothing is computed. Takes about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

INDEX = Path(__file__).resolve().parent.parent / "src" / "backbench" / "backbones" / "model_index.json.gz"

DATA_OF_TAG = (  # pattern in a timm tag -> what it says of the training images; tags are read left to right
    (r"inw?2[12]k", "ImageNet-21k"),
    (r"in12k", "ImageNet-12k"),
    (r"in1k", "ImageNet-1k"),
    (r"lvd142m", "LVD-142M"),
    (r"lvd1689m", "LVD-1689M"),
    (r"sat493m", "SAT-493M"),
    (r"laion2b", "LAION-2B"),
    (r"laion400m", "LAION-400M"),
    (r"laiona", "LAION-A"),
    (r"openai", "OpenAI CLIP's 400 M images"),
    (r"datacomp1b|datacompxl", "DataComp-1B"),
    (r"metaclip_400m", "MetaCLIP-400M"),
    (r"metaclip_2pt5b", "MetaCLIP-2.5B"),
    (r"metaclip2_worldwide", "MetaCLIP 2 worldwide"),
    (r"dfn2b", "DFN-2B"),
    (r"dfn5b", "DFN-5B"),
    (r"dfndr2b", "DFNDR-2B"),
    (r"webli", "WebLI"),
    (r"merged2b", "Merged-2B"),
    (r"m38m", "Merged-38M"),
    (r"m30m", "Merged-30M"),
    (r"yfcc15m", "YFCC-15M"),
    (r"yfcc100m", "YFCC-100M"),
    (r"cc12m", "CC-12M"),
    (r"ig1b|seer", "Instagram-1B"),
    (r"swag", "Instagram-3.6B"),
    (r"jft", "JFT-300M"),
    (r"sa1b", "SA-1B"),
    (r"bamboo", "Bamboo"),
    (r"florence2", "FLD-5B"),
)
SELF_SUPERVISED_ON_IN1K = {"mae", "dino", "fb_dino", "fcmae"}  # tags that name a method; their papers the data


def guess_pretrained_on(tag: str) -> str:
    """What the images were that a timm tag stands for, in the order of training."""
    if tag in SELF_SUPERVISED_ON_IN1K:
        return "ImageNet-1k"
    found = [(match.start(), data) for pattern, data in DATA_OF_TAG for match in re.finditer(pattern, tag)]
    in_order = [data for _, data in sorted(found)]
    return ", ".join(dict.fromkeys(in_order)) or f"not stated (tag '{tag}')"


def make_on_meta(make_network: Any) -> Any:
    """The network on the meta device; made on the CPU first where its constructor looks at values (RegNet)."""
    import torch

    try:
        with torch.device("meta"):
            return make_network()
    except NotImplementedError:
        return make_network().to("meta")


def measure(make_network: Any, size: tuple[int, int]) -> tuple[int, int | None, float | None]:
    """(parameters, feature size, FLOPs for one image) of a network on the meta device; None where it can't say."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network = make_on_meta(make_network).eval().requires_grad_(False)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    with torch.device("meta"):
        try:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                features = network(torch.empty(1, 3, *size))
            return num_parameters, int(features.shape[-1]), float(counter.get_total_flops())
        except Exception as error:  # some architectures look at values, which meta tensors lack
            print(f"  no forward on meta: {error!r:.150}", file=sys.stderr)
            return num_parameters, None, None


def index_timm(limit: int | None) -> dict[str, Any]:
    """One row for each pretrained timm name, and the default tag of each architecture."""
    import timm
    from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg

    rows: list[list[Any]] = []
    measured: dict[tuple[str, tuple[int, int]], Any] = {}
    names = timm.list_pretrained()[:limit]
    for position, name in enumerate(names):
        architecture, _, tag = name.partition(".")
        config = get_pretrained_cfg(name)
        size = (int(config.input_size[1]), int(config.input_size[2]))
        key = (architecture, size)
        if key not in measured:
            print(f"{position}/{len(names)} {name} {size}", file=sys.stderr)
            try:
                whole_network = make_on_meta(lambda name=name: timm.create_model(name))
                whole = sum(parameter.numel() for parameter in whole_network.parameters())
                body = measure(lambda name=name: timm.create_model(name, num_classes=0), size)
                measured[key] = (whole, *body)
            except Exception as error:
                print(f"  left out: {error!r:.150}", file=sys.stderr)
                measured[key] = None
        if measured[key] is None:
            continue
        whole, num_parameters, dim, flops = measured[key]
        hub_id = "" if config.hf_hub_id == f"timm/{name}" else config.hf_hub_id
        rows.append([
            name, num_parameters, dim, flops, 4 * whole, *size, config.crop_pct, config.crop_mode,
            config.interpolation, list(config.mean), list(config.std), config.license, guess_pretrained_on(tag),
            hub_id, None if config.hf_hub_id else config.url,
        ])  # fmt: skip
    architectures = dict.fromkeys(row[0].partition(".")[0] for row in rows)
    listed = {row[0] for row in rows}
    defaults = {}
    for architecture in architectures:
        tag = get_pretrained_cfg(architecture).tag
        if f"{architecture}.{tag}" not in listed:  # the default has no weights: the first tag that has some
            tag = next(tag for tag in get_arch_pretrained_cfgs(architecture) if f"{architecture}.{tag}" in listed)
        defaults[architecture] = tag
    columns = [
        "name", "num_parameters", "dim", "flops", "download_bytes", "height", "width", "crop_fraction",
        "crop_mode", "interpolation", "mean", "std", "licence", "pretrained_on", "hub_id", "url",
    ]  # fmt: skip
    return {"version": timm.__version__, "columns": columns, "rows": rows, "default_tags": defaults}


def index_torchvision(limit: int | None) -> dict[str, Any]:
    """One row for each classification model of torchvision, with its default weights."""
    import torchvision
    from torchvision import models

    from backbench.backbones.loaders.torchvision import published_options

    rows: list[list[Any]] = []
    for name in models.list_models(module=models)[:limit]:
        weights = models.get_model_weights(name).DEFAULT
        transforms = weights.transforms()
        size = int(transforms.crop_size[0])
        make = partial(make_headless, name, published_options(name, size))
        num_parameters, dim, flops = measure(make, (size, size))
        rows.append([
            name, num_parameters, dim, flops, 4 * weights.meta["num_params"], size,
            crop_fraction(size, int(transforms.resize_size[0])), transforms.interpolation.value,
            list(transforms.mean), list(transforms.std), licence_of(weights), data_of(weights),
            str(weights), weights.url,
        ])  # fmt: skip
    columns = [
        "name", "num_parameters", "dim", "flops", "download_bytes", "size", "crop_fraction", "interpolation",
        "mean", "std", "licence", "pretrained_on", "weights", "url",
    ]  # fmt: skip
    return {"version": torchvision.__version__, "columns": columns, "rows": rows}


def make_headless(name: str, options: dict[str, Any]) -> Any:
    """A torchvision network without its head, as it is run."""
    from backbench.backbones.loaders.torchvision import drop_head, make_network

    return drop_head(make_network(name, options))


def crop_fraction(size: int, resize: int) -> float:
    """The largest fraction for which floor(size / fraction) is `resize`, whatever the rounding of the division."""
    fraction = size / resize
    while math.floor(size / fraction) < resize:
        fraction = math.nextafter(fraction, 0.0)
    return fraction


def licence_of(weights: Any) -> str:
    """The licence of torchvision's weights: stated with them for SWAG, the project's own otherwise."""
    return "cc-by-nc-4.0" if "SWAG" in weights.name else "bsd-3-clause"


def data_of(weights: Any) -> str:
    """What torchvision's weights were trained on."""
    return "Instagram-3.6B, ImageNet-1k" if "SWAG" in weights.name else "ImageNet-1k"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=INDEX)
    parser.add_argument("--limit", type=int, help="only the first N names of each library, to try the script")
    arguments = parser.parse_args()
    index = {"timm": index_timm(arguments.limit), "torchvision": index_torchvision(arguments.limit)}
    text = json.dumps(index, separators=(",", ":"), sort_keys=True)
    arguments.out.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    num_rows = len(index["timm"]["rows"]) + len(index["torchvision"]["rows"])
    print(f"{arguments.out}: {num_rows} models, {arguments.out.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
