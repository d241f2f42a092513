"""
Which method to believe: refits decide
======================================

Scores predict what a model fitted on other rows would do. The *linear datamodeling score* holds them to it: models are
fitted on random halves of the training rows, and the sum of the scores of the rows left out should put the models in
the order of their validation loss. 1 is a perfect order, 0 is none.
"""

import tempfile

import matplotlib.pyplot as plt
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skinfluence import influence_scores
from skinfluence.fidelity import leave_one_out_correlation, linear_datamodeling_score

X, y = load_breast_cancer(return_X_y=True)
X, X_val, y, y_val = train_test_split(StandardScaler().fit_transform(X), y, random_state=0, stratify=y)
clf = LogisticRegression(tol=1e-8).fit(X, y)

# %%
# The refits do not depend on the scores: with ``checkpoint_dir`` they are made once, for all methods. Single rows are
# left out too, for a hundred of them.

METHODS = ("exact", "lissa", "ekfac", "trak", "datainf", "ip", "ip_ensemble", "knn_shapley")
found = {}
with tempfile.TemporaryDirectory() as folder:
    for method in METHODS:
        scores = influence_scores(clf, X, y, X_val, y_val, method=method, random_state=0)
        given = clf, X, y, scores, X_val, y_val
        halves = linear_datamodeling_score(*given, n_subsets=100, random_state=0, checkpoint_dir=folder)
        single = leave_one_out_correlation(*given, n_rows=100, random_state=0, checkpoint_dir=folder)
        found[method] = halves, single
        print(f"{method:12s} halves {halves.score:5.2f}, single rows {single.score:5.2f}")

# %%
# For single rows the influence function is all but the truth. Half a table is no small change: there no derivative is
# exact, and the methods are closer together than their intervals are wide (the lines are 95 % bootstrap intervals).
# ``"knn_shapley"`` values rows for another model, and does not say what this one would do.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
for panel, which, title in ((left, 0, "random halves"), (right, 1, "single rows left out")):
    for place, method in enumerate(METHODS):
        one = found[method][which]
        low, high = one.confidence_interval
        panel.plot([low, high], [place, place], color="#0072B2", linewidth=2)
        panel.plot(one.score, place, "o", color="black")
    panel.axvline(0, color="black", linewidth=0.8, linestyle=":")
    panel.set(title=title, xlabel="rank correlation with refits", xlim=(-0.3, 1.05))
    panel.spines[["top", "right"]].set_visible(False)
left.set_yticks(range(len(METHODS)), METHODS)
left.invert_yaxis()
