"""
Remove, reweight or relabel
===========================

The same scores, three actions: `skinfluence.InfluenceSelector` removes the rows that hurt,
`skinfluence.InfluenceReweighter` weighs all rows, `skinfluence.InfluenceRelabeler` gives the most harmful ones the
label that the objective prefers. Here they meet a growing share of wrong labels.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skinfluence import InfluenceRelabeler, InfluenceReweighter, InfluenceSelector, make_pipeline

X, y = load_breast_cancer(return_X_y=True)
ACTIONS = {
    "no curation": "passthrough",
    "remove 15 %": InfluenceSelector(method="exact", removal_rate=0.15, random_state=0),
    "reweight": InfluenceReweighter(method="exact", random_state=0),
    "relabel 15 %": InfluenceRelabeler(method="exact", relabel_rate=0.15, random_state=0),
}
SHARES = (0.0, 0.1, 0.2, 0.3)


def accuracy(action, share, seed):
    """Accuracy on clean test labels."""
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=seed, stratify=y)
    flipped = np.random.RandomState(seed).random_sample(len(y_train)) < share
    pipe = make_pipeline(StandardScaler(), action, LogisticRegression())
    return pipe.fit(X_train, np.where(flipped, 1 - y_train, y_train)).score(X_test, y_test)


found = {name: np.array([[accuracy(a, s, seed) for s in SHARES] for seed in range(6)]) for name, a in ACTIONS.items()}

# %%
# Removal and new labels act on a fixed share of the rows, which is too much where nothing is wrong and too little where
# a third is: a grid would choose it. Weights lose no row, and need no share.

figure, axes = plt.subplots(layout="constrained")
looks = zip(("#666666", "#0072B2", "#E69F00", "#009E73"), ("s", "o", "^", "D"), ("--", "-", "-.", ":"), strict=True)
for (name, values), (colour, marker, line) in zip(found.items(), looks, strict=True):
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    axes.errorbar(SHARES, values.mean(axis=0), error, color=colour, marker=marker, ls=line, capsize=3, label=name)
axes.set(xlabel="share of the training labels flipped", ylabel="accuracy, clean test labels (mean ± standard error)")
axes.set_xticks(SHARES, [f"{share:.0%}" for share in SHARES])
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)
for name, values in found.items():
    print(f"{name:13s}", "  ".join(f"{value:.3f}" for value in values.mean(axis=0)))
