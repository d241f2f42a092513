"""
Regression with corrupted targets
=================================

Some targets of the diabetes table are replaced by others. `skinfluence.CuratedRegressor` is a regressor, goes wherever
a regressor goes, and its final model may be of any kind: here a forest, which has no gradients. The scores come from a
ridge regression.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinfluence import CuratedRegressor, InfluenceSelector
from skinfluence.plotting import InfluenceDisplay

X, y = load_diabetes(return_X_y=True)
SHARE = 0.15


def corrupted(y, seed):
    """A share of the targets replaced by the mirror image in the range of all."""
    rows = np.random.RandomState(seed).random_sample(len(y)) < SHARE
    return np.where(rows, y.max() + y.min() - y, y), rows


def make_selector(rate):
    """Scores by a ridge regression."""
    ridge = make_pipeline(StandardScaler(), Ridge())
    return InfluenceSelector(ridge, method="exact", removal_rate=rate, random_state=0)


def r2(seed, rate):
    """R² on clean test targets."""
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=seed)
    forest = RandomForestRegressor(50, min_samples_leaf=5, random_state=0)
    model = CuratedRegressor(forest, make_selector(rate))
    return model.fit(X_train, corrupted(y_train, seed)[0]).score(X_test, y_test)


rates = (0.0, 0.05, 0.1, 0.15, 0.2)
found = np.array([[r2(seed, rate) for rate in rates] for seed in range(5)])
print("R² at removal rates", dict(zip(rates, found.mean(axis=0).round(3).tolist(), strict=True)))

# %%
# Left: the scores of one split, from a robust loss on held-out folds. Right: what removal does to the forest, with the
# gain in each split over no removal.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
y_corrupted, rows = corrupted(y, 0)
groups = np.where(rows, "corrupted", "as it was")
InfluenceDisplay.from_curator(make_selector(0.1).fit(X, y_corrupted), groups=groups, ax=left)
gain = found - found[:, :1]
error = gain.std(axis=0, ddof=1) / np.sqrt(len(gain))
right.errorbar(rates, gain.mean(axis=0), error, marker="o", capsize=3, color="#0072B2")
right.axhline(0, color="black", linewidth=0.8)
right.set(xlabel="removal rate", ylabel="gain in R² (mean ± standard error)")
right.spines[["top", "right"]].set_visible(False)
