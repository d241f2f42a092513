"""
Finding wrong labels
====================

A fifth of the training labels is wrong. A selector in front of the classifier scores every training row by how much
the loss would rise without it, and removes those with the lowest scores.
"""

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skinfluence import InfluenceSelector, Pipeline
from skinfluence.plotting import InfluenceDisplay, most_harmful

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
X, X_test, y, y_test = train_test_split(X, y, random_state=0)
flipped = np.isin(np.arange(len(y)), np.random.RandomState(0).permutation(len(y))[:80])
y_noisy = y.where(~flipped, 1 - y)

# %%
# The pipeline, with the curating step and without it. Test labels are clean.

pipe = Pipeline(
    [
        ("scale", StandardScaler()),
        ("curate", InfluenceSelector(removal_rate=0.15, random_state=0)),
        ("clf", LogisticRegression()),
    ]
).fit(X, y_noisy)
plain = clone(pipe).set_params(curate="passthrough").fit(X, y_noisy)
print(f"accuracy without curation: {plain.score(X_test, y_test):.3f}")
print(f"accuracy with curation:    {pipe.score(X_test, y_test):.3f}")

# %%
# Where the flipped rows lie among the scores. They are few against the others, so the counts are drawn on a
# logarithmic axis.

groups = np.where(flipped, "label flipped", "label as it was")
InfluenceDisplay.from_curator(pipe, groups=groups, log=True)

# %%
# The rows with the lowest scores, beside what the model says of them, which was fitted on the rows kept. ``p_given`` is
# the probability that it gives the label in the table.

table = most_harmful(pipe, X, y_noisy, n_rows=8).iloc[:, :7]
table.insert(1, "flipped", flipped[table["row"]])
print(table.round(4).to_string(index=False))

# %%
# In a notebook a fitted curator says what it did, below scikit-learn's diagram.

pipe["curate"]
