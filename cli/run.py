"""The ``run`` command: jumps in somebody else's training script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from weightcast.cli.console import echo_line, megabytes, parameter_options, trust_option
from weightcast.cli.run_output import check_output, recording_options
from weightcast.cli.run_report import report, write_json
from weightcast.cli.run_skip import run_skipping, skip_options, sort_out

if TYPE_CHECKING:
    from weightcast.apply import Guard, JumpPlan
    from weightcast.predictor import Forecaster


def _moments(context: click.Context, option: click.Parameter, value: str) -> str | float:
    """What becomes of moments; the factor as a number."""
    if value in ("keep", "clear"):
        return value
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"must be keep, clear or a factor: got {value!r}") from None


@click.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--forecaster",
    default="line",
    show_default=True,
    type=click.Path(),
    metavar="FILE_OR_NAME",
    help="Forecaster file, or the name of one that comes with weightcast.",
)
@trust_option
@click.option(
    "--every",
    type=click.IntRange(min=1),
    metavar="N",
    help="Jump every N steps. A forecaster that sees values at fractions of t needs --end too.",
)
@click.option(
    "--jump-points",
    metavar="STEPS",
    help="In place of --every: the steps after which to jump, 3000,4000,5000, or a schedule of "
    "them, geometric:500x2.",
)
@click.option(
    "--horizon",
    metavar="RATIO|+STEPS",
    help="How far to jump: 2 for the weights at 2t, +500 for 500 steps ahead; by default the "
    "forecaster's own horizon.",
)
@click.option(
    "--most-ahead", type=click.IntRange(min=1), metavar="N", help="Jump N steps ahead at most."
)
@click.option("--shrink", is_flag=True, help="Jump less and less far as training goes on.")
@click.option(
    "--end",
    type=click.IntRange(min=1),
    metavar="N",
    help="Last step of training: no jump passes it, and none comes too late to be judged.",
)
@click.option("--no-guard", is_flag=True, help="Keep every jump, as the paper does.")
@click.option(
    "--guard-steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Steps after which a jump is judged by the training loss, and rolled back if that has not "
    "come back to its trend; by default 200, or half of the steps between two jumps.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    help="How far above its trend the loss may then be, in standard errors; by default 2.",
)
@click.option(
    "--moments",
    default="keep",
    show_default=True,
    callback=_moments,
    metavar="keep|clear|FACTOR",
    help="What becomes of the optimizer's state at a jump; a factor scales momentum.",
)
@click.option(
    "--model",
    metavar="NAME",
    help="Of a script that trains several models: the variable or class name of the one to jump; "
    "by default the first to be trained.",
)
@parameter_options("Jump")
@click.option(
    "--snapshots",
    type=click.Choice(["device", "host"]),
    default="device",
    show_default=True,
    help="Where past weights are kept: beside the model, or in the host's memory.",
)
@click.option("--half", is_flag=True, help="Keep past weights as float16, of half the size.")
@click.option(
    "--record", type=click.Path(), metavar="HISTORY", help="Record the run into this folder too."
)
@click.option(
    "--schedule", help="With --record: the steps to record, as 'weightcast record' takes them."
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(),
    metavar="FILE",
    help="Write what happened to jumps or updates, and why, into this file too.",
)
@click.option("--overwrite", is_flag=True, help="Replace what --record and --json write.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing of our own but errors.")
@skip_options
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- SCRIPT [ARGS]...")
def run(command: tuple[str, ...], **options: Any) -> int:
    """Run a training script, unchanged, and let its weights jump ahead, or skip their updates.

    The script's arguments, output and exit code are its own; what happens to the jumps, and why, is
    told on stderr. '-- -m package.module' runs a module. The model of the first optimizer to step
    jumps. Each jump is on probation: where the training loss that the script calls backward on has
    not come back to its trend, weights, optimizer state and buffers are rolled back.

    With --skip-updates nothing jumps. While evaluations gain little, only biases and normalization
    are trained, which makes steps cheaper. An evaluation is a number that the script prints
    (--metric), or the mean of its training loss over some steps.

    Steps count from the script's first optimizer step, also where it goes on from a checkpoint: the
    past that jumps need is not in that. Use weightcast.apply.Jumper in a script that resumes.

    \b
    Example:
      weightcast run --every 1000 -- train.py --epochs 3
      weightcast run --forecaster introspection-mnist --jump-points 3000,4000,5000 --no-guard \\
          --record run.zarr -- train.py
      weightcast run --skip-updates --metric 'Accuracy: (\\S+)' -- train.py
    """
    from weightcast.apply.placing import Placement
    from weightcast.apply.script import run_script
    from weightcast.predictor import load
    from weightcast.recorder.distributed import writes_here
    from weightcast.recorder.running import script_runner

    script_runner(command)  # the likeliest mistake comes first
    if sort_out(click.get_current_context()):
        return run_skipping(command, options)
    forecaster = load(options["forecaster"], trusted=options["trust"])
    plan, guard = _plan(forecaster, options), _guard(options)
    if guard is not None:
        guard = guard.settled(plan)
        plan = plan.judged(guard.steps or 0)
    check_output(command, options, [options["forecaster"]])

    def tell(text: object) -> None:
        if not options["quiet"] and writes_here():
            echo_line(text)

    outcome = run_script(
        command,
        forecaster,
        plan,
        record=options["record"],
        recording=recording_options(
            command, options, jumps={"forecaster": options["forecaster"], "plan": str(plan)}
        ),
        starting=lambda: tell(f"{options['forecaster']}: {plan}; {_guarded(guard)}"),
        guard=guard,
        moments=options["moments"],
        model=options["model"],
        include=options["include"],
        exclude=options["exclude"],
        placement=Placement(options["snapshots"], options["half"]),
        listener=tell,
        begun=lambda begun: tell(
            f"jumps in {begun.model}, {begun.weights:,} weights: at most {megabytes(begun.memory)} "
            "are held for them"
        ),
    )
    if outcome.elsewhere:
        return outcome.exit_code  # rank 0 tells
    if options["json_path"] is not None:
        write_json(options["json_path"], command, plan, guard, outcome)
    name = " ".join(command[:2]) if command[0] == "-m" else command[0]
    return report(name, outcome, plan, options)


def _plan(forecaster: Forecaster, options: dict[str, Any]) -> JumpPlan:
    from weightcast.apply.jumping import horizon_of
    from weightcast.apply.plan import Reach, parse_jump_points, plan_jumps
    from weightcast.store.horizon import parse_horizon

    every, points = options["every"], options["jump_points"]
    if (every is None) == (points is None):
        raise click.UsageError("say when to jump: give either --every or --jump-points")
    horizon: Any = None if options["horizon"] is None else parse_horizon(options["horizon"])
    if options["most_ahead"] or options["shrink"]:
        own = horizon_of(forecaster.ready(), horizon)
        horizon = Reach(own, most=options["most_ahead"], shrink=options["shrink"])
    when = f"every:{every}" if points is None else parse_jump_points(points)
    return plan_jumps(forecaster, when, horizon=horizon, end=options["end"])


def _guard(options: dict[str, Any]) -> Guard | None:
    from weightcast.apply import Guard

    given = {"steps": options["guard_steps"], "tolerance": options["tolerance"]}
    given = {name: value for name, value in given.items() if value is not None}
    if options["no_guard"] and given:
        raise click.UsageError("--no-guard goes without --guard-steps and --tolerance")
    return None if options["no_guard"] else Guard(**given)


def _guarded(guard: Guard | None) -> str:
    """What becomes of jumps that hurt, in words."""
    return "no guard" if guard is None else f"each is judged after {guard.steps} steps"
