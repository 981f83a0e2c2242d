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
# # ResNet-50 on CIFAR-10: frozen, or fully fine-tuned
#
# A published study found 46.2 % for a frozen ResNet-50 and 79.3 % for a fully fine-tuned one. This notebook
# runs both on the same images, with settings that suit the network, and shows why the first figure is far too
# low.
#
# It downloads CIFAR-10 (170 MB) and ResNet-50 (100 MB, `pip install 'backbench[hf]'`). The frozen
# part takes minutes on a laptop; training wants a GPU. `backbench study run studies/cifar10-transfer.toml
# --dry-run` says how long each run takes on this machine.
#
# Set `BACKBENCH_TRIAL=1` to try the notebook itself: an untrained small network, 80 drawn images, no download.
# Its figures mean nothing.

# %%
import os

import backbench

TRIAL = bool(os.environ.get("BACKBENCH_TRIAL"))
DATA = "generated:cifar10" if TRIAL else "cifar10"
MODEL = "resnet10t.c3_in1k@random@32" if TRIAL else "hf/microsoft/resnet-50"
EPOCHS = 1 if TRIAL else 6
OUT = "runs/cifar10_resnet50"

# %% [markdown]
# ## Frozen
#
# The network stays unchanged, and only a linear layer on its features learns. `logistic` solves for that layer.
# `head` trains it by gradient steps at several learning rates at once; validation images choose the best rate.

# %%
frozen = backbench.rank(
    DATA, MODEL, {"logistic": {}, "head": {"recipe": {"epochs": 5 * EPOCHS}}}, out=OUT, quiet=True
)
frozen

# %% [markdown]
# The study trained its new layer at one rate, 5e-5, for six epochs, which hardly changed that layer. Here is the
# same setting. The difference from the rows above is the recipe, not the network.

# %%
as_published = backbench.adapt(
    DATA,
    MODEL,
    "head",
    {"rates": [5e-5], "weight_decays": [0.0], "recipe": {"epochs": EPOCHS}},
    out=OUT,
    quiet=True,
)
as_published

# %% [markdown]
# ## Fully fine-tuned
#
# All layers learn, the first layers more slowly than the last. The best epoch on validation images is kept. The
# test images are evaluated once, at the end.

# %%
whole = backbench.adapt(
    DATA,
    MODEL,
    "full",
    {"recipe": {"epochs": EPOCHS, "batch_size": 32, "warmup_epochs": 0.1 * EPOCHS}},
    out=OUT,
    quiet=True,
)
whole

# %% [markdown]
# ## Side by side
#
# All runs on the same test images. The bars are 95 % intervals. Rows without a significant difference from the
# best are marked as tied.

# %%
ranking = backbench.open_ranking(OUT)
print(ranking.table)
print(*ranking.summary, sep="\n")

# %% [markdown]
# The published figures beside those measured here:

# %%
PUBLISHED = {"frozen, a new layer": 0.4620, "trained whole": 0.7932}
here = {"frozen, a new layer": frozen.best or as_published, "trained whole": whole}
for name, published in PUBLISHED.items():
    accuracy = here[name].metrics["accuracy"]
    interval = f"{accuracy.low:.1%} to {accuracy.high:.1%}"
    print(f"{name:<20} published {published:6.1%}   here {accuracy.value:6.1%} ({interval})")
if TRIAL:
    print("A trial: these figures mean nothing.")

# %% [markdown]
# ## Where it is wrong

# %%
worst = sorted(whole.record.per_class.items(), key=lambda item: item[1].value)[:3]
for label, recall in worst:
    print(f"{label}: {recall.value:.0%} of {recall.n} test images")
