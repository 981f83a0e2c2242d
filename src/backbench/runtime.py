"""Device, precision, seeds, workers and cache folder: the only module that knows hardware.

Nothing here imports torch before a function that needs it is called.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import platform
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from backbench.config import Precision
from backbench.errors import ConfigError
from backbench.stopping import note_signal

if TYPE_CHECKING:
    import torch

CPU_FILE = "/proc/cpuinfo"


def cache_folder() -> Path:
    """The folder of cached features, checks and downloads: $BACKBENCH_CACHE, else the user's cache folder."""
    given = os.environ.get("BACKBENCH_CACHE")
    if given:
        return Path(given)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "backbench"


def has_network(seconds: float = 2.0) -> bool:
    """True if the Hugging Face Hub answers; False at once if the hub client is set to offline."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    hub = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = hub.port or (80 if hub.scheme == "http" else 443)
    try:
        socket.create_connection((hub.hostname or "", port), timeout=seconds).close()
    except (OSError, UnicodeError):
        return False
    return True


def num_workers() -> int:
    """Threads for reading and decoding: the cores this process may use, at most 16."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, 16))


def decide_device(asked: str = "auto") -> str:
    """'cpu', 'cuda' (or 'cuda:1') or 'mps'; 'auto' takes the fastest. ConfigError if it is missing."""
    kind = asked.partition(":")[0]
    if asked == "cpu" or (asked == "auto" and not _may_have_accelerator()):
        return "cpu"
    import torch

    if asked == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if kind not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"unknown device '{asked}'. Allowed: auto, cpu, cuda, cuda:N, mps.")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[kind]:
        raise ConfigError(f"device {asked}: this machine has no usable {kind} device. Use the device cpu or auto.")
    if kind == "cuda" and ":" in asked:
        index = asked.partition(":")[2]
        if not index.isdigit() or int(index) >= torch.cuda.device_count():
            raise ConfigError(
                f"device {asked}: this machine has {torch.cuda.device_count()} CUDA devices, numbered from 0."
            )
    return asked


def _may_have_accelerator() -> bool:
    """False if this machine certainly has no accelerator; saves the seconds of importing torch."""
    if sys.platform != "linux":
        return True
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd"))


def has_fast_bf16(device: str) -> bool:
    """True if the hardware multiplies bf16 matrices natively, so that bf16 is faster than fp32.

    AVX512-BF16 counts only on AMD processors. Intel's are made for AMX: where a virtual machine hides AMX,
    ResNets and vision transformers are slower in bf16 than in fp32 (`benchmarks/results/bf16-without-amx.md`).
    """
    if device.startswith("cuda"):
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        vendor, flags = _describe_cpu()
        return bool(flags & {"amx_bf16", "bf16", "svebf16"}) or (
            "avx512_bf16" in flags and vendor == "AuthenticAMD"
        )
    return False


def decide_precision(asked: str, device: str, *, training: bool = False) -> Precision:
    """'fp32', 'bf16' or 'fp16'; 'auto' is bf16 if the hardware supports it. Raises ConfigError for other names.

    Args:
        training: on a CPU 'auto' is then fp32, because the backward pass of small convolutions in bf16 can take
            several times as long.
    """
    if asked == "auto":
        return "bf16" if has_fast_bf16(device) and not (training and device == "cpu") else "fp32"
    if asked == "fp32":
        return "fp32"
    if asked == "bf16":
        return "bf16"
    if asked == "fp16":
        return "fp16"
    raise ConfigError(f"unknown precision '{asked}'. Allowed: auto, fp32, bf16, fp16.")


def _describe_cpu() -> tuple[str, set[str]]:
    """Vendor and feature flags of the first processor on Linux; '' and an empty set on other systems."""
    facts: dict[str, str] = {}
    try:
        with open(CPU_FILE) as lines:
            for line in itertools.takewhile(str.strip, lines):
                name, _, value = line.partition(":")
                facts[name.strip()] = value
    except OSError:
        pass
    return facts.get("vendor_id", "").strip(), set((facts.get("flags") or facts.get("Features", "")).split())


def stream_seed(seed: int, use: str) -> int:
    """The seed of one named use of randomness, so that adding a use never shifts the others; 0..2^63-1."""
    digest = hashlib.sha256(f"{seed}/{use}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def make_rng(seed: int, use: str) -> np.random.Generator:
    """A NumPy generator for one named use."""
    return np.random.default_rng(stream_seed(seed, use))


def make_torch_rng(seed: int, use: str) -> torch.Generator:
    """A CPU torch generator for one named use."""
    import torch

    return torch.Generator().manual_seed(stream_seed(seed, use))


@contextmanager
def catch_signals() -> Iterator[Callable[[], int]]:
    """Within the block, the first SIGINT or SIGTERM only sets the number that the yielded function returns.

    The work checks it where it can stop safely. A second SIGINT raises KeyboardInterrupt at once. Has no effect
    outside the main thread, where Python allows no handlers.
    """
    received = 0

    def note(number: int, _: object) -> None:
        nonlocal received
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received = number
        note_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: received
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Seed torch's global generators (used by dropout) within the block, then restore their state."""
    import torch

    cuda = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield


def autocast(device: str, precision: Precision) -> AbstractContextManager[None]:
    """Autocast to bf16 or fp16 if `precision` asks for it; weights stay fp32."""
    import torch

    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    context: AbstractContextManager[None] = torch.autocast(
        device.partition(":")[0], dtype, enabled=precision != "fp32"
    )
    return context


def keep_memory() -> None:
    """Keep freed memory in this process, because training allocates the same sizes again and again.

    glibc returns large blocks to the system at once and requests them again at the next step, which costs an
    eighth of a training step on a CPU. No effect with other C libraries.
    Source: mallopt(3).
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 1 << 28)


def free_memory(device: str) -> None:
    """Free unreferenced memory."""
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def synchronise(device: str) -> None:
    """Wait until the device has finished its queued work, so that timings are right."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()


def total_memory_bytes() -> int | None:
    """The machine's main memory; None if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def peak_memory_bytes(device: str) -> int | None:
    """Peak memory of this process: on the device for CUDA, else the resident set; None if unknown."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def describe_environment(device: str) -> dict[str, str]:
    """Versions and hardware for a record; imports no heavy package that is not loaded yet."""
    from importlib.metadata import PackageNotFoundError, version

    facts = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor_name(),
        "num_cores": str(num_workers()),
        "device": device,
    }
    if device.startswith("cuda"):
        import torch

        facts["device_name"] = torch.cuda.get_device_name(device)
    for package in ("backbench", "torch", "torchvision", "timm", "numpy", "pillow"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed as a package"
    return facts


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
