"""The history on disk, and what is computed from it: no torch here.

Only the job module, `weightcast.store.jobs`, imports Dask.
"""

from weightcast.store.dataset import Dataset, open_stored
from weightcast.store.errors import (
    FormatError,
    InputNotFoundError,
    MissingExtraError,
    NonFiniteError,
    OutputExistsError,
    RecordingError,
    SamplingError,
    ShapeError,
    StepNotRecordedError,
    UsageError,
    WeightcastError,
)
from weightcast.store.history import History, HistoryInfo
from weightcast.store.jobs import SamplingPlan, build_dataset, plan_sampling
from weightcast.store.parameters import Parameter, ParameterTable
from weightcast.store.recipe import Recipe, admissible, context_steps
from weightcast.store.variation import variation
from weightcast.store.writer import HistoryWriter

__all__ = [
    "Dataset",
    "FormatError",
    "History",
    "HistoryInfo",
    "HistoryWriter",
    "InputNotFoundError",
    "MissingExtraError",
    "NonFiniteError",
    "OutputExistsError",
    "Parameter",
    "ParameterTable",
    "Recipe",
    "RecordingError",
    "SamplingError",
    "SamplingPlan",
    "ShapeError",
    "StepNotRecordedError",
    "UsageError",
    "WeightcastError",
    "admissible",
    "build_dataset",
    "context_steps",
    "open_stored",
    "plan_sampling",
    "variation",
]
