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
# A published study trained ViT-B/16 on 5,000 images (90 %) and on all of them (93.4 %), and saw ResNet-50 reach
# only 30 % with 5,000. This notebook runs both networks with both amounts of images, and measures all of them
# on the same test images.
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
# `train_limit` takes that many images for training and validation, and leaves the test images as they are.

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
# Two things differ between the rows of one network: the number of images and the number of epochs. The gain is
# that of both together; the study reads it as a gain of the images alone.

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
# Both networks answered the same test images, so an exact paired test can say whether the difference is more
# than chance. The summary gives its answer.

# %%
ranking = backbench.open_ranking(f"{OUT}/few")
print(ranking.table)
print(*ranking.summary, sep="\n")

# %% [markdown]
# ## What it looks at
#
# The brighter, the more attention the transformer pays there, for one image of the test split.

# %%
from PIL import Image

from backbench.explain.heat import explain_image, overlay
from backbench.explain.samples import read_test_samples

(sample,) = read_test_samples(many["ViT"].path, [0])
heat = explain_image(many["ViT"].classifier, sample.image)
print(f"{heat.kind} for {heat.label}; the image shows: {sample.truth}")
Image.fromarray(overlay(sample.image, heat)).resize((256, 256))
