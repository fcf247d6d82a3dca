"""What the study of weight-update skipping trains: networks, data, lengths, and arms, as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from weightcast.apply import SkipRule
from weightcast.experiments.experiment import Arm, Experiment, Rate, Updates

PAPER = "Safayenikoo and Akturk 2020"

# Each trains from the same initial weights on the same batches. What costs as much as WUS without
# a schedule is read off plain's curve; with one it is trained: its whole schedule is shorter.
ARMS = ("plain", "WUS", "plain + LR", "WUS + LR", "shorter + LR")
SHORTER = {"shorter + LR": "WUS + LR"}  # an arm, and whose cost it must have

_STAIR = 0.4  # of the run: the learning rate falls to a tenth after 40 %, to a hundredth after 80 %
_IMAGES = {"fashion-32": 60_000, "cifar10-32": 50_000, "cifar100-32": 50_000}


@dataclass(frozen=True)
class Setting:
    """A network, its data, and a length.

    Attributes
    ----------
    name : str
        As on the command line: "resnet18", "resnet18-cifar10".
    network : str
        Of `building.NETWORKS`.
    data : str
        Of `loading.PLACES`.
    budget : {"paper", "quick"}
    lr : float
        Learning rate of SGD with momentum 0.9 and weight decay 5e-4; of a schedule, the first.
    batch : int
    steps : int
        Optimizer steps.
    evaluate_every : int
        Steps between evaluations.
    images : int
        Training images that are trained on.
    held_out : int
        Training images by whose accuracy updates are skipped.
    tests : int
        Test images that judge; the first ones.
    threshold : float
    window, longest : int
        Of `weightcast.apply.SkipRule`.
    step_seconds : float
        Roughly, of a step of plain training on one core of 2025.
    """

    name: str
    network: str
    data: str
    budget: str
    lr: float
    batch: int
    steps: int
    evaluate_every: int
    images: int
    held_out: int
    tests: int
    threshold: float
    window: int
    longest: int
    step_seconds: float

    @property
    def folder(self) -> str:
        """Name of its folder of results, and of its file of numbers."""
        return self.name if self.budget == "paper" else f"{self.name}-{self.budget}"

    @property
    def rule(self) -> SkipRule:
        """By which updates are skipped."""
        return SkipRule(self.threshold, self.window, longest=self.longest)

    def experiment(self, arm: str, steps: int | None = None) -> Experiment:
        """What an arm trains, in fewer steps if so many are given."""
        length = steps or self.steps
        stairs = Rate("staircase", gamma=0.1, every=max(round(_STAIR * length), 1))
        rate = stairs if arm.endswith("LR") else Rate()
        return Experiment(
            name=self.folder,
            title="",
            paper=PAPER,
            data=self.data,
            network=self.network,
            updates=Updates("SGD", self.lr, {"momentum": 0.9, "weight_decay": 5e-4}, rate),
            batch=self.batch,
            steps=length,
            evaluate_every=self.evaluate_every,
            arms=(Arm(arm),),
            averaged=False,
            budget=self.budget,
        )


def settings() -> dict[tuple[str, str], Setting]:
    """All of them, by name and budget.

    Examples
    --------
    >>> len(settings())
    24
    >>> setting = settings()["resnet18-cifar100", "quick"]
    >>> setting.data, setting.folder
    ('cifar100-32', 'resnet18-cifar100-quick')
    """
    return {(s.name, s.budget): s for s in (*_papers(), *_quicks())}


# Name, network, and seconds of a step of 128 images.
_NETWORKS = (
    ("alexnet", "alexnet-cifar", 0.09),
    ("vgg11", "vgg11", 0.8),
    ("vgg16", "vgg16", 1.45),
    ("resnet18", "resnet18", 2.2),
)


def _papers() -> Iterator[Setting]:
    """AlexNet at a length that a core trains in minutes; the others at one for a device."""
    for name, network, data, seconds in _combined():
        small = name.startswith("alexnet")
        images = 8_000 if small else _IMAGES[data] - 2_000
        every = images // 128  # an epoch
        yield Setting(
            *(name, network, data, "paper"),
            lr=0.02 if small else 0.05,
            batch=128,
            steps=(20 if small else 30) * every,
            evaluate_every=every,
            images=images,
            held_out=1_000 if small else 2_000,  # evaluating them costs 4 %, or 1 %, of the steps
            tests=5_000 if small else 10_000,
            threshold=0.01,  # one standard error of the accuracy on 1,000 to 2,000 images
            window=2,
            longest=4,
            step_seconds=seconds,
        )


def _quicks() -> Iterator[Setting]:
    """A few steps that leave a window in which updates may be skipped."""
    for name, network, data, seconds in _combined():
        yield Setting(
            *(name, network, data, "quick"),
            lr=0.01,
            batch=16,
            steps=200,
            evaluate_every=20,
            images=4_000,
            held_out=100,
            tests=300,
            threshold=0.01,
            window=1,
            longest=3,
            step_seconds=seconds * 0.15,
        )


def _combined() -> Iterator[tuple[str, str, str, float]]:
    """Networks and data sets; Fashion-MNIST, which is at hand everywhere, is not in the name."""
    for data in _IMAGES:
        for name, network, seconds in _NETWORKS:
            called = name if data == "fashion-32" else f"{name}-{data.removesuffix('-32')}"
            yield called, network, data, seconds
