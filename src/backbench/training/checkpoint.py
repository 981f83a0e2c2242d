"""Training checkpoints on disk: atomic, verified when read, with the previous one as a fallback.

A checkpoint is one file: SHA-256 of the rest, then a safetensors file whose metadata holds the rest of the state
as JSON. No pickle. All values are finite.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as format_tensors

from backbench.backbones.core.weights import is_finite
from backbench.documents import parse_json
from backbench.errors import StorageError, TrainingDiverged
from backbench.progress import SILENT, Progress
from backbench.storage import read_file, sync_folder, write_atomically

CHECKPOINT_VERSION = 3
KEEP = 2
ELAPSED = "elapsed"
_MAX_BYTES = 1 << 50
_NAME = re.compile(r"(?P<phase>.+)-(?P<step>\d{9})\.ckpt")


@dataclass(frozen=True)
class Checkpoint:
    """One training state: tensors by name, and everything else as JSON values."""

    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]


class Workspace:
    """The folder of a resumable run: its checkpoints, by phase and step.

    Args:
        folder: created at the first save.
        progress: gets a warning for each damaged file.

    Each checkpoint also stores the working time of the run, over all processes.
    """

    def __init__(self, folder: Path, progress: Progress = SILENT) -> None:
        self.folder = folder
        self.progress = progress
        earlier = (self.read_state(ELAPSED) or {}).get("seconds")
        self._earlier_seconds = float(earlier) if isinstance(earlier, int | float) else 0.0
        self._began = time.monotonic()

    def elapsed_seconds(self) -> float:
        """Seconds since this was made, plus those of earlier interrupted processes up to their last checkpoint."""
        return self._earlier_seconds + time.monotonic() - self._began

    def credit(self, seconds: float) -> None:
        """Add the time of earlier work that this run reuses, such as cached features.

        Counts only in the first process of a run: earlier processes have counted it for later ones.
        """
        if not self._earlier_seconds:
            self._earlier_seconds = seconds

    def save(self, phase: str, step: int, checkpoint: Checkpoint, *, keep: frozenset[int] = frozenset()) -> None:
        """Save a state, then remove older ones except one; the steps in `keep` stay.

        Raises:
            StorageError: the write failed; existing files stay.
            TrainingDiverged: a value is not finite; existing files stay.
        """
        _refuse_non_finite(checkpoint.tensors, step)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
        state = {"version": CHECKPOINT_VERSION, "step": step, "state": checkpoint.state}
        try:
            text = json.dumps(state, sort_keys=True, allow_nan=False)
        except ValueError as error:
            raise TrainingDiverged(step, "a value in the training log is not finite") from error
        body = format_tensors(tensors, metadata={"backbench": text})
        write_atomically(self._path(phase, step), hashlib.sha256(body).digest() + body)
        self.write_state(ELAPSED, {"seconds": self.elapsed_seconds()})
        for old in sorted(self.steps(phase), reverse=True)[KEEP:]:
            if old not in keep:
                self._path(phase, old).unlink(missing_ok=True)

    def load_latest(self, phase: str, at_step: int | None = None) -> Checkpoint | None:
        """The newest valid state of a phase; None if nothing was saved.

        Skips damaged files and other versions with a warning.

        Args:
            at_step: only this one.

        Raises:
            StorageError: there are files, but none is valid.
        """
        self._sweep()
        steps = sorted(self.steps(phase), reverse=True)
        if at_step is not None:
            steps = [step for step in steps if step == at_step]
        for step in steps:
            try:
                return _parse(read_file(self._path(phase, step), _MAX_BYTES))
            except (OSError, ValueError) as error:
                self.progress.warn(f"{self._path(phase, step)} is not used: {error}")
        if steps:
            raise StorageError(
                f"no checkpoint in {self.folder} is valid ({len(steps)} tried, the newest is "
                f"{self._path(phase, steps[0]).name}). Delete the folder to start the run again."
            )
        return None

    def steps(self, phase: str) -> list[int]:
        """The saved steps of a phase, unordered."""
        if not self.folder.is_dir():
            return []
        matches = [_NAME.fullmatch(entry.name) for entry in self.folder.iterdir()]
        return [int(match["step"]) for match in matches if match is not None and match["phase"] == phase]

    def write_state(self, name: str, state: Mapping[str, Any]) -> None:
        """Keep a small JSON document beside the checkpoints."""
        write_atomically(self.folder / f"{name}.json", json.dumps(state, sort_keys=True, allow_nan=False).encode())

    def read_state(self, name: str) -> dict[str, Any] | None:
        """Read the document of `write_state`; None if it is missing or unreadable."""
        try:
            state = parse_json(read_file(self.folder / f"{name}.json"))
        except (OSError, ValueError):
            return None
        return state if isinstance(state, dict) else None

    def _path(self, phase: str, step: int) -> Path:
        return self.folder / f"{phase}-{step:09d}.ckpt"

    def _sweep(self) -> None:
        """Remove half-written files of a killed process; the lock on the run excludes other writers."""
        if not self.folder.is_dir():
            return
        orphans = list(self.folder.glob(".*.tmp"))
        for orphan in orphans:
            orphan.unlink(missing_ok=True)
        if orphans:
            sync_folder(self.folder)


def _refuse_non_finite(tensors: Mapping[str, torch.Tensor], step: int) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not is_finite(tensor):
            raise TrainingDiverged(step, f"'{name}' holds a value that is not finite")


def _parse(data: bytes) -> Checkpoint:
    """Parse a checkpoint; raise ValueError with the reason if it is damaged or of another version."""
    digest, body = data[:32], data[32:]
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("it is damaged (its checksum differs)")
    try:
        tensors = parse_tensors(body)
        length = int.from_bytes(body[:8], "little")
        state = parse_json(parse_json(body[8 : 8 + length])["__metadata__"]["backbench"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"it is not a checkpoint ({error})") from error
    if state.get("version") != CHECKPOINT_VERSION:
        raise ValueError(f"it has version {state.get('version')}, but this backbench reads {CHECKPOINT_VERSION}")
    return Checkpoint(tensors, state["state"])
