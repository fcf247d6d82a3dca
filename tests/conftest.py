"""A small pipeline run from the command line, once for all tests that need its files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support import TRAIN_PY, Pipeline

from weightcast.cli.main import main

settings.register_profile(
    "ci", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.register_profile("dev", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The whole pipeline, by its commands, on a small network."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "train.py").write_text(TRAIN_PY)
    kept = Path.cwd()
    os.chdir(folder)
    try:
        for line in (
            "record -o run.zarr -- train.py --save-at 100",
            "record -o other.zarr -- train.py --seed 1",
            "dataset build run.zarr -o dataset.zarr --samples 4000",
            "fit dataset.zarr -o introspection.safetensors --set steps=500",
        ):
            assert main(line.split()) == 0, line
    finally:
        os.chdir(kept)
    return Pipeline(folder)
