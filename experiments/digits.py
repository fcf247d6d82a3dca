"""The demo's task: scikit-learn's handwritten digits, and two networks of different kinds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from weightcast.experiments.networks import seeded


@dataclass(frozen=True)
class Task:
    """Images and labels, split.

    Attributes
    ----------
    train_x, validation_x : float32 Tensor, shape (N, 1, 8, 8)
        From 0 to 1.
    train_y, validation_y : int64 Tensor, shape (N,)
    """

    train_x: torch.Tensor
    train_y: torch.Tensor
    validation_x: torch.Tensor
    validation_y: torch.Tensor

    def for_tuning(self) -> Task:
        """The training images alone, a fifth of them held out: to choose settings with."""
        parts = train_test_split(
            self.train_x, self.train_y, test_size=0.2, random_state=1, stratify=self.train_y
        )
        return Task(parts[0], parts[2], parts[1], parts[3])


def digits() -> Task:
    """Load the 1,797 digits; a quarter is held out, the same one every time.

    Examples
    --------
    >>> task = digits()
    >>> tuple(task.train_x.shape), tuple(task.validation_x.shape)
    ((1347, 1, 8, 8), (450, 1, 8, 8))
    """
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=0.25, random_state=0, stratify=labels)
    train_x, validation_x = (torch.tensor(p, dtype=torch.float32) for p in parts[:2])
    train_y, validation_y = (torch.tensor(p, dtype=torch.int64) for p in parts[2:])
    return Task(
        train_x.reshape(-1, 1, 8, 8), train_y, validation_x.reshape(-1, 1, 8, 8), validation_y
    )


def source_network(seed: int) -> nn.Module:
    """The network whose history the forecaster learns from: two hidden layers, 17,226 weights."""
    return seeded(
        lambda: nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        ),
        seed,
    )


def target_network(seed: int) -> nn.Module:
    """The network that jumps: two convolutions and two linear layers, 40,394 weights."""
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),  # [n, 16, 8, 8]
            nn.ReLU(),
            nn.MaxPool2d(2),  # [n, 16, 4, 4]
            nn.Conv2d(16, 32, 3, padding=1),  # [n, 32, 4, 4]
            nn.ReLU(),
            nn.MaxPool2d(2),  # [n, 32, 2, 2]
            nn.Flatten(),  # [n, 128]
            nn.Linear(128, 256),
            nn.ReLU(),
            nn.Linear(256, 10),
        ),
        seed,
    )
