"""
What the removal of rows does
=============================

The scores are a forecast; a curve is what happens. Rows are removed, the lowest scores first, the model is trained
again, and tested. Removal of as many rows at random is the yardstick.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinfluence import InfluenceSelector
from skinfluence.plotting import RemovalCurveDisplay

X, y = load_breast_cancer(return_X_y=True)
X, X_test, y, y_test = train_test_split(X, y, random_state=0, stratify=y)
flipped = np.random.RandomState(0).random_sample(len(y)) < 0.2
y_noisy = np.where(flipped, 1 - y, y)
model = make_pipeline(StandardScaler(), LogisticRegression())

# %%
# Scores of two methods, and the accuracy on test rows whose labels are clean. They are few: one of them is 0.7 points.

curators = {method: InfluenceSelector(method=method, random_state=0) for method in ("exact", "ip_ensemble")}
scores = {method: curator.fit(X, y_noisy).scores_ for method, curator in curators.items()}
RemovalCurveDisplay.from_scores(scores, model, X, y_noisy, X_test, y_test)

# %%
# In practice there are no clean labels, and cross-validation has to do, on test rows that are as noisy as the others.
# Folds differ more from each other than removal changes in any of them: the gain over the same fold's model on all rows
# says more than the accuracy itself.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
display = RemovalCurveDisplay.from_estimator(model, X, y_noisy, curator=curators, ax=left)
display.plot(ax=right, relative=True)
right.get_legend().remove()

# %%
# The arrays behind the picture are kept: one row a fold, one column a rate.

print(display.curves["exact"].round(3))
