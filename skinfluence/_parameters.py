"""Parameters of parts that are given by name."""

from __future__ import annotations

from typing import Any

from sklearn.base import BaseEstimator

from .methods import METHODS
from .objectives import OBJECTIVES

_NAMED: dict[str, dict[str, Any]] = {"method": METHODS, "objective": OBJECTIVES}


class NamedParameters(BaseEstimator):
    """Lets ``method__n_members`` reach a method that is given by its name, as it reaches one given as an object."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters; with ``deep``, those of a method or an objective given by name too, such as
        ``method__n_members``.
        """
        params = super().get_params(deep=deep)
        if deep:
            for name, table in _NAMED.items():
                if isinstance(params[name], str) and params[name] in table:
                    nested = table[params[name]]().get_params(deep=True)
                    params.update({f"{name}__{key}": value for key, value in nested.items()})
        return params

    def set_params(self, **params: Any) -> Any:
        """Set parameters; ``method__n_members=10`` turns a method given by name into a configured object."""
        for name, table in _NAMED.items():
            value = params.get(name, getattr(self, name))
            if isinstance(value, str) and value in table and any(key.startswith(f"{name}__") for key in params):
                params[name] = table[value]()
        return super().set_params(**params)
