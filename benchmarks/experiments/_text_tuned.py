"""The whole encoder fine-tuned, scored, and fine-tuned again without 5 % of the rows: one seed of a task.

Needs torch and skorch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.model_selection import StratifiedKFold
from skorch import NeuralNetClassifier
from skorch.callbacks import LRScheduler
from torch import nn
from torch.utils.data import Sampler, default_collate

from skinfluence import influence_scores
from skinfluence.nets import DifferentiableNet
from skinfluence.objectives import Counterfactual, Joint

from .._peers import Curation, remove_most_suspect
from .._stored_parts import Parts
from . import _text_heads as heads
from ._text_data import Task, of_rows
from ._text_encoder import Batch, Classifier, Encoder, take
from ._text_heads import CLEANLAB, FAIRNESS, JOINT, LOSS, NONE, RANDOM, RESTART, UTILITY

#: Of a method whose scores are those of the last layer; any other's are the whole net's.
LAST = ", last layer"
#: A net of each is trained on the others, for the baselines that look at rows left out.
N_FOLDS = 3
#: (label, objectives that rows are removed by)
Scorings = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Recipe:
    """How a task's net is fine-tuned, on rows no longer than so many tokens, and what is compared."""

    n_train: int  # at most; drawn by the seed
    length: int
    epochs: int
    lr: float
    batch: int
    n_seeds: int
    scorings: Scorings


ALL: Scorings = (
    ("ip", (UTILITY, FAIRNESS, JOINT)),
    (f"ip{LAST}", (JOINT,)),
    *((method, (FAIRNESS, JOINT)) for method in ("ip_ensemble", "datainf")),
)
#: What the last layer's scores remove is not tried there; they are compared.
FEW: Scorings = (("ip", (JOINT,)), (f"ip{LAST}", ()))
FULL = {
    "cola": Recipe(5551, 20, 3, 2e-4, 32, n_seeds=3, scorings=ALL),
    "rte": Recipe(2490, 64, 5, 1e-4, 32, n_seeds=3, scorings=FEW),
}
QUICK = {name: replace(own, n_train=60, length=48, epochs=1, batch=8, n_seeds=1) for name, own in FULL.items()}


# --- training ---------------------------------------------------------------------------------------------------------


class LikeLengths(Sampler[int]):
    """All rows in random order, cut into batches of like length: little of them is padding."""

    def __init__(self, lengths: np.ndarray, batch: int, n_batches: int = 16) -> None:
        self.lengths, self.batch, self.pool = lengths, batch, batch * n_batches

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(len(self)).numpy()
        pools = [order[start : start + self.pool] for start in range(0, len(order), self.pool)]
        order = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
        n_full = len(order) // self.batch
        batches = order[: n_full * self.batch].reshape(n_full, self.batch)
        rest = order[n_full * self.batch :]  # it stays last, or the batches after it would be cut elsewhere
        yield from batches[torch.randperm(n_full).numpy()].ravel().tolist()
        yield from rest.tolist()


def trimmed(rows: Sequence[Any]) -> Any:
    """Rows as a batch that is as wide as its longest."""
    X, y = default_collate(rows)
    width = int(X["attention_mask"].sum(dim=1).max())
    return {name: part[:, :width] for name, part in X.items()}, y


def warmed(step: int, n_steps: int) -> float:
    """The learning rate's factor: up over a tenth of the steps, then down to nothing."""
    return min((step + 1) / (0.1 * n_steps), 1.0) * (1 - step / n_steps)


def make_net(encoder: Encoder, recipe: Recipe, lengths: np.ndarray) -> Any:
    """The encoder with a head, as an unfitted skorch net for rows of these lengths."""
    n_steps = -(-len(lengths) // recipe.batch) * recipe.epochs
    return NeuralNetClassifier(
        Classifier, module__encoder=encoder, criterion=nn.CrossEntropyLoss, optimizer=torch.optim.AdamW, lr=recipe.lr,
        optimizer__weight_decay=0.01, optimizer__fused=True, max_epochs=recipe.epochs, batch_size=recipe.batch,
        iterator_train__sampler=LikeLengths(lengths, recipe.batch), iterator_train__collate_fn=trimmed,
        iterator_valid__collate_fn=trimmed, iterator_valid__batch_size=32, train_split=None, verbose=0,
        callbacks=[("rate", LRScheduler(
            torch.optim.lr_scheduler.LambdaLR, lr_lambda=partial(warmed, n_steps=n_steps), step_every="batch",
        ))], callbacks__print_log=None,
    )  # fmt: skip


def fine_tuned(encoder: Encoder, recipe: Recipe, X: Batch, y: np.ndarray, seed: int) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    return make_net(encoder, recipe, _lengths(X)).fit(X, y)


def stored_net(encoder: Encoder, recipe: Recipe, X: Batch, y: np.ndarray, seed: int, parts: Parts, name: str) -> Any:
    """The net fine-tuned on rows; its weights are a part of the run."""

    def train() -> dict[str, np.ndarray]:
        net = fine_tuned(encoder, recipe, X, y, seed)
        return {key: tensor.numpy() for key, tensor in net.module_.state_dict().items()}

    weights = parts.arrays(name, train)
    torch.set_num_threads(1)
    net = make_net(encoder, recipe, _lengths(X)).initialize()
    net.classes_inferred_ = np.unique(y)
    net.module_.load_state_dict({key: torch.from_numpy(part) for key, part in weights.items()})
    return net


class InOrderOfLength:
    """A net that predicts rows of like length together."""

    def __init__(self, net: Any) -> None:
        self.net = net

    def predict_proba(self, X: Batch) -> np.ndarray:
        order = np.argsort(_lengths(X), kind="stable")
        found = np.empty((len(order), 2))
        found[order] = self.net.predict_proba(take(X, order))
        return found


def _lengths(X: Batch) -> np.ndarray:
    lengths: np.ndarray = X["attention_mask"].sum(axis=1)
    return lengths


# --- one seed ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """A seed's training rows, all development rows and twins as tokens; and what rows are scored and tested on."""

    task: Task
    train: Batch
    dev: Batch
    twins: Batch
    val: np.ndarray
    test: np.ndarray

    @property
    def y(self) -> np.ndarray:
        return self.task.y_train

    @property
    def held_out(self) -> tuple[Batch, np.ndarray]:
        return take(self.dev, self.val), self.task.y_dev[self.val]

    @property
    def pairs(self) -> tuple[Batch, Batch]:
        """Development rows to score on and their twins, in the same order."""
        twins = of_rows(self.task.twins, self.val)
        return take(self.dev, [self.task.twins[i].row for i in twins]), take(self.twins, twins)


def draw(task: Task, encoder: Encoder, recipe: Recipe, seed: int) -> tuple[Drawn, dict[str, Any]]:
    """Training rows that are no longer than the recipe's length, drawn by the seed; development rows cut to it."""
    lengths = _lengths(encoder.tokens(task.train))
    fit = np.flatnonzero(lengths <= recipe.length)
    rows = np.sort(np.random.default_rng(seed).permutation(fit)[: recipe.n_train])
    chosen = replace(task, train=[task.train[i] for i in rows], y_train=task.y_train[rows])
    coded = (
        encoder.tokens(texts, recipe.length) for texts in (chosen.train, task.dev, [twin.texts for twin in task.twins])
    )
    said = {
        "n_train": len(rows),
        "of": len(task.train),
        "fit": float((lengths <= recipe.length).mean()),
        "dev_cut": float((_lengths(encoder.tokens(task.dev)) > recipe.length).mean()),
    }
    return Drawn(chosen, *coded, *task.halves(seed)), said


def one_seed(task: Task, encoder: Encoder, recipe: Recipe, seed: int, parts: Parts) -> dict[str, Any]:
    """What each curator makes of one draw of rows and one start; how alike the scores are; and the protocol."""
    drawn, said = draw(task, encoder, recipe, seed)
    name = f"tuned_{task.name}_{seed}"
    stamp = {key: value for key, value in asdict(recipe).items() if key not in ("n_seeds", "scorings")}
    run = _Seed(drawn, encoder, recipe, seed, parts, name, stamp)
    net = stored_net(encoder, recipe, drawn.train, drawn.y, seed, parts, f"{name}_net")
    run.add(NONE, "", lambda: (None, net))
    run.add(RESTART, "", lambda: (None, fine_tuned(encoder, recipe, drawn.train, drawn.y, seed + 1000)))
    run.refit(RANDOM, "", remove_most_suspect(np.random.default_rng(seed).random(len(drawn.y)), drawn.y))
    run.refit_by_folds()
    scores = scorings(net, drawn, recipe, seed, parts, name)
    for label, objectives in recipe.scorings:
        for objective in objectives:
            own, seconds = scores[label, objective]
            run.refit(label, objective, remove_most_suspect(-own, drawn.y), seconds)
    said |= {"task": task.name, "seed": seed, "fit_seconds": parts.seconds[f"{name}_net"]}
    return {"rows": run.rows, "agreement": agreement(task.name, seed, scores), "protocol": stamp | said}


class _Seed:
    """The lines of one seed's table; each is a part of the run."""

    def __init__(
        self, drawn: Drawn, encoder: Encoder, recipe: Recipe, seed: int, parts: Parts, name: str, stamp: dict[str, Any]
    ) -> None:
        self.drawn, self.encoder, self.recipe, self.seed = drawn, encoder, recipe, seed
        self.parts, self.name, self.stamp = parts, name, stamp
        self.tested = heads.tester(drawn.task, drawn.dev, drawn.twins, drawn.test, take, None)
        self.rows: list[dict[str, Any]] = []

    def add(
        self, method: str, objective: str, make: Callable[[], tuple[np.ndarray | None, Any]], seconds: float = 0.0
    ) -> None:
        """A line of the net that ``make()`` gives, after the rows that it was trained on (None: all)."""

        def test() -> dict[str, float]:
            kept, net = make()
            return {"removed": 0.0 if kept is None else 1 - kept.mean()} | self.tested(InOrderOfLength(net))

        name = _part_name(self.name, method, objective)
        row = {"task": self.drawn.task.name, "method": method, "objective": objective, "seed": self.seed}
        self.rows.append(row | {"seconds": seconds} | self.parts.rows(name, test, self.stamp))

    def refit(self, method: str, objective: str, curation: Curation, seconds: float = 0.0) -> None:
        kept, drawn = curation.keep, self.drawn

        def again() -> tuple[np.ndarray, Any]:
            X = take(drawn.train, kept)
            return kept, fine_tuned(self.encoder, self.recipe, X, drawn.y[kept], self.seed)

        self.add(method, objective, again, seconds)

    def refit_by_folds(self) -> None:
        """The per-row loss and cleanlab, by nets of the other folds."""
        y, probabilities = self.drawn.y, self._out_of_fold()
        self.refit(LOSS, "", remove_most_suspect(-np.log(probabilities[np.arange(len(y)), y] + 1e-30), y))
        issues = heads.cleanlab_issues(y, probabilities)
        if issues is not None:
            self.refit(CLEANLAB, "", Curation(~issues, None))

    def _out_of_fold(self) -> np.ndarray:
        X, y = self.drawn.train, self.drawn.y
        found = np.empty((len(y), 2))
        folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=self.seed)
        for k, (train, out) in enumerate(folds.split(y, y)):

            def predict(train: np.ndarray = train, out: np.ndarray = out) -> dict[str, np.ndarray]:
                net = fine_tuned(self.encoder, self.recipe, take(X, train), y[train], self.seed)
                return {"probabilities": InOrderOfLength(net).predict_proba(take(X, out))}

            made = self.parts.arrays(_part_name(self.name, f"fold {k} of {N_FOLDS}"), predict)
            found[out] = made["probabilities"]
        return found


def _part_name(*words: str) -> str:
    return "_".join(filter(None, words)).replace(",", "").replace(" ", "_")


def scorings(
    net: Any, drawn: Drawn, recipe: Recipe, seed: int, parts: Parts, name: str
) -> dict[tuple[str, str], tuple[np.ndarray, float]]:
    """(label, objective) -> scores, and the seconds that they took."""
    counterfactual = Counterfactual(pairs=drawn.pairs)
    found: dict[tuple[str, str], tuple[np.ndarray, float]] = {}
    for label, _ in recipe.scorings:
        method = label.removesuffix(LAST)
        asked = DifferentiableNet(net, parameters="all" if method == label else "last_layer")
        for objective, about in ((UTILITY, "utility"), (FAIRNESS, counterfactual)):

            def score(asked: Any = asked, method: str = method, about: Any = about) -> dict[str, np.ndarray]:
                began = time.process_time()
                rows = drawn.train, drawn.y, *drawn.held_out
                scores = influence_scores(asked, *rows, method=method, objective=about, random_state=seed)
                return {"scores": scores, "took": np.array(time.process_time() - began)}

            made = parts.arrays(_part_name(name, "scores", label, objective), score)
            found[label, objective] = made["scores"], float(made["took"])
        both = [found[label, objective] for objective in (UTILITY, FAIRNESS)]
        joint = Joint(["utility", counterfactual]).combine_scores(np.column_stack([own for own, _ in both]))
        found[label, JOINT] = joint, sum(seconds for _, seconds in both)
    return found


def agreement(task: str, seed: int, scores: dict[tuple[str, str], tuple[np.ndarray, float]]) -> list[dict[str, Any]]:
    """How alike scorings rank: each of the whole net by IP beside the others, and utility beside fairness."""
    first = "ip"
    pairs = [((first, about), (label, about)) for label, about in scores if label != first]
    pairs += [((label, UTILITY), (label, FAIRNESS)) for label, about in scores if about == JOINT]
    rows = []
    for a, b in pairs:
        own, other = scores[a][0], scores[b][0]
        alike = {"spearman": float(spearmanr(own, other).statistic), "overlap": heads.overlap(own, other)}
        rows.append({"task": task, "a": ", ".join(a), "b": ", ".join(b), "seed": seed} | alike)
    return rows
