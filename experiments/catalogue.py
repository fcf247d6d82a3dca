"""Every experiment that ``weightcast reproduce`` knows."""

from __future__ import annotations

from difflib import get_close_matches

from weightcast.experiments.experiment import Arm, Claim, Experiment, Rate, Updates
from weightcast.experiments.studies import MODULES as STUDIES
from weightcast.store import UsageError

_PAPER = "Sinha et al. 2017"
_JUMPS = "jumps"


def arms(*jumps: int) -> tuple[Arm, ...]:
    """The paper's two arms, and those that a careful reader would ask for.

    "averaging" is no run of its own: the plain run's weights, averaged, are evaluated beside it.
    """
    return (
        Arm("plain"),
        Arm(_JUMPS, jumps),
        Arm("one-cycle", schedule="one-cycle"),
        Arm("one-cycle + jumps", jumps, schedule="one-cycle"),
    )


def jump_sets(*sets: tuple[int, ...]) -> tuple[Arm, ...]:
    """As `arms`, with an arm for each set of jump points; the first is "jumps"."""
    first, *others = sets
    named = (Arm(f"jumps at {', '.join(map(str, points))}", points) for points in others)
    return (*arms(*first), *named)


MNIST1 = Experiment(
    name="mnist1",
    title="MNIST_1: two convolutions, dropout, SGD",
    paper=f"{_PAPER}, section 4.2.1",
    data="mnist",
    network="mnist1",
    updates=Updates("SGD", 1e-2),
    batch=50,
    steps=20_000,
    evaluate_every=500,
    arms=arms(3000, 4000, 5000),
    claims=(
        Claim("plain", "accuracy", 0.9722, 20_000),
        Claim(_JUMPS, "accuracy", 0.9822, 20_000),
    ),
    figures="11",
    notes=("The paper gives no initial biases: 0.1, as TensorFlow's tutorial of this network.",),
)

MNIST1_ADAM = Experiment(
    name="mnist1-adam",
    title="MNIST_1 by Adam",
    paper=f"{_PAPER}, section 4.3",
    data="mnist",
    network="mnist1",
    updates=Updates("Adam", 1e-4),
    batch=50,
    steps=10_000,
    evaluate_every=500,
    arms=arms(3000, 4000, 5000),
    claims=(
        Claim("plain", "accuracy", 0.993, 10_000),
        Claim(_JUMPS, "accuracy", 0.9934, 10_000),
        Claim(_JUMPS, "steps to plain's best", 7200),
    ),
    figures="21",
    notes=("Learning rate (that of N0) and jump points (those by SGD) are our reading.",),
)

MNIST2 = Experiment(
    name="mnist2",
    title="MNIST_2: Caffe's LeNet, SGD with the inv policy",
    paper=f"{_PAPER}, section 4.2.1",
    data="mnist",
    network="mnist2",
    updates=Updates("SGD", 0.01, rate=Rate("inv", gamma=1e-4, power=0.75)),
    batch=64,
    steps=10_000,
    evaluate_every=100,
    arms=arms(2500, 3000),
    claims=(
        Claim("plain", "steps to accuracy", 6000, 0.9911),
        Claim(_JUMPS, "steps to accuracy", 3500, 0.9911),
    ),
    figures="12",
)

MNIST3 = Experiment(
    name="mnist3",
    title="MNIST_3: two hidden layers, SGD",
    paper=f"{_PAPER}, section 4.2.1",
    data="mnist",
    network="mnist3",
    updates=Updates("SGD", 5e-3),
    batch=100,
    steps=15_000,
    evaluate_every=100,
    arms=arms(6000, 8000, 10_000),
    claims=(
        Claim("plain", "accuracy", 0.9571, 15_000),
        Claim(_JUMPS, "accuracy", 0.9689, 15_000),
        Claim(_JUMPS, "steps to plain's best", 8300),
    ),
    figures="13",
    notes=(
        "The paper says SGD here and Adam in another place: mnist3-adam is the other reading.",
        "Weights and biases start from normal(0, 1), as the paper says: the first losses are in "
        "the thousands, and the last ones far from 0.",
    ),
)

MNIST3_ADAM = Experiment(
    name="mnist3-adam",
    title="MNIST_3 by Adam",
    paper=f"{_PAPER}, section 4.3",
    data="mnist",
    network="mnist3",
    updates=Updates("Adam", 5e-3),
    batch=100,
    steps=15_000,
    evaluate_every=100,
    arms=arms(6000, 8000, 10_000),
    claims=(
        Claim("plain", "accuracy", 0.957, 15_000),
        Claim(_JUMPS, "accuracy", 0.969, 15_000),
        Claim(_JUMPS, "steps to plain's best", 8800),
    ),
    figures="22",
    notes=("The learning rate is that by SGD, the only one that the paper gives.",),
)

MNIST4 = Experiment(
    name="mnist4",
    title="MNIST_4: an LSTM over the rows, Adam",
    paper=f"{_PAPER}, section 4.2.1",
    data="mnist",
    network="mnist4",
    updates=Updates("Adam", 5e-4),
    batch=128,
    steps=7000,
    evaluate_every=100,
    arms=arms(2000, 3000, 4000),
    claims=(
        Claim("plain", "steps to accuracy", 6500, 0.9865),
        Claim(_JUMPS, "steps to accuracy", 5300, 0.9885),
        Claim(_JUMPS, "steps to plain's best", 4200),
    ),
    figures="14",
)

FM16 = Experiment(
    name="fm16",
    title="FM-16: three small convolutions on Fashion-MNIST, AdamW",
    paper="Knyazev et al. 2025 (NiNo)",
    data="fashion-55000",
    network="fm16",
    updates=Updates("AdamW", 6e-3),
    batch=128,
    steps=10_000,
    evaluate_every=100,
    arms=arms(1000, 2000, 4000),
    targets=(0.895,),
    notes=(
        "NiNo's task and target, Introspection's jumps: the points are ours, a geometric schedule.",
        "The last 5,000 training images are evaluated on.",
    ),
)

BASELINES = Experiment(
    name="baselines",
    title="Other forecasts in Introspection's place, on MNIST_2",
    paper=f"{_PAPER}, sections 4.3 to 4.5",
    data="mnist",
    network="mnist2",
    updates=MNIST2.updates,
    batch=64,
    steps=10_000,
    evaluate_every=100,
    arms=(
        Arm("plain"),
        Arm(_JUMPS, (2500, 3000)),
        Arm("quadratic fit 1.25", (2500, 3000), "quadratic-fit@1.25"),
        Arm("quadratic fit 1.3", (2500, 3000), "quadratic-fit@1.3"),
        Arm("quadratic fit 1.4", (2500, 3000), "quadratic-fit@1.4"),
        Arm("linear fit 1.1", (2500, 3000), "linear-fit@1.1"),
        Arm("linear fit 1.075", (2500, 3000), "linear-fit@1.075"),
        Arm("linear Introspection", (2500, 3000), "linear-introspection"),
        Arm("noise of N0's size", (2500, 3000), "noise"),
        Arm("noise of a tenth", (2500, 3000), "noise/10"),
        Arm("k = 2.2", (2500, 3000), "introspection@2.2"),
        Arm("line 500 ahead", (2500, 3000), "line"),
        Arm("line 500 ahead, guarded", (2500, 3000), "line", guarded=True),
    ),
    claims=(
        Claim("plain", "accuracy", 0.9921, 10_000),
        Claim("quadratic fit 1.25", "accuracy", 0.9919, 10_000),
        Claim("quadratic fit 1.4", "accuracy", 0.098, 10_000),
    ),
    figures="15 and 23 to 29",
    quick_steps=3300,  # a line looks back over 800 steps
    notes=(
        "On MNIST_2: the accuracies that the paper gives here are those of this network.",
        "A fit's number is read as its horizon: of 1.25, jumps after step t go to 1.25 t. "
        "Introspection goes to 2 t, k = 2.2 to 2.2 t. The linear fit is the least-squares line, "
        "the quadratic one the parabola, of the four values that Introspection has.",
        "The paper's 99.21 % is read as plain's.",
        "The noise is as large as N0's changes from t to 2t in its samples, and a tenth of it.",
        "Plain and jumps are the runs of mnist2 with this seed: the protocol is the same.",
        "The last two arms are ours: the least-squares line through the last 800 steps, which goes "
        "500 steps ahead, and the guard, which takes back a jump that hurts.",
    ),
)

CIFAR1 = Experiment(
    name="cifar1",
    title="CIFAR_1: two convolutions with batch norm, SGD",
    paper=f"{_PAPER}, section 4.2.2",
    data="cifar10",
    network="cifar1",
    updates=Updates("SGD", 0.1, rate=Rate("staircase", gamma=0.1, every=350 * 390)),
    batch=128,
    steps=40_000,
    evaluate_every=500,
    arms=jump_sets(
        (12_000, 17_000),
        (15_000, 18_000),
        (12_000, 15_000, 19_000),
        (14_000, 17_000, 20_000),
    ),
    claims=(
        Claim("plain", "steps to accuracy", 40_000, 0.857),
        Claim(_JUMPS, "steps to accuracy", 28_000, 0.857),
    ),
    figures="16 to 19",
)

ALEXNET1 = Experiment(
    name="alexnet1",
    title="AlexNet_1 on ImageNet, SGD with momentum",
    paper=f"{_PAPER}, section 4.2.3",
    data="images",
    network="alexnet1",
    updates=Updates(
        "SGD", 0.01, {"momentum": 0.9}, rate=Rate("staircase", gamma=0.1, every=100_000)
    ),
    batch=128,
    steps=200_000,
    evaluate_every=2000,
    arms=arms(120_000, 130_000, 144_000, 160_000),
    claims=(
        Claim("plain", "top-5 accuracy", 0.72, 196_000),
        Claim(_JUMPS, "top-5 accuracy", 0.72, 179_000),
    ),
    figures="20",
    quick_steps=20,
    quick_batch=8,
)

INCEPTION1 = Experiment(
    name="inception1",
    title="Inception V1 on ImageNet, RMSprop",
    paper=f"{_PAPER}, appendix",
    data="images",
    network="inception1",
    updates=Updates(
        *("RMSprop", 0.01, {"alpha": 0.9, "momentum": 0.9, "eps": 1.0}),
        rate=Rate("staircase", gamma=0.94, every=2 * 10_009),
    ),
    batch=128,
    steps=1_200_000,
    evaluate_every=10_000,
    arms=jump_sets(
        (300_000, 600_000, 900_000), (200_000, 400_000, 600_000), (20_000, 40_000, 60_000)
    ),
    figures="30 and 31",
    notes=("The paper's early jump points are not given: ours are a tenth of the second set.",),
    quick_steps=20,
    quick_batch=8,
)

CATALOGUE = {
    entry.name: entry
    for entry in (
        *(MNIST1, MNIST1_ADAM, MNIST2, MNIST3, MNIST3_ADAM, MNIST4),
        *(FM16, BASELINES, CIFAR1, ALEXNET1, INCEPTION1),
    )
}


def find(name: str) -> Experiment:
    """The experiment of that name.

    Raises
    ------
    UsageError
        If there is none.

    Examples
    --------
    >>> find("mnist2").steps
    10000
    """
    if name not in CATALOGUE:
        known = [*CATALOGUE, *STUDIES]
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? There are" if near else "there are"
        raise UsageError(f"no experiment {name!r}: {hint} {', '.join(known)}")
    return CATALOGUE[name]
