# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Load any model, and look at its predictions on CIFAR-10 or CIFAR-100
#
# Three networks (ResNet-18, EfficientNet-B0 and DINOv2) on one data set: accuracy, confusion, clusters of
# features, and the predictions of all three for one image.
#
# It downloads CIFAR-10 (170 MB) and the networks (450 MB), and takes from minutes (GPU) to an hour (laptop).
# Each network stays frozen, and a linear layer on top learns the classes. To look at fine-tuned networks, run
# `backbench study run studies/minivision.toml` first, and give its run folders below.
#
# Set `BACKBENCH_TRIAL=1` to try the notebook itself: untrained small networks, 80 drawn images, no download.
# Its figures mean nothing.

# %%
import os
from pathlib import Path

from PIL import Image

import backbench

TRIAL = bool(os.environ.get("BACKBENCH_TRIAL"))
NAME = "cifar10"  # or "cifar100"
DATA = f"generated:{NAME}" if TRIAL else NAME
MODELS = {
    "ResNet-18": "resnet10t.c3_in1k@random@32" if TRIAL else "torchvision/resnet18",
    "EfficientNet-B0": "test_efficientnet.r160_in1k@random@32" if TRIAL else "efficientnet_b0.ra_in1k",
    "DINOv2": "test_vit.r160_in1k@random@32" if TRIAL else "vit_base_patch14_dinov2.lvd142m@224",
}
PICTURE = None  # a photograph of yours; None: one of the test images
OUT = Path("runs/pipeline")

# %% [markdown]
# ## Load any model
#
# A name, a card for your own weights, or a finished run:
# `backbench.open_run("results/minivision/runs/...")`.

# %%
runs = {name: backbench.adapt(DATA, model, "logistic", out=OUT, quiet=True) for name, model in MODELS.items()}
if TRIAL:
    print("A trial: the figures below mean nothing.")
runs["ResNet-18"]

# %% [markdown]
# ## Accuracy

# %%
for name, run in runs.items():
    accuracy = run.metrics["accuracy"]
    print(f"{name:<16} {accuracy.value:6.1%}  95 % interval {accuracy.low:.1%} to {accuracy.high:.1%}")

# %%
ranking = backbench.open_ranking(OUT)
print(*ranking.summary, sep="\n")

# %% [markdown]
# Class by class, with every network in its own column:

# %%
classes = runs["ResNet-18"].record.data.classes
print(f"{'':<16}", *(f"{name:>16}" for name in runs))
for label in classes[:20]:
    print(f"{label:<16}", *(f"{run.record.per_class[label].value:16.0%}" for run in runs.values()))

# %% [markdown]
# ## Confusion
#
# Rows are true classes, columns are predictions. The next plots show the network `CHOSEN`: change it and run the
# cells again.

# %%
from backbench.report.figures.of_run import draw_run
from backbench.report.figures.style import save_figure


def show(figure, name):
    """Keep a figure as a PNG in the folder of the runs, and show it."""
    path = OUT / f"{name}.png"
    save_figure(figure, path)
    with Image.open(path) as picture:
        return picture.copy()


CHOSEN = "DINOv2"
chosen = runs[CHOSEN]
figures = draw_run(chosen.record, chosen.predictions)
show(figures["confusion"], "confusion")

# %% [markdown]
# Test images with predictions, wrong ones first:

# %%
from backbench.explain.of_runs import draw_answers, draw_map

show(draw_answers(chosen.path)["answers"], "answers")

# %% [markdown]
# ## How the networks group the images
#
# Each point is a test image, placed by its features: images close together have similar features. A cross is a
# wrong prediction.

# %%
figure, notes = draw_map([run.path for run in runs.values()], "pca" if TRIAL else "umap")
print(*notes, sep="\n")
show(figure, "clusters")

# %% [markdown]
# ## One image, all networks
#
# Each network gets the image with its own preprocessing: size, crop and scale.

# %%
from backbench.explain.samples import read_test_samples

(sample,) = read_test_samples(chosen.path, [0])
picture = sample.image if PICTURE is None else PICTURE


def ask(name, picture):
    """What the network of that name says of a picture: its three most likely classes."""
    (answer,) = runs[name].classifier.predict([picture], top=3)
    return answer


if PICTURE is None:
    print(f"The picture shows: {sample.truth}")
for name in runs:
    answer = ask(name, picture)
    others = ", ".join(f"{label} {share:.0%}" for label, share in answer.top)
    print(f"{name:<16} {answer.label:<12} ({others}){'  not sure' if answer.is_unsure else ''}")
Image.fromarray(sample.image).resize((128, 128)) if PICTURE is None else Image.open(PICTURE)
