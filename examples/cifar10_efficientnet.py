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
# # EfficientNet on CIFAR-10: zero-shot, fine-tuned, and the one that did not fit
#
# A published study ran EfficientNet-B0 without training, but gave no figure. It gave up on EfficientNetV2
# because its GPU ran out of memory. This notebook runs B0 untrained and fine-tuned, and V2 with micro-batches:
# each step still learns from 32 images, but computes only a few of them at a time.
#
# It downloads CIFAR-10 (170 MB) and two networks (240 MB). The first part takes minutes on a
# laptop; the others want a GPU.
#
# Set `BACKBENCH_TRIAL=1` to try the notebook itself: untrained small networks, 80 drawn images, no download.
# Its figures mean nothing.

# %%
import os

import backbench

TRIAL = bool(os.environ.get("BACKBENCH_TRIAL"))
DATA = "generated:cifar10" if TRIAL else "cifar10"
SMALL = "test_efficientnet.r160_in1k@random@32" if TRIAL else "efficientnet_b0.ra_in1k"
LARGE = "test_efficientnet.r160_in1k@random@48" if TRIAL else "tf_efficientnetv2_m.in21k_ft_in1k"
EPOCHS = 1 if TRIAL else 3
OUT = "runs/cifar10_efficientnet"

# %% [markdown]
# ## Zero-shot
#
# The network predicts the 1,000 classes of ImageNet. Each is mapped to the class of CIFAR-10 that contains it:
# *tabby cat* and *Persian cat* count as cats. Nothing is learned from CIFAR-10.

# %%
as_it_comes = backbench.rank(DATA, SMALL, "zeroshot", out=OUT, quiet=True)
as_it_comes

# %% [markdown]
# ## Fine-tuned
#
# All layers learn from the training images.

# %%
trained = backbench.adapt(
    DATA, SMALL, "full", {"recipe": {"epochs": EPOCHS, "batch_size": 32}}, out=OUT, quiet=True
)
trained

# %% [markdown]
# ## The one that did not fit
#
# `batch_size` is the number of images in each step; it affects the result. `micro_batch_size` is the number of
# images computed at once; it affects the memory. It changes the result in one way only: batch norms see the few
# images of a micro-batch.
#
# Without `micro_batch_size` backbench starts with the whole batch, and halves the micro-batch whenever memory runs
# out.

# %%
large = backbench.adapt(
    DATA,
    LARGE,
    "full",
    {"recipe": {"epochs": EPOCHS, "batch_size": 32, "micro_batch_size": 4}},
    out=OUT,
    quiet=True,
)
large

# %%
import json

phase = json.loads((large.path / "history.json").read_text())["full"]
print(f"{phase['num_steps']} steps of 32 images, {phase['micro_batch_size']} of them at a time")

# %% [markdown]
# ## Side by side

# %%
ranking = backbench.open_ranking(OUT)
print(ranking.table)
print(*ranking.summary, sep="\n")
if TRIAL:
    print("A trial: these figures mean nothing.")
