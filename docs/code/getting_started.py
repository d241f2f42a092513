"""What "Getting started" shows, and prints."""

# [data]
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.preprocessing import StandardScaler

from skinfluence import InfluenceSelector, Pipeline, influence_scores

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
X, X_test, y, y_test = train_test_split(X, y, random_state=0)
flipped = np.random.RandomState(0).permutation(len(y))[:80]
y.iloc[flipped] = 1 - y.iloc[flipped]
# [pipeline]
pipe = Pipeline(
    [
        ("scale", StandardScaler()),
        ("curate", InfluenceSelector(removal_rate=0.15, random_state=0)),
        ("clf", LogisticRegression()),
    ]
)
pipe.fit(X, y)
print(f"accuracy {pipe.score(X_test, y_test):.3f}")
# [look]
curate = pipe["curate"]
removed = ~curate.get_support()
print(f"{removed.sum()} rows removed, {removed[flipped].sum()} of them with a wrong label")
print("lowest scores:", np.sort(curate.scores_)[:3].round(3))
# [grid]
search = GridSearchCV(pipe, {"curate__removal_rate": [0, 0.05, 0.1, 0.15, 0.2]}, cv=5).fit(X, y)
print(search.best_params_, f"accuracy {search.score(X_test, y_test):.3f}")
# [plain]
plain = Pipeline([("scale", StandardScaler()), ("clf", LogisticRegression())]).fit(X, y)
print(f"accuracy {plain.score(X_test, y_test):.3f}")
# [function]
scores = influence_scores(plain, X, y, X_test, y_test, method="exact")
lowest = scores.argsort()[:40]
print(f"of the 40 lowest, {np.isin(lowest, flipped).sum()} are wrong labels")
# [end]
