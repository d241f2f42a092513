"""
Which training rows made this prediction
========================================

The score of a row can be split up by validation row: which training images speak for the prediction of one test image,
and which against it? ``per_validation_row=True`` yields the matrix in blocks, so that it need not fit in memory.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from skinfluence import influence_scores

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X / 16, y, random_state=0)
clf = LogisticRegression(max_iter=2000).fit(X, y)
wrong = np.flatnonzero(clf.predict(X_test) != y_test)[:4]
print(f"accuracy {clf.score(X_test, y_test):.3f}; the first errors: rows {wrong.tolist()}")

# %%
# Scores on the loss under the *true* label of each of four errors. A positive score helps to get it right, a negative
# one led astray.

blocks = influence_scores(clf, X, y, X_test[wrong], y_test[wrong], method="exact", per_validation_row=True)
scores = np.concatenate(list(blocks))

figure, axes = plt.subplots(len(wrong), 7, figsize=(8, 5.4), layout="constrained")
for line, row, score in zip(axes, wrong, scores, strict=True):
    order = np.argsort(score)
    shown = [("test", X_test[row], f"is {y_test[row]}, taken for {clf.predict(X_test[[row]])[0]}")]
    shown += [("against", X[i], f"labelled {y[i]}") for i in order[:3]]
    shown += [("for", X[i], f"labelled {y[i]}") for i in order[::-1][:3]]
    for panel, (kind, image, title) in zip(line, shown, strict=True):
        panel.imshow(image.reshape(8, 8), cmap="gray_r")
        panel.set_title(title, fontsize=7)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_visible(kind == "test")
axes[0, 2].set_title(f"led astray\n{axes[0, 2].get_title()}", fontsize=7)
axes[0, 5].set_title(f"spoke for the truth\n{axes[0, 5].get_title()}", fontsize=7)
