"""
An objective of one's own
=========================

What counts as harm can be any differentiable function of the model's outputs. Here: a missed malignant tumour costs ten
times as much as a false alarm. Rows that hurt *this* objective are not those that hurt the plain loss.
"""

import numpy as np
from scipy.special import expit
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skinfluence import InfluenceSelector, influence_scores
from skinfluence.objectives import Utility
from skinfluence.plotting import MethodComparisonDisplay, RemovalCurveDisplay

X, y = load_breast_cancer(return_X_y=True)
y = 1 - y  # 1: malignant
X = StandardScaler().fit_transform(X)
X, X_test, y, y_test = train_test_split(X, y, random_state=0, stratify=y)
flipped = np.random.RandomState(0).random_sample(len(y)) < 0.15
y = np.where(flipped, 1 - y, y)


def expected_cost(outputs, targets):
    """Ten for a missed tumour, one for a false alarm, each by its probability; and the derivative in the outputs."""
    p = expit(outputs[:, 0])
    cost = np.where(targets == 1, 10.0, 1.0)
    values = cost * np.where(targets == 1, 1 - p, p)
    slope = cost * np.where(targets == 1, -1.0, 1.0) * p * (1 - p)
    return values, slope[:, None]


# %%
# A function of each row's outputs goes into ``Utility``; what is no mean over rows goes into ``CustomObjective``.

objectives = {"plain loss": "utility", "expected cost": Utility(loss=expected_cost)}
selectors = {n: InfluenceSelector(method="exact", objective=o, random_state=0).fit(X, y) for n, o in objectives.items()}
scores = {name: selector.scores_ for name, selector in selectors.items()}


def cost_saved(model, X, y):
    """Minus the mean cost of the model's decisions."""
    predicted = model.predict(X)
    return -np.mean(10 * ((y == 1) & (predicted == 0)) + ((y == 0) & (predicted == 1)))


RemovalCurveDisplay.from_scores(scores, LogisticRegression(), X, y, X_test, y_test, scoring=cost_saved)

# %%
# The two agree on much, and not on all. With ``influence_scores`` the same objective scores a model that is there.

clf = LogisticRegression().fit(X, y)
scores["expected cost, in-sample"] = influence_scores(clf, X, y, method="exact", objective=objectives["expected cost"])
MethodComparisonDisplay.from_scores(scores)
