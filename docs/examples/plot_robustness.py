"""
Robustness to evasion
=====================

An attacker who knows the model moves test rows just over its boundary. Training again without the rows that make the
loss on attacked rows worse gives a model that this attack no longer fools. An attacker who attacks anew is another
matter: over the new boundary, every row is fooled again.
"""

from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skinfluence import InfluenceSelector, make_pipeline
from skinfluence.metrics import robust_accuracy
from skinfluence.objectives import adversarial_rows
from skinfluence.plotting import FrontierDisplay

X, y = load_breast_cancer(return_X_y=True)
X = StandardScaler().fit_transform(X)
rates = [0, 0.025, 0.05, 0.1, 0.15, 0.2]

# %%
# Accuracy on the rows as they are, against that on the rows as they were attacked: the model of all rows stands at the
# open marker, and has nearly every attacked row wrong.

FrontierDisplay.from_estimator(
    LogisticRegression(),
    X,
    y,
    against="robustness",
    curator={
        "by utility": InfluenceSelector(random_state=0),
        "by robustness": InfluenceSelector(objective="robustness", random_state=0),
    },
    removal_rates=rates,
)

# %%
# The same attack made against the defended model.

X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)
selector = InfluenceSelector(objective="robustness", removal_rate=0.1, random_state=0)
plain = LogisticRegression().fit(X_train, y_train)
defended = make_pipeline(selector, LogisticRegression()).fit(X_train, y_train)[-1]
for name, attacked in {"the plain model": plain, "the defended model": defended}.items():
    moved = adversarial_rows(attacked, X_test)
    of_plain, of_defended = (robust_accuracy(y_test, model.predict(moved)) for model in (plain, defended))
    print(f"attack on {name}: accuracy {of_plain:.3f} of the plain model, {of_defended:.3f} of the defended one")
