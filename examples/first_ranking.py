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
# Which of three small models is best for handwritten digits, how sure is that, and which image regions decide?
# Data and models come with backbench. Nothing is downloaded, and the notebook takes a minute on two cores.
#
# Open this file as a notebook with jupytext, or run it: `python examples/first_ranking.py`.

# %%
import backbench

# %% [markdown]
# ## Rank
#
# Each model is frozen and gets two heads: logistic regression and k nearest neighbours. Validation images decide
# their hyper-parameters; each row is evaluated once on the test images. For your own images, give a folder instead
# of `"digits"`. Without `models` you get a short list that fits the images and this machine.
#
# `pixels` gives the raw pixels to the head, and the two networks have random weights. A pretrained network has to
# beat all three.

# %%
ranking = backbench.rank(
    "digits", models=["pixels", "tiny_cnn", "tiny_vit"], methods=["logistic", "knn"], limit=600, quiet=True
)
ranking

# %% [markdown]
# The bars are 95 % intervals. *Tied* rows have no significant difference from the best on so few test images. The
# baselines use no trained network. If one of them is tied too, the ranking shows little about the models.
#
# The same as text:

# %%
print(ranking.table)
print(*ranking.summary, sep="\n")

# %% [markdown]
# ## Adapt
#
# Save one network with its probe as a folder that predicts on any machine. The features of the ranking are used
# again.

# %%
run = backbench.adapt("digits", "tiny_cnn", method="logistic", limit=600, quiet=True)
run

# %%
classifier = run.classifier
classifier

# %% [markdown]
# ## Predict
#
# `predict` takes any mixture of files, folders, arrays and PIL images. These are the digits of scikit-learn. Some
# are training images, so this shows how to predict, not how good the model is: for that, see the run above.

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
# Which regions of the image decide: the brighter a region, the more it supports the class. `overlay` puts this
# heat map over the image.

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
# One page with all results. It opens in any browser, without a server or a network connection.

# %%
page = ranking.report("first_ranking.html", has_images=False, quiet=True)
print(page, f"{page.stat().st_size / 1e6:.1f} MB")
