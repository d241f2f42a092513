"""
Through a net, while it learns wrong labels by heart
====================================================

A small convolutional net is trained on images of digits, of which every seventh has a wrong label. Scores are taken of
the same net after more and more epochs: first it learns digits, then it learns the wrong labels too.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier
from torch import nn

from skinfluence import influence_scores

X, y = load_digits(return_X_y=True)
X = (X.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
X, X_test, y, y_test = train_test_split(X, y, random_state=0, stratify=y)
rng = np.random.RandomState(0)
wrong = rng.random_sample(len(y)) < 1 / 7
y_noisy = np.where(wrong, (y + rng.randint(1, 10, len(y))) % 10, y)


def make_module():
    """Two convolutions and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


# %%
# ``partial_fit`` goes on where it was. No validation rows are given: the objective is the robust loss on the training
# rows themselves, and the net has seen every row that it scores.

torch.manual_seed(0)
net = NeuralNetClassifier(
    make_module,
    criterion=nn.CrossEntropyLoss,
    optimizer=torch.optim.Adam,
    lr=0.003,
    batch_size=64,
    train_split=None,
    verbose=0,
).initialize()

EPOCHS = (2, 4, 8, 16, 32, 48)
METHODS = ("self_tracin", "datainf", "ip")
found = {name: [] for name in (*METHODS, "accuracy, clean test labels", "accuracy on the wrong labels")}
done = 0
for epochs in EPOCHS:
    net.partial_fit(X, y_noisy, epochs=epochs - done)
    done = epochs
    for method in METHODS:
        scores = influence_scores(net, X, y_noisy, method=method)
        found[method].append(roc_auc_score(wrong, -scores))
    found["accuracy, clean test labels"].append(net.score(X_test, y_test))
    found["accuracy on the wrong labels"].append(net.score(X[wrong], y_noisy[wrong]))

# %%
# As long as the net has not learnt them, the size of a row's own gradient finds nearly all wrong labels, the inner
# products with the mean gradient fewer. What a net has learnt by heart it no longer finds wrong: score it before.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
looks = zip(("#0072B2", "#009E73", "#E69F00", "#000000", "#D55E00"), "oD^sv", ("-", "-.", "--", "-", ":"), strict=True)
for (name, values), (colour, marker, line) in zip(found.items(), looks, strict=True):
    panel = left if name in METHODS else right
    panel.plot(EPOCHS, values, color=colour, marker=marker, linestyle=line, label=name)
left.set(ylabel="wrong labels found, AUROC", ylim=(None, 1.02))
left.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
right.set(ylabel="accuracy", ylim=(-0.02, 1.02))
for panel in (left, right):
    panel.set(xlabel="epochs", xscale="log")
    panel.set_xticks(EPOCHS, EPOCHS)
    panel.minorticks_off()
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, loc="lower left" if panel is left else "center left")

# %%
# The rows that it finds oddest after eight epochs, with the labels they were given. A frame is a row whose label was
# right.

torch.manual_seed(0)
net.initialize().partial_fit(X, y_noisy, epochs=8)
lowest = influence_scores(net, X, y_noisy, method="self_tracin").argsort()[:16]
figure, axes = plt.subplots(2, 8, figsize=(8, 2.8), layout="constrained")
for panel, row in zip(axes.ravel(), lowest, strict=True):
    panel.imshow(X[row, 0], cmap="gray_r")
    panel.set_title(f"given {y_noisy[row]}", fontsize=8)
    panel.set(xticks=[], yticks=[])
    panel.spines[:].set_visible(not wrong[row])
print(f"of the 16 lowest, {wrong[lowest].sum()} have a wrong label")
