"""Forecasters: their contract, their training, evaluation and files."""

from weightcast.predictor.baselines import LastValue
from weightcast.predictor.by_name import header_of, load, load_with_card, shipped
from weightcast.predictor.cards import card_text, make_card
from weightcast.predictor.comparing import Compared, Comparison, compare
from weightcast.predictor.evaluation import evaluate_dataset, evaluate_history
from weightcast.predictor.files import read_header, save, untrusted_types
from weightcast.predictor.forecaster import Forecaster
from weightcast.predictor.grouping import GROUPINGS
from weightcast.predictor.headers import Header
from weightcast.predictor.introspection import Introspection, LinearIntrospection
from weightcast.predictor.judging import linear_fit_name
from weightcast.predictor.line import Line
from weightcast.predictor.models import MODELS, describe_models, make_forecaster, parse_setting
from weightcast.predictor.noise import GaussianNoise
from weightcast.predictor.polynomials import LinearFit, QuadraticFit
from weightcast.predictor.regressors import SklearnForecaster
from weightcast.predictor.sharing import pull, push
from weightcast.predictor.tally import Errors
from weightcast.predictor.threads import one_thread
from weightcast.predictor.wnn import WNN

__all__ = [
    "GROUPINGS",
    "MODELS",
    "WNN",
    "Compared",
    "Comparison",
    "Errors",
    "Forecaster",
    "GaussianNoise",
    "Header",
    "Introspection",
    "LastValue",
    "Line",
    "LinearFit",
    "LinearIntrospection",
    "QuadraticFit",
    "SklearnForecaster",
    "card_text",
    "compare",
    "describe_models",
    "evaluate_dataset",
    "evaluate_history",
    "header_of",
    "linear_fit_name",
    "load",
    "load_with_card",
    "make_card",
    "make_forecaster",
    "one_thread",
    "parse_setting",
    "pull",
    "push",
    "read_header",
    "save",
    "shipped",
    "untrusted_types",
]
