"""What the benchmarks share: MNIST, and a training of the paper's N0 network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from weightcast.experiments.mnist import load_images
from weightcast.experiments.networks import n0
from weightcast.store import WeightcastError

Data = tuple[torch.Tensor, torch.Tensor]


def mnist(folder: Path) -> Data:
    """Training images [N, 1, 28, 28] from 0 to 1, and labels [N], from IDX files."""
    try:
        return load_images(folder, "train")
    except WeightcastError as error:
        raise SystemExit(f"{error} (--data DIR)") from error


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
