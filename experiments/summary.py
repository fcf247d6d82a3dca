"""What the runs of an experiment come to, over the seeds: numbers only.

Accuracies and losses are running medians over four evaluations throughout, so that a lucky
evaluation is not enough; accuracies are shares from 0 to 1. Of a level that is never reached, the
steps are infinite: a median over the seeds is known as long as most of them reach it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from statistics import median

from weightcast.experiments.merging import RunSet
from weightcast.experiments.results import RunResult, Trace
from weightcast.experiments.training import running_median, steps_to

WIDTH = 4  # evaluations that a running median is taken over
BEST = "plain's best"  # the target that every experiment has
_TIE = 1e-9  # medians of two shares differ by rounding


@dataclass(frozen=True)
class Spread:
    """A number for each seed.

    Attributes
    ----------
    by_seed : mapping of int to float
        Infinite where it was never reached.

    Examples
    --------
    >>> steps = Spread({1: 300.0, 2: math.inf, 3: 500.0})
    >>> steps.median, steps.low, steps.high, steps.reached
    (500.0, 300.0, inf, 2)
    >>> Spread({1: 300.0, 2: math.inf}).median is None
    True
    """

    by_seed: Mapping[int, float]

    @property
    def values(self) -> list[float]:
        """Of all seeds."""
        return list(self.by_seed.values())

    @property
    def median(self) -> float | None:
        """Over the seeds; None without seeds, or where it is infinite."""
        middle = median(self.values) if self.by_seed else math.inf
        return middle if middle < math.inf else None

    @property
    def low(self) -> float:
        """The least."""
        return min(self.values, default=math.inf)

    @property
    def high(self) -> float:
        """The most."""
        return max(self.values, default=math.inf)

    @property
    def reached(self) -> int:
        """How many are finite."""
        return sum(value < math.inf for value in self.values)

    def of(self, other: Spread) -> Spread:
        """Shares of the other's values, for the seeds in which both are there and his is finite."""
        return Spread({s: v / w for s, v in self.by_seed.items() if 0 < (w := other[s]) < math.inf})

    def less(self, other: Spread) -> Spread:
        """Differences to the other's values, for the seeds that both have."""
        return Spread({s: v - other[s] for s, v in self.by_seed.items() if s in other.by_seed})

    def without(self, seeds: Collection[int]) -> Spread:
        """The other seeds."""
        return Spread({s: v for s, v in self.by_seed.items() if s not in seeds})

    def __getitem__(self, seed: int) -> float:
        return self.by_seed.get(seed, math.inf)


@dataclass(frozen=True)
class Reached:
    """The way to a level.

    Attributes
    ----------
    steps : Spread
        First at which the running median holds the level.
    seconds : Spread
        Processor seconds until then, forecasts included.
    """

    steps: Spread
    seconds: Spread


@dataclass(frozen=True)
class ArmSummary:
    """What an arm came to.

    Attributes
    ----------
    name : str
    traces : dict of int to Trace
        By seed.
    final, best, loss : Spread
        Accuracy after the last step, the best of all, and the loss after the last step, infinite
        if it is not finite: running medians.
    targets : dict of str to Reached
        "plain's best" accuracy, of the same seed, and the levels of the experiment's claims.
    seconds, forecast_seconds : Spread
        Processor time in all, and of the jumps in it.
    jumps : Spread
        How many were taken and stayed.
    """

    name: str
    traces: dict[int, Trace]
    final: Spread
    best: Spread
    loss: Spread
    targets: dict[str, Reached]
    seconds: Spread
    forecast_seconds: Spread
    jumps: Spread


@dataclass(frozen=True)
class Summary:
    """What an experiment came to.

    Attributes
    ----------
    set : RunSet
    arms : dict of str to ArmSummary
        Those of which there is a run.
    missing : dict of str to list of int
        Seeds that other arms have and an arm of the catalogue has not.
    """

    set: RunSet
    arms: dict[str, ArmSummary]
    missing: dict[str, list[int]]

    @property
    def seeds(self) -> list[int]:
        """All that an arm was run with."""
        return sorted({run.seed for run in self.set.runs})


def summarise(runs: RunSet) -> Summary:
    """Numbers of every arm, over the seeds.

    Parameters
    ----------
    runs : RunSet
        Arms and seeds may be missing.

    Returns
    -------
    Summary
    """
    traces: dict[str, dict[int, Trace]] = {}
    owners: dict[str, dict[int, RunResult]] = {}
    for run in runs.runs:
        for name, trace in run.traces.items():
            traces.setdefault(name, {})[run.seed] = trace
            owners.setdefault(name, {})[run.seed] = run
    levels = targets_of(runs, traces.get("plain", {}))
    arms = {name: _arm(name, traces[name], owners[name], levels) for name in _order(runs, traces)}
    expected = [arm.name for arm in runs.entry.arms if arm.name not in runs.own]
    expected += ["averaging"] * (runs.entry.averaged and "plain" in expected)
    seeds = sorted({run.seed for run in runs.runs})
    missing = {a: [s for s in seeds if s not in traces.get(a, {})] for a in expected}
    return Summary(runs, arms, {arm: lacks for arm, lacks in missing.items() if lacks})


def targets_of(runs: RunSet, plain: Mapping[int, Trace]) -> dict[str, Mapping[int, float]]:
    """Levels of accuracy by seed: plain's best, of the same seed, the entry's and its claims'."""
    claimed = {c.at for c in runs.entry.claims if c.measure == "steps to accuracy"}
    claimed |= set(runs.entry.targets)
    seeds = {run.seed for run in runs.runs}
    levels: dict[str, Mapping[int, float]] = {
        BEST: {seed: max(held(trace.accuracy)) for seed, trace in plain.items()}
    }
    return levels | {level_name(at): dict.fromkeys(seeds, at) for at in sorted(claimed)}


def level_name(accuracy: float) -> str:
    """A level among an arm's targets.

    Examples
    --------
    >>> level_name(0.9911)
    '99.11 %'
    """
    return f"{100 * accuracy:g} %"


def held(values: list[float]) -> list[float]:
    """Running median over four evaluations."""
    return running_median(values, WIDTH)


def reach(traces: Mapping[int, Trace], levels: Mapping[int, float]) -> Reached:
    """Steps and seconds until a level is held, for the seeds that have a level."""
    steps, seconds = {}, {}
    for seed, trace in traces.items():
        if seed in levels:
            first = steps_to(trace, levels[seed] - _TIE, WIDTH)
            steps[seed] = math.inf if first is None else float(first)
            at = math.inf if first is None else trace.seconds[trace.steps.index(first)]
            seconds[seed] = at
    return Reached(Spread(steps), Spread(seconds))


def over(traces: Mapping[int, Trace], of: Callable[[Trace], float]) -> Spread:
    """A number of each seed's curve."""
    return Spread({seed: of(trace) for seed, trace in traces.items()})


def _arm(
    name: str,
    traces: dict[int, Trace],
    runs: Mapping[int, RunResult],
    levels: Mapping[str, Mapping[int, float]],
) -> ArmSummary:
    loss = over(traces, lambda t: held(t.loss)[-1])
    return ArmSummary(
        name=name,
        traces=traces,
        final=over(traces, lambda t: held(t.accuracy)[-1]),
        best=over(traces, lambda t: max(held(t.accuracy))),
        loss=Spread({s: v if math.isfinite(v) else math.inf for s, v in loss.by_seed.items()}),
        targets={target: reach(traces, level) for target, level in levels.items()},
        seconds=over(traces, lambda t: t.seconds[-1]),
        forecast_seconds=Spread({seed: run.forecast_seconds for seed, run in runs.items()}),
        jumps=Spread({seed: float(len(run.jumps)) for seed, run in runs.items()}),
    )


def _order(runs: RunSet, traces: Mapping[str, object]) -> list[str]:
    """Arms of which there is a curve: the entry's, with what stands beside a run last."""
    own = [arm.name for arm in runs.entry.arms if arm.name in traces]
    return own + [name for name in traces if name not in own]
