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
# # A first ranking
#
# Which of three small networks is best for handwritten digits, how sure is that, and what does a network look at?
# Data and networks come with backbench: nothing is downloaded, and it takes a minute on two cores.
#
# Open this file as a notebook with jupytext, or run it as it is: `python examples/first_ranking.py`.

# %%
import backbench

# %% [markdown]
# ## Rank
#
# Each network is frozen and gets two heads: a logistic regression and a vote of nearest neighbours. Both are
# chosen on validation images; the test images are looked at once for each row. With images of your own, give a
# folder instead of `"digits"`, and leave the models out to get a short list that fits them and this machine.
#
# `pixels` hands the raw pixels to the head, and the two networks have random weights: floors that a pretrained
# network has to beat.

# %%
ranking = backbench.rank(
    "digits", models=["pixels", "tiny_cnn", "tiny_vit"], methods=["logistic", "knn"], limit=600, quiet=True
)
ranking

# %% [markdown]
# The bars are 95 % intervals. *Tied* rows can't be told apart from the best on so few test images, and the
# controls say how far one gets without a trained network: when one of them is tied too, the ranking says little
# about models.
#
# In a terminal, the same as text:

# %%
print(ranking.table)
print(*ranking.summary, sep="\n")

# %% [markdown]
# ## Adapt
#
# One network and its probe, kept as a folder that predicts anywhere. What the ranking has computed is used again.

# %%
run = backbench.adapt("digits", "tiny_cnn", method="logistic", limit=600, quiet=True)
run

# %%
classifier = run.classifier
classifier

# %% [markdown]
# ## Predict
#
# Any mixture of files, folders, arrays and PIL images will do. These are the digits that come with scikit-
# learn; some of them the network has learned from, so this shows how to ask, not how good it is: for that, see
# the run above.

# %%
import numpy as np
from sklearn.datasets import load_digits

digits = load_digits().images[:8]
grey = np.rint(digits / 16 * 255).astype(np.uint8)
images = list(np.stack([grey] * 3, axis=-1))
answers = classifier.predict(images, top=3)
for answer in answers:
    print(answer.path, answer.label, f"{answer.confidence:.2f}", "(not sure)" if answer.is_unsure else "")

# %% [markdown]
# ## Explain
#
# Where the evidence for the answer lies: the brighter, the more it speaks for the class. `overlay` lays it over
# the image.

# %%
from PIL import Image

from backbench.explain.heat import explain_image, overlay

heat = explain_image(classifier, images[0])
print(heat.kind, "for", heat.label)
picture = Image.fromarray(overlay(images[0], heat)).resize((256, 256))
picture

# %% [markdown]
# ## Show it to others
#
# One page with everything, which opens anywhere, without a server and without a network.

# %%
page = ranking.report("first_ranking.html", has_images=False, quiet=True)
print(page, f"{page.stat().st_size / 1e6:.1f} MB")
