"""
Why features should be scaled
=============================

IP takes the Hessian for the identity, which it is the further from the more the features' units differ. The exact
influence function does not care. One feature of a real table is put in other units, which changes nothing about the
problem but its scale.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skinfluence import influence_scores

X, y = load_breast_cancer(return_X_y=True)
X = StandardScaler().fit_transform(X)[:, :6]
FACTORS = (1, 2, 5, 10, 20)


def agreement(factor, seed):
    """Rank correlation of IP with the exact influence, one feature times ``factor`` and almost no penalty."""
    scaled = X * np.array([factor, 1, 1, 1, 1, 1])
    X_train, X_val, y_train, y_val = train_test_split(scaled, y, random_state=seed, stratify=y)
    flipped = np.random.RandomState(seed).random_sample(len(y_train)) < 0.1
    y_train = np.where(flipped, 1 - y_train, y_train)
    clf = LogisticRegression(C=100, max_iter=5000, tol=1e-8).fit(X_train, y_train)
    ip, exact = (influence_scores(clf, X_train, y_train, X_val, y_val, method=m) for m in ("ip", "exact"))
    return spearmanr(ip, exact).statistic


found = np.array([[agreement(factor, seed) for factor in FACTORS] for seed in range(10)])

# %%
# The default estimator of the curators scales by itself; an ``estimator`` of your own should begin with a scaler.

figure, axes = plt.subplots(layout="constrained")
mean, std = found.mean(axis=0), found.std(axis=0, ddof=1)
axes.errorbar(range(len(FACTORS)), mean, std, marker="o", capsize=3, color="#0072B2")
axes.set_xticks(range(len(FACTORS)), [f"× {factor}" for factor in FACTORS])
axes.set(xlabel="unit of one feature", ylabel="rank correlation of ip with exact (mean ± std)")
axes.spines[["top", "right"]].set_visible(False)
