"""SIGTERM and Ctrl-C in every verb, and several rankings at work in one folder: real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from backbench import stopping
from backbench.records.openings import count_openings
from backbench.runtime import catch_signals
from backbench.stopping import stop_status

WAIT = """
import signal, sys, time
from importlib import import_module
module, name = sys.argv[1].rsplit(".", 1)
def wait(*given, **named):
    print("here", file=sys.stderr, flush=True)
    time.sleep(60)
setattr(import_module(module), name, wait)
sys.argv = ["backbench", *sys.argv[2:]]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts without it
from backbench.cli import main
main()
"""
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


def stop(place: str, arguments: list[object], number: int, *, times: int = 1) -> subprocess.CompletedProcess[str]:
    """Run the command, which waits where that function is called, and send it the signal there."""
    running = subprocess.Popen(
        [sys.executable, "-c", WAIT, place, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    said = ""
    for line in running.stderr:
        said += line
        if line == "here\n":
            break
    else:
        pytest.fail(said)
    for _ in range(times):
        running.send_signal(number)
        time.sleep(0.05)
    out, rest = running.communicate(timeout=120)
    assert "Traceback" not in said + rest, rest
    return subprocess.CompletedProcess(list(map(str, arguments)), running.returncode, out, said + rest)


@pytest.mark.parametrize(
    ("place", "arguments"),
    [
        ("backbench.explain.evidence.gather_report", ["report", "runs"]),
        ("backbench.cli.explain.split_subjects", ["explain", "x.bundle"]),
        ("backbench.data.audit.audit", ["scan", "PHOTOS"]),
        ("backbench.backbones.core.bundle_files.find_bundle", ["evaluate", "x.bundle", "PHOTOS"]),
        ("backbench.studies.schema.read_study", ["study", "run", "x.toml"]),
        ("backbench.runs.rank.survey", ["rank", "PHOTOS"]),
    ],
)
def test_a_verb_that_is_ended_says_so_in_a_word(place: str, arguments: list[str], photos: Path) -> None:
    given = [str(photos) if argument == "PHOTOS" else argument for argument in arguments]
    done = stop(place, list(given), signal.SIGTERM, times=2)
    assert done.returncode == 143
    assert done.stderr.endswith("interrupted\n")
    assert done.stdout == ""


@pytest.mark.parametrize("number", STATUS)
def test_a_ranking_that_is_ended_tells_what_is_finished(number: int, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    place = "backbench.inference.features._compute"
    times = 2 if number == signal.SIGTERM else 1  # as supervisors send it; a second Ctrl-C ends all at once
    done = stop(place, ["rank", photos, "--models", "tiny_cnn", "--out", out, "--json"], number, times=times)
    assert done.returncode == STATUS[signal.Signals(number)]
    document = json.loads(done.stdout)
    assert document["interrupted"]
    assert any(warning.startswith("interrupted: ") for warning in document["warnings"])
    there = {path.parent.name for path in out.glob("*/record.json")}
    assert {row["run_id"] for row in document["rows"]} == there
    assert not list(out.glob(".writing-*"))


def test_a_signal_that_training_waits_for_decides_the_status_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_received", signal.SIGINT)
    with catch_signals() as stop_signal:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_signal() == signal.SIGTERM
    assert stop_status() == 143


RAISE = """
import sys
import backbench.explain.evidence
def fail(*given, **named):
    import numpy, torch
    numpy.empty(10**16) if sys.argv[-1] == "numpy" else torch.empty(10**16)
backbench.explain.evidence.gather_report = fail
from backbench.cli import main
main()
"""


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_memory_that_is_not_there_ends_in_a_message(library: str) -> None:
    done = subprocess.run([sys.executable, "-c", RAISE, "report", library], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: not enough memory: ")
    assert done.stderr.count("\n") == 1


def test_rankings_in_one_folder_carry_out_each_probe_once(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    arguments = ["rank", str(photos), "--models", "pixels,tiny_cnn", "--methods", "ridge,knn", "--out", str(out)]
    command = [sys.executable, "-m", "backbench", *arguments, "--json", "--quiet"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    documents: list[dict[str, Any]] = []
    for process in running:
        said, _ = process.communicate(timeout=280)
        assert process.returncode == 0
        documents.append(json.loads(said))
    opened = [json.loads(line) for line in (out / "openings.jsonl").read_text().splitlines()]
    assert len(documents[0]["rows"]) == 8
    assert Counter(line["run"] for line in opened) == Counter(row["run_id"] for row in documents[0]["rows"])
    assert documents[0]["rows"] == documents[1]["rows"] == documents[2]["rows"]
    assert 1 <= (count_openings(out, documents[0]["data"]["manifest"]) or 0) <= 3
    assert not [name for name in os.listdir(out) if ".damaged-" in name or ".failed-" in name]  # noqa: PTH208
    again = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert json.loads(again.stdout)["rows"] == documents[0]["rows"]
    assert len((out / "openings.jsonl").read_text().splitlines()) == len(opened)
