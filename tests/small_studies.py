"""Carries out a study under its own model names, without --random-weights, beside a hub whose networks are small.

    python small_studies.py STUDY.toml OUT PHOTOS URL [FOLDER]

URL is that of the hub, FOLDER the one whose files it serves: weights of every model of the study are made there.
What comes of it is printed as JSON.

Names, addresses, formats and checks are the real ones. Only what the libraries build under the large names is
small: relatives of the same family, most of them from the study's [trial].
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from test_vit import to_google
from timm.models import _registry
from torchvision import models
from torchvision.models import _api

from backbench.backbones import own
from backbench.backbones.architectures import vit_config
from backbench.backbones.core.model_index import hub_repo, rows_of
from backbench.errors import BackbenchError
from backbench.progress import Progress
from backbench.studies.run import run_study
from backbench.studies.schema import StudyFile, read_study
from backbench.studies.steps import SIZE_SUFFIX, Settings
from backbench.studies.write import write_up
from loopback_hub import COMMIT

TIMM: dict[str, tuple[str, dict[str, Any]]] = {  # those without a small relative in timm
    "vit_base_patch14_dinov2": ("vit_base_patch14_dinov2", {"embed_dim": 48, "depth": 4, "num_heads": 3}),
    "pvt_v2_b3": ("pvt_v2_b0", {"embed_dims": (8, 16, 40, 64), "depths": (1, 1, 1, 1)}),
    "swin_base_patch4_window7_224": (
        "swin_base_patch4_window7_224",
        {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)},
    ),
    "resnet18": ("test_resnet", {}),
    "efficientnet_b0": ("test_efficientnet", {}),
}
TORCHVISION: dict[str, Callable[..., Any]] = {
    "alexnet": models.squeezenet1_1,
    "mobilenet_v2": partial(models.mobilenet_v2, width_mult=0.25),
    "resnet18": lambda **more: models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1]),
    "resnet50": lambda **more: models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1]),
    "vit_b_16": lambda image_size=224, **more: models.VisionTransformer(image_size, 16, 2, 2, 48, 96),
}
HF = {
    "microsoft/resnet-50": (
        "resnet",
        {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "layer_type": "basic"},
    ),
    "google/vit-base-patch16-224-in21k": (
        "vit",
        {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 96},
    ),
}


def shrink(study: StudyFile) -> None:
    """Let the libraries build small networks under the names of the study."""
    for large, small in study.trial.items():
        name = large.partition(".")[0]
        if small.startswith("test_"):
            TIMM.setdefault(name, (small.partition(".")[0], {}))
    for name, (relative, options) in TIMM.items():
        _registry._model_entrypoints[name] = partial(_make_small, _registry.model_entrypoint(relative), options)
    for name, make in TORCHVISION.items():
        small = partial(_make_without_weights, make)
        small.__module__ = _api.BUILTIN_MODELS[name].__module__  # by which torchvision lists its models
        _api.BUILTIN_MODELS[name] = small
    vit_config.SIZES["base"] = (48, 3, 3)


def _make_small(make: Callable[..., Any], options: dict[str, Any], **more: Any) -> Any:
    more.pop("pretrained_cfg", None)  # the tag of the large one
    return make(**options, **more)


def _make_without_weights(make: Callable[..., Any], weights: None = None, **more: Any) -> Any:
    return make(**more)


def make_files(study: StudyFile) -> dict[str, bytes]:
    """What the hub serves: weights of every model of the study, by path."""
    from safetensors.torch import save

    torch.manual_seed(0)
    files = {}
    for name in {SIZE_SUFFIX.sub("", name) for group in study.groups for name in group.models}:
        kind, _, rest = name.partition("/")
        if name in rows_of("timm"):
            repo = hub_repo(rows_of("timm")[name])
            files[f"/{repo}/resolve/main/model.safetensors"] = save(timm.create_model(name).state_dict())
        elif kind == "torchvision":
            files |= _published_at_address(rest)
        elif kind == "hf":
            files |= _transformers_repo(rest)
    whole = timm.create_model("vit_base_patch16_224", embed_dim=48, depth=3, num_heads=3)
    arrays = io.BytesIO()
    np.savez(arrays, **to_google(whole))
    return files | {"/vit_models/ViT-B_16.npz": arrays.getvalue()}


def _published_at_address(name: str) -> dict[str, bytes]:
    content = io.BytesIO()
    torch.save(models.get_model(name).state_dict(), content)
    digest = hashlib.sha256(content.getvalue()).hexdigest()[:8]
    return {f"/models/{name}-{digest}.pth": content.getvalue()}


def _transformers_repo(repo: str) -> dict[str, bytes]:
    import transformers

    kind, settings = HF[repo]
    config = transformers.AutoConfig.for_model(kind, **settings)
    processor = transformers.ConvNextImageProcessor if kind == "resnet" else transformers.ViTImageProcessor
    with tempfile.TemporaryDirectory() as place:
        transformers.AutoModel.from_config(config).save_pretrained(place)
        processor().save_pretrained(place)
        return {
            f"/{repo}/resolve/{revision}/{file.name}": file.read_bytes()
            for revision in ("main", COMMIT)
            for file in Path(place).iterdir()
        }


def point_addresses(url: str, files: Iterable[str]) -> None:
    """Let what is fetched by address be fetched from that server."""
    for path in files:
        if path.startswith("/models/"):
            rows_of("torchvision")[path.removeprefix("/models/").rpartition("-")[0]]["url"] = f"{url}{path}"
    own.GOOGLE_URL = f"{url}/vit_models/ViT-B_16.npz"


class Heard(Progress):
    """The warnings of a study."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)


def main(file: str, out: str, photos: str, url: str, served: str = "") -> None:
    """Carry out the study on these photos; every training has one epoch."""
    study = read_study(Path(file))
    shrink(study)
    torch.set_num_threads(1)
    files = make_files(study) if served else {}
    for path, content in files.items():
        place = Path(served + path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    point_addresses(url, files)
    data = {name: photos for group in study.groups for name in (*group.data, *group.test_on)}
    settings = Settings(out=Path(out), data=data, limit=30, epochs=1)
    heard, error, cells, undone = Heard(), None, [], []
    try:
        outcome = run_study(study, settings, progress=heard)
        write_up(outcome, settings, has_figures=False)
        undone = [str(each) for each in outcome.undone]
        for cell in outcome.cells:
            facts = cell.record.model
            start = None if facts is None else facts.pretrained_on
            cells.append([cell.group, cell.data, cell.model, cell.method, start])
    except BackbenchError as caught:
        error = str(caught)
    runs = [path.name for path in settings.runs.glob("*")]
    print(json.dumps({"cells": cells, "undone": undone, "warnings": heard.warnings, "error": error, "runs": runs}))


if __name__ == "__main__":
    main(*sys.argv[1:])
