"""Fairer text models: rows removed by their influence on utility and on predictions for demographic twins.

Section 6 (Figure 3) of "Revisit, Extend, and Enhance Hessian-Free Influence Functions" fine-tunes RoBERTa on tasks of
GLUE, scores the training rows for utility and for fairness, removes the 5 % that are lowest in a joint ranking, and
fine-tunes again. Fair is a net that predicts the same for a sentence and for its demographic twin; the *fair score* is
the share of twins for which it does not, lower being fairer. The development rows are cut in halves by the seed: on one
half, and its twins, the scores are taken; the other half is tested on.

What is different here. The encoder is all-MiniLM-L6-v2 (six layers, 22 million parameters; RoBERTa-base has twelve and
125 million), for a processor and not for a graphics card. QNLI is left out: its data are not here. There are two parts.

*Fixed encoder*, five seeds and all curators: what is trained, scored and trained again is a head, a layer of 64 with
ReLU on the 256 leading principal components of the encoder's mean states (RTE: u, v, |u - v| and u v of the two
sentences; CoLA: those of layers 2, 4 and 6). For RTE the encoder is as it comes. For CoLA, of which it knows nothing as
it comes, it is first fine-tuned on 3,000 of the training rows, anew for each seed, and the head's rows are the others:
the head's figures hang on how that went.

*Whole encoder*, three seeds, of which one takes more than twenty minutes, and few curators: all parameters are
fine-tuned, scored, and fine-tuned again from the same start, on training rows no longer than so many tokens, in batches
of like length. RTE starts from the encoder as it comes, CoLA from where the heads start, on the same rows. For CoLA,
epochs and learning rate were chosen by nets without curation, of one seed, on the development rows, those that are
tested on included: with fewer rows or epochs nets stayed nearer to the majority rate. For RTE one setting was tried.
"Last layer" ranks by the gradients of the last layer alone; the whole net is trained again. CoLA's rows are scored
through the whole net by IP, IP Ensemble and DataInf, those of RTE, of which nothing can be told, by IP alone; left out
for their cost, on this processor, are methods that score a row at many times the cost of IP (EKFAC, which also takes
4 GB, and what solves by iterations). The per-row loss and cleanlab look at rows that nets of three folds have left out.

The twins are made by a table of words and a little grammar (gender, ethnicity, religion, age and names; a row has at
most one twin an axis), where the paper has a trained net. Fair scores are over twins; the paper divides by all test
rows, those without a twin counting as alike. For CoLA, whose rows are single sentences as well, CrowS-Pairs (1,508
pairs of sentences that differ only in the group they name) is a second source of pairs: half of them to score on, half
to test on.

"No curation, another start" trains the head, or the whole net, again on all rows from other initial weights (of the
head) and in another order: what it differs by is noise. All other nets of a seed begin alike. "Both better" counts the
seeds in which a curator was better than no curation in accuracy and in fair score at once, or better in one and equal
in the other; "both worse" likewise. "exact" (conjugate gradients), "lissa" and "arnoldi" invert the Gauss-Newton matrix
with the damping that "auto" chooses; LiSSA (100 steps of 500 rows), Arnoldi (30 iterations, rank 20) and GEX (4
members, 100 steps each) are kept short. Self-influence by LiSSA ("self_lissa"), which solves for every row, is that of
the head's last layer alone. "knn_shapley" values rows for nearest neighbours on the head's inputs, under their own
loss: for utility, and nothing else. Two kinds of the package's methods have no lines: "cg", which is "exact" on these
heads; and what trains again for each row or subset ("leave_one_out", "data_shapley", "beta_shapley"), thousands of
heads a seed. Seconds are a processor's, on one thread.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _runner
from .._stored_parts import Parts
from . import _text_data as data
from . import _text_heads as heads
from ._text_twins import AXES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ._text_encoder import Encoder
    from ._text_whole import Plan

EPOCHS = {"rte": 6, "cola": 6}
VALUES = (*heads.VALUES, "n_twins", *(f"fair_{axis}" for axis in AXES))


def run(*, quick: bool = False, data_home: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """All tasks, seeds and curators, then the whole net; parts that were made before are taken as they are."""
    from . import _text_encoder, _text_tuned, _text_whole

    tasks = {name: data.load_task(name, data_home) for name in data.TASKS}
    crows = data.load_crows(data_home)
    parts = Parts(None) if quick else Parts.of_environment()
    encoder: Encoder = _text_encoder.Tiny() if quick else _text_encoder.MiniLM()
    seeds = range(1 if quick else 5)
    if quick:
        tasks = {name: task.some(200, 120) for name, task in tasks.items()}
        crows = crows[0][:40], crows[1][:40]
    plan = _text_whole.QUICK if quick else _text_whole.FULL
    recipes = _text_tuned.QUICK if quick else _text_tuned.FULL
    for_encoder, tasks["cola"] = tasks["cola"].parted(plan.n_encoder)

    def start(name: str, seed: int) -> Encoder:
        return tuned_encoder(for_encoder, encoder, plan, seed, parts) if name == "cola" else encoder

    tuned = [
        _text_tuned.one_seed(tasks[name], start(name, seed), recipe, seed, parts)
        for name, recipe in recipes.items()
        for seed in range(recipe.n_seeds)
    ]
    of_rte = as_numbers(tasks["rte"], None, encoder, parts, "rte").reduced()
    rows, agreement = [], []
    for seed in seeds:
        of_cola = as_numbers(tasks["cola"], crows, start("cola", seed), parts, f"cola_{seed}").reduced()
        numbers = {"rte": of_rte, "cola": of_cola}
        for name, task in tasks.items():
            found = parts.rows(
                f"{name}_seed_{seed}",
                lambda task=task, of_task=numbers[name], seed=seed: heads.one_seed(
                    task,
                    of_task,
                    seed,
                    epochs=2 if quick else EPOCHS[task.name],
                    methods=("ip", "ekfac", heads.NEIGHBOURS) if quick else (*heads.METHODS, heads.NEIGHBOURS),
                ),
            )
            rows += found["rows"]
            agreement += found["agreement"]
    whole = _text_whole.study(tasks["rte"], encoder, plan, parts)
    said = f"Heads: {len(seeds)} seed(s); ± is the standard deviation over seeds. The encoder is {encoder.name}."
    if quick:
        said += " Quick: few rows, and no pretrained model; its figures mean nothing."
    compared = ("with ip", "with ip, lowest", "with utility", "with utility, lowest")
    return {
        "about": _runner.about(__doc__, said),
        "seconds": round(sum(parts.seconds.values()), 1),
        "seeds": list(seeds),
        "twins": [
            {"task": name, "train": len(task.train), "dev": len(task.dev), "twins": len(task.twins), **task.shares()}
            for name, task in tasks.items()
        ],
        "whole": whole["protocol"],
        "tuned": [one["protocol"] for one in tuned],
        "tuned_rows": _aggregated(tuned, "rows", ("task", "method", "objective"), VALUES),
        "tuned_agreement": _aggregated(tuned, "agreement", ("task", "a", "b"), ("spearman", "overlap")),
        "rows": _runner.aggregate(rows, ("task", "method", "objective"), VALUES),
        "agreement": _runner.aggregate(agreement, ("task", "method", "objective"), compared),
        "times": whole["times"],
        "whole_agreement": whole["agreement"],
    }


def _aggregated(seeds: list[dict[str, Any]], name: str, by: tuple[str, ...], values: tuple[str, ...]) -> Any:
    return _runner.aggregate([row for one in seeds for row in one[name]], by, values)


def tuned_encoder(task: data.Task, encoder: Encoder, plan: Plan, seed: int, parts: Parts) -> Encoder:
    """The encoder fine-tuned, as a whole, on the training rows of a task; its weights are a part of the run."""
    from . import _text_encoder, _text_whole

    X = encoder.tokens(task.train, plan.encoder_length)
    name = f"{task.name}_encoder_{seed}"
    net = _text_whole.tuned(encoder, X, task.y_train, plan.encoder_epochs, seed, parts, name, lr=1e-4)
    weights = {key: tensor.numpy() for key, tensor in net.module_.body.state_dict().items()}
    return _text_encoder.Tuned(encoder, weights, f"fine-tuned on {len(task.train):,} rows of {task.name}")


def as_numbers(task: data.Task, crows: Any, encoder: Encoder, parts: Parts, name: str) -> heads.Numbers:
    """The rows of a task, its twins and the pairs of CrowS-Pairs as features, which are parts of that name."""
    from ._text_encoder import mean_states

    last = encoder.n_layers
    several = [max(last * k // 3, 1) for k in (1, 2, 3)]

    def states(texts: Sequence[str], of_several: bool) -> np.ndarray:
        found = mean_states(encoder, texts, several if of_several else [last])
        return found.reshape(len(texts), -1)

    rows = {"train": task.train, "dev": task.dev, "twins": [twin.texts for twin in task.twins]}
    if crows is not None:
        rows |= {"more": crows[0], "less": crows[1]}
    made = {
        part: parts.arrays(f"{name}_{part}", lambda own=own: {"X": heads.features(states, own)})["X"]
        for part, own in rows.items()
    }
    pairs = None if crows is None else (made["more"], made["less"])
    return heads.Numbers(made["train"], made["dev"], made["twins"], pairs)


# --- tables -----------------------------------------------------------------------------------------------------------


def tables(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a stored result."""
    made = {"Rows, and share of development rows with a twin": [_shares(row) for row in result["twins"]]}
    for task, title in data.TASKS.items():
        own = [row for row in result["rows"] if row["task"] == task]
        without = next(row for row in own if row["method"] == heads.NONE)
        made[f"{title}, fixed encoder"] = [_curator(row, without) for row in own]
    made["Objectives, over methods"] = _by_objective(result["rows"])
    made["How alike the scores are (Spearman, and what the lowest 5 % share)"] = [
        {
            "task": data.TASKS[row["task"]],
            "method": row["method"],
            "objective": row["objective"],
            "with those of ip": _runner.figure(row["with ip"], 2),
            "lowest, with those of ip": _runner.figure(row["with ip, lowest"], 2),
            "with the method's for utility": _runner.figure(row["with utility"], 2),
            "lowest, with the method's for utility": _runner.figure(row["with utility, lowest"], 2),
        }
        for row in result["agreement"]
        if row["with ip"] or row["with utility"]
    ]
    made["Whole encoder: how it was fine-tuned"] = [_recipe(task, result) for task in data.TASKS]
    for task, title in data.TASKS.items():
        own = [row for row in result["tuned_rows"] if row["task"] == task]
        made[f"{title}, whole encoder"] = [_curator(row, own[0]) for row in own]
    made["Whole encoder: how alike the scores are"] = [
        {
            "task": data.TASKS[row["task"]],
            "scores": row["a"],
            "beside": row["b"],
            "Spearman": _runner.figure(row["spearman"], 2),
            "lowest": _runner.figure(row["overlap"], 2),
        }
        for row in result["tuned_agreement"]
    ]
    made["The whole encoder on RTE: engine and time"] = [_time(row) for row in result["times"]]
    made["The whole encoder on RTE: how alike the scores are"] = [
        {
            "scores": row["a"],
            "beside": row["b"],
            "rows": row["rows"],
            "Spearman": f"{row['spearman']:.2f}",
            "lowest": f"{row['overlap']:.2f}",
        }
        for row in result["whole_agreement"]
    ]
    return made


def _shares(row: dict[str, Any]) -> dict[str, Any]:
    axes = {axis: f"{100 * row[axis]:.1f} %" for axis in ("any", *AXES)}
    rows = {"training rows": row["train"], "development rows": row["dev"], "twins": row["twins"]}
    return {"task": data.TASKS[row["task"]]} | rows | axes


def _recipe(task: str, result: dict[str, Any]) -> dict[str, Any]:
    seeds = [one for one in result["tuned"] if one["task"] == task]
    one = seeds[0]
    return {
        "task": data.TASKS[task],
        "training rows": one["n_train"],
        "tokens at most": one["length"],
        "share of all rows that short": f"{one['fit']:.1%}",
        "share of development rows cut": f"{one['dev_cut']:.1%}",
        "epochs": one["epochs"],
        "learning rate": f"{one['lr']:g}",
        "batch": one["batch"],
        "seeds": len(seeds),
        "seconds a training": round(float(np.mean([own["fit_seconds"] for own in seeds]))),
    }


def _curator(row: dict[str, Any], without: dict[str, Any]) -> dict[str, Any]:
    gains, falls, balanced = _differences(row, without)
    itself = row is without
    more = {} if row["fair_crows"] is None else {"fair score, CrowS-Pairs": _runner.figure(row["fair_crows"])}
    return {
        "method": row["method"],
        "objective": row["objective"] or None,
        "accuracy": _runner.figure(row["accuracy"]),
        "balanced accuracy": _runner.figure(row["balanced_accuracy"]),
        "majority rate": f"{row['majority']['mean']:.3f}",
        "fair score": _runner.figure(row["fair"]),
        "gap of probabilities": _runner.figure(row["gap"], 4),
        **more,
        "gain in accuracy, points": None if itself else _runner.with_spread(gains),
        "change of balanced accuracy, points": None if itself else _runner.with_spread(balanced),
        "change of fair score, points": None if itself else _runner.with_spread(falls),
        "both better": None if itself else int(_better(gains, -falls).sum()),
        "both worse": None if itself else int(_better(-gains, falls).sum()),
        "removed": f"{row['removed']['mean']:.1%}",
        "seconds": f"{row['seconds']['mean']:.2f}",
    }


def _differences(row: dict[str, Any], without: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of accuracy, of fair score and of balanced accuracy beside no curation, seed by seed."""
    accuracy, fair, balanced = (
        100 * (np.array(row[value]["seeds"]) - without[value]["seeds"])
        for value in ("accuracy", "fair", "balanced_accuracy")
    )
    return accuracy, fair, balanced


def _better(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    found: np.ndarray = (a >= 0) & (b >= 0) & ((a > 0) | (b > 0))
    return found


def _by_objective(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over methods that take every objective, with their spread over seeds, beside the baselines."""
    made = []
    for task, title in data.TASKS.items():
        own = [row for row in rows if row["task"] == task]
        without = next(row for row in own if row["method"] == heads.NONE)
        groups = {name: [row for row in own if row["method"] == name] for name in heads.BASELINES[1:]}
        groups |= {
            name: [row for row in own if row["objective"] == name and row["method"] in heads.METHODS]
            for name in (heads.UTILITY, heads.FAIRNESS, heads.JOINT)
        }
        for name, members in groups.items():
            if not members:
                continue
            found = [_differences(row, without) for row in members]
            gains, falls, balanced = (np.mean(values, axis=0) for values in zip(*found, strict=True))
            gaps = [100 * (np.array(row["gap"]["seeds"]) / without["gap"]["seeds"] - 1) for row in members]
            made.append(
                {
                    "task": title,
                    "removed by": name,
                    "runs": len(members) * len(gains),
                    "gain in accuracy, points": _runner.with_spread(gains),
                    "change of balanced accuracy, points": _runner.with_spread(balanced),
                    "change of fair score, points": _runner.with_spread(falls),
                    "change of the gap of probabilities, %": _runner.with_spread(np.mean(gaps, axis=0), 1),
                    "both better": f"{np.mean([_better(gain, -fall) for gain, fall, _ in found]):.0%}",
                    "both worse": f"{np.mean([_better(-gain, fall) for gain, fall, _ in found]):.0%}",
                }
            )
    return made


def _time(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "method": row["method"],
        "parameters": f"{row['parameters']} ({row['n_parameters']:,})",
        "engine": row["engine"],
        "forward passes a training row": f"{row['forwards_a_row']:.2f}",
        "ms a row": f"{row['ms_a_row']:.1f}",
        "plain forward pass, ms a row": f"{row['forward_ms']:.1f}",
        f"{row['n_validation']} validation rows and set-up, s": f"{row['fixed_s']:.1f}",
        "rows at once": row["block"],
        "repeats": row["repeats"],
    }


# --- figures ----------------------------------------------------------------------------------------------------------


def figures(result: dict[str, Any]) -> dict[str, Figure]:
    """Accuracy against the fair score: of the heads, and of the whole encoder."""
    from . import _text_figures

    return {
        "text": _text_figures.fixed_encoder(result["rows"]),
        "text_whole": _text_figures.whole_encoder(result["tuned_rows"]),
    }
