"""What a training step costs while weights are skipped: arms that take turns, in one process.

``python benchmarks/skipping.py``: processor time of one thread; images are random. *torch* is what
freezing the weights alone would give: of convolutions with biases, nothing on a processor.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from weightcast.apply import UpdateSkipper
from weightcast.experiments.image_networks import resnet18, vgg11

ARMS = ("full", "skipping", "torch")


def mlp() -> nn.Sequential:
    """Three linear layers."""
    layers = nn.Linear(3072, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(512, 10))


def small(norm: bool) -> nn.Sequential:
    """Three convolutions, with biases or with batch norm."""
    layers: list[nn.Module] = []
    for channels, out in ((3, 64), (64, 128), (128, 128)):
        layers.append(nn.Conv2d(channels, out, 3, padding=1, bias=not norm))
        layers += [nn.BatchNorm2d(out)] * norm + [nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {  # and images in a batch
    "three linear layers": (mlp, 128),
    "three convolutions, biases": (lambda: small(False), 16),
    "three convolutions, batch norm": (lambda: small(True), 16),
    "VGG-11, batch norm": (vgg11, 16),
    "ResNet-18, batch norm": (resnet18, 4),
}


class Arm:
    """One network in training: as it is, with its weights skipped, or merely frozen."""

    def __init__(self, make: Callable[[], nn.Module], batch: int, name: str) -> None:
        torch.manual_seed(0)
        self.model, self.milliseconds = make(), list[float]()
        self.images, self.labels = torch.randn(batch, 3, 32, 32), torch.arange(batch) % 10
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.skipper = UpdateSkipper(self.model, self.optimizer, window=1)
        if name != "full":
            for _ in range(2):
                self.skipper.update(0.5)
        if name == "torch":
            frozen = self.skipper.frozen
            self.skipper.close()
            for parameter in frozen:
                self.model.get_parameter(parameter).requires_grad_(False)

    def step(self) -> None:
        """Take one step, and note its time."""
        begin = time.thread_time()
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(self.images), self.labels).backward()
        self.optimizer.step()
        self.milliseconds.append(1000 * (time.thread_time() - begin))


def measured(make: Callable[[], nn.Module], batch: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of the steps of each arm; the first two of each do not count."""
    arms = {name: Arm(make, batch, name) for name in ARMS}
    for _ in range(repeats + 2):
        for arm in arms.values():
            arm.step()
    return {name: arm.milliseconds[2:] for name, arm in arms.items()}


def spread(values: list[float], places: int) -> str:
    """Median, and the middle half."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{places}f} ({low:.{places}f} to {high:.{places}f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="Steps of each arm.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("network", "images", "full, ms", "skipping, ms", "ratio", "torch's ratio")
    for name, (make, batch) in NETWORKS.items():
        found = measured(make, batch, options.repeats)
        ratios = [
            [one / full for one, full in zip(found[arm], found["full"], strict=True)]
            for arm in ("skipping", "torch")
        ]
        shown = (spread(found["full"], 1), spread(found["skipping"], 1))
        table.add_row(name, str(batch), *shown, *(spread(ratio, 2) for ratio in ratios))
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
