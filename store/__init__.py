"""The history on disk, and what is computed from it: no torch here.

Only the job module, `weightcast.store.jobs`, imports Dask.
"""

from weightcast.store.compacting import compact, compact_in_place
from weightcast.store.compaction import CompactionPlan, plan_compaction
from weightcast.store.comparing import Difference, compare
from weightcast.store.dataset import Dataset, open_stored
from weightcast.store.draining import recover
from weightcast.store.errors import (
    FormatError,
    InputNotFoundError,
    MissingExtraError,
    NonFiniteError,
    OutputExistsError,
    RecordingError,
    RemoteError,
    SamplingError,
    ShapeError,
    StepNotRecordedError,
    UsageError,
    WeightcastError,
    WeightcastWarning,
)
from weightcast.store.history import History
from weightcast.store.info import HistoryInfo
from weightcast.store.jobs import SamplingPlan, build_dataset, plan_sampling
from weightcast.store.mmap import MmapStore
from weightcast.store.parameters import Parameter, ParameterTable
from weightcast.store.recipe import Recipe, admissible, context_steps
from weightcast.store.variation import variation
from weightcast.store.verifying import Damage, Verification, verify
from weightcast.store.writer import HistoryWriter

__all__ = [
    "CompactionPlan",
    "Damage",
    "Dataset",
    "Difference",
    "FormatError",
    "History",
    "HistoryInfo",
    "HistoryWriter",
    "InputNotFoundError",
    "MissingExtraError",
    "MmapStore",
    "NonFiniteError",
    "OutputExistsError",
    "Parameter",
    "ParameterTable",
    "Recipe",
    "RecordingError",
    "RemoteError",
    "SamplingError",
    "SamplingPlan",
    "ShapeError",
    "StepNotRecordedError",
    "UsageError",
    "Verification",
    "WeightcastError",
    "WeightcastWarning",
    "admissible",
    "build_dataset",
    "compact",
    "compact_in_place",
    "compare",
    "context_steps",
    "open_stored",
    "plan_compaction",
    "plan_sampling",
    "recover",
    "variation",
    "verify",
]
