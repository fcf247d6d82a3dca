"""Forecasters: their contract, their training, evaluation and files."""

from weightcast.predictor.baselines import LastValue, LinearFit
from weightcast.predictor.evaluation import Errors, evaluate_dataset, evaluate_history
from weightcast.predictor.files import MODELS, load, load_with_card, save
from weightcast.predictor.forecaster import Forecaster
from weightcast.predictor.introspection import Introspection
from weightcast.predictor.threads import one_thread

__all__ = [
    "MODELS",
    "Errors",
    "Forecaster",
    "Introspection",
    "LastValue",
    "LinearFit",
    "evaluate_dataset",
    "evaluate_history",
    "load",
    "load_with_card",
    "one_thread",
    "save",
]
