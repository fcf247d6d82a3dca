"""Experiments: tasks, networks, arms, tables and figures."""

from weightcast.experiments.demo import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
