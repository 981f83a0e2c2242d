"""Make a trained bundle a backbone that comes with the package: tools/pack_included.py BUNDLE NAME "COMMAND".

Writes the body's tensors in half precision, a card, the record of the run and a note on licence and making into
src/backbench/backbones/included/.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FOLDER = Path(__file__).parents[1] / "src" / "backbench" / "backbones" / "included"
BODY = "backbone.body."
MAX_BYTES = 2_000_000
CARD = """name = "{name}"
architecture = "{architecture}"
weights = "{name}.safetensors"
licence = "Apache-2.0"
pretrained_on = "CIFAR-100"
source = "trained by backbench, see {name}.md"

[preprocess]
size = {size}
crop_fraction = {crop_fraction}
interpolation = "{interpolation}"
mean = {mean}
std = {std}
"""
NOTE = """# {name}

{architecture}, trained from random weights on the training split of CIFAR-100 (40,000 images; 10,000
more for validation), seed 0. Right on {accuracy:.1f} % of the 10,000 test images ({low:.1f} to
{high:.1f}), with the head it was trained with; only the body is kept, in half precision.

```
{command}
python tools/pack_included.py BUNDLE {name} "..."
```
where `cifar100/` holds the official images, one folder for each class in `train/` and `test/`. The
run's record, without the predictions, is `{name}.record.json`.

Licence of the weights: Apache-2.0, as the package. The images of CIFAR-100 (A. Krizhevsky: Learning
Multiple Layers of Features from Tiny Images, 2009) come without a stated licence; none of them is in
the weights file or here.
"""


def main() -> None:
    bundle, name, command = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    facts = json.loads((bundle / "model.json").read_text())
    run = bundle.with_name(bundle.name.removesuffix(".bundle"))
    record = json.loads((run / "record.json").read_text())
    tensors = load_file(bundle / "weights.safetensors")
    body = {
        key.removeprefix(BODY): tensor.half() if tensor.dtype == torch.float32 else tensor
        for key, tensor in tensors.items()
        if key.startswith(BODY)
    }
    FOLDER.mkdir(exist_ok=True)
    target = FOLDER / f"{name}.safetensors"
    save_file(body, target)
    if target.stat().st_size > MAX_BYTES:
        sys.exit(f"{target} has {target.stat().st_size:,} bytes, more than {MAX_BYTES:,}")
    preprocess = record["model"]["preprocess"]
    architecture = record["model"]["architecture"]
    card = CARD.format(
        name=name,
        architecture=architecture,
        size=list(preprocess["size"]),
        crop_fraction=preprocess["crop_fraction"],
        interpolation=preprocess["interpolation"],
        mean=list(preprocess["mean"]),
        std=list(preprocess["std"]),
    )
    (FOLDER / f"{name}.toml").write_text(card)
    accuracy = record["metrics"]["accuracy"]
    figures = {
        key: 100 * accuracy[part] for key, part in (("accuracy", "value"), ("low", "low"), ("high", "high"))
    }
    note = NOTE.format(name=name, architecture=architecture, command=command, **figures)
    (FOLDER / f"{name}.md").write_text(note)
    record["config"]["data"]["source"] = "cifar100"
    record["environment"].pop("platform", None)
    (FOLDER / f"{name}.record.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{target}: {target.stat().st_size:,} bytes; classes {len(facts['class_names'])}")


if __name__ == "__main__":
    main()
