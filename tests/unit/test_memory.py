"""Memory that training frees stays with the process, for its next step."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

MEASURE = """
import sys
from backbench.runtime import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
block = b"x" * 200_000_000
del block
with open("/proc/self/statm") as file:
    print(int(file.read().split()[1]) * 4096)
"""


def resident_bytes(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", MEASURE, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is tuned is glibc's")
def test_freed_memory_is_kept_when_asked_for() -> None:
    assert resident_bytes("keep") > 200_000_000 > resident_bytes("leave")


def test_the_command_line_asks_torch_for_large_pages() -> None:
    code = (
        "import os, sys; sys.argv = ['backbench', '--version']\n"
        "from backbench.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(os.environ['THP_MEM_ALLOC_ENABLE'], os.environ['OMP_WAIT_POLICY'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "1 passive"
