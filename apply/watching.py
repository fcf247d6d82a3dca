"""What is collected on the way to jumps: snapshots of some steps, and sums of windows."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from weightcast.apply.flattening import layouts_of
from weightcast.apply.needs import Key, lives, past_steps
from weightcast.apply.summing import ModelSums, array_names, summing_dtype
from weightcast.predictor.rows import Row
from weightcast.store import ShapeError, UsageError
from weightcast.store.columns import NOW
from weightcast.store.context import Context
from weightcast.store.facts import tensor_facts, time_facts
from weightcast.store.windows import Window

State = dict[str, Any]


class Watch:
    """Collects what coming jumps need of some parameters, on the parameters' own devices.

    Parameters
    ----------
    context : Context
    jump_points : iterable of int
        Steps that have a whole context; see `weightcast.apply.needs.require_context`.
    parameters : sequence of Tensor
        Read where `see` and `rows` are called.

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
    >>> now, first, slope = watch.rows(4, 8)(0)
    >>> now.tolist(), first.tolist(), slope[:].tolist()
    ([4.0, 4.0, 4.0], [0.0, 0.0, 0.0], [2.0, 2.0, 2.0])
    """

    def __init__(
        self, context: Context, jump_points: Iterable[int], parameters: Sequence[torch.Tensor]
    ) -> None:
        self.context, self.parameters = context, parameters
        self.layouts = layouts_of(parameters)
        self._lives = lives(context, jump_points)
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
                self._snapshots[key] = [p.detach().clone() for p in self.parameters]
            else:
                self._sums[key] = self._begun(key)
        if step == 0 and "scale" in self.context.facts:
            self._scales = [root_mean_square(p) for p in self.parameters]

    @torch.no_grad()
    def rows(self, t: int, target: int) -> Callable[[int], list[Row]]:
        """What a forecaster sees at a jump point, which is now.

        Parameters
        ----------
        t, target : int
            The jump point, and the step to forecast.

        Returns
        -------
        function
            From the number of a parameter to its rows, as ``Context.rows`` gives them.
        """
        windows = {window: self._sums[t, window] for window in self.context.windows}
        for sums in windows.values():
            sums.see(t)
        times, steps = time_facts(t, target), past_steps(self.context, t)

        def rows(i: int) -> list[Row]:
            layout = self.layouts[i]
            values = {point: layout.flat(self._snapshots[s][i]) for point, s in steps.items()}
            values[NOW] = layout.flat(self.parameters[i])
            scale = self._scales[i] if self._scales else math.nan
            facts = tensor_facts(layout.shape, scale) | times
            return self.context.rows(values, {w: s.each[i] for w, s in windows.items()}, facts)

        return rows

    def memory(self) -> int:
        """Most bytes that are held at any time, known before the first step."""
        change: Counter[int] = Counter()
        for key, (first, last) in self._lives.items():
            change[first] += self._size(key)
            change[last] -= self._size(key)
        return max(itertools.accumulate(change[step] for step in sorted(change)), default=0)

    def clear(self) -> None:
        """Drop everything."""
        self._snapshots.clear()
        self._sums.clear()

    def state_dict(self) -> State:
        """All that is held, as copies in the parameters' shapes, and plain values."""
        return {
            "snapshots": {s: [v.clone() for v in kept] for s, kept in self._snapshots.items()},
            "sums": [
                {"jump": t, "window": str(window), "arrays": sums.arrays()}
                for (t, window), sums in self._sums.items()
            ],
            "scales": list(self._scales),
        }

    @torch.no_grad()
    def load_state_dict(self, state: State, step: int) -> None:
        """Take back what was held after a step; on error nothing changes.

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
        self.clear()
        self._scales = scales
        for key in needed:
            if isinstance(key, int):
                pairs = zip(snapshots[key], self.parameters, strict=True)
                # a copy: the caller's tensors may be the live ones of another
                self._snapshots[key] = [v.detach().to(p.device, copy=True) for v, p in pairs]
            else:
                self._sums[key] = self._begun(key)
                self._sums[key].load(sums[key[0], str(key[1])], step)

    def _begun(self, key: tuple[int, Window]) -> ModelSums:
        window, spread = key[1], self.context.needs_spread(key[1])
        begun = self._lives[key][0]
        return ModelSums(window, begun, self.parameters, self.layouts, spread=spread)

    def _is_held(self, key: Key, step: int) -> bool:
        first, last = self._lives[key]
        return first <= step < last

    def _goes_on(self, key: Key, step: int) -> bool:
        """Whether what is held stays; what begins at this very step begins anew."""
        return self._is_held(key, step) and self._lives[key][0] < step

    def _size(self, key: Key) -> int:
        """Bytes that a snapshot or the sums of a window take."""
        if isinstance(key, int):
            return sum(p.numel() * p.element_size() for p in self.parameters)
        arrays = len(array_names(self.context.needs_spread(key[1])))
        return arrays * sum(p.numel() * summing_dtype(p).itemsize for p in self.parameters)

    def _require_shapes(self, kept: Sequence[torch.Tensor], what: str) -> None:
        if [tuple(v.shape) for v in kept] != [layout.shape for layout in self.layouts]:
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
            names = array_names(self.context.needs_spread(window))
            if not sums.get((t, str(window)), {}).keys() >= set(names):
                yield f"the window {window} before step {t}"

    def _no_scales(self, scales: list[float], step: int) -> Iterator[str]:
        if step and "scale" in self.context.facts and len(scales) != len(self.layouts):
            yield "the scale of each parameter"


def root_mean_square(parameter: torch.Tensor) -> float:
    """The scale of a tensor, as `tensor_facts` takes it; 0 of one without numbers."""
    norm = float(torch.linalg.vector_norm(parameter.detach(), dtype=torch.float64))
    return norm / math.sqrt(max(parameter.numel(), 1))
