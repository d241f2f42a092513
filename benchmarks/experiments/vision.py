"""Noisy labels of people on images (CIFAR-10N): does curation help, and which method finds the wrong labels?

Section 5 and Tables 1, 3, 4 and 5 of "Revisit, Extend, and Enhance Hessian-Free Influence Functions": CIFAR-10 with the
labels that people gave (CIFAR-10N), of which 9 % ("aggregate"), 17 % ("random") or 40 % ("worst") are wrong; rows are
scored, the lowest 5 % removed, the model is trained again and tested on true labels.

What is other than in the paper. It fine-tunes a ResNet-34 on a GPU for 100 epochs, also on CIFAR-100N and Animal-10N,
whose data are not at hand; this was run on a processor. **Linear head**: features of an ImageNet-pretrained
EfficientNet-Lite0 (last convolution, averaged, images enlarged to 96 pixels), fixed, standardised and reduced to
whitened principal components, and a multinomial logistic regression on all 50,000 rows. The features are made of images
alone, without labels. The training rows are the same for all seeds; a seed draws which of the 10,000 test images are
validation rows (2,000) and which are tested on (8,000), the folds, and what a method draws. So the spread over seeds is
not that over training sets; "± by test rows" is the standard error that the number of test rows brings to a difference,
from the rows on which exactly one of two models is right. **Nets**: a small ResNet and a small MLP-Mixer, from scratch
on a few thousand images, which a seed draws; the EfficientNet-Lite0, at 64 pixels, its last layer fitted first and then
all of it fine-tuned on a thousand; and, on a graphics card (an NVIDIA H200, five at once, so that its seconds compare
with nothing), a ResNet-9 of 1.6 million parameters on all 50,000, images moved and mirrored while it is trained. Whole
nets are scored, and trained again from the same start, on the graphics card as nearly as its sums in no fixed order
allow.

Protocols: "clean validation rows" scores in-sample, through the model that was fitted to all rows, against validation
rows with true labels, as the paper does; "cross-fitted" has no true label at all: the package's default, each row
scored by a model of the other four fifths, under a loss that bears wrong labels. The per-row loss is that of the fitted
model in the first, and out of fold in the second. cleanlab removes what it takes for wrong, or the 5 % of lowest
normalised margin (where the rate is swept, the rows of lowest margin at each rate). "exact, auto" removes the rows with
a negative score. "tracin" and "tda" of the head have checkpoints after 2, 5 and 10 iterations of its fit, which is
L-BFGS, and the end. Cross-fitted, which takes five models a score, the head has no cg (which is exact on it), LiSSA,
Arnoldi, TracIn, TDA, GEX and Self-LiSSA, for their time. The nets have no sweeps, and five seeds (the pretrained one
three, for one takes more than twenty minutes, the ResNet-9 two); Self-LiSSA, which solves a system for each row, is
that of the last layer alone, of the pretrained net, which has 12,810 parameters there, in 20 steps. Their CG (10
iterations), LiSSA (15 steps of 200 rows), Arnoldi (rank 10), TRAK (16 projections) and GEX (4 members, 50 steps) are
cut to a few times the cost of the others. The C that the pretrained net's last layer begins with is of four the best
with wrong labels; EKFAC and others of it were run apart, without IP Ensemble, so that their difference has no "± by
test rows". The ResNet-9 has a few methods and no cleanlab: there was a graphics card for a quarter of an hour.
Cross-fitted, nets from scratch have the per-row loss, cleanlab and, as `InfluenceSelector` scores them by default, IP
and IP Ensemble; the pretrained net has the first two alone, the ResNet-9 nothing. Random removal and cleanlab, which
are the same under both protocols, stand in the tables of both. AUROC and AP take low scores for wrong labels.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .. import _data, _runner
from . import _vision_parts, _vision_tables
from ._vision_data import NOISES
from ._vision_features import PRETRAINED, RAW
from ._vision_linear import Sizes
from ._vision_net import NetSizes
from ._vision_parts import AllSizes, Runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VALUES = (
    "accuracy", "apart", "apart_ensemble", "removed", "hit", "auroc", "ap", "wrong", "rows", "seconds", "fit_seconds",
    "refit_seconds", "training_accuracy",
)  # fmt: skip
BY = ("part", "noise", "protocol", "sweep", "at", "method")
LINEAR_SEEDS = range(5)
#: A seed of the pretrained net takes more than half an hour: three, not five.
#: Of the net for all images there was a graphics card for a quarter of an hour: two seeds of two kinds of noise.
NET_RUNS: dict[str, Runs] = {
    **dict.fromkeys(
        ("ResNet", "MLP-Mixer"),
        Runs(
            tuple(NOISES), range(5), (_vision_parts.FOLDS, _vision_parts.LAST_LAYER, _vision_parts.CROSS_FITTED)
        ),
    ),
    "EfficientNet": Runs(
        tuple(NOISES), range(3),
        (
            _vision_parts.FOLDS, _vision_parts.OTHERS, _vision_parts.SOLVERS, ", tda", ", lissa",
            _vision_parts.LAST_LAYER,
        ),
    ),
    "ResNet-9": Runs(("random", "worst"), range(2), ()),
}  # fmt: skip
FULL: AllSizes = (
    Sizes(),
    {
        "ResNet": NetSizes(),
        "MLP-Mixer": NetSizes(),
        "EfficientNet": NetSizes(
            train=1000, val=500, test=2000, epochs=3, every=1, methods=("ip", "ip_ensemble", "tracin", "self_tracin"),
            lr=0.0015, batch=50,
        ),
        "ResNet-9": NetSizes(
            train=None, val=2000, test=8000, epochs=8, every=2, lr=0.5, batch=1000,
            methods=("ip", "ip_ensemble", "self_tracin", "ekfac"),
        ),
    },
)  # fmt: skip
QUICK: AllSizes = (
    Sizes(train=400, val=100, test=200, components=8, C=0.1, gex_steps=20, pretrained=False),
    dict.fromkeys(
        ("ResNet", "MLP-Mixer"),
        NetSizes(
            train=120, val=40, test=60, epochs=2, every=1, methods=("ip", "ip_ensemble", "tracin", "self_tracin"),
            device="cpu",
        ),
    )
    | {"ResNet-9": NetSizes(train=100, val=20, test=40, epochs=1, every=1, methods=("ip", "tracin"), device="cpu")},
)  # fmt: skip
QUICK_KINDS = {"ResNet": (_vision_parts.FOLDS, _vision_parts.CROSS_FITTED)}


def run(*, quick: bool = False, data_home: str | None = None) -> dict[str, Any]:
    """All parts: those that are in the cache folder are taken from there, the others computed, one core a part."""
    for name in ("cifar10_train_jpg.npz", "cifar10_test_jpg.npz", "cifar10n.npz"):  # fail before any work
        _data.data_file(name, data_home)
    if quick:
        quick_runs = {net: Runs(("worst",), range(1), QUICK_KINDS.get(net, (_vision_parts.FOLDS,))) for net in QUICK[1]}
        todo = [part for part in _vision_parts.parts(range(1), quick_runs) if part[1] == "worst"]
        done = [_vision_parts.compute(part, data_home, QUICK) for part in todo]
        says = (
            f"A quick run: {RAW} in the place of features, {QUICK[0].train} rows, one seed and one kind of noise; it "
            "shows that the code runs, and nothing else."
        )
    else:
        todo = _vision_parts.parts(LINEAR_SEEDS, NET_RUNS)
        done = _runner.over_cores(_vision_parts.stored_or_computed, [(part, data_home, FULL) for part in todo])
        says = in_full()
    return collected(done, QUICK if quick else FULL, says)


def in_full() -> str:
    """What a full run consists of."""
    nets = ", ".join(
        f"{net} {FULL[1][net].train or 50_000:,} images, {FULL[1][net].epochs} epochs, {len(runs.seeds)} seeds"
        for net, runs in NET_RUNS.items()
    )
    return (
        f"Features of {PRETRAINED}, {FULL[0].components} components, C = {FULL[0].C:g}, {len(LINEAR_SEEDS)} seeds; "
        f"nets: {nets}. ± is the standard deviation over seeds; seconds are those of scoring alone, on one thread of a "
        "machine with other work. Parts are kept as they are made: these are of several revisions of the package."
    )


def collected(done: list[list[dict[str, Any]]], sizes: AllSizes, says: str) -> dict[str, Any]:
    """The result, of the rows of all parts."""
    rows = [{"sweep": None, "at": None} | row for part in done for row in part]
    return {
        "about": _runner.about(__doc__, says),
        "seconds": sum(row.get("part_seconds", 0.0) for row in rows),
        "seeds": sorted({row["seed"] for row in rows if row["part"] == _vision_parts.LINEAR}),
        "n_val": {_vision_parts.LINEAR: sizes[0].val} | {net: own.val for net, own in sizes[1].items()},
        "n_test": {_vision_parts.LINEAR: sizes[0].test} | {net: own.test for net, own in sizes[1].items()},
        "refused": [row for row in rows if "refused" in row],
        "rows": _runner.aggregate((row for row in rows if "refused" not in row), BY, VALUES),
    }


def tables(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a stored result."""
    return _vision_tables.tables(result)


def figures(result: dict[str, Any]) -> dict[str, Figure]:
    """Removal rate, dropout and members, detection."""
    from . import _vision_figures

    return _vision_figures.figures(result)


def main(arguments: list[str]) -> None:
    """Compute and store parts: ``python -m benchmarks.experiments.vision linear 0 1`` does these seeds, all noises."""
    name, *seeds = arguments
    for part in _vision_parts.parts(LINEAR_SEEDS, NET_RUNS):
        if part[0] == name and str(part[2]) in seeds:
            _vision_parts.stored_or_computed(part, None, FULL)


if __name__ == "__main__":
    main(sys.argv[1:])
