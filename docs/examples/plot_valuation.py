"""
What rows are worth: Shapley values
===================================

A Shapley value shares out what the training rows achieve together: the mean, over all orders in which rows may come, of
what a row adds to those before it. It takes many refits; with nearest neighbours in the model's stead it has a closed
form, and takes none. A good value says two things: throw away the worst rows and the model gets better, throw away the
best and it gets worse.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skinfluence import influence_scores
from skinfluence.methods import DataShapley

X, y = load_wine(return_X_y=True)
X = StandardScaler().fit_transform(X)
X, X_rest, y, y_rest = train_test_split(X, y, train_size=60, random_state=0, stratify=y)
X_val, X_test, y_val, y_test = train_test_split(X_rest, y_rest, test_size=0.5, random_state=0, stratify=y_rest)
rng = np.random.RandomState(0)
wrong = rng.random_sample(len(y)) < 0.25
y = np.where(wrong, (y + rng.randint(1, 3, len(y))) % 3, y)
clf = LogisticRegression().fit(X, y)

# %%
# Validation labels are clean. ``truncation`` cuts an order short where more rows change nothing any more.

METHODS = {"data_shapley": DataShapley(n_permutations=25), "knn_shapley": "knn_shapley", "exact": "exact"}
scores = {}
for name, method in METHODS.items():
    start = time.perf_counter()
    scores[name] = influence_scores(clf, X, y, X_val, y_val, method=method, random_state=0)
    print(f"{name:13s} {time.perf_counter() - start:7.3f} s, wrong labels among the lowest: ", end="")
    print(f"{wrong[scores[name].argsort()[: wrong.sum()]].sum()} of {wrong.sum()}")

# %%
# The model is fitted anew after every step, and tested on other rows than those that the values are about.

REMOVED = np.arange(0, 40, 3)


def accuracy(order):
    """Test accuracy without the first rows of an order, for each number of them."""
    return [LogisticRegression().fit(X[order[k:]], y[order[k:]]).score(X_test, y_test) for k in REMOVED]


figure, panels = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
random = np.array([accuracy(np.random.RandomState(seed).permutation(len(y))) for seed in range(20)])
looks = zip(("#0072B2", "#009E73", "#E69F00"), "oD^", ("-", "-.", "--"), strict=True)
for (name, values), (colour, marker, line) in zip(scores.items(), looks, strict=True):
    for panel, order in zip(panels, (values.argsort(), (-values).argsort()), strict=True):
        panel.plot(REMOVED, accuracy(order), color=colour, marker=marker, linestyle=line, label=name)
for panel, title in zip(panels, ("lowest values first", "highest values first"), strict=True):
    panel.plot(REMOVED, random.mean(axis=0), color="#666666", linestyle=":", label="at random")
    panel.set(title=title, xlabel="rows removed, of 60")
    panel.spines[["top", "right"]].set_visible(False)
panels[0].set_ylabel("accuracy, clean test labels")
panels[1].legend(frameon=False)
