"""The history on disk, and what is computed from it: no torch here.

Dask is imported by `scheduling`, `pools` and, for clusters, `client` alone.
"""

from weightcast.store.admissible import Choices, admissible
from weightcast.store.compacting import compact, compact_in_place
from weightcast.store.compaction import CompactionPlan, plan_compaction
from weightcast.store.comparing import Difference, compare
from weightcast.store.context import PAPER_CONTEXT, Context
from weightcast.store.dataset import Dataset, open_stored
from weightcast.store.describing import DatasetInfo, describe_dataset
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
    SchedulerError,
    ShapeError,
    StepNotRecordedError,
    UsageError,
    WeightcastError,
    WeightcastWarning,
)
from weightcast.store.estimating import PlanInfo, describe_plan
from weightcast.store.gathering import ContextBlock, ContextReader
from weightcast.store.history import History
from weightcast.store.horizon import Horizon
from weightcast.store.info import HistoryInfo
from weightcast.store.jobs import build_dataset
from weightcast.store.mmap import MmapStore
from weightcast.store.parameters import Parameter, ParameterTable
from weightcast.store.planning import SamplingPlan, plan_sampling
from weightcast.store.rebuilding import rebuild_dataset
from weightcast.store.recipe import Recipe, context_steps
from weightcast.store.spread import GroupVariation, Spread, VariationReport, WeightVariation
from weightcast.store.spread_figure import save_variation_figure
from weightcast.store.spreading import measure_variation
from weightcast.store.variation import variation
from weightcast.store.verifying import Damage, Verification, verify
from weightcast.store.windows import RunningSums, Window
from weightcast.store.writer import HistoryWriter

__all__ = [
    "PAPER_CONTEXT",
    "Choices",
    "CompactionPlan",
    "Context",
    "ContextBlock",
    "ContextReader",
    "Damage",
    "Dataset",
    "DatasetInfo",
    "Difference",
    "FormatError",
    "GroupVariation",
    "History",
    "HistoryInfo",
    "HistoryWriter",
    "Horizon",
    "InputNotFoundError",
    "MissingExtraError",
    "MmapStore",
    "NonFiniteError",
    "OutputExistsError",
    "Parameter",
    "ParameterTable",
    "PlanInfo",
    "Recipe",
    "RecordingError",
    "RemoteError",
    "RunningSums",
    "SamplingError",
    "SamplingPlan",
    "SchedulerError",
    "ShapeError",
    "Spread",
    "StepNotRecordedError",
    "UsageError",
    "VariationReport",
    "Verification",
    "WeightVariation",
    "WeightcastError",
    "WeightcastWarning",
    "Window",
    "admissible",
    "build_dataset",
    "compact",
    "compact_in_place",
    "compare",
    "context_steps",
    "describe_dataset",
    "describe_plan",
    "measure_variation",
    "open_stored",
    "plan_compaction",
    "plan_sampling",
    "rebuild_dataset",
    "recover",
    "save_variation_figure",
    "variation",
    "verify",
]
