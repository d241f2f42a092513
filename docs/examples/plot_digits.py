"""
Wrong labels among images
=========================

Ten classes, and a tenth of the training labels replaced by another digit. The images that the selector finds most
harmful are shown with the label they were given; the relabeler says which digit it would make of them.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from skinfluence import InfluenceRelabeler

X, y = load_digits(return_X_y=True)
rng = np.random.RandomState(0)
wrong = rng.random_sample(len(y)) < 0.1
y_noisy = np.where(wrong, (y + rng.randint(1, 10, len(y))) % 10, y)

# %%
# All labels of all rows are scored from one pass; a row gets the label with the highest score.

relabeler = InfluenceRelabeler(method="exact", relabel_rate=0.1, random_state=0).fit(X, y_noisy)
print(f"wrong labels found, AUROC: {roc_auc_score(wrong, -relabeler.scores_):.3f}")
print(f"labels right before: {np.mean(y_noisy == y):.3f}, after relabelling: {np.mean(relabeler.y_ == y):.3f}")

# %%
# The thirty-two lowest scores. A framed image had the right label all along: what is hard to read looks wrong.

figure, axes = plt.subplots(4, 8, figsize=(8, 5), layout="constrained")
for panel, row in zip(axes.ravel(), np.argsort(relabeler.scores_), strict=False):
    panel.imshow(X[row].reshape(8, 8), cmap="gray_r")
    panel.set_title(f"given {y_noisy[row]}\nnow {relabeler.y_[row]}", fontsize=8)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_visible(not wrong[row])
    panel.spines[:].set_linewidth(2)
