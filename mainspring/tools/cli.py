"""The command `mainspring`: train, generate, report, tune, info, bench.

Heavy parts are imported by the commands that use them, so that help and a mistyped option answer at once. An error of ours is
one short message and an exit code: 2 for what was asked wrongly, 1 for what went wrong; MS_DEBUG=1 shows where it came from.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mainspring._version import __version__
from mainspring.base import flags
from mainspring.base.errors import ArgumentError, DependencyError, MainspringError

app = typer.Typer(
    name="mainspring",
    help="Train a model, let it write, look at the run and at the machine.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
INTERRUPTED = 130  # what shells report for a command ended by Ctrl-C

RunArgument = Annotated[Path, typer.Argument(help="The folder of a run.", show_default=False)]


def reported(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with errors of ours turned into a message and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _warn
                command(*args, **kwargs)
        except MainspringError as error:
            if _debugging():
                raise
            _complain(error)
            raise typer.Exit(2 if isinstance(error, (ArgumentError, DependencyError)) else 1) from error
        except KeyboardInterrupt as error:
            print("stopped", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from error

    return run


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _debugging() -> bool:
    try:
        return bool(flags.debug())
    except ArgumentError:
        return False


def _complain(error: MainspringError) -> None:
    from rich.console import Console
    from rich.text import Text

    what = f"`{error.argument}`: {error.rule}" if error.argument else error.rule
    message = Text.assemble(("error: ", "bold red"), f"{error.where}: {what}" if what else error.where)
    for label, text in (("got", error.value), ("try", error.example)):
        if text:
            message.append(f"\n  {label}: {text}")
    Console(stderr=True).print(message, soft_wrap=True, highlight=False)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mainspring {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command()
@reported
def train(
    recipe: Annotated[str | None, typer.Argument(help="shakespeare, digits or tagger; shakespeare by default.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps in all.")] = None,
    batch: Annotated[int | None, typer.Option(help="Items in a batch.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the optimizer, at its highest.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; all cores by default. Results do not depend on it.")] = None,
    data: Annotated[str | None, typer.Option(help="A file or folder of your own instead of what the recipe brings.")] = None,
    eval_every: Annotated[int | None, typer.Option(help="Steps between evaluations, each with a checkpoint.")] = None,
    keep: Annotated[int | None, typer.Option(help="Checkpoints to keep.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many evaluations without a better one.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of a moving average of the weights, e.g. 0.999.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of products: float32, or bfloat16 summed in float32.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other setting.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/RECIPE, or with a number if that exists.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run that --out holds.")] = False,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run, with its settings.")] = None,
) -> None:
    """Train a model. Progress goes to standard error; each evaluation is a line `step 2000 validation loss 1.8700`."""
    from mainspring.tools import training

    given = {
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "seed": seed,
        "data": data,
        "eval_every": eval_every,
        "keep": keep,
        "patience": patience,
        "ema": ema,
        "precision": precision,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    order = training.Order(recipe, chosen, tuple(setting or ()), out, overwrite, resume)
    with flags.override(**_checked_threads(threads)):
        raise typer.Exit(training.carry_out(order))


@app.command()
@reported
def generate(
    run: RunArgument,
    prompt: Annotated[str, typer.Option(help="How the text begins; for the tagger, the text to restore.")] = "\n",
    tokens: Annotated[int, typer.Option(help="Characters to write.")] = 500,
    temperature: Annotated[float, typer.Option(help="Below 1 safer, above 1 wilder, 0 always the likeliest.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Choose among the k likeliest only.")] = None,
    seed: Annotated[int, typer.Option(help="Of the choice.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Threads to use; all cores by default.")] = None,
) -> None:
    """Let a trained model write."""
    from mainspring.recipes.sampling import Sampling
    from mainspring.tools import training

    with flags.override(**_checked_threads(threads)):
        for piece in training.generate(run, prompt, Sampling(tokens, temperature, top_k, seed)):
            print(piece, end="", flush=True)
        print()


@app.command()
@reported
def report(run: RunArgument) -> None:
    """Write RUN/report.html: curves, evaluations, a sample, settings and machine in one file."""
    from mainspring.tools.report import write_report

    print(write_report(run))


@app.command()
@reported
def info(
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Measure what a core and all of them can do.")] = True,
    peak: Annotated[bool, typer.Option("--peak", help="Measure memory, too.")] = False,
) -> None:
    """Print version, processor, threads, measured peak, caches and the optional parts found."""
    from mainspring.tools.info import show

    show(measure, peak)


@app.command()
@reported
def bench(
    family: Annotated[list[str] | None, typer.Argument(help="Workloads; all by default.", show_default=False)] = None,
    threads: Annotated[int | None, typer.Option(help="Threads, and cores, of every peer; all cores by default.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timings of each peer, in turn.")] = 7,
    seconds: Annotated[float, typer.Option(min=0.001, help="How long a timing lasts at least.")] = 0.06,
    size: Annotated[list[str] | None, typer.Option(help="Only cases with this in their name; 'all': every one.")] = None,
    peer: Annotated[list[str] | None, typer.Option(help="Only peers whose name contains this.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for a table, its numbers and a picture.")] = None,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Measure the machine's peak first.")] = True,
) -> None:
    """Run workloads beside PyTorch, JAX, ONNX Runtime and tinygrad, those that are installed, and compare."""
    from mainspring.tools.bench import carry_out

    count = _checked_threads(threads).get("threads", flags.threads())
    carry_out(family or [], out, measure, threads=count, rounds=rounds, seconds=seconds, sizes=tuple(size or ()),
              peers=tuple(peer or ()))


@app.command()
@reported
def tune(
    name: Annotated[str | None, typer.Argument(help="A recipe (its training step), or matmul, linear, conv.")] = None,
    budget: Annotated[float, typer.Option(help="Seconds to measure for.")] = 60.0,
    database: Annotated[Path | None, typer.Option("--database", "--out", help="File that keeps what is learned.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads to tune for; all cores by default.")] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Fit the costs that lead all heuristics to this machine (2 or 3 minutes "
                                      "are enough); with --show or --forget, print or forget them.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Measure anew what has a winner already.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print what is known, and stop.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Remove what is known, and stop.")] = False,
) -> None:
    """Measure the ways to compile a program's kernels, and use the fastest from now on. Results stay the same, to the bit."""
    from mainspring.tools import fitting, tuning

    about = fitting if fit else tuning
    with flags.override(**_checked_threads(threads)):
        if show or forget:
            about.forget(database) if forget else about.show(database)
        elif fit and name is None:
            fitting.carry_out(budget, database)
        elif fit:
            rule = "a fit is of the machine, and has no name"
            raise ArgumentError("tune --fit", "name", rule, name, "mainspring tune --fit --budget 150")
        elif name is None:
            raise ArgumentError("tune", "name", "name a recipe or a family", "", "mainspring tune shakespeare --budget 60")
        else:
            tuning.carry_out(name, budget, database, again)


def _checked_threads(threads: int | None) -> dict[str, int]:
    if threads is None:
        return {}
    if not 1 <= threads <= 1024:
        raise ArgumentError("train", "threads", "it must be in 1..1024", str(threads), "--threads 2")
    return {"threads": threads}


def main() -> None:
    """The entry point of the installed command."""
    app()
