"""CPU-seconds of fresh interpreters: help, an argument error, a list, beside importing torch and timm.

    python benchmarks/startup.py [--rounds 7] [--out benchmarks/results/startup.md]

Each command runs in turn, round after round; medians of user + system time of the process.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "bare python": ["-c", "pass"],
    "backbench --help": ["-m", "backbench", "--help"],
    "backbench rank --help": ["-m", "backbench", "rank", "--help"],
    "backbench rank (no argument: an error)": ["-m", "backbench", "rank"],
    "backbench rank digits --methods logistik (an error)": [
        "-m",
        "backbench",
        "rank",
        "digits",
        "--methods",
        "logistik",
    ],
    "backbench list models": ["-m", "backbench", "list", "models"],
    "import torch": ["-c", "import torch"],
    "import timm": ["-c", "import timm"],
}


def measure(arguments: list[str]) -> float:
    """User and system seconds of one process."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.rounds):
        for name, arguments in COMMANDS.items():
            times[name].append(measure(arguments))
    medians = {name: statistics.median(values) for name, values in times.items()}
    lines = [
        "# Start-up",
        "",
        f"`python benchmarks/startup.py --rounds {options.rounds}`, {time.strftime('%Y-%m-%d')}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}. CPU-seconds, medians.",
        "",
        "| command | CPU-s | import timm takes |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {value:.3f} | {medians['import timm'] / value:.0f}x |" for name, value in medians.items()
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out is not None:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
