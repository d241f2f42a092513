"""
Utility against fairness
========================

Which training rows make a model treat two groups differently? From the diabetes table it is predicted whether the
disease has progressed more than in the median patient, and the older half is told so more often. Rows are removed by
their influence on the loss, on the demographic parity gap, and on both.
"""

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold

from skinfluence import InfluenceSelector
from skinfluence.objectives import Joint
from skinfluence.plotting import FrontierDisplay

X, y = load_diabetes(return_X_y=True, as_frame=True)
X = X / X.std()
progressed = np.where(y > y.median(), "progressed", "not")
age = np.where(X["age"] > X["age"].median(), "older", "younger")

# %%
# Each curator cross-fits inside the training folds; the test folds judge. The open markers are the model trained on all
# rows.

objectives = {"utility": "utility", "parity": "demographic_parity", "both": Joint(["utility", "demographic_parity"])}
display = FrontierDisplay.from_estimator(
    LogisticRegression(max_iter=1000),
    X,
    progressed,
    against="demographic_parity",
    sensitive_features=age,
    curator={name: InfluenceSelector(method="exact", objective=o, random_state=0) for name, o in objectives.items()},
    removal_rates=[0, 0.025, 0.05, 0.075, 0.1, 0.15],
    cv=RepeatedStratifiedKFold(n_splits=5, n_repeats=2, random_state=0),
    n_random=1,
)

# %%
# The figures behind it: means over ten test folds. Influence is a derivative, taken at the model of all rows: remove
# more than it takes to close the gap, and the gap opens the other way.

for name in display.utility:
    gap, accuracy = display.against[name].mean(axis=0), display.utility[name].mean(axis=0)
    print(f"{name:10s}", "  ".join(f"{g:.3f}/{a:.3f}" for g, a in zip(gap, accuracy, strict=True)), "(gap/accuracy)")
