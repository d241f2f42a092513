"""
Do the methods agree?
=====================

Leave-one-out refits the model once for every row: slow, and the truth. The exact influence function predicts it, size
included. The inner product, IP, has no Hessian: at a small part of the cost it finds the rows that matter most, and
orders the rest more roughly.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skinfluence import influence_scores
from skinfluence.plotting import MethodComparisonDisplay

X, y = load_iris(return_X_y=True)
X = StandardScaler().fit_transform(X)
X, X_val, y, y_val = train_test_split(X, y, test_size=0.4, random_state=0, stratify=y)
flipped = np.random.RandomState(0).random_sample(len(y)) < 0.1
y = np.where(flipped, (y + 1) % 3, y)
clf = LogisticRegression(tol=1e-8, max_iter=1000).fit(X, y)

methods = ["leave_one_out", "exact", "ip", "ip_ensemble", "self_tracin"]
scores = {name: influence_scores(clf, X, y, X_val, y_val, method=name, random_state=0) for name in methods}

# %%
# Do they put the rows in the same order? ``self_tracin`` asks another question, how unusual a row is, and looks at no
# validation rows.

MethodComparisonDisplay.from_scores(scores)

# %%
# Are the flipped labels among the lowest scores?

for name in methods:
    lowest = np.argsort(scores[name])[: flipped.sum()]
    print(f"{name:14s} {flipped[lowest].sum()} of {flipped.sum()}")

# %%
# Sizes: on the line the forecast is exact. IP's scores have another scale, and rows that the Hessian would weigh
# differently leave the line.

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
truth = scores["leave_one_out"]
for panel, name in zip(axes, ("exact", "ip"), strict=True):
    slope = np.polyfit(scores[name], truth, 1)[0]
    panel.plot(scores[name][~flipped], truth[~flipped], "o", mfc="none", color="#0072B2", label="label as it was")
    panel.plot(scores[name][flipped], truth[flipped], "x", color="#D55E00", label="label flipped")
    panel.axline((0, 0), slope=1, color="black", linewidth=0.8)
    panel.set(xlabel=f"{name} score", ylabel="rise of the validation loss, refitted", title=f"slope {slope:.2f}")
    panel.ticklabel_format(style="sci", scilimits=(-2, 3), useMathText=True)
    panel.spines[["top", "right"]].set_visible(False)
axes[0].legend(frameon=False)
