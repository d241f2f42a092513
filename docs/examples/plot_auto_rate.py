"""
Letting the scores decide how many
==================================

``removal_rate="auto"`` removes the rows whose score says that the loss falls without them. It needs scores that are
calibrated, zero included. On clean labels it should find little, and do no harm; on noisy ones it should find as many
as there are.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skinfluence import InfluenceSelector, make_pipeline

X, y = load_breast_cancer(return_X_y=True)
SHARES = np.array([0, 0.05, 0.1, 0.2, 0.3])


def study(share, seed):
    """Share removed, and the gain in accuracy on clean test labels."""
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=seed, stratify=y)
    flipped = np.random.RandomState(seed).random_sample(len(y_train)) < share
    y_train = np.where(flipped, 1 - y_train, y_train)
    selector = InfluenceSelector(method="exact", removal_rate="auto", n_rounds=2, random_state=0)
    pipe = make_pipeline(StandardScaler(), selector, LogisticRegression()).fit(X_train, y_train)
    plain = make_pipeline(StandardScaler(), LogisticRegression()).fit(X_train, y_train)
    removed = 1 - pipe[1].get_support().mean()
    return removed, 100 * (pipe.score(X_test, y_test) - plain.score(X_test, y_test))


found = np.array([[study(share, seed) for share in SHARES] for seed in range(6)])

# %%
# Two rounds: after the first, the models are fitted on the rows kept, and all rows are scored again.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
labels = ("share removed", "gain in accuracy, points")
for panel, values, label in zip((left, right), np.moveaxis(found, 2, 0), labels, strict=True):
    panel.plot(SHARES, values.T, "o", mfc="none", color="#0072B2", alpha=0.5)
    panel.plot(SHARES, values.mean(axis=0), color="black", marker="_", ms=14, mew=2, linestyle="-", linewidth=0.8)
    panel.set(xlabel="share of the training labels flipped", ylabel=f"{label} (splits, and their mean)")
    panel.spines[["top", "right"]].set_visible(False)
left.axline((0, 0), slope=1, color="black", linestyle=":", label="as many as are wrong")
left.legend(frameon=False)
right.axhline(0, color="black", linewidth=0.8)
