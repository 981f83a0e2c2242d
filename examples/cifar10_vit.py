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
# # A vision transformer on CIFAR-10: how far do 5,000 images go?
#
# A published study trained ViT-B/16 on 5,000 images (90 %) and on all images (93.4 %); its ResNet-50 reached
# only 30 % with 5,000. This notebook trains both networks with both numbers of images, and evaluates them on
# the same test images.
#
# It downloads CIFAR-10 (170 MB) and two networks (450 MB, `pip install 'backbench[hf]'`), and
# wants a GPU: `backbench study run studies/cifar10-transfer.toml --dry-run` says how long each run takes on
# this machine.
#
# Set `BACKBENCH_TRIAL=1` to try the notebook itself: untrained small networks, 80 drawn images, no download.
# Its figures mean nothing.

# %%
import os

import backbench

TRIAL = bool(os.environ.get("BACKBENCH_TRIAL"))
DATA = "generated:cifar10" if TRIAL else "cifar10"
MODELS = {
    "ViT": "test_vit.r160_in1k@random@32" if TRIAL else "hf/google/vit-base-patch16-224-in21k",
    "ResNet": "resnet10t.c3_in1k@random@32" if TRIAL else "hf/microsoft/resnet-50",
}
FEW = 30 if TRIAL else 5000
OUT = "runs/cifar10_vit"

# %% [markdown]
# ## With few images
#
# `train_limit` uses that many images for training and validation; the test images stay the same.

# %%
recipe = {"epochs": 1 if TRIAL else 3, "batch_size": 32, "warmup_epochs": 0.3}
few = {
    name: backbench.adapt(DATA, model, "full", {"recipe": recipe}, train_limit=FEW, out=f"{OUT}/few", quiet=True)
    for name, model in MODELS.items()
}
few["ViT"]

# %% [markdown]
# ## With all images, and twice the epochs

# %%
recipe = {"epochs": 2 if TRIAL else 6, "batch_size": 32, "warmup_epochs": 0.6}
many = {
    name: backbench.adapt(DATA, model, "full", {"recipe": recipe}, out=f"{OUT}/all", quiet=True)
    for name, model in MODELS.items()
}
many["ViT"]

# %% [markdown]
# ## What the images add
#
# The rows of one network differ in two things: the number of images and the number of epochs. The gain comes from
# both; the study attributes it to the images alone.

# %%
for name in MODELS:
    less, more = few[name].metrics["accuracy"], many[name].metrics["accuracy"]
    gain = 100 * (more.value - less.value)
    print(f"{name:<7} {less.value:6.1%} with few images, {more.value:6.1%} with all: {gain:+.1f} points")
if TRIAL:
    print("A trial: these figures mean nothing.")

# %% [markdown]
# ## Which is better with few images?
#
# Both networks were evaluated on the same test images, so an exact paired test shows if the difference is
# significant. The summary gives the result.

# %%
ranking = backbench.open_ranking(f"{OUT}/few")
print(ranking.table)
print(*ranking.summary, sep="\n")

# %% [markdown]
# ## Attention
#
# The brighter a region, the more attention the transformer pays to it, for one test image.

# %%
from PIL import Image

from backbench.explain.heat import explain_image, overlay
from backbench.explain.samples import read_test_samples

(sample,) = read_test_samples(many["ViT"].path, [0])
heat = explain_image(many["ViT"].classifier, sample.image)
print(f"{heat.kind} for {heat.label}; the image shows: {sample.truth}")
Image.fromarray(overlay(sample.image, heat)).resize((256, 256))
