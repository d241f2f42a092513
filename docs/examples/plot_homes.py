"""
Four places where rows can be dropped
=====================================

A stock scikit-learn Pipeline hands on as many rows as it was given. There are three homes in which rows are really
removed, and one approximation: in a stock Pipeline a removed row is replaced by a kept row of its class.
"""

import matplotlib.pyplot as plt
import numpy as np
from imblearn.pipeline import Pipeline as ImblearnPipeline
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline as StockPipeline
from sklearn.preprocessing import StandardScaler

from skinfluence import CuratedClassifier, InfluenceSelector, Pipeline

X, y = load_breast_cancer(return_X_y=True)


def homes(selector):
    """The same work in each home."""
    scale, clf = ("scale", StandardScaler()), ("clf", LogisticRegression())
    return {
        "no curation": StockPipeline([scale, clf]),
        "skinfluence.Pipeline": Pipeline([scale, ("curate", selector), clf]),
        "CuratedClassifier": StockPipeline([scale, ("curated", CuratedClassifier(clf[1], selector))]),
        "imbalanced-learn": ImblearnPipeline([scale, ("curate", selector.as_sampler()), clf]),
        "stock Pipeline (re-drawn)": StockPipeline([scale, ("curate", selector), clf]),
    }


found = {}
for seed in range(10):
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=seed, stratify=y)
    flipped = np.random.RandomState(seed).random_sample(len(y_train)) < 0.2
    selector = InfluenceSelector(method="exact", removal_rate=0.15, random_state=0)
    for name, model in homes(selector).items():
        fitted = model.fit(X_train, np.where(flipped, 1 - y_train, y_train))
        found.setdefault(name, []).append(fitted.score(X_test, y_test))

# %%
# The three exact homes give the same model; the re-draw, in which the noisy row's place is taken by a copy of another,
# gets a part of the gain. Circles are splits, bars are means.

figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
for place, (name, values) in enumerate(found.items()):
    axes.plot(values, np.full(len(values), place), "o", mfc="none", color="#0072B2", alpha=0.7)
    axes.plot(np.mean(values), place, "|", color="black", ms=22, mew=2)
    print(f"{name:26s} {np.mean(values):.4f}")
axes.set_yticks(range(len(found)), list(found))
axes.invert_yaxis()
axes.set(xlabel="accuracy, clean test labels")
axes.spines[["top", "right"]].set_visible(False)
