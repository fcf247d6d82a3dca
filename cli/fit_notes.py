"""What ``fit`` says beside its table: notes, warnings, and the picture of the curve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weightcast.cli.console import echo, echo_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weightcast.predictor import Errors, Forecaster
    from weightcast.store import Dataset


def warn_of_mixture(entries: Sequence[float | str], samples: Dataset) -> None:
    """Warn of samples of several horizons that the forecaster cannot tell apart."""
    import warnings

    from weightcast.store import WeightcastWarning

    if len(samples.recipe.horizons) > 1 and not {"ahead", "ratio"} & set(entries):
        warnings.warn(
            WeightcastWarning(
                "the samples have several horizons, and the forecaster sees none of them: it "
                "learns a mixture; add ahead or ratio to its context"
            ),
            stacklevel=2,
        )


def curve_picture(forecaster: Forecaster, plot: str | None) -> str | None:
    """Where to draw the curve; nowhere, and a note, if the training has none."""
    from weightcast.predictor.network import Network

    if plot is None or isinstance(forecaster, Network):
        return plot
    kind = type(forecaster).__name__
    echo_line(f"only a network's training has a curve to draw, {kind} has none: no {plot}")
    return None


def tell_early_stop(forecaster: Forecaster) -> None:
    """Say so if patience ended the training."""
    from weightcast.predictor.network import Network

    if not isinstance(forecaster, Network) or forecaster.steps_ >= forecaster.steps:
        return
    validated = [(error, step) for step, _, error in forecaster.curve_ if error is not None]
    echo(
        f"stopped after {forecaster.steps_:,} of {forecaster.steps:,} steps: no better since step "
        f"{min(validated)[1]:,}, which is kept"
    )


def needed_trust(forecaster: Forecaster) -> list[str]:
    """Types that the forecaster's file will need to be trusted for."""
    from weightcast.predictor import SklearnForecaster
    from weightcast.predictor.skops_files import dumped, strangers

    if not isinstance(forecaster, SklearnForecaster):
        return []
    return strangers(dumped("{}", forecaster.regressor_))


def tell_trust(types: list[str]) -> None:
    """Say how a file that needs trust is loaded."""
    if types:
        echo(f"to load it: {' '.join(f'--trust {name}' for name in types)}")


def draw_curve(
    forecaster: Forecaster, errors: list[Errors], plot: str, title: str, *, overwrite: bool
) -> None:
    """Draw training and validation error over the steps."""
    from weightcast.predictor.figures import save_curve_figure

    curve: Any = getattr(forecaster, "curve_")  # noqa: B009 - networks have it
    save_curve_figure(
        curve, plot, last_value=errors[-1].last_value, title=title, overwrite=overwrite
    )
    echo(f"picture in {plot}")
