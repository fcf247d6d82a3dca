"""Running sums of one window, over all parameters of a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from weightcast.apply.flattening import Layout, local
from weightcast.apply.packing import packs
from weightcast.store.windows import RunningSums, Window

Arrays = dict[str, list[torch.Tensor]]


def summing_dtype(parameter: torch.Tensor) -> torch.dtype:
    """What a parameter's sums are kept in: float32 at least."""
    return torch.promote_types(parameter.dtype, torch.float32)


def array_names(spread: bool) -> tuple[str, ...]:
    """The arrays of a `RunningSums`."""
    return ("first", "total", "moment", *(("squares",) if spread else ()))


class ModelSums:
    """A `RunningSums` for each parameter of a model.

    Parameters
    ----------
    window : Window
    begun : int
        The window's first step, which is now.
    parameters : sequence of Tensor
    layouts : sequence of Layout
        How to flatten them.
    spread : bool
        As for `RunningSums`.

    Attributes
    ----------
    each : list of RunningSums
        One a parameter, in float32 at least.

    Examples
    --------
    >>> from weightcast.apply.flattening import layouts_of
    >>> weight = torch.zeros(2, 3)
    >>> sums = ModelSums(Window(4, 2), 10, [weight], layouts_of([weight]), spread=False)
    >>> for step in range(11, 15):
    ...     weight += 1
    ...     sums.see(step)
    >>> sums.each[0].slope()[:2]
    tensor([4., 4.])
    """

    def __init__(
        self,
        window: Window,
        begun: int,
        parameters: Sequence[torch.Tensor],
        layouts: Sequence[Layout],
        *,
        spread: bool,
    ) -> None:
        self.window, self.begun = window, begun
        self._parameters, self._layouts = parameters, layouts
        self._names = array_names(spread)
        self.each = [
            RunningSums(window, layout.flat(local(p)).to(summing_dtype(p)), spread=spread)
            for layout, p in zip(layouts, parameters, strict=True)
        ]

    def see(self, step: int) -> None:
        """Take the weights at a step after the first, if it is one of the window's."""
        if (step - self.begun) % self.window.stride:
            return
        pairs = zip(self._layouts, self._parameters, strict=True)
        flat = [layout.flat(local(p)) for layout, p in pairs]
        kinds = ((i, len(v), (v.dtype, v.device)) for i, v in enumerate(flat))
        for pack in packs(kinds):
            if len(pack) == 1:
                self.each[pack[0]].add(flat[pack[0]])
            else:
                _add_all([self.each[i] for i in pack], [flat[i] for i in pack])

    def arrays(self) -> Arrays:
        """Copies of all arrays, in the parameters' shapes."""
        return {
            name: [
                layout.saved(getattr(sums, name))
                for sums, layout in zip(self.each, self._layouts, strict=True)
            ]
            for name in self._names
        }

    def load(self, arrays: Arrays, step: int) -> None:
        """Take back what `arrays` gave after a step."""
        for name in self._names:
            for sums, layout, v in zip(self.each, self._layouts, arrays[name], strict=True):
                getattr(sums, name).copy_(layout.flat(v))
                sums.count = (step - self.begun) // self.window.stride + 1


def _add_all(sums: list[RunningSums], values: list[torch.Tensor]) -> None:
    """What ``RunningSums.add`` does, for all at once."""
    place = sums[0].next_place()
    moved = torch._foreach_sub(values, [s.first for s in sums])
    torch._foreach_add_([s.total for s in sums], moved)
    if squares := [s.squares for s in sums if s.squares is not None]:
        torch._foreach_add_(squares, torch._foreach_mul(moved, moved))
    torch._foreach_add_([s.moment for s in sums], torch._foreach_mul(moved, place))
    for s in sums:
        s.count += 1
