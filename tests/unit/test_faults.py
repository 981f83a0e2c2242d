"""Models that can't be had, or whose weights are damaged or unfit, are found before any work."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbench.backbones import card, timm_models, torchvision_models
from backbench.backbones.core.model_index import rows_of, torch_file
from backbench.backbones.faults import find_faults
from backbench.config import DataConfig, MethodConfig, RunConfig
from backbench.errors import ConfigError, MissingExtra, ModelError
from backbench.progress import Progress
from backbench.registry import find_model
from backbench.runs import probe
from backbench.runs import rank as study
from backbench.runs.context import RunContext
from backbench.runs.rank import RankRequest, rank
from loopback_hub import Hub, hub

__all__ = ["hub"]

FIND = """
import json, sys
from backbench.backbones.faults import find_faults
from backbench.registry import find_model
faults = find_faults(find_model(name) for name in sys.argv[1:])
print(json.dumps({name: str(error) for name, error in faults.items()}))
"""


def ask(hub_url: str, home: Path, *names: str, **more: str) -> dict[str, str]:
    """The faults of these models on a machine without weights, beside a hub of that address."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE"))}
    home_of = {"HF_HOME": str(home / "hf"), "TORCH_HOME": str(home / "torch"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FIND, *names],
        env={**kept, "HF_ENDPOINT": hub_url, **home_of, **more},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


VIT = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def test_what_a_hub_does_not_give_is_found_without_fetching_weights(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    for repo in ("timm/test_vit.r160_in1k", "timm/test_resnet.r160_in1k", "good/vit", "odd/text", "bare/vit"):
        hub.files[f"/{repo}/resolve/main/model.safetensors"] = b"weights"
    for repo, config in {"good/vit": VIT, "odd/text": {"model_type": "bert"}, "bare/vit": VIT}.items():
        for folder in ("main", "0123456789abcdef0123456789abcdef01234567"):
            hub.files[f"/{repo}/resolve/{folder}/config.json"] = json.dumps(config).encode()
            if repo != "bare/vit":
                hub.files[f"/{repo}/resolve/{folder}/preprocessor_config.json"] = b"{}"
    hub.gated.add("timm/test_vit2.r160_in1k")
    names = {
        "test_vit.r160_in1k": None,
        "test_vit.r160_in1k@80": None,
        "test_resnet.r160_in1k@64": None,
        "hf/good/vit": None,
        "test_vit2.r160_in1k": "401",
        "test_vit3.r160_in1k": "404",
        "test_vit3.r160_in1k@160": "404",
        "test_vit3.r160_in1k@random": None,
        "hf/no/such": "config.json of no/such",
        "hf/odd/text": "transformers' 'bert' is not a supported image network",
        "hf/bare/vit": "preprocessor_config.json of bare/vit",
    }
    faults = ask(hub.url, tmp_path, *names)
    assert set(faults) == {name for name, said in names.items() if said}
    for name, said in names.items():
        assert said is None or said in faults[name]
    assert not any(asked.startswith("GET") and "model.safetensors" in asked for asked in hub.asked)
    assert len([asked for asked in hub.asked if "test_vit3" in asked]) == 1  # for its variants too


@pytest.mark.parametrize("state", ["dead", "down", "offline"])
def test_without_a_hub_all_is_said(state: str, hub: Hub, tmp_path: Path) -> None:
    hub.is_down = True
    url = "http://127.0.0.1:9" if state == "dead" else hub.url
    more = {"HF_HUB_OFFLINE": "1"} if state == "offline" else {}
    faults = ask(url, tmp_path, "resnet50.a1_in1k@160", "hf/google/vit", "tiny_cnn", "pixels", **more)
    assert set(faults) == {"resnet50.a1_in1k@160", "hf/google/vit"}
    assert "hf download timm/resnet50.a1_in1k model.safetensors" in faults["resnet50.a1_in1k@160"]
    assert bool(hub.asked) == (state == "down")


def test_an_address_is_asked_and_not_fetched(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    hub.files["/models/net.pth"] = b"weights"
    row, gone = dict(rows_of("torchvision")["resnet18"]), dict(rows_of("timm")["gcvit_base.in1k"])
    row["url"], gone["url"] = f"{hub.url}/models/net.pth", f"{hub.url}/models/gone.pth"
    assert find_faults([torchvision_models._spec(row)]) == {}
    (error,) = find_faults([timm_models._spec(gone)]).values()
    assert "404" in str(error)
    assert hub.asked == ["HEAD /models/net.pth", "HEAD /models/gone.pth"]


def write_card(folder: Path, architecture: str, weights: str, size: int = 32, more: str = "") -> str:
    path = folder / f"{weights.partition('.')[0]}.toml"
    path.write_text(
        f'name = "{path.stem}"\narchitecture = "{architecture}"\nweights = "{weights}"\n{more}\n'
        f"[preprocess]\nsize = {size}\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n"
    )
    return str(path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of small networks, whole and in their places."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("sound")
    for name in ("test_vit", "test_resnet"):
        save_file(timm.create_model(name).state_dict(), folder / f"{name}.safetensors")
    small = timm.create_model("vit_tiny_patch16_224", embed_dim=48, depth=2, num_heads=3)
    save_file(small.state_dict(), folder / "small_vit.safetensors")
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "test_resnet.pth")
    return folder


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def poison(content: bytes) -> bytes:
    return content[:-4] + np.float32(np.nan).tobytes()


CASES: dict[str, tuple[str, str, Callable[[bytes], bytes] | None, int, str, str]] = {
    # architecture, file, change, size of image, more of the card, what is said
    "cut safetensors": (
        "timm/test_vit",
        "test_vit.safetensors",
        cut,
        160,
        "",
        "is not a complete safetensors file",
    ),
    "cut pickle": ("timm/test_resnet", "test_resnet.pth", cut, 64, "", "test_resnet.pth"),
    "empty": ("timm/test_vit", "test_vit.safetensors", lambda _: b"", 160, "", "test_vit.safetensors"),
    "not finite": ("timm/test_vit", "test_vit.safetensors", poison, 160, "", "not finite"),
    "another network": ("timm/resnet18", "test_resnet.safetensors", None, 64, "", "does not fit"),
    "a different size": (
        "timm/vit_tiny_patch16_224",
        "small_vit.safetensors",
        None,
        64,
        "options = {embed_dim = 48, depth = 2, num_heads = 3}",
        "does not run on images of 64 x 64",
    ),
    "no such layer": (
        "timm/test_resnet",
        "test_resnet.safetensors",
        None,
        64,
        'feature_layer = "layer9"',
        "'layer9' is not a layer",
    ),
    "no such network": ("timm/test_rsnet", "test_resnet.safetensors", None, 64, "", "Nearest: timm/test_resnet"),
    "options": ("timm/test_resnet", "test_resnet.safetensors", None, 64, "options.depth = 3", "depth"),
    "our own": ("backbench/cnn", "test_resnet.safetensors", None, 32, "", "does not fit"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_card_that_is_unfit_or_damaged_is_found(case: str, sound: Path, tmp_path: Path) -> None:
    architecture, file, change, size, more, said = CASES[case]
    content = (sound / file).read_bytes()
    (tmp_path / file).write_bytes(content if change is None else change(content))
    (error,) = find_faults([find_model(write_card(tmp_path, architecture, file, size, more))]).values()
    assert said in str(error)


def test_what_is_sound_is_found_so_without_a_network_in_memory(
    sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = [
        write_card(sound, "timm/test_vit", "test_vit.safetensors", 160),
        write_card(sound, "timm/test_resnet", "test_resnet.pth", 64, 'feature_layer = "layer3"'),
    ]
    monkeypatch.setattr(card, "_load", lambda *_: pytest.fail("it was loaded"))
    variants = [f"{each}@{change}" for each in cards for change in ("random", "80")]
    assert find_faults(map(find_model, [*cards, *variants])) == {}


def test_a_file_of_the_weights_folder_is_of_the_model_it_is_named_after(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test_vit.r160_in1k.safetensors").write_bytes((sound / "test_vit.safetensors").read_bytes())
    (tmp_path / "test_vit2.r160_in1k.safetensors").write_bytes((sound / "test_vit.safetensors").read_bytes())
    (tmp_path / "torchvision--resnet18.pth").write_bytes((sound / "test_resnet.pth").read_bytes())
    monkeypatch.setenv("BACKBENCH_WEIGHTS", str(tmp_path))
    names = ("test_vit.r160_in1k", "test_vit.r160_in1k@80", "test_vit2.r160_in1k", "torchvision/resnet18@32")
    faults = find_faults(map(find_model, names))
    assert list(faults) == ["test_vit2.r160_in1k", "torchvision/resnet18@32"]
    assert "unexpected: cls_token, norm.bias, norm.weight" in str(faults["test_vit2.r160_in1k"])
    assert "does not fit" in str(faults["torchvision/resnet18@32"])


def test_a_size_at_which_a_network_does_not_run_is_found_without_its_weights() -> None:
    names = ("gmixer_24_224.ra3_in1k", "resmlp_12_224.fb_in1k", "vit_tiny_patch16_224.augreg_in21k")
    untrained = [find_model(f"{name}{change}") for name in names for change in ("@random@64", "@random")]
    assert find_faults(untrained) == {}  # made for that size
    for name in names[:2]:
        with pytest.raises(ModelError, match="does not run on images of 64 x 64"):
            find_model(f"{name}@64").check()  # type: ignore[misc]
    find_model(f"{names[2]}@64").check()  # type: ignore[misc]


def test_a_torchvision_network_that_needs_values_is_loaded_to_see(tmp_path: Path, sound: Path) -> None:
    from safetensors.torch import save_file
    from torchvision import models

    save_file(models.regnet_y_400mf(weights=None).state_dict(), tmp_path / "regnet.safetensors")
    name = write_card(tmp_path, "torchvision/regnet_y_400mf", "regnet.safetensors")
    assert find_faults([find_model(name)]) == {}
    (tmp_path / "regnet.safetensors").write_bytes((sound / "test_resnet.safetensors").read_bytes())
    assert "does not fit" in str(find_faults([find_model(name)])["regnet"])


def test_names_that_only_a_library_knows_are_all_told() -> None:
    pytest.importorskip("open_clip")
    names = ("open_clip/ViT-B-32:laion2b_s34b", "open_clip/ViT-B-23:openai", "pixels")
    with pytest.raises(ConfigError) as caught:
        find_faults(map(find_model, names))
    assert "Did you mean 'laion2b_s34b_b79k'" in str(caught.value)
    assert "unknown model of open_clip 'ViT-B-23'" in str(caught.value)


def test_a_missing_extra_is_wrong_usage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"pip install 'backbench\[hf\]'"):
        find_faults([find_model("hf/google/vit")])
    assert issubclass(MissingExtra, ConfigError)


class Said(Progress):
    """What a ranking said, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, sentence: str) -> None:
        self.lines.append(sentence)

    def warn(self, sentence: str) -> None:
        self.lines.append(f"warning: {sentence}")


def request(photos: Path, out: Path, *models: str) -> RankRequest:
    methods = (MethodConfig(name="knn"), MethodConfig(name="ridge"))
    return RankRequest(data=DataConfig(source=str(photos)), models=models, methods=methods, out=out)


def test_with_no_model_left_nothing_is_computed(
    photos: Path, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cut.safetensors").write_bytes(cut((sound / "test_vit.safetensors").read_bytes()))
    broken = write_card(tmp_path, "timm/test_vit", "cut.safetensors")
    (tmp_path / "unfit.safetensors").write_bytes((sound / "test_vit.safetensors").read_bytes())
    unfit = write_card(tmp_path, "timm/test_resnet", "unfit.safetensors")
    monkeypatch.setattr(study, "load_data", lambda *_, **__: pytest.fail("images were read"))
    with pytest.raises(ModelError) as caught:
        rank(request(photos, tmp_path / "runs", broken, unfit))
    text = str(caught.value)
    assert text.startswith("None of the 2 models can be used; nothing was computed.\ncut: ")
    assert text.count("\nunfit: ") == 1
    assert list((tmp_path / "runs").glob("*")) == []


def test_faults_are_told_once_and_before_any_control(photos: Path, sound: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(cut((sound / "test_vit.safetensors").read_bytes()))
    broken = write_card(tmp_path, "timm/test_vit", "cut.safetensors")
    said = Said()
    ranking = rank(request(photos, tmp_path / "runs", broken, "pixels"), said)
    told = [line for line in said.lines if "not a complete safetensors file" in line]
    assert len(told) == 1
    assert told[0].startswith("warning: 1 of 2 models can't be used.\ncut: ")
    assert said.lines[-1] == told[0]  # Progress.show is what tells of runs
    failed = [row for row in ranking.rows if row.has_failed]
    assert [(row.model, row.method) for row in failed] == [("cut", "knn")]
    assert {row.method for row in ranking.rows if row.model == "pixels"} == {"knn", "ridge"}
    assert ranking.best is not None


def test_a_card_without_its_weights_is_told_with_the_others(photos: Path, sound: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(cut((sound / "test_vit.safetensors").read_bytes()))
    broken = write_card(tmp_path, "timm/test_vit", "cut.safetensors")
    bare = write_card(tmp_path, "timm/test_vit", "gone.safetensors")
    said = Said()
    ranking = rank(request(photos, tmp_path / "runs", bare, broken, f"{bare}@64", "pixels"), said)
    (told,) = [line for line in said.lines if "can't be used" in line]
    assert told.startswith("warning: 3 of 4 models can't be used.\n")
    assert "gone, gone@64: weights file " in told
    assert "\ncut: " in told
    assert "1 model x 2 methods, nothing to download" in "\n".join(said.lines)  # of those that can be used
    assert {row.model for row in ranking.rows if row.has_failed} == {"cut", "gone", "gone@64"}
    assert ranking.best is not None


@pytest.mark.parametrize("case", ["gone", "cut"])
def test_adapt_finds_what_is_wrong_with_a_card_before_it_reads_images(
    case: str, photos: Path, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cut.safetensors").write_bytes(cut((sound / "test_vit.safetensors").read_bytes()))
    card = write_card(tmp_path, "timm/test_vit", f"{case}.safetensors")
    adapt = importlib.import_module("backbench.runs.run")
    monkeypatch.setattr(adapt, "survey", lambda *_, **__: pytest.fail("images were looked for"))
    config = RunConfig(
        data=DataConfig(source=str(photos)), model=case, model_file=card, method=MethodConfig(name="full")
    )
    with pytest.raises(ModelError, match=f"{case}.safetensors"):
        adapt.adapt(config, RunContext(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_what_is_finished_needs_no_weights(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torchvision import models

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    file = torch_file(rows_of("torchvision")["squeezenet1_1"]["url"])
    file.parent.mkdir(parents=True)
    torch.save(models.squeezenet1_1(weights=None).state_dict(), file)
    asked = request(photos, tmp_path / "runs", "torchvision/squeezenet1_1@32")
    first = rank(asked)
    assert not first.has_failures
    file.unlink()
    monkeypatch.setattr(torchvision_models, "_ask", lambda _: pytest.fail("a server was asked"))
    assert rank(asked).rows == first.rows


def test_controls_alone_have_no_best(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extract = probe.extract_for

    def fail_late(resolved: Any, *rest: Any) -> Any:
        if resolved.model.name == "pixels":
            raise ModelError("it broke later")
        return extract(resolved, *rest)

    monkeypatch.setattr(probe, "extract_for", fail_late)
    ranking = rank(request(photos, tmp_path / "runs", "pixels"))
    assert ranking.has_failures
    assert not any(row.is_best or row.tied_with_best for row in ranking.rows)
    assert ranking.best is None
