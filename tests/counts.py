"""How many cases a property test tries: few and always the same ones; `make stress` tries more, drawn anew."""

from __future__ import annotations

import os

from hypothesis import settings

SCALE = float(os.environ.get("BACKBENCH_TEST_SCALE", "1"))


def cases(number: int) -> settings:
    """Try `number` cases, the same in every run; `make stress` tries more of them, others each time."""
    return settings(max_examples=max(1, int(number * SCALE)), deadline=None, derandomize=SCALE <= 1, database=None)
