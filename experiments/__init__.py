"""Experiments: tasks, networks, arms, tables and figures."""

from weightcast.experiments.building import NETWORKS
from weightcast.experiments.demo import DemoResult, run_demo
from weightcast.experiments.digits import Task, digits
from weightcast.experiments.experiment import Arm, Experiment, Rate, Updates
from weightcast.experiments.loading import Data, load_data
from weightcast.experiments.results import RunResult, Trace
from weightcast.experiments.running import run_arm
from weightcast.experiments.tuning import tuned_peak

__all__ = [
    "NETWORKS",
    "Arm",
    "Data",
    "DemoResult",
    "Experiment",
    "Rate",
    "RunResult",
    "Task",
    "Trace",
    "Updates",
    "digits",
    "load_data",
    "run_arm",
    "run_demo",
    "tuned_peak",
]
