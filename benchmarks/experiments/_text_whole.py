"""The whole encoder fine-tuned on RTE: engines, time in forward passes, and agreement with the last layer.

Needs torch and skorch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from skorch import NeuralNetClassifier
from torch import nn

from skinfluence import influence_scores
from skinfluence.models import as_model
from skinfluence.nets import DifferentiableNet
from skinfluence.objectives import Counterfactual

from .._stored_parts import Parts
from ._text_data import Task, of_rows
from ._text_encoder import Batch, Classifier, Encoder, take
from ._text_heads import FAIRNESS, UTILITY, overlap

WHOLE, LAST = "whole net", "last layer"
PARAMETERS = {WHOLE: "all", LAST: "last_layer"}
METHODS = ("ip", "ip_ensemble")
Scores = dict[tuple[str, str, str], np.ndarray]


@dataclass(frozen=True)
class Plan:
    """How much of it is done: what a processor does in minutes."""

    n_train: int
    n_ensemble: int  # rows that the whole net's ensemble scores, the dearest of all
    length: int
    epochs: int
    timed: tuple[int, int]
    repeats: int
    n_encoder: int  # rows of CoLA that the encoder of its heads is fine-tuned on, and tokens of each
    encoder_length: int
    encoder_epochs: int


FULL = Plan(600, 200, 48, 3, timed=(16, 256), repeats=3, n_encoder=3000, encoder_length=20, encoder_epochs=2)
QUICK = Plan(60, 40, 24, 1, timed=(8, 16), repeats=1, n_encoder=20, encoder_length=12, encoder_epochs=1)


@dataclass(frozen=True)
class Coded:
    """A task's rows as tokens, and labels."""

    task: Task
    train: Batch
    dev: Batch
    twins: Batch


def code(task: Task, encoder: Encoder, plan: Plan) -> tuple[Coded, dict[str, Any]]:
    """Training pairs that are no longer than the plan's length; development pairs cut to it; and how many were."""
    lengths = encoder.tokens(task.train)["attention_mask"].sum(axis=1)
    fit = np.flatnonzero(lengths <= plan.length)[: plan.n_train]
    chosen = Task(task.name, [task.train[i] for i in fit], task.y_train[fit], task.dev, task.y_dev, task.twins)
    of_dev = encoder.tokens(task.dev)["attention_mask"].sum(axis=1)
    coded = Coded(
        chosen,
        encoder.tokens(chosen.train, plan.length),
        encoder.tokens(chosen.dev, plan.length),
        encoder.tokens([twin.texts for twin in chosen.twins], plan.length),
    )
    said = {
        "n_train": len(fit),
        "of": len(task.train),
        "length": plan.length,
        "fit": float((lengths <= plan.length).mean()),
        "dev_cut": float((of_dev > plan.length).mean()),
        "epochs": plan.epochs,
    }
    return coded, said


def make_net(encoder: Encoder, epochs: int, lr: float) -> Any:
    """The encoder with a head, as an unfitted skorch net that is trained as a whole."""
    return NeuralNetClassifier(
        Classifier, module__encoder=encoder, criterion=nn.CrossEntropyLoss, optimizer=torch.optim.AdamW, lr=lr,
        optimizer__weight_decay=0.01, max_epochs=epochs, batch_size=16, iterator_train__shuffle=True,
        iterator_valid__batch_size=32, train_split=None, verbose=0, callbacks__print_log=None,
    )  # fmt: skip


def tuned(
    encoder: Encoder, X: Batch, y: np.ndarray, epochs: int, seed: int, parts: Parts, name: str, lr: float = 5e-5
) -> Any:
    """The net fine-tuned on rows; its weights are a part of the run."""
    torch.set_num_threads(1)

    def train() -> dict[str, np.ndarray]:
        torch.manual_seed(seed)
        net = make_net(encoder, epochs, lr).fit(X, y)
        return {key: tensor.numpy() for key, tensor in net.module_.state_dict().items()}

    weights = parts.arrays(name, train)
    torch.manual_seed(seed)
    net = make_net(encoder, epochs, lr).initialize()
    net.classes_inferred_ = np.unique(y)
    net.module_.load_state_dict({key: torch.from_numpy(part) for key, part in weights.items()})
    return net


# --- what is found out ------------------------------------------------------------------------------------------------


def study(task: Task, encoder: Encoder, plan: Plan, parts: Parts, seed: int = 0) -> dict[str, Any]:
    """Engines and times, and agreement of scores: one seed."""
    coded, said = code(task, encoder, plan)
    X, y = coded.train, coded.task.y_train
    val, _ = task.halves(seed)
    held_out = take(coded.dev, val), task.y_dev[val]
    net = cache(lambda: tuned(encoder, X, y, plan.epochs, seed, parts, "whole_net"))
    return {
        "protocol": said | {"seed": seed, "encoder": encoder.name},
        "times": parts.rows("whole_times", lambda: timings(net(), X, y, held_out, plan)),
        "agreement": parts.rows("whole_agreement", lambda: agreement(scorings(net(), coded, val, plan, parts, seed))),
    }


def scorings(net: Any, coded: Coded, val: np.ndarray, plan: Plan, parts: Parts, seed: int) -> Scores:
    """Scores by IP and its ensemble of the whole net and of the last layer; each is a part of the run."""
    X, y = coded.train, coded.task.y_train
    held_out, pairs = (take(coded.dev, val), coded.task.y_dev[val]), _pairs(coded, val)
    scores: Scores = {}
    for method, parameters, objective in (
        ("ip", LAST, UTILITY), ("ip", LAST, FAIRNESS), ("ip", WHOLE, UTILITY), ("ip", WHOLE, FAIRNESS),
        ("ip_ensemble", LAST, UTILITY), ("ip_ensemble", WHOLE, UTILITY),
    ):  # fmt: skip
        asked = DifferentiableNet(net, parameters=PARAMETERS[parameters])
        n = plan.n_ensemble if method == "ip_ensemble" else len(y)

        def score(asked: Any = asked, method: str = method, objective: str = objective, n: int = n) -> Any:
            about = "utility" if objective == UTILITY else Counterfactual(pairs=pairs)
            rows = take(X, slice(n)), y[:n], *held_out
            return {"scores": influence_scores(asked, *rows, method=method, objective=about, random_state=seed)}

        name = f"whole_{method}_{parameters}_{objective}".replace(" ", "_")
        scores[method, parameters, objective] = parts.arrays(name, score)["scores"]
    return scores


def _pairs(coded: Coded, rows: np.ndarray) -> tuple[Batch, Batch]:
    twins = of_rows(coded.task.twins, rows)
    return take(coded.dev, [coded.task.twins[i].row for i in twins]), take(coded.twins, twins)


def timings(net: Any, X: Batch, y: np.ndarray, held_out: tuple[Batch, np.ndarray], plan: Plan) -> list[dict[str, Any]]:
    """Seconds of a plain forward pass and of each scoring, at two numbers of training rows; interleaved, medians.

    What a further row costs is the slope between the two. What is left at none are the validation rows, as many as a
    quarter of the larger number, and the choice of the engine on a few rows.
    """
    few, many = plan.timed
    V, y_val = take(held_out[0], slice(many // 4)), held_out[1][: many // 4]
    models = {
        (method, on): DifferentiableNet(net, parameters=PARAMETERS[on]) for method in METHODS for on in PARAMETERS
    }
    seconds: dict[Any, dict[int, list[float]]] = {key: {few: [], many: []} for key in (*models, "forward")}
    engines, block = {}, 1
    for on in PARAMETERS:
        model = as_model(models["ip", on]).model
        model.probe(model.rows(take(X, slice(few))))
        engines[on], block = model.engine, model.state.block_rows
    for repeat in range(plan.repeats):
        for n in (few, many):
            rows = take(X, slice(n))
            # At the better of two sizes of blocks: the one that scores are taken in, and a usual one.
            passes = (_seconds(lambda rows=rows, size=size: plain_forward(net, rows, size)) for size in (block, 32))
            seconds["forward"][n].append(min(passes))
            for (method, on), model in models.items():
                if repeat and (method, on) == ("ip_ensemble", WHOLE):
                    continue  # the longest by far: once
                seconds[method, on][n].append(
                    _seconds(
                        lambda model=model, method=method, rows=rows, n=n: influence_scores(
                            model, rows, y[:n], V, y_val, method=method, random_state=0
                        )
                    )
                )
    medians = {key: {n: float(np.median(own)) for n, own in by_n.items()} for key, by_n in seconds.items()}
    slopes = {key: (by_n[many] - by_n[few]) / (many - few) for key, by_n in medians.items()}
    found = []
    for method, on in models:
        slope = slopes[method, on]
        found.append(
            {
                "method": method,
                "parameters": on,
                "n_parameters": int(as_model(models[method, on]).model.params.size),
                "engine": engines[on],
                "block": int(block),
                "forwards_a_row": slope / slopes["forward"],
                "ms_a_row": 1000 * slope,
                "forward_ms": 1000 * slopes["forward"],
                "fixed_s": medians[method, on][few] - few * slope,
                "n_validation": many // 4,
                "repeats": len(seconds[method, on][many]),
            }
        )
    return found


def plain_forward(net: Any, rows: Batch, block: int) -> None:
    """The net's outputs, in blocks, and nothing else."""
    module = net.module_.eval()
    with torch.no_grad():
        for start in range(0, len(rows["input_ids"]), block):
            module(**{name: torch.from_numpy(part[start : start + block]) for name, part in rows.items()})


def _seconds(work: Callable[[], Any]) -> float:
    """The processor's seconds, on one thread: what else runs on the machine does not count."""
    began = time.process_time()
    work()
    return time.process_time() - began


def agreement(scores: Scores) -> list[dict[str, Any]]:
    """Rank correlation, and what the lowest 5 % have in common, of pairs of scorings, on the rows that both scored."""
    compared: Sequence[tuple[tuple[str, str, str], tuple[str, str, str]]] = (
        (("ip", LAST, UTILITY), ("ip", WHOLE, UTILITY)),
        (("ip", LAST, FAIRNESS), ("ip", WHOLE, FAIRNESS)),
        (("ip_ensemble", LAST, UTILITY), ("ip_ensemble", WHOLE, UTILITY)),
        (("ip_ensemble", WHOLE, UTILITY), ("ip", WHOLE, UTILITY)),
        (("ip_ensemble", LAST, UTILITY), ("ip", LAST, UTILITY)),
        (("ip", WHOLE, FAIRNESS), ("ip", WHOLE, UTILITY)),
        (("ip", LAST, FAIRNESS), ("ip", LAST, UTILITY)),
    )
    rows = []
    for a, b in compared:
        n = min(len(scores[a]), len(scores[b]))
        own, other = scores[a][:n], scores[b][:n]
        rho = float(spearmanr(own, other).statistic)
        rows.append({"a": ", ".join(a), "b": ", ".join(b), "rows": n, "spearman": rho, "overlap": overlap(own, other)})
    return rows
