"""What the benchmarks share: MNIST, the paper's N0 network, and a training of it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

Data = tuple[torch.Tensor, torch.Tensor]


def n0() -> nn.Module:
    """The paper's N0: three 5x5 convolutions and two linear layers, 551,818 weights."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),  # [n, 8, 14, 14]
        *(nn.Conv2d(8, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),  # [n, 16, 7, 7]
        *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
        *(nn.Flatten(), nn.Linear(512, 1024), nn.ReLU(), nn.Dropout(), nn.Linear(1024, 10)),
    )


def mnist(folder: Path) -> Data:
    """Training images [N, 1, 28, 28] from 0 to 1, and labels [N], from IDX files."""
    if not folder.is_dir():
        raise SystemExit(f"no MNIST files in {folder}: give their folder with --data")
    images = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes())
    x = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    y = np.frombuffer(labels, np.uint8, offset=8)
    return torch.tensor(x / 255, dtype=torch.float32), torch.tensor(y.astype(np.int64))


class Training:
    """One run of N0: the same weights and batches every time."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, batch: int = 50) -> None:
        torch.manual_seed(0)
        self.x, self.y, self.batch, self.model = x, y, batch, n0()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)

    def step(self) -> None:
        """Take one optimizer step."""
        rows = torch.randint(len(self.x), (self.batch,))
        loss = nn.functional.cross_entropy(self.model(self.x[rows]), self.y[rows])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def run(self, steps: int, after_step: Callable[[], object] = lambda: None) -> None:
        """Train, calling `after_step` after each step."""
        for _ in range(steps):
            self.step()
            after_step()


def flat(model: nn.Module) -> np.ndarray:
    """All weights of a model, in one array [P]."""
    return nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
