"""Weights come from the cache, or from a hub or an address; what fails says so at once and in full."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backbench.backbones import timm_models
from backbench.backbones.core.fetch import fetch_from_address, hash_in_name
from backbench.backbones.core.model_index import find_in_hub_cache, torch_file
from backbench.errors import ModelError
from loopback_hub import Hub, hub

__all__ = ["hub"]

MODEL = "test_vit.r160_in1k"


def _run(code: str, endpoint: str, home: Path, **more: str) -> dict[str, str]:
    """Run `code` in a process of its own, as the hub client reads its settings when it is imported."""
    unset = ("HF_", "HUGGINGFACE", "DISABLE_TELEMETRY", "DO_NOT_TRACK")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **more},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


LOAD = f"""
import json
from backbench.registry import find_model
from backbench.errors import ModelError
try:
    facts = find_model("{MODEL}").load(0).facts
    print(json.dumps({{"digest": facts.weights_digest, "source": facts.source, "dim": facts.dim,
                       "preprocess": facts.preprocess.model_dump_json()}}))
except ModelError as error:
    print(json.dumps({{"error": str(error)}}))
"""

FETCH = """
import json
from backbench.backbones.core.fetch import fetch_from_hub
from backbench.errors import ModelError
try:
    print(json.dumps({"path": str(fetch_from_hub("timm/a_model", "a_model"))}))
except ModelError as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.mark.slow
def test_a_timm_model_is_fetched_once_and_then_needs_no_hub(hub: Hub, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save

    from backbench.backbones.core.weights import digest_weights

    whole = timm.create_model("test_vit")
    hub.files[f"/timm/{MODEL}/resolve/main/model.safetensors"] = save(whole.state_dict())
    first = _run(LOAD, hub.url, tmp_path)
    whole.reset_classifier(0)
    assert first["digest"] == digest_weights(whole)
    assert first["source"] == f"timm/{MODEL}"
    assert first["dim"] == 64
    preprocess = json.loads(first["preprocess"])
    row = timm_models.rows_of("timm")[MODEL]
    assert preprocess["size"] == [row["height"], row["width"]] == [160, 160]
    assert preprocess["crop_fraction"] == row["crop_fraction"]
    assert preprocess["mean"] == row["mean"]

    hub.asked.clear()
    assert _run(LOAD, hub.url, tmp_path) == first
    assert hub.asked == []


@pytest.mark.slow
def test_a_file_that_lacks_tensors_is_refused(hub: Hub, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save

    state = timm.create_model("test_vit").state_dict()
    del state["blocks.2.mlp.fc1.weight"]
    hub.files[f"/timm/{MODEL}/resolve/main/model.safetensors"] = save(state)
    assert "blocks.2.mlp.fc1.weight" in _run(LOAD, hub.url, tmp_path)["error"]


def test_the_second_file_name_is_tried(hub: Hub, tmp_path: Path) -> None:
    hub.files["/timm/a_model/resolve/main/pytorch_model.bin"] = b"weights"
    found = Path(_run(FETCH, hub.url, tmp_path)["path"])
    assert found.name == "pytorch_model.bin"
    assert found.read_bytes() == b"weights"


def _check_message(message: str, home: Path, endpoint: str) -> None:
    assert "looked for: model.safetensors of timm/a_model" in message
    assert str(home / "hub" / "models--timm--a_model") in message
    assert endpoint in message
    assert "hf download timm/a_model model.safetensors" in message
    assert "card" in message
    assert len(message.splitlines()) == 4


def test_a_repository_that_is_not_there(hub: Hub, tmp_path: Path) -> None:
    _check_message(_run(FETCH, hub.url, tmp_path)["error"], tmp_path, hub.url)
    assert len(hub.asked) <= 2  # no retries


def test_a_repository_without_weights(hub: Hub, tmp_path: Path) -> None:
    hub.files["/timm/a_model/resolve/main/config.json"] = b"{}"
    message = _run(FETCH, hub.url, tmp_path)["error"]
    _check_message(message, tmp_path, hub.url)
    assert "no such file" in message


def test_a_dead_server(tmp_path: Path) -> None:
    endpoint = "http://127.0.0.1:9"  # the discard port: nobody listens
    message = _run(FETCH, endpoint, tmp_path)["error"]
    _check_message(message, tmp_path, endpoint)
    assert "refused" in message.lower()


def test_a_server_that_is_down_is_asked_once(hub: Hub, tmp_path: Path) -> None:
    hub.is_down = True
    _check_message(_run(FETCH, hub.url, tmp_path)["error"], tmp_path, hub.url)
    assert hub.asked == ["HEAD /timm/a_model/resolve/main/model.safetensors"]  # its client alone asks six times


def test_offline_by_wish_asks_nobody(hub: Hub, tmp_path: Path) -> None:
    hub.files["/timm/a_model/resolve/main/model.safetensors"] = b"weights"
    _check_message(_run(FETCH, hub.url, tmp_path, HF_HUB_OFFLINE="1")["error"], tmp_path, hub.url)
    assert hub.asked == []


def test_a_file_in_the_cache_is_seen_without_the_client(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert find_in_hub_cache("timm/a_model") is None
    hub.files["/timm/a_model/resolve/main/model.safetensors"] = b"weights"
    _run(FETCH, hub.url, tmp_path)
    found = find_in_hub_cache("timm/a_model")
    assert found is not None
    assert found.read_bytes() == b"weights"
    assert find_in_hub_cache("timm/another_model") is None


def test_an_address_is_fetched_once(hub: Hub, tmp_path: Path) -> None:
    body = b"weights of a network" * 1000
    name = f"net-{hashlib.sha256(body).hexdigest()[:8]}.pth"
    hub.files["/" + name] = body
    for _ in range(2):
        assert fetch_from_address(f"{hub.url}/{name}", "a net", tmp_path / "kept" / name).read_bytes() == body
    assert len(hub.asked) == 1


@pytest.mark.parametrize("fault", ["other content", "cut", "not there"])
def test_an_address_that_fails_leaves_nothing(hub: Hub, tmp_path: Path, fault: str) -> None:
    body = b"weights of a network" * 1000
    name = f"net-{hashlib.sha256(body).hexdigest()[:8]}.pth"
    if fault != "not there":
        hub.files["/" + name] = b"<html>" if fault == "other content" else body
    if fault == "cut":
        hub.cut.add("/" + name)
    file = tmp_path / name
    with pytest.raises(ModelError) as caught:
        fetch_from_address(f"{hub.url}/{name}", "a net", file)
    assert f"looked for: {file}" in str(caught.value)
    assert f"{hub.url}/{name}" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_cut_file_without_a_hash_in_its_name_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files["/model.pth"] = b"weights of a network" * 1000
    hub.cut.add("/model.pth")
    with pytest.raises(ModelError, match="received 10,000 of 20,000 bytes"):
        fetch_from_address(f"{hub.url}/model.pth", "a net", tmp_path / "model.pth")
    assert list(tmp_path.iterdir()) == []


def test_hashes_in_names() -> None:
    assert hash_in_name("resnet18-f37072fd.pth") == "f37072fd"
    assert hash_in_name("IN22K-vit.g.16-600e.pth.tar") is None
    assert hash_in_name("model.pth") is None


def test_every_address_in_the_index_keeps_its_file_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = timm_models.rows_of("timm")["gcvit_base.in1k"]["url"]
    assert torch_file(url) == tmp_path / "hub" / "checkpoints" / "gcvit_base_224_nvidia-f009139b.pth"
