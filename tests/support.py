"""What several test modules share: a training script, and the files of a small pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TRAIN_PY = '''\
"""A training script that knows nothing of weightcast."""

import argparse

import torch
from sklearn.datasets import load_digits

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--save-at", type=int, default=0)
args = parser.parse_args()

torch.manual_seed(args.seed)
images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images / 16).float(), torch.tensor(labels)
model = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for step in range(1, args.steps + 1):
    rows = torch.randint(len(x), (50,))
    loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step == args.save_at:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save(state, "in.pt")
print(f"final loss {loss.item():.3f}")
'''


@dataclass(frozen=True)
class Pipeline:
    """Files of a small run: history, dataset, forecaster, checkpoint at step 100."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        names = {
            "script": "train.py",
            "history": "run.zarr",
            "other": "other.zarr",
            "dataset": "dataset.zarr",
            "forecaster": "introspection.safetensors",
            "checkpoint": "in.pt",
        }
        return self.folder / names[name]


def eventually(condition: Callable[[], object], seconds: float = 60.0) -> bool:
    """Whether a condition comes true: for what another process does in its own time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
