"""Simulated textiles, 2,000 images in three classes: what a probe sees, and what the size of the files gives away.

    python benchmarks/textiles.py --out benchmarks/results/textiles.md [--models CARD,...]

The images come with the package conformal-clip-data (MIT; Megahed et al. 2025, arXiv:2501.12596): woven cloth
drawn by a model of it, 1,000 good ones, 500 with a fault in one place, 500 whose weave differs all over; 250 x
250 pixels in grey. They are drawn, not photographed. A fault changes how well an image compresses, so the
control that sees facts of files alone is far above chance: a comparison on these files has to beat it.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from pathlib import Path

import backbench


def find_images() -> Path:
    """The folder of class folders in the package."""
    spec = importlib.util.find_spec("conformal_clip_data")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install conformal-clip-data==0.1.4")
    return Path(spec.origin).parent / "data" / "textile_images" / "simulated"


def main() -> None:
    """Rank on all images, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="tiny_cnn.cifar100,tiny_vit.cifar100", help="names or cards")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study = backbench.rank(
            find_images(), given.models.split(","), ["logistic", "knn"], precision="fp32", out=folder
        )
    lines = ["# Simulated textiles", "", *study.summary, *(f"- {warning}" for warning in study.warnings)]
    given.out.write_text("\n".join([*lines, "", "```", study.table, "```", ""]))
    print(study.table)


if __name__ == "__main__":
    main()
