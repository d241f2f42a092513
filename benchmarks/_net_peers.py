"""Other packages' influence scores of a net, as their documentation has one ask for them. Needs torch.

Each is a function ``(case, batch) -> scores``, on the scale of ``influence_scores(method="ip")`` (or "self_tracin"):
the whole call, its set-up included. What each can be asked for that costs least is taken: one summed validation
gradient instead of one for each validation row, where there is a way to have it.
"""

from __future__ import annotations

import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

from ._nets import ALL, HEAD_WEIGHT, PRODUCTS, NetCase, math_attention, matrices, validation_gradient

#: What pyDVL adds to the curvature of every layer: it takes one number for all.
DAMPING = 1e-4


@dataclass(frozen=True)
class Peer:
    """A way to ask a package."""

    label: str
    package: str
    scores: Callable[[NetCase, int], torch.Tensor]
    covered: str = ALL
    kind: str = "ip"

    @property
    def missing(self) -> str | None:
        """Why it cannot be asked here, or None."""
        if find_spec(self.package.partition(".")[0]) is None:
            return "not installed"
        try:
            with _quiet():
                __import__(self.package)
        except Exception as error:  # a package whose own requirements are not met
            return f"not importable: {type(error).__name__}: {error}"
        return None

    def __call__(self, case: NetCase, batch: int) -> torch.Tensor:
        with _quiet():
            return self.scores(case, batch).detach()


@contextmanager
def _quiet() -> Iterator[None]:
    """Progress bars, log lines and warnings of other packages kept out of the output."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


# --- captum -----------------------------------------------------------------------------------------------------------


def _tracin_cp(case: NetCase, batch: int, folder: str, layers: list[str] | None, sample_wise: bool) -> Any:
    from captum.influence import TracInCP

    path = Path(folder) / "checkpoint.pt"
    torch.save(case.module.state_dict(), path)
    return TracInCP(
        copy.deepcopy(case.module), _batches(case.X, case.y, batch), [str(path)], _load, layers=layers,
        loss_fn=case.summed_loss() if sample_wise else _flat_losses(case), batch_size=batch,
        sample_wise_grads_per_batch=sample_wise,
    )  # fmt: skip


def _batches(X: torch.Tensor, y: torch.Tensor, batch: int) -> DataLoader:
    """Rows in batches; on a device each batch is taken whole, for rows put together there one by one take long."""
    rows = TensorDataset(X, y)
    if X.device.type == "cpu":
        return DataLoader(rows, batch_size=batch)
    return DataLoader(rows, sampler=BatchSampler(SequentialSampler(rows), batch, drop_last=False), batch_size=None)


def _load(module: torch.nn.Module, path: str) -> float:
    module.load_state_dict(torch.load(path, weights_only=True))
    return 1.0


def _flat_losses(case: NetCase) -> Any:
    loss = case.per_row_loss()
    return lambda F, y: loss(F, y).reshape(-1)


def captum(case: NetCase, batch: int, *, sample_wise: bool) -> torch.Tensor:
    layers = matrices(case.module) if sample_wise else None
    with tempfile.TemporaryDirectory() as folder:
        made = _tracin_cp(case, batch, folder, layers, sample_wise)
        validation = _batches(case.X_val, case.y_val, batch)
        return made.influence(validation, aggregate=True)[0] / (len(case.X_val) * case.n)


def captum_self(case: NetCase, batch: int, *, sample_wise: bool) -> torch.Tensor:
    layers = matrices(case.module) if sample_wise else None
    with tempfile.TemporaryDirectory() as folder:
        return -_tracin_cp(case, batch, folder, layers, sample_wise).self_influence() / case.n


def captum_fast(case: NetCase, batch: int) -> torch.Tensor:
    """TracInCPFast: the weight of the last layer alone, a score for each pair of rows, which are summed here."""
    from captum.influence import TracInCPFast

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        torch.save(case.module.state_dict(), path)
        made = TracInCPFast(
            copy.deepcopy(case.module), matrices(case.module)[-1], TensorDataset(case.X, case.y), [str(path)], _load,
            loss_fn=case.summed_loss(), batch_size=batch, vectorize=True,
        )  # fmt: skip
        return made.influence((case.X_val, case.y_val)).sum(dim=0) / (len(case.X_val) * case.n)


# --- dattri -----------------------------------------------------------------------------------------------------------


def _dattri(case: NetCase) -> Any:
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.task import AttributionTask
    from torch.func import functional_call

    module = copy.deepcopy(case.module)

    def loss(parameters: Any, data: Any) -> torch.Tensor:
        x, y = data
        return case.loss(functional_call(module, parameters, (x[None],)), y[None])

    def target(parameters: Any, data: Any) -> torch.Tensor:
        x, y = data  # all validation rows at once
        return case.loss(functional_call(module, parameters, (x,)), y)

    task = AttributionTask(loss_func=loss, model=module, checkpoints=case.module.state_dict(), target_func=target)
    found = TracInAttributor(task, weight_list=torch.ones(1), normalized_grad=False, device="cpu")
    found.projector_kwargs = None  # no random projection; the constructor has no way to say so
    return found


def dattri(case: NetCase, batch: int) -> torch.Tensor:
    training = DataLoader(TensorDataset(case.X, case.y), batch_size=batch)
    # One "row" that holds all validation rows: their gradients are had as one, and not anew for each of them.
    validation = DataLoader(TensorDataset(case.X_val[None], case.y_val[None]), batch_size=1)
    with math_attention():
        return _dattri(case).attribute(training, validation)[:, 0] / case.n


def dattri_self(case: NetCase, batch: int) -> torch.Tensor:
    training = DataLoader(TensorDataset(case.X, case.y), batch_size=batch)
    with math_attention():
        return -_dattri(case).self_attribute(training) / case.n


# --- kronfluence ------------------------------------------------------------------------------------------------------


def _analyzer(case: NetCase, folder: str) -> Any:
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.task import Task

    class Loss(Task):
        def compute_train_loss(self, batch: Any, model: Any, sample: bool = False) -> torch.Tensor:
            F = model(batch[0])
            if not sample:
                return case.summed_loss()(F, batch[1])
            with torch.no_grad():
                drawn = torch.multinomial(torch.softmax(F.detach(), dim=-1), num_samples=1).flatten()
            return case.summed_loss()(F, drawn)

        def compute_measurement(self, batch: Any, model: Any) -> torch.Tensor:
            return case.summed_loss()(model(batch[0]), batch[1])

    task = Loss()
    module = prepare_model(copy.deepcopy(case.module), task)
    on_processor = case.X.device.type == "cpu"
    return Analyzer("benchmark", module, task, cpu=on_processor, disable_tqdm=True, output_dir=folder)


def _rows(case: NetCase) -> tuple[TensorDataset, TensorDataset]:
    """Training and validation rows, from where kronfluence loads them."""
    parts = [part.cpu() for part in (case.X, case.y, case.X_val, case.y_val)]
    return TensorDataset(*parts[:2]), TensorDataset(*parts[2:])


def kronfluence(case: NetCase, batch: int, *, strategy: str = "identity", empirical: bool = False) -> torch.Tensor:
    """Scores of one strategy; the factors of EKFAC are fitted on all training rows."""
    from kronfluence.arguments import FactorArguments, ScoreArguments

    training, validation = _rows(case)
    with tempfile.TemporaryDirectory() as folder:
        analyzer = _analyzer(case, folder)
        arguments = FactorArguments(strategy=strategy, use_empirical_fisher=empirical)
        analyzer.fit_all_factors("factors", training, per_device_batch_size=batch, factor_args=arguments)
        # damping_factor=None is its heuristic: a tenth of the mean eigenvalue of each layer.
        analyzer.compute_pairwise_scores(
            "scores", "factors", validation, training, per_device_query_batch_size=batch,
            per_device_train_batch_size=batch,
            score_args=ScoreArguments(aggregate_query_gradients=True, damping_factor=None),
        )  # fmt: skip
        found = analyzer.load_pairwise_scores("scores")
        return found["all_modules"][0].float() / (len(case.X_val) * case.n)


def kronfluence_self(case: NetCase, batch: int) -> torch.Tensor:
    from kronfluence.arguments import FactorArguments

    training, _ = _rows(case)
    with tempfile.TemporaryDirectory() as folder:
        analyzer = _analyzer(case, folder)
        arguments = FactorArguments(strategy="identity")
        analyzer.fit_all_factors("factors", training, per_device_batch_size=batch, factor_args=arguments)
        analyzer.compute_self_scores("scores", "factors", training, per_device_train_batch_size=batch)
        found = analyzer.load_self_scores("scores")
        return -found["all_modules"].float() / case.n


# --- pyDVL ------------------------------------------------------------------------------------------------------------


def _pydvl_scores(case: NetCase, batch: int, fitted: Any, factor: torch.Tensor) -> torch.Tensor:
    parts = [
        fitted.influences_from_factors(factor[None], case.X[i : i + batch], case.y[i : i + batch])[0]
        for i in range(0, case.n, batch)
    ]
    return torch.cat(parts) / case.n


def _loader(case: NetCase, batch: int) -> DataLoader:
    return _batches(case.X, case.y, batch)


def pydvl(case: NetCase, batch: int) -> torch.Tensor:
    """It has no identity for a Hessian; the validation gradient is given to it as what a solve would have made."""
    from pydvl.influence.torch import CgInfluence

    module = copy.deepcopy(case.module)
    fitted = CgInfluence(module, case.loss, regularization=1.0).fit(_loader(case, batch))
    g = validation_gradient(case, case.names(ALL))
    with math_attention():
        return _pydvl_scores(case, batch, fitted, torch.cat([part.flatten() for part in g.values()]))


def pydvl_datainf(case: NetCase, batch: int, damping: float) -> torch.Tensor:
    """Its InverseHarmonicMeanInfluence, layer by layer, with one damping for all."""
    from pydvl.influence.torch import BlockMode
    from pydvl.influence.torch.influence_function_model import InverseHarmonicMeanInfluence

    module = copy.deepcopy(case.module)
    blocks = BlockMode.LAYER_WISE
    fitted = InverseHarmonicMeanInfluence(module, case.loss, damping, blocks).fit(_loader(case, batch))
    factor = sum(
        fitted.influence_factors(case.X_val[i : i + batch], case.y_val[i : i + batch]).sum(dim=0)
        for i in range(0, len(case.X_val), batch)
    )
    return _pydvl_scores(case, batch, fitted, factor / len(case.X_val))


def pydvl_ekfac(case: NetCase, batch: int, damping: float) -> torch.Tensor:
    """Its EKFAC with corrected eigenvalues, of a matrix that is not the Fisher matrix: tests/test_net_peers.py."""
    from pydvl.influence.torch import EkfacInfluence

    module = copy.deepcopy(case.module)
    fitted = EkfacInfluence(module, update_diagonal=True, hessian_regularization=damping).fit(_loader(case, batch))
    factor = sum(
        fitted.influence_factors(case.X_val[i : i + batch], case.y_val[i : i + batch]).sum(dim=0)
        for i in range(0, len(case.X_val), batch)
    )
    return _pydvl_scores(case, batch, fitted, factor / len(case.X_val))


PEERS = (
    Peer("captum TracInCP, by row", "captum.influence", lambda c, b: captum(c, b, sample_wise=False)),
    Peer("captum TracInCP, by batch", "captum.influence", lambda c, b: captum(c, b, sample_wise=True), PRODUCTS),
    Peer("captum TracInCPFast", "captum.influence", captum_fast, HEAD_WEIGHT),
    Peer("dattri TracIn", "dattri.algorithm.tracin", dattri),
    Peer("kronfluence, identity", "kronfluence.analyzer", kronfluence, PRODUCTS),
    Peer("pyDVL, from factors", "pydvl.influence.torch", pydvl),
    Peer(
        "captum self-influence, by batch", "captum.influence",
        lambda c, b: captum_self(c, b, sample_wise=True), PRODUCTS, kind="self_tracin",
    ),
    Peer("dattri self-influence", "dattri.algorithm.tracin", dattri_self, kind="self_tracin"),
    Peer("kronfluence self-influence", "kronfluence.analyzer", kronfluence_self, PRODUCTS, kind="self_tracin"),
    Peer(
        "pyDVL InverseHarmonicMeanInfluence", "pydvl.influence.torch",
        lambda c, b: pydvl_datainf(c, b, DAMPING), kind="datainf",
    ),
    Peer(
        "kronfluence EKFAC", "kronfluence.analyzer",
        lambda c, b: kronfluence(c, b, strategy="ekfac", empirical=True), PRODUCTS, kind="ekfac",
    ),
    Peer(
        "pyDVL EkfacInfluence", "pydvl.influence.torch", lambda c, b: pydvl_ekfac(c, b, DAMPING), kind="ekfac",
    ),
)  # fmt: skip

#: Labels of those that can be asked for a net on an accelerator.
ON_DEVICES = (
    "captum TracInCP, by batch",
    "kronfluence, identity",
    "captum self-influence, by batch",
    "kronfluence self-influence",
)
