"""Own runs as models: trained weights, a new head, and a warning where images that decide were trained on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backbench.backbones.core.bundle_files import SEEN_FILE, find_bundle, is_bundle
from backbench.backbones.core.weights import digest_weights
from backbench.classifier.bundle import digest_record, load_bundle, read_bundle_seen, read_facts
from backbench.config import DataConfig, MethodConfig, RunConfig, digest_json
from backbench.data.load import load_data
from backbench.data.trained_on import add_seen, find_seen, read_seen, write_seen
from backbench.errors import ConfigError, StorageError
from backbench.registry import find_model
from backbench.runs.context import RunContext
from backbench.runs.identity import resolve
from backbench.runs.rank import RankRequest, rank
from backbench.runs.run import Adapted, adapt, run
from conftest import make_photos

ONE_EPOCH = {"recipe": {"epochs": 1}}


def config_for(photos: Path, method: str, model: str = "tiny_cnn", file: str | None = None) -> RunConfig:
    options = ONE_EPOCH if method == "full" else {}
    return RunConfig(
        data=DataConfig(source=str(photos)),
        model=model,
        model_file=file,
        method=MethodConfig(name=method, options=options),
    )


class World:
    """Photos of three classes, others of two, and a run that trained on the first."""

    def __init__(self, root: Path) -> None:
        self.out = root / "runs"
        self.photos = make_photos(root / "photos", num=24)
        self.others = make_photos(root / "others", classes=("bars", "rings"), num=15, size=17)
        self.first: Adapted = adapt(config_for(self.photos, "full"), RunContext(self.out))
        self.probe: Adapted = adapt(config_for(self.photos, "centroid"), RunContext(self.out))

    def chain(self, photos: Path, method: str, start: Path) -> Adapted:
        spec = find_model(str(start))
        return adapt(config_for(photos, method, spec.name, spec.file), RunContext(self.out))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    os.environ["BACKBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    return World(tmp_path_factory.mktemp("world"))


def test_a_run_and_its_bundle_are_the_same_model(world: World) -> None:
    record = world.first.record
    by_run, by_bundle = find_model(str(world.first.run)), find_model(f"{world.first.bundle}/")
    assert by_run.identity == by_bundle.identity
    assert by_run.name == by_bundle.name == record.run_id
    assert by_run.file == str(world.first.bundle)
    backbone = by_run.load(0)
    trained = load_bundle(world.first.bundle).backbone
    facts = backbone.facts
    assert digest_weights(backbone.body) == digest_weights(trained.body) == facts.weights_digest
    assert facts.weights_digest != record.model.weights_digest
    assert facts.preprocess == trained.preprocess
    assert facts.source == f"run {record.run_id}, record {digest_record(record)}"
    assert facts.licence == record.model.licence
    assert (
        facts.pretrained_on
        == by_run.pretrained_on
        == " + ".join(filter(None, (record.model.pretrained_on, "photos")))
    )
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_a_probe_leaves_its_backbone_what_it_was(world: World) -> None:
    facts = find_model(str(world.probe.bundle)).load(0).facts
    assert facts.weights_digest == world.probe.record.model.weights_digest
    assert facts.pretrained_on == world.probe.record.model.pretrained_on
    assert facts.title == "tiny_cnn"  # which it still is


def test_a_chain_remembers_what_every_link_saw(world: World) -> None:
    second = world.chain(world.others, "full", world.first.run)
    assert second.record.data.classes == ("bars", "rings")
    assert second.record.warnings == world.first.record.warnings  # no image is shared
    third = find_model(str(second.bundle)).load(0).facts
    assert third.pretrained_on.endswith("photos + others")
    assert second.record.model_name == "tiny_cnn after full on photos"  # for people, who can't read a run's id
    assert third.title == "tiny_cnn after full on photos after full on others"
    seen = read_bundle_seen(second.bundle, read_facts(second.bundle))
    for photos in (world.photos, world.others):
        manifest = load_data(DataConfig(source=str(photos))).manifest
        known = find_seen(manifest.hashes, seen.all)
        assert known.tolist() == [part != "test" for part in manifest.parts]
    assert load_bundle(second.bundle).predict(world.others / "bars" / "000.png")[0].label in ("bars", "rings")


def test_a_probe_on_tuned_weights_knows_which_images_taught_the_weights(world: World) -> None:
    bundle = world.chain(world.others, "centroid", world.first.bundle).bundle
    seen = read_seen(bundle / SEEN_FILE)
    manifest = load_data(DataConfig(source=str(world.others))).manifest
    assert not find_seen(manifest.hashes, seen.backbone).any()
    assert find_seen(manifest.hashes, seen.head).sum() == len(manifest) - manifest.counts["test"]
    assert len(seen.backbone) == world.first.record.data.num_train + world.first.record.data.num_val


def test_shared_images_are_a_warning_in_record_and_table(world: World, tmp_path: Path) -> None:
    mixed = make_photos(tmp_path / "mixed", num=12, size=18)
    manifest = load_data(DataConfig(source=str(world.photos))).manifest
    trained = [Path(name) for name, part in zip(manifest.ids, manifest.parts, strict=True) if part == "train"]
    for number, path in enumerate(trained[:20]):
        shutil.copy(world.photos / path, mixed / path.parent / f"copy{number}.png")
    copies = {f"{path.parent}/copy{number}.png" for number, path in enumerate(trained[:20])}
    split = load_data(DataConfig(source=str(mixed))).manifest
    expected = sum(name in copies and part == "test" for name, part in zip(split.ids, split.parts, strict=True))
    assert expected
    said = f"{expected} of {split.counts['test']} test images"
    for method in ("centroid", "full"):
        record = world.chain(mixed, method, world.first.run).record
        assert any(said in warning and "training images of" in warning for warning in record.warnings)
    ranking = rank(
        RankRequest(DataConfig(source=str(mixed)), (str(world.first.run), "tiny_cnn"), out=tmp_path / "runs")
    )
    marked = {
        row.model: any(said in warning for warning in row.warnings) for row in ranking.rows if not row.control
    }
    assert marked == {"tiny_cnn after full on photos": True, "tiny_cnn": False}
    assert ranking.best is not None
    assert ranking.best.row.model == "tiny_cnn"
    assert record.num_test_seen == expected
    assert any("is not ranked" in warning for warning in ranking.to_json()["warnings"])
    assert "is not ranked" in ranking.summary[1]


def test_top_passes_over_what_was_trained_on_validation_images(world: World, tmp_path: Path) -> None:
    methods = (MethodConfig(name="centroid"), MethodConfig(name="full", options={"recipe": {"epochs": 1}}))
    ranking = rank(
        RankRequest(
            DataConfig(source=str(world.photos), split_seed=7),
            (str(world.first.run), "tiny_cnn"),
            methods,
            top=1,
            out=tmp_path / "runs",
        )
    )
    (trained,) = [row for row in ranking.rows if row.method == "full"]
    assert trained.model == "tiny_cnn"
    assert any(f"--top skips {world.first.record.run_id}" in warning for warning in ranking.warnings)


def test_the_run_id_changes_with_the_weights(world: World, tmp_path: Path) -> None:
    data = load_data(DataConfig(source=str(world.others)))
    config = config_for(world.others, "centroid")
    ids = {
        resolve(config, find_model(str(path))).run_id(data)
        for path in (world.first.bundle, world.probe.bundle, world.first.run)
    }
    assert len(ids) == 2
    shutil.copytree(world.first.bundle, tmp_path / "copy")
    model = find_model(str(tmp_path / "copy"))
    assert model.identity == find_model(str(world.first.bundle)).identity


def test_a_damaged_bundle_is_refused(world: World, tmp_path: Path) -> None:
    for name in (SEEN_FILE, "model.json"):
        folder = tmp_path / name
        shutil.copytree(world.first.bundle, folder)
        content = bytearray((folder / name).read_bytes())
        content[-9] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(StorageError, match=r"checksum|JSON"):
            find_model(str(folder))
    folder = tmp_path / "weights"
    shutil.copytree(world.first.bundle, folder)
    (folder / "weights.safetensors").write_bytes(b"")
    model = find_model(str(folder))
    with pytest.raises(StorageError, match="checksum"):
        model.load(0)


def test_what_is_no_bundle_is_said(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where there are no runs, as there are beside the tests after `make demo`
    ranked = run(config_for(world.photos, "knn"), RunContext(tmp_path))
    with pytest.raises(ConfigError, match=r"has no bundle.*: backbench keep "):
        find_model(str(tmp_path / ranked.run_id))
    with pytest.raises(ConfigError, match="is not a bundle"):
        find_model(str(world.photos))
    with pytest.raises(ConfigError, match=r"Did you mean .*bundle'"):
        find_model(f"{world.first.run}x.bundle")
    with pytest.raises(ConfigError, match=r"unknown model .* in --model"):
        find_model("runs/nothing", "--model")
    with pytest.raises(ConfigError, match=rf"Did you mean '.*{world.first.run.name}"):
        find_model(f"{world.first.run}x")


def test_a_bare_run_id_is_looked_up_among_the_runs(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = world.first.run.name
    shutil.copytree(world.first.bundle, tmp_path / "runs" / f"{run_id}.bundle")
    ranked = run(config_for(world.photos, "knn"), RunContext(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    assert find_bundle(Path(run_id)) == Path("runs") / f"{run_id}.bundle"
    with pytest.raises(ConfigError, match=rf"Did you mean 'runs/{run_id}.bundle'"):
        find_bundle(Path(f"{run_id}x"))
    for given in (ranked.run_id, f"runs/{ranked.run_id}"):
        with pytest.raises(
            ConfigError, match=rf"saved no bundle. Save it with: backbench keep runs/{ranked.run_id}"
        ):
            find_bundle(Path(given))
    (tmp_path / run_id).mkdir()  # what is here comes first
    assert not is_bundle(Path(run_id))


def test_an_int8_bundle_is_no_start(world: World, tmp_path: Path) -> None:
    document = json.loads((world.first.bundle / "model.json").read_text())
    del document["digest"]
    document["build"]["scheme"] = "static"
    document["digest"] = digest_json(document)
    shutil.copytree(world.first.bundle, tmp_path / "int8")
    (tmp_path / "int8" / "model.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"int8.*made from"):
        find_model(str(tmp_path / "int8"))


def test_finding_an_own_run_needs_no_torch(world: World) -> None:
    script = (
        "import sys; from backbench.registry import find_model; "
        f"print(find_model({str(world.first.run)!r}).pretrained_on); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "photos" in done.stdout


def test_what_was_seen_is_small_and_comes_back(tmp_path: Path) -> None:
    hashes = [f"{number:064x}"[::-1] for number in range(1, 1001)]
    first = add_seen(hashes[:600], by_backbone=True)
    seen = add_seen(hashes[500:], by_backbone=False, before=first)
    assert (len(seen.backbone), len(seen.head), len(seen.all)) == (600, 400, 1000)
    write_seen(tmp_path / SEEN_FILE, seen)
    assert (tmp_path / SEEN_FILE).stat().st_size < 8 * 1000 + 300
    again = read_seen(tmp_path / SEEN_FILE)
    assert np.array_equal(again.backbone, seen.backbone)
    assert find_seen([hashes[0], hashes[999], "f" * 64], again.all).tolist() == [True, True, False]
    assert find_seen([], again.all).shape == (0,)
    forgotten = add_seen([], by_backbone=True, before=seen)  # the head of the run before is gone
    assert len(forgotten.all) == 600
    (tmp_path / SEEN_FILE).write_bytes(b"{}")
    with pytest.raises(StorageError, match="damaged"):
        read_seen(tmp_path / SEEN_FILE)
