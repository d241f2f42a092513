"""
How many rows to remove: a grid
===============================

The removal rate is a parameter like any other, and ``GridSearchCV`` can choose it. With ``memory`` the rows are scored
once for each fold, whatever the number of rates.
"""

import tempfile

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, RepeatedStratifiedKFold, train_test_split
from sklearn.preprocessing import StandardScaler

from skinfluence import InfluenceSelector, Pipeline

X, y = load_breast_cancer(return_X_y=True)
X, X_test, y, y_test = train_test_split(X, y, random_state=0, stratify=y)
flipped = np.random.RandomState(0).random_sample(len(y)) < 0.2
y_noisy = np.where(flipped, 1 - y, y)

# %%
# The search sees noisy labels only, in its test folds too. 0 is in the grid: not to curate is a choice.

rates = [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4]
with tempfile.TemporaryDirectory() as folder:
    pipe = Pipeline(
        [
            ("scale", StandardScaler()),
            ("curate", InfluenceSelector(method="exact", random_state=0, memory=folder)),
            ("clf", LogisticRegression()),
        ]
    )
    cv = RepeatedStratifiedKFold(n_splits=5, n_repeats=2, random_state=0)
    search = GridSearchCV(pipe, {"curate__removal_rate": rates}, cv=cv).fit(X, y_noisy)

plain = clone(pipe).set_params(curate="passthrough").fit(X, y_noisy)
print(f"rate chosen: {search.best_params_['curate__removal_rate']:.0%} ({flipped.mean():.0%} of the labels are wrong)")
print(f"accuracy on clean test labels: {plain.score(X_test, y_test):.3f} without curation,", end=" ")
print(f"{search.score(X_test, y_test):.3f} with the rate chosen")

# %%
# What the search saw.

mean, std = (search.cv_results_[f"{which}_test_score"] for which in ("mean", "std"))
figure, axes = plt.subplots(layout="constrained")
axes.errorbar(rates, mean, std / np.sqrt(cv.get_n_splits()), marker="o", capsize=3, color="#0072B2")
axes.axvline(flipped.mean(), linestyle=":", color="black", label="share of wrong labels")
axes.set(xlabel="removal rate", ylabel="accuracy, noisy test folds (mean ± standard error)")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)
