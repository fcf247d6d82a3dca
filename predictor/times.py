"""Where past values lie in time, and where a forecast is read off: in one unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch

from weightcast.store import UsageError
from weightcast.store.columns import NOW, Past
from weightcast.store.horizon import Horizon


@dataclass(frozen=True)
class Reading:
    """Positions of points and of the horizon, in fractions of t or in steps from t.

    ::

        in fractions of t     0 ......... 0.4 ....... 0.7 ........ 1 ............ 2
        in steps from t                    -50  -25                0   +500

    Parameters
    ----------
    points : tuple of Past
    in_steps : bool
    needs : tuple of str
        Facts that the positions depend on: ``ahead``, ``ratio`` or ``step``.
    horizon : Horizon
        Where no fact tells a weight's own.
    """

    points: tuple[Past, ...]
    in_steps: bool
    needs: tuple[str, ...]
    horizon: Horizon

    @classmethod
    def of(
        cls, points: tuple[Past, ...], known: frozenset[str], horizons: tuple[Horizon, ...]
    ) -> Self:
        """Choose the unit: fractions where all is in fractions, and else steps.

        Parameters
        ----------
        points : tuple of Past
        known : frozenset of str
            Facts that are at hand. A weight's own time goes before `horizons`: ``ratio`` in
            fractions; in steps ``ahead``, or ``ratio`` with ``step``.
        horizons : tuple of Horizon

        Raises
        ------
        UsageError
            If fractions and steps meet without the fact ``step``, or there are several horizons
            and no fact that tells which is meant.

        Examples
        --------
        >>> Reading.of((Past(1.0), Past(0.5)), frozenset(), (Horizon(2.0),)).in_steps
        False
        >>> Reading.of((Past(1.0), Past(0.5)), frozenset({"step"}), (Horizon.of("+500"),)).needs
        ('step',)
        """
        fractions = any(not p.back and p != NOW for p in points)
        backs = any(p.back for p in points)
        one = horizons[0] if len(horizons) == 1 else None
        by_ratio = "ratio" in known or (one is not None and not one.steps)
        by_steps = "ahead" in known or (one is not None and one.steps > 0)
        if not by_ratio and not by_steps:
            raise UsageError(
                f"several horizons need 'ahead' or 'ratio' in the context: got "
                f"{', '.join(map(str, horizons))}: add one of them"
            )
        if by_ratio and not backs:
            return cls(points, False, ("ratio",) if "ratio" in known else (), horizons[0])
        needs: tuple[str, ...] = () if one is not None and one.steps else ("step",)
        if "ahead" in known:
            needs = ("ahead",)
        elif {"ratio", "step"} <= known:
            needs = ("ratio", "step")
        if fractions and "step" not in needs:
            needs += ("step",)
        if "step" in needs and "step" not in known:
            raise UsageError(
                "past values at fractions of t need a horizon that is a ratio, and values some "
                f"steps back one in steps, such as '+500': got horizon "
                f"{', '.join(map(str, horizons))}: change one, or add 'step' to the context"
            )
        return cls(points, True, needs, horizons[0])

    def positions(self, facts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Where the points lie: float64, shape (F, n), or (F, 1) where no fact is needed."""
        if not self.in_steps:
            return torch.tensor([[p.fraction] for p in self.points], dtype=torch.float64)
        t = facts.get("step", torch.zeros(1, dtype=torch.float64))
        # to whole steps, as `Past.step` has it
        fraction, back = (
            torch.tensor([[float(getattr(p, name))] for p in self.points], dtype=torch.float64)
            for name in ("fraction", "back")
        )
        return (t * fraction + 0.5).floor() - t - back

    def at(self, facts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Where the forecast is read off: float64, shape (n,), or (1,) where no fact is needed."""
        if "ahead" in facts:
            return facts["ahead"]
        if "ratio" not in facts and self.horizon.steps:
            return torch.tensor([self.horizon.steps], dtype=torch.float64)
        alike = torch.tensor([self.horizon.ratio], dtype=torch.float64)
        ratio = facts.get("ratio", alike)
        return (ratio - 1) * facts["step"] if self.in_steps else ratio
