"""
Whose labels can be trusted
===========================

Influence judges training rows by validation rows. If the labels of those are as noisy as the others, a loss that
punishes wrong labels without bound is no judge. The mean absolute error, ``1 - p``, bears them, and is what is taken
where no validation rows are given.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skinfluence import InfluenceSelector, influence_scores
from skinfluence.objectives import Utility

TABLES = {"breast cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits}


def noisy(y, seed):
    """A fifth of the labels replaced by another."""
    rng = np.random.RandomState(seed)
    wrong = rng.random_sample(len(y)) < 0.2
    n_classes = len(np.unique(y))
    return np.where(wrong, (y + rng.randint(1, n_classes, len(y))) % n_classes, y), wrong


def detection(load, seed):
    """AUROC of the flipped training labels: how often a wrong one scores below a right one."""
    X, y = load(return_X_y=True)
    X_train, X_val, y_train, y_val = train_test_split(X, y, random_state=seed, stratify=y, test_size=0.4)
    scaler = StandardScaler().fit(X_train)
    X_train, X_val = scaler.transform(X_train), scaler.transform(X_val)
    (y_train, wrong), (y_noisy_val, _) = noisy(y_train, seed), noisy(y_val, seed + 100)
    clf = LogisticRegression(max_iter=1000).fit(X_train, y_train)
    scores = [
        influence_scores(clf, X_train, y_train, X_val, y_val),
        influence_scores(clf, X_train, y_train, X_val, y_noisy_val),
        influence_scores(clf, X_train, y_train, X_val, y_noisy_val, objective=Utility(loss="mae")),
        InfluenceSelector(method="ip", random_state=seed).fit(X_train, y_train).scores_,
    ]
    return [roc_auc_score(wrong, -s) for s in scores]


found = {name: np.array([detection(load, seed) for seed in range(3)]) for name, load in TABLES.items()}

# %%
# 1 is perfect, 0.5 is chance. With no validation rows (last bar) each row is scored by a model that never saw it.

CASES = (
    "clean validation, log-loss",
    "noisy validation, log-loss",
    "noisy validation, MAE",
    "no validation, cross-fitted",
)
figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
looks = zip(("#0072B2", "#D55E00", "#56B4E9", "#009E73"), ("", "////", "....", "xx"), strict=True)
for case, (name, (colour, hatch)) in enumerate(zip(CASES, looks, strict=True)):
    means = [values[:, case].mean() for values in found.values()]
    stds = [values[:, case].std(ddof=1) for values in found.values()]
    places = np.arange(len(found)) + (case - 1.5) * 0.2
    axes.bar(places, means, 0.19, yerr=stds, color=colour, hatch=hatch, edgecolor="white", label=name, capsize=2)
axes.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
axes.set_xticks(range(len(found)), list(found))
axes.set(ylabel="wrong labels found, AUROC", ylim=(0.3, 1.02))
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.08))
