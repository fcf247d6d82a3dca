"""Write the golden files of the on-disk formats, from the values given here.

A file in a published format is decoded for ever: never regenerate the files of a version that
exists. When a format gets a new version, add `history-v2.zarr` beside the old one and keep the old
one's test. This script therefore leaves alone what is there::

    python tests/golden/make_golden.py [FOLDER]
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import Ridge

from weightcast.predictor import Introspection, SklearnForecaster, save
from weightcast.store import Dataset, HistoryWriter, ParameterTable, build_dataset
from weightcast.store.rounded import decode, encode

TABLE = ParameterTable.of(
    [("fc.weight", (2, 5), "bfloat16", "weight"), ("fc.bias", (2,), "float32", "bias")]
)
BUFFERS = ParameterTable.of([("bn.running_mean", (2,), "float32", "buffer")])
STEPS = [0, 1, 2, 4, 8]
TIMES = [0.0, 0.25, 0.5, 1.0, 2.5]
# fc.bias[1], the last, never moves; fc.weight is exact in bfloat16
WEIGHTS = [
    [0.5, -1.0, 2.0, 0.25, 3.0, -0.5, 1.5, -2.5, 0.125, 4.0, 0.0, 1.0],
    [0.75, -1.5, 2.25, 0.5, 2.0, -0.25, 1.0, -2.0, 0.375, 4.5, 0.5, 1.0],
    [1.0, -2.0, 2.5625, 0.375, 1.5, 0.25, 0.75, -1.875, 0.3125, 4.8125, 0.6875, 1.0],
    [1.375, -3.0, 1.875, 0.8125, 0.9375, 0.5, 0.4375, -1.25, 0.9375, 5.5625, 1.1875, 1.0],
    [1.5, -4.0, 3.0, 1.25, 0.5, 0.75, 0.125, -1.0, 1.0, 6.0, 1.5, 1.0],
]
BUFFER_VALUES = [[0.0, -0.0], [1e-300, 0.1], [math.inf, -math.inf], [math.nan, 5e-324], [1.0, -1.0]]
LOSS_STEPS, LOSS = [1, 2, 8], [2.5, 1.25, 0.5]
BOUND = 0.02  # of the preset bounded
CONTEXT = "1,0.5,t-2,mean:2/2,slope:2/2,spread:2/2,scale,size,fan-in,dims,step,ahead,ratio"
SOURCES = ["history-v1.zarr", "history-v1-compact.zarr"]
METADATA = {"seed": 7, "note": "golden"}


def make_history(path: Path, preset: str = "fast", error: float | None = None) -> None:
    """A history in two appends, the second of which ends within a chunk."""
    with HistoryWriter.create(
        path,
        TABLE,
        buffers=BUFFERS,
        block=2,
        schedule="every:1",
        preset=preset,
        error=error,
        versions={"torch": "2.13.0"},
        metadata=METADATA,
    ) as writer:
        weights = np.array(WEIGHTS, dtype=np.float32)
        for rows in (slice(0, 2), slice(2, 5)):
            buffers = np.array(BUFFER_VALUES[rows])
            writer.append(STEPS[rows], TIMES[rows], weights[rows], buffers)
        writer.log("loss", LOSS_STEPS, LOSS)


def bounded_chunks() -> list[tuple[str, np.ndarray, float]]:
    """Chunks that show each way in which the codec of ``bounded`` stores one."""
    slope = np.linspace(0, 1, 6)[:, None] * np.arange(1.0, 5) ** 1.5
    padded = np.where(np.arange(6)[:, None] < 4, slope, np.nan)
    filling = np.where(np.arange(4) < 2, slope, np.nan)
    coarse = slope + 504.5 * (np.arange(6) == 5)[:, None]  # as fine as float32 is there
    wavering = np.sin(np.arange(48) ** 2).reshape(6, 8).cumsum(axis=1)
    return [
        ("wavering", wavering.astype(np.float32), 0.01),
        ("one byte, padded", padded.astype(np.float32), 0.01),
        ("two bytes", slope.astype(np.float32), 1e-4),
        ("four bytes, float64", slope, 1e-7),
        ("some exact", coarse.astype(np.float32), 4e-5),
        ("lossless", filling.astype(np.float32), 0.01),
        ("lossless, float64", filling, 0.01),
    ]


def make_bounded_chunks(path: Path) -> None:
    """Chunks of ``bounded`` as they are stored, and what they decode to, both in hex."""
    chunks = []
    for name, values, error in bounded_chunks():
        payload = encode(values, error)
        decoded = decode(payload, values.shape, values.dtype, error)
        chunk = {"name": name, "dtype": str(values.dtype), "shape": values.shape, "error": error}
        chunks.append(chunk | {"payload": payload.hex(), "decoded": decoded.tobytes().hex()})
    path.write_text(json.dumps(chunks, indent=1) + "\n")


def make_dataset(histories: list[str], path: Path) -> Dataset:
    """20 samples of 3 x 12 candidates of each history: a window, facts and two horizons."""
    return build_dataset(
        histories,
        path,
        20,
        context=CONTEXT,
        horizon=(2.0, "+6"),
        seed=4,
        validation=0.3,
        scheduler="synchronous",
    )


NETWORK = {
    "hidden_weight_": [[1.0, -0.5, 0.25], [-1.0, 0.5, 2.0]],
    "hidden_bias_": [0.5, -0.25],
    "output_weight_": [2.0, -1.0],
    "output_bias_": 0.125,
}


def make_network(path: Path) -> None:
    """An Introspection network with text in its context, and two horizons."""
    context = (1.0, "t-25", "slope:100/25")
    network = Introspection(
        hidden=2, scale=8.0, context=context, horizon=("+500", 2.0), random_state=3
    )
    network.context_, network.n_features_in_ = context, len(context)
    network.load_tensors({name: torch.tensor(values) for name, values in NETWORK.items()})
    save(network, path, card={"dataset": {"source": "run.zarr"}})


def make_regressor(path: Path) -> None:
    """A ridge regression whose coefficients are given here."""
    forecaster = SklearnForecaster(Ridge(alpha=2.0), scale=8.0, target="value", context=(1.0, 0.5))
    forecaster.fit(np.zeros((2, 2)), np.zeros(2))
    forecaster.regressor_.coef_ = np.array([2.0, 0.5])
    forecaster.regressor_.intercept_ = 1.0
    save(forecaster, path, card={"note": "golden"})


def main(folder: Path) -> None:
    """Write what is not there, with relative paths: a dataset keeps those of its histories.

    Nothing writes a dataset of format 1 or 2, or a forecaster of format 1, any more.
    """
    makers = {
        "history-v1.zarr": make_history,
        "history-v1-compact.zarr": lambda path: make_history(path, "compact"),
        "history-v1-bounded.zarr": lambda path: make_history(path, "bounded", BOUND),
        "bounded-v1.json": make_bounded_chunks,
        "dataset-v3.zarr": lambda path: make_dataset(SOURCES, path),
        "forecaster-v2.safetensors": make_network,
        "forecaster-v2.skops": make_regressor,
    }
    with contextlib.chdir(folder):
        for name, make in makers.items():
            if not Path(name).exists():
                make(Path(name))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
