"""Which precision is chosen, and that what it costs in accuracy is measured and said."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbench.config import DataConfig, MethodConfig, Precision, RunConfig
from backbench.runs.context import RunContext
from backbench.runs.run import run
from backbench.runtime import decide_precision


@pytest.mark.parametrize(
    ("lines", "precision"),
    [
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx512_bf16", "bf16"),
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx512_bf16 amx_bf16 amx_tile", "bf16"),
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx512_bf16 avx512_fp16", "fp32"),  # slower there than fp32
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2", "fp32"),
        ("processor\t: 0\nFeatures\t: fp asimd bf16", "bf16"),
        ("processor\t: 0\nFeatures\t: fp asimd", "fp32"),
        (None, "fp32"),
    ],
)
def test_auto_is_bf16_where_that_is_faster(
    lines: str | None, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backbench.runtime.CPU_FILE", tmp_path / "cpuinfo")
    if lines is not None:  # a second processor says nothing more
        (tmp_path / "cpuinfo").write_text(f"{lines}\n\nprocessor\t: 1\nflags\t\t: amx_bf16\n")
    assert decide_precision("auto", "cpu") == precision
    assert decide_precision("auto", "cpu", training=True) == "fp32"
    assert decide_precision("bf16", "cpu") == "bf16"


def test_features_that_less_than_fp32_moves_far_are_said_in_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warnings_in(precision: Precision, limit: float, folder: str) -> list[str]:
        monkeypatch.setattr("backbench.runs.extract.MAX_ROUNDING", limit)
        data = DataConfig(source="digits", limit=60)
        config = RunConfig(data=data, model="tiny_cnn", method=MethodConfig(name="ridge"), precision=precision)
        record = run(config, RunContext(tmp_path / folder))
        assert record.cost is not None
        assert (record.cost.rounding is None) is (precision == "fp32")
        return [text for text in record.warnings if "changes the features" in text]

    assert warnings_in("bf16", 0.5, "a") == []
    (said,) = warnings_in("bf16", 0.001, "b")  # from the cache, too
    assert said.startswith("bf16 changes the features of this model by ")
    assert said.endswith("--precision fp32")
    assert warnings_in("fp32", 0.0, "c") == []
