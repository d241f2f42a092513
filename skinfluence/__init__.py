"""skinfluence: find the training rows that hurt a model, and act on them."""

from ._curated import CuratedClassifier, CuratedRegressor
from ._curation import InfluenceSelector
from ._held_out import HeldOut
from ._pipeline import Pipeline, make_pipeline
from ._relabeling import InfluenceRelabeler
from ._reweighting import InfluenceReweighter
from ._scores import influence_scores
from ._version import __version__

__all__ = [
    "CuratedClassifier",
    "CuratedRegressor",
    "HeldOut",
    "InfluenceRelabeler",
    "InfluenceReweighter",
    "InfluenceSelector",
    "Pipeline",
    "__version__",
    "influence_scores",
    "make_pipeline",
]
