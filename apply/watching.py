"""What is collected on the way to jumps: snapshots of some steps, and sums of windows."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from weightcast.apply.flattening import layouts_of, local
from weightcast.apply.needs import Key, lives, past_steps
from weightcast.apply.placing import AS_THEY_ARE, Placement
from weightcast.apply.summing import ModelSums, array_names, summing_dtype
from weightcast.predictor.rows import Row
from weightcast.store import ShapeError, UsageError
from weightcast.store.columns import NOW
from weightcast.store.columns import Past as PastColumn
from weightcast.store.context import Context
from weightcast.store.facts import tensor_facts, time_facts
from weightcast.store.windows import Arriving, RunningSums, Window

State = dict[Any, Any]
# of a parameter: its past values, shape (n,), and the sums of windows up to the snapshot of now
Past = tuple[dict[PastColumn, torch.Tensor], dict[Window, RunningSums]]


class Watch:
    """Collects what coming jumps need of some parameters, on the parameters' own devices.

    Parameters
    ----------
    context : Context
    jump_points : iterable of int
        Steps that have a whole context; see `weightcast.apply.needs.require_context`.
    parameters : sequence of Tensor
        Read where `see` and `rows` are called; of a DTensor this rank's shard.
    placement : Placement
        Where snapshots are kept, and how precisely.

    Attributes
    ----------
    layouts : list of Layout
        How the rows of each parameter are flattened.

    Examples
    --------
    >>> weight = torch.zeros(3)
    >>> watch = Watch(Context.of("1,0,slope:2/1"), [4], [weight])
    >>> for step in range(4):
    ...     watch.see(step)
    ...     weight += 1
    >>> now, first, slope = watch.rows(4, 8)(0, slice(0, 3))
    >>> now.tolist(), first.tolist(), slope[:].tolist()
    ([4.0, 4.0, 4.0], [0.0, 0.0, 0.0], [2.0, 2.0, 2.0])
    """

    def __init__(
        self,
        context: Context,
        jump_points: Iterable[int],
        parameters: Sequence[torch.Tensor],
        placement: Placement = AS_THEY_ARE,
    ) -> None:
        self.context, self.parameters, self.placement = context, parameters, placement
        self.layouts = layouts_of(parameters)
        self._lives = lives(context, jump_points)
        self._points = sorted(set(jump_points))
        self._begin_at: dict[int, list[Key]] = {}
        for key, (first, _) in self._lives.items():
            self._begin_at.setdefault(first, []).append(key)
        self._snapshots: dict[int, list[torch.Tensor]] = {}
        self._sums: dict[tuple[int, Window], ModelSums] = {}
        self._scales: list[float] = []

    @torch.no_grad()
    def see(self, step: int) -> None:
        """Take what coming jumps need of the weights at this step, and drop what none does."""
        # drops come first: no more is ever held than `memory` says
        self._snapshots = {k: v for k, v in self._snapshots.items() if self._goes_on(k, step)}
        self._sums = {k: v for k, v in self._sums.items() if self._goes_on(k, step)}
        for sums in self._sums.values():
            sums.see(step)
        for key in self._begin_at.get(step, ()):
            if isinstance(key, int):
                self._snapshots[key] = [self.placement.hold(v) for v in self._flat()]
            else:
                self._sums[key] = self._begun(key)
        if step == 0 and "scale" in self.context.facts:
            self._scales = [root_mean_square(p) for p in self.parameters]

    @torch.no_grad()
    def rows(
        self, t: int, target: int, moved: Sequence[int] | None = None
    ) -> Callable[[int, slice], list[Row]]:
        """What a forecaster sees at a jump point, which is now.

        Parameters
        ----------
        t, target : int
            The jump point, and the step to forecast.
        moved : sequence of int, optional
            Numbers of the parameters that jump; by default all do.

        Returns
        -------
        function
            From a place in `moved` and a slice of that parameter's weights to the rows of these, as
            ``Context.rows`` gives them. Windows get their last snapshot as they are read.
        """
        self.placement.wait(p.device for p in self.parameters)
        past, times = self._past(t), time_facts(t, target)

        @functools.lru_cache(1)
        def read(place: int) -> tuple[torch.Tensor, Past, State]:
            i = place if moved is None else moved[place]
            now = self.layouts[i].flat(local(self.parameters[i]))
            scale = self._scales[i] if self._scales else math.nan
            return now, past(i), tensor_facts(tuple(self.parameters[i].shape), scale) | times

        def rows(place: int, part: slice) -> list[Row]:
            now, (held, windows), facts = read(place)
            values = {point: row[part] for point, row in held.items()}
            values[NOW] = weights = now[part]
            sums = {w: Arriving(each, weights, part) for w, each in windows.items()}
            return self.context.rows(values, sums, facts)

        return rows

    def _past(self, t: int) -> Callable[[int], Past]:
        """From a parameter's number to what a jump at t reads of its past."""
        steps = past_steps(self.context, t)
        windows = {window: self._sums[t, window].each for window in self.context.windows}

        def past(i: int) -> Past:
            values = {point: self._snapshots[s][i] for point, s in steps.items()}
            return values, {window: each[i] for window, each in windows.items()}

        return past

    def lacking(self, t: int) -> str:
        """What is not there for a jump at t, in words; all is that is collected on the way."""
        return ""

    def spare(self, t: int) -> list[torch.Tensor] | None:
        """Rows that no jump needs after that at t, and that hold weights exactly; if there are any.

        A jump keeps the weights before it there, and no further memory is taken.
        """
        key = self._spare_key(t)
        if key is None:
            return None
        return (
            self._snapshots[key]
            if isinstance(key, int)
            else [sums.first for sums in self._sums[key].each]
        )

    def _spare_key(self, t: int) -> Key | None:
        ends = [key for key in self._ending(t) if not isinstance(key, int) or self._exact]
        return max(ends, key=lambda key: not isinstance(key, int), default=None)

    def _ending(self, t: int) -> list[Key]:
        windows: list[Key] = [(t, window) for window in self.context.windows]
        steps = past_steps(self.context, t).values()
        return [*windows, *(s for s in steps if self._lives[s][1] == t)]

    @property
    def _exact(self) -> bool:
        return all(self.placement.dtype(p) == p.dtype for p in self.parameters)

    def memory(self, probation: int = 0, other: int = 0) -> int:
        """Most bytes that are held at any time, known before the first step.

        Parameters
        ----------
        probation : int
            Steps after a jump for which the weights before it are kept.
        other : int
            Bytes of what else is kept then.
        """
        change: Counter[float] = Counter()
        exact = sum(local(p).numel() * p.element_size() for p in self.parameters)
        snapshot = self._size(0)  # all are alike: there may be 100,000 jumps
        sums = {window: self._size((0, window)) for window in self.context.windows}
        for key, (first, last) in self._lives.items():
            size = snapshot if isinstance(key, int) else sums[key[1]]
            change[first] += size
            change[last] -= size
        for t in self._points:
            spare, weights = self._spare_key(t), exact
            if isinstance(spare, int):
                weights = snapshot
            elif spare is not None:
                weights = sums[spare[1]] // len(self._names(spare))
            change[t - 0.5] += other + (weights if spare is None else 0)  # the jump itself
            change[t] += 0 if spare is None else weights
            change[t + probation] -= other + weights
        return int(max(itertools.accumulate(change[step] for step in sorted(change)), default=0))

    def clear(self) -> None:
        """Drop everything."""
        self._snapshots.clear()
        self._sums.clear()

    def state_dict(self) -> State:
        """All that is held, as copies in the parameters' shapes, and plain values."""
        self.placement.wait(p.device for p in self.parameters)
        return {
            "snapshots": {
                s: [layout.saved(v) for layout, v in zip(self.layouts, kept, strict=True)]
                for s, kept in self._snapshots.items()
            },
            "sums": [
                {"jump": t, "window": str(window), "arrays": sums.arrays()}
                for (t, window), sums in self._sums.items()
            ],
            "scales": list(self._scales),
        }

    @torch.no_grad()
    def load_state_dict(self, state: State, step: int) -> None:
        """Take back what was held after a step; on error, as of `check`, nothing changes."""
        snapshots, sums, scales, needed = self.check(state, step)
        self.clear()
        self._scales = scales
        for key in needed:
            if isinstance(key, int):
                pairs = zip(snapshots[key], self.layouts, self._flat(), strict=True)
                # a copy: the caller's tensors may be the live ones of another
                self._snapshots[key] = [
                    self.placement.hold(layout.flat(v).to(p)) for v, layout, p in pairs
                ]
            else:
                self._sums[key] = self._begun(key)
                self._sums[key].load(sums[key[0], str(key[1])], step)

    def check(self, state: State, step: int) -> tuple[State, State, list[float], list[Key]]:
        """Check that a state held after a step fits.

        Returns
        -------
        snapshots, sums : dict
            What it has.
        scales : list of float
        needed : list
            What of it coming jumps need.

        Raises
        ------
        ShapeError
            If it is of other parameters.
        UsageError
            If something is missing that a coming jump needs.
        """
        snapshots = {int(s): kept for s, kept in state["snapshots"].items()}
        # there are no sums and scales in states of versions that had no windows
        sums = {(int(s["jump"]), s["window"]): s["arrays"] for s in state.get("sums", ())}
        scales = [float(scale) for scale in state.get("scales", ())]
        for s, kept in snapshots.items():
            self._require_shapes(kept, f"the snapshot of step {s}")
        for (t, window), arrays in sums.items():
            for kept in arrays.values():
                self._require_shapes(kept, f"the window {window} before step {t}")
        # before the first step nothing is needed: all begins with the weights as they then are
        needed = [key for key in self._lives if self._is_held(key, step)] if step else []
        if lacks := [*self._lacking(needed, snapshots, sums), *self._no_scales(scales, step)]:
            raise UsageError(
                f"jumps after step {step} need {' and '.join(lacks)}, which the checkpoint does "
                "not have: use the jump points and the forecaster it was saved with"
            )
        return snapshots, sums, scales, needed

    def _begun(self, key: tuple[int, Window]) -> ModelSums:
        window, spread = key[1], self.context.needs_spread(key[1])
        begun = self._lives[key][0]
        return ModelSums(window, begun, self.parameters, self.layouts, spread=spread)

    def _flat(self) -> Iterator[torch.Tensor]:
        """What this rank holds of each parameter, flattened."""
        pairs = zip(self.layouts, self.parameters, strict=True)
        return (layout.flat(local(p)) for layout, p in pairs)

    def _names(self, key: tuple[int, Window]) -> tuple[str, ...]:
        return array_names(self.context.needs_spread(key[1]))

    def _is_held(self, key: Key, step: int) -> bool:
        first, last = self._lives[key]
        return first <= step < last

    def _goes_on(self, key: Key, step: int) -> bool:
        """Whether what is held stays; what begins at this very step begins anew."""
        return self._is_held(key, step) and self._lives[key][0] < step

    def _size(self, key: Key) -> int:
        """Bytes that a snapshot or the sums of a window take."""
        if isinstance(key, int):
            return sum(local(p).numel() * self.placement.dtype(p).itemsize for p in self.parameters)
        held = sum(local(p).numel() * summing_dtype(p).itemsize for p in self.parameters)
        return len(self._names(key)) * held

    def _require_shapes(self, kept: Sequence[torch.Tensor], what: str) -> None:
        if [tuple(local(v).shape) for v in kept] != [layout.shape for layout in self.layouts]:
            raise ShapeError(
                f"{what} must have the optimizer's {len(self.layouts)} parameters in their shapes: "
                "load the checkpoint of the same model"
            )

    def _lacking(
        self,
        needed: list[Key],
        snapshots: Mapping[int, Any],
        sums: Mapping[tuple[int, str], Mapping[str, Any]],
    ) -> Iterator[str]:
        """What of the things needed is not there, in words."""
        if steps := sorted(k for k in needed if isinstance(k, int) and k not in snapshots):
            yield f"the snapshots of steps {steps}"
        for t, window in (k for k in needed if not isinstance(k, int)):
            names = self._names((t, window))
            if not sums.get((t, str(window)), {}).keys() >= set(names):
                yield f"the window {window} before step {t}"

    def _no_scales(self, scales: list[float], step: int) -> Iterator[str]:
        if step and "scale" in self.context.facts and len(scales) != len(self.layouts):
            yield "the scale of each parameter"


def root_mean_square(parameter: torch.Tensor) -> float:
    """The scale of a tensor, as `tensor_facts` takes it; 0 of one without numbers."""
    # of a DTensor all shards, in the order of one process: a sum over ranks is another in its bits
    whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    norm = float(torch.linalg.vector_norm(whole.detach(), dtype=torch.float64))
    return norm / math.sqrt(max(whole.numel(), 1))
