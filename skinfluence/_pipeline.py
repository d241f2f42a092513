"""A scikit-learn Pipeline whose curating steps may drop rows, change labels and put weights on rows, at ``fit``.

A curating step is any transformer with a ``fit_curate`` method. Its ``transform`` is the identity, so scikit-learn's
own ``predict``, ``transform``, ``score`` and so on are right as they are; only fitting differs. Here it goes step by
step: an ordinary step is fitted by scikit-learn itself, as a copy of this pipeline in which every other step is
"passthrough". So caching, metadata routing, validation and callbacks stay scikit-learn's, and only its public interface
is used.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any, TypeVar

from sklearn import get_config
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.pipeline import Pipeline as _SklearnPipeline
from sklearn.pipeline import make_pipeline as _sklearn_make_pipeline
from sklearn.utils.metadata_routing import get_routing_for_object, process_routing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_memory, has_fit_parameter

from ._held_out import HeldOut
from ._travel import TravellingRows, consumed

__all__ = ["Pipeline", "make_pipeline"]


Method = TypeVar("Method", bound=Callable[..., Any])


def offered_if(check: Callable[[Any], bool]) -> Callable[[Method], Method]:
    """Do what `available_if` does, with types."""
    decorator: Callable[[Method], Method] = available_if(check)
    return decorator


def _like_stock(method: str) -> Callable[[Method], Method]:
    """Offer a method where scikit-learn's Pipeline does."""
    return offered_if(lambda self: hasattr(super(Pipeline, self), method))


class Pipeline(_SklearnPipeline):
    """scikit-learn's Pipeline, in which a curating step changes the rows that the later steps are fitted on.

    With no curating step it is `sklearn.pipeline.Pipeline`, no more and no less. A curating step, such as
    `skinfluence.InfluenceSelector`, acts during ``fit`` and is the identity afterwards:

    - the later steps are fitted on the rows it returns; row-wise fit parameters (``clf__sample_weight``) follow them;
    - weights that it puts on rows multiply into the ``sample_weight`` of the last step;
    - validation rows for it (``curate__X_val``, or any parameter that is a `skinfluence.HeldOut`) are carried through
      the fitted earlier steps, so give them as raw as the training rows.

    Parameters
    ----------
    steps : list of (str, estimator) tuples
        The steps in order, as in scikit-learn. Any number of them may be curating steps, anywhere.
    transform_input : list of str, default=None
        As in scikit-learn. The ``X_val`` of a curating step is carried along, once, whether it is named here or not.
    memory : str or object with the joblib.Memory interface, default=None
        As in scikit-learn: fitted transformers are cached. Curating steps have a ``memory`` of their own; like the
        transformers they are then cloned before they are fitted.
    verbose : bool, default=False
        Print the time that each step took to fit.

    Attributes
    ----------
    sample_indices_ : ndarray of shape (n_kept,)
        The rows given to ``fit`` that are left after the last curating step. Only there if a step curates.

    See Also
    --------
    make_pipeline : The same, with the steps named for you.
    skinfluence.CuratedClassifier : Exact curation inside a stock scikit-learn Pipeline.

    Notes
    -----
    A fit parameter follows the rows if it is array-like and has as many rows as ``X``. Parameters of validation rows do
    not: those whose name ends in ``_val``, and those in ``transform_input``.

    ``fit_transform`` and ``fit_predict`` fit as ``fit`` does, and answer for all rows of ``X``, the dropped ones
    included. If the *last* step curates, the pipeline is there to hand rows on: its ``fit_transform`` keeps the row
    count by re-drawing, as the step itself does in a stock Pipeline. In another `skinfluence.Pipeline`, a pipeline of
    transformers that curates is itself a curating step, so the outer steps, too, are fitted on the kept rows.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skinfluence import InfluenceSelector, Pipeline
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = Pipeline([
    ...     ("scale", StandardScaler()),
    ...     ("curate", InfluenceSelector(removal_rate=0.1, random_state=0)),
    ...     ("clf", LogisticRegression()),
    ... ]).fit(X, y)
    >>> len(X), len(model.sample_indices_)
    (569, 513)
    >>> len(model.predict(X))
    569
    """

    steps: list[tuple[str, Any]]

    def fit(self, X: Any, y: Any = None, **params: Any) -> Pipeline:
        """Fit each step on the rows that the curating steps before it returned.

        Parameters
        ----------
        X : {array-like, sparse matrix, dataframe} of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Their targets.
        **params : dict of str -> object
            Parameters of the steps, as in scikit-learn: ``step__parameter`` or, with metadata routing enabled, the
            names that the steps have requested.

        Returns
        -------
        self : Pipeline
            The fitted pipeline.
        """
        self._fit_as("fit", X, y, params)
        return self

    @_like_stock("fit_transform")
    def fit_transform(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Fit, then transform all rows (re-drawn ones if the last step curates: see Notes). Parameters as for ``fit``.

        Returns
        -------
        Xt : {ndarray, sparse matrix, dataframe} of shape (n_samples, n_transformed_features)
            The transformed rows.
        """
        Xt = self._fit_as("fit_transform", X, y, params)
        if not self._curates() or self._hands_rows_on():
            return Xt
        return self.transform(X, **consumed(self, "transform", params))

    @_like_stock("fit_predict")
    def fit_predict(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Fit, then predict for all rows, those that curation dropped included. Parameters as for ``fit``.

        Returns
        -------
        y_pred : ndarray of shape (n_samples,)
            The predictions.
        """
        if self._curates() and not hasattr(self, "predict"):
            raise TypeError(
                f"fit_predict must answer for the rows that curation drops, too, but the last step, {self._named(-1)}, "
                f"has no predict method. Call fit, and read its labels of the kept rows (sample_indices_)."
            )
        y_pred = self._fit_as("fit_predict", X, y, params)
        return self.predict(X, **consumed(self, "predict", params)) if self._curates() else y_pred

    @offered_if(lambda self: self._curates() and hasattr(self, "transform"))
    def fit_curate(self, X: Any, y: Any, *, following: Any = None, task: str | None = None, **params: Any) -> Any:
        """Fit, and return the kept rows: with this a pipeline of transformers is a curating step of another pipeline.

        Parameters
        ----------
        X, y, **params
            As for ``fit``.
        following : estimator, default=None
            What follows this pipeline in the outer one.
        task : {"classification", "regression"}, default=None
            What the outer pipeline is fitted for.

        Returns
        -------
        X_kept : {ndarray, sparse matrix, dataframe} of shape (n_kept, n_transformed_features)
            The kept rows, transformed.
        y_kept : array-like of shape (n_kept,)
            Their targets.
        weight_factor : ndarray of shape (n_kept,) or None
            The factors that curation puts on their weights.
        """
        return self._fit_as("fit_curate", X, y, params, following, task)

    @property
    def makes_weights(self) -> bool:
        """Whether a curating step declares that it puts weights on rows."""
        return any(getattr(step, "makes_weights", False) for _, step in self.steps)

    def _fit_as(
        self, method: str, X: Any, y: Any, params: dict[str, Any], following: Any = None, task: Any = None
    ) -> Any:
        """Fit all steps in the way of `method`; return what the last one returned, or the triple of `fit_curate`."""
        self.__dict__.pop("sample_indices_", None)  # from an earlier fit
        if not self._curates():
            return getattr(super(), method)(X, y, **params)
        final = len(self.steps) - 1 if method != "fit_curate" else None  # as a step of another, no step is the last
        redraw = method == "fit_transform" and self._hands_rows_on()
        self._check_steps(final)
        if task is None:
            task = "classification" if is_classifier(self) else "regression" if is_regressor(self) else None
        routes = self._routes("fit_transform" if method == "fit_curate" else method, params)
        carried = [self._validation_rows(step, routes[name], params) for name, step in self.steps]
        rows = TravellingRows(X, y, params, fixed=set().union(*carried))
        rows.fixed.update(key for route in routes.values() for name, key in route.items() if name.endswith("_val"))
        cloning = getattr(check_memory(self.memory), "location", True) is not None  # scikit-learn's own rule
        result = None
        self.steps = list(self.steps)  # as scikit-learn: the user's list stays as it is, the steps in it are fitted
        for index, (name, step) in enumerate(self.steps):
            # The parameters of the step, by the names that the user gave and by the step's own.
            given = {k: (rows.carried if k in carried[index] else rows.params)[k] for k in routes[name].values()}
            arguments = {argument: given[key] for argument, key in routes[name].items()}
            if rows.weight is not None and (index == final or has_fit_parameter(step, "sample_weight")):
                arguments["sample_weight"] = rows.weighted(arguments.get("sample_weight"))
            if rows.weight is not None and index == final:
                self._check_takes_weights()
            with self._timed(index):
                if _is_passthrough(step):
                    result = rows.X
                elif _is_curator(step) and index != final and not redraw:
                    if cloning:
                        self.steps[index] = (name, step := clone(step))
                    after = [*self.steps[index + 1 :], ("steps of the outer pipeline", following)]
                    rows.keep(step, *step.fit_curate(rows.X, rows.y, following=_plain(after), task=task, **arguments))
                elif index != final:
                    part = self._only(index)
                    rows.X = super(Pipeline, part).fit_transform(rows.X, rows.y, **given)
                    self.steps[index] = part.steps[index]  # not the given object, if cloned or from the cache
                    rows.carry(part, set().union(*carried[index + 1 :]))
                elif rows.weight is None:
                    result = getattr(super(Pipeline, self._only(index)), method)(rows.X, rows.y, **given)
                else:  # called directly: these weights are no metadata of the user's, for which a request is due
                    step.fit(rows.X, rows.y, **arguments)
        if not redraw:
            inner = _curates(step) and index == final
            self.sample_indices_ = rows.indices[step.sample_indices_] if inner else rows.indices
        return (rows.X, rows.y, rows.weight) if method == "fit_curate" else result

    def _curates(self) -> bool:
        try:  # a last step that is a curating pipeline counts: its X_val has to be carried through the steps before it
            return any(_is_curator(step) for _, step in self.steps) or _curates(self.steps[-1][1])
        except (TypeError, ValueError, IndexError):  # these are no steps: scikit-learn says so
            return False

    def _hands_rows_on(self) -> bool:
        """Tell whether the last step (passthrough aside) curates: the rows that come out are for other estimators."""
        last = next((step for _, step in reversed(self.steps) if not _is_passthrough(step)), None)
        return last._hands_rows_on() if isinstance(last, Pipeline) else _is_curator(last)

    def _only(self, index: int) -> Pipeline:
        """Copy this pipeline with one step left in: its fit is scikit-learn's fit of that step."""
        part = copy(self)
        part.verbose = False  # else each copy would announce all steps
        part.steps = [(name, step if i == index else "passthrough") for i, (name, step) in enumerate(self.steps)]
        return part

    def _routes(self, method: str, params: dict[str, Any]) -> dict[str, dict[str, str]]:
        """Tell which parameters a step gets: {step: {argument of the step: name under which the user gave it}}."""
        routes: dict[str, dict[str, str]] = {name: {} for name, _ in self.steps}
        if get_config()["enable_metadata_routing"]:
            # The names are routed, not the values, as these change on the way. None is not given, in scikit-learn.
            routed = process_routing(self, method, **{key: key for key in params if params[key] is not None})
            for name, route in routes.items():
                for arguments in routed.get(name, {}).values():
                    route.update(arguments)
            return routes
        for key in params:
            name, _, argument = key.partition("__")
            if not argument or name not in routes:
                raise ValueError(
                    f"Pipeline.fit does not accept the {key} parameter. Give parameters to a step as step__parameter, "
                    f"where the step is one of {list(routes)}; or enable metadata routing."
                )
            routes[name][argument] = key
        return routes

    def _validation_rows(self, step: Any, route: dict[str, str], params: dict[str, Any]) -> set[str]:
        """Name the parameters of a step that the steps before it must transform."""
        return {
            key
            for argument, key in route.items()
            if argument in (self.transform_input or ())
            or isinstance(params[key], HeldOut)
            or (_curates(step) and argument.split("__")[-1] == "X_val")  # of a curating step, here or deeper
        }

    def _check_steps(self, final: int | None) -> None:
        """Raise before any fitting what scikit-learn would raise, and what curation asks beyond that."""
        blank = [(name, "passthrough") for name, _ in self.steps]  # scikit-learn looks at names and parameters
        _SklearnPipeline(blank, memory=self.memory, transform_input=self.transform_input).fit([[0.0]])
        for index, (_, step) in enumerate(self.steps):
            fits = hasattr(step, "fit") or (index != final and hasattr(step, "fit_transform"))
            if not _is_passthrough(step) and not (fits and (index == final or hasattr(step, "transform"))):
                wanted = "fit" if index == final else "fit and transform"
                hint = " Samplers belong in imbalanced-learn's Pipeline; there, curate by the curator's as_sampler()."
                raise TypeError(
                    f"The step {self._named(index)} should implement {wanted}, or be 'passthrough', but does not."
                    f"{hint if hasattr(step, 'fit_resample') else ''}"
                )
        if final is not None and any(getattr(step, "makes_weights", False) for _, step in self.steps[:final]):
            self._check_takes_weights()

    def _check_takes_weights(self) -> None:
        if not takes_weights(self.steps[-1][1]):
            raise TypeError(
                f"Curation puts weights on rows, but the fit of the last step, {self._named(-1)}, takes no "
                f"sample_weight. Use an estimator whose fit does, or a curating step that selects rows, as "
                f"InfluenceSelector does."
            )

    def _named(self, index: int) -> str:
        name, step = self.steps[index]
        return f"{name!r} ({step if isinstance(step, str) else type(step).__name__})"

    @contextmanager
    def _timed(self, index: int) -> Iterator[None]:
        """Print, if verbose, the line that scikit-learn prints for a step."""
        start = time.perf_counter()
        yield
        if self.verbose:
            seconds = time.perf_counter() - start
            took = f"{seconds / 60:4.1f}min" if seconds > 60 else f" {seconds:5.1f}s"
            message = f" (step {index + 1} of {len(self.steps)}) Processing {self.steps[index][0]}, total={took}"
            print("[Pipeline] " + message.rjust(59, "."))


def make_pipeline(
    *steps: Any, memory: Any = None, transform_input: list[str] | None = None, verbose: bool = False
) -> Pipeline:
    """Make a `Pipeline`, each step named after its class in lower case.

    Parameters
    ----------
    *steps : estimators
        The steps in order; any of them may be a curating step.
    memory, transform_input, verbose
        As in `Pipeline`.

    Returns
    -------
    pipeline : Pipeline
        The pipeline.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from skinfluence import InfluenceSelector, make_pipeline
    >>> list(make_pipeline(InfluenceSelector(), Ridge()).named_steps)
    ['influenceselector', 'ridge']
    """
    named = _sklearn_make_pipeline(*steps).steps
    return Pipeline(named, memory=memory, transform_input=transform_input, verbose=verbose)


def _is_passthrough(step: Any) -> bool:
    return step is None or (isinstance(step, str) and step == "passthrough")


def _is_curator(step: Any) -> bool:
    return hasattr(step, "fit_curate")


def _curates(step: Any) -> bool:
    return step._curates() if isinstance(step, Pipeline) else _is_curator(step)


def _plain(steps: list[tuple[str, Any]]) -> Any:
    """Make one unfitted estimator of steps, curating ones left out at any depth; None if none is left."""
    plain = []
    for name, step in steps:
        step = _plain(step.steps) if isinstance(step, Pipeline) else step
        if not _is_passthrough(step) and not _is_curator(step):
            plain.append((name, clone(step, safe=False)))
    return _SklearnPipeline(plain) if len(plain) > 1 else plain[0][1] if plain else None


def takes_weights(estimator: Any) -> bool:
    if has_fit_parameter(estimator, "sample_weight"):
        return True
    if get_config()["enable_metadata_routing"]:
        return bool(get_routing_for_object(estimator).consumes("fit", ["sample_weight"]))
    # Without routing, searches and other meta-estimators hand **fit_params to the estimator inside.
    inside = getattr(estimator, "estimator", getattr(estimator, "regressor", None))
    parameters = inspect.signature(estimator.fit).parameters.values() if inside is not None else ()
    return any(p.kind is p.VAR_KEYWORD for p in parameters) and takes_weights(inside)
