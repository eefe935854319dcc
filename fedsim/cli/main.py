"""The command line: arguments in, exit code out. Each command imports its implementation when it is called."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedsim import __version__
from fedsim.cli import comparing, completion, doctor_command, init_command, list_command, report_command, usage
from fedsim.cli.exit_codes import EXIT_FAILED, EXIT_USER, exit_code, exit_codes
from fedsim.cli.late import load, postpone
from fedsim.cli.options import AllowModule, Checkpoint, ConfigDir, SavedRun
from fedsim.cli.waiting import waiting
from fedsim.errors import UserError
from fedsim.machine import let_threads_sleep
from fedsim.parallel.environment import print_once, rank_and_size, refuse_torchrun

_USAGE_ERROR: Any = typer.BadParameter.__base__  # Typer's own or Click's, depending on Typer's version

app = typer.Typer(
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Simulate federated learning of recurrent models: [b]fedsim run model=gru aggregator=fedavg[/b]",
)


_WITHOUT_TORCH = ("compare", "report")  # Matplotlib looks into torch wherever it is imported, even if not yet loaded


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fedsim {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Handle the options that come before a command."""
    if context.invoked_subcommand not in _WITHOUT_TORCH:
        for name in ("torch", "numpy"):
            postpone(name)
    with exit_codes():
        if context.invoked_subcommand not in ("run", "resume"):
            refuse_torchrun(f"fedsim {context.invoked_subcommand}", "torchrun is for fedsim run and fedsim resume")


@app.command(
    epilog="[b]Examples[/b]\n\n"
    "fedsim run model=gru aggregator=fedavg\n\n"
    "fedsim run model=lstm partition=dirichlet partition.alpha=0.3 rounds=100\n\n"
    "fedsim run client/optimizer=adam client.optimizer.lr=0.001 sampler.fraction=0.5\n\n"
    "fedsim run aggregator=fedadam aggregator/combine=mean  (a slash selects an option, a dot sets a number)\n\n"
    "fedsim run data=text data.path=play.txt partition=natural model=lstm\n\n"
    "fedsim run -m model=rnn,lstm,gru seed=1,2  (a sweep: six runs)\n\n"
    "fedsim run -m model=rnn,lstm,gru seed=1,2 --resume outputs/multirun/DATE/TIME  (finish it)\n\n"
    "fedsim run experiment=gru_regression --dry-run"
)
def run(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OVERRIDES]...",
            help="Hydra overrides, KEY=VALUE; `fedsim list` shows the options.",
            autocompletion=completion.complete_overrides,
        ),
    ] = None,
    multirun: Annotated[
        bool, typer.Option("-m", "--multirun", help="Run every combination of values such as a=1,2.")
    ] = False,
    config_dir: ConfigDir = None,
    allow_module: AllowModule = None,
    cfg: Annotated[
        str | None, typer.Option("--cfg", metavar="job|hydra|all", help="Print the composed config and exit.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume", metavar="SWEEP_DIR", help="Finish an interrupted sweep: repeat its command with this."
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option("--objective", metavar="best|final", help="The value that hydra/sweeper=optuna optimises."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the data and the plan (memory, bytes, ...) without training.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="With --dry-run: draw a few samples as .png, .svg or .pdf."),
    ] = None,
) -> None:
    """Simulate a federation: one run, or with -m a sweep."""
    with exit_codes():
        if multirun:
            refuse_torchrun("-m", "torchrun starts one run; without it, a sweep uses all cores")
        with waiting(overrides or ()):
            from fedsim.config.compose import check_request, record_of, to_yaml
            from fedsim.config.from_file import with_files
            from fedsim.config.loader import make_loader
            from fedsim.config.request import Request, normalise
            from fedsim.runs.again import recorded_job

            _meet(allow_module or [])
        if cfg not in (None, "job", "hydra", "all"):
            raise UserError(f"--cfg {cfg}: must be job, hydra or all")
        if cfg is not None and (multirun or dry_run):
            raise UserError(f"--cfg {cfg}: prints the config of one run and cannot be combined with -m or --dry-run")
        typed = Request(tuple(overrides or ()), multirun, config_dir, tuple(allow_module or ()), resume, objective)
        with waiting(overrides or ()):
            again = recorded_job(typed)
            request = typed if again is not None else normalise(with_files(typed))
            loader = make_loader(config_dir)
            jobs = check_request(request, loader) if again is None else [again]
        if plot is not None and (multirun or not dry_run):
            raise UserError(f"--plot {plot}: draws a few samples of one run and needs --dry-run, without -m")
        if cfg is not None and again is not None:
            raise UserError(f"--cfg {cfg}: prints what Hydra composes; the record of a run is what it says")
        with waiting(overrides or ()):  # not sooner: messages about settings need none of these
            load("torch")
            from fedsim.cli.plan_command import show_plans
            from fedsim.config.launch import launch
            from fedsim.runs import sweep
            from fedsim.runs.run import run_experiment

            notes = [] if dry_run else sweep.check(jobs)
        if dry_run:
            show_plans(jobs, plot)
            return
        gc.freeze()  # see `main`
        gc.enable()
        if multirun:
            statuses = sweep.run(request, jobs, loader, notes)
        elif again is not None:
            again.directory.mkdir(parents=True, exist_ok=True)
            statuses = [run_experiment(again.experiment, to_yaml(record_of(again.experiment)), again.directory)]
        else:
            statuses = launch(
                request,
                lambda experiment, directory, files: run_experiment(
                    experiment, to_yaml(record_of(experiment)), directory, files
                ),
                show_config=cfg,
                loader=loader,
            )
    raise typer.Exit(exit_code(statuses, multirun))


@app.command(
    epilog="[b]Examples[/b]\n\n"
    "fedsim resume outputs/2026-01-31/12-00-00-123456\n\n"
    "fedsim resume outputs/2026-01-31/12-00-00-123456 rounds=200 stop.patience=null\n\n"
    "fedsim resume RUN_DIR client.optimizer.lr=0.01 hydra.run.dir=outputs/slower  (a fork: RUN_DIR stays as it is)"
)
def resume(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The directory of a run, however it ended.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OVERRIDES]...",
            help="rounds, stop, console, checkpoint, tracker and threads can change within the run; any other change, "
            "or hydra.run.dir=DIR, makes a fork in a new directory, by default RUN_DIR-fork-1.",
            autocompletion=completion.complete_overrides,
        ),
    ] = None,
    config_dir: ConfigDir = None,
    allow_module: AllowModule = None,
    after_round: Annotated[
        int | None,
        typer.Option(
            "--after-round", metavar="N", help="Fork from the kept checkpoint of round N instead of the last one."
        ),
    ] = None,
) -> None:
    """Continue a run that was finished, interrupted or killed, from its last good checkpoint."""
    with exit_codes():
        from fedsim.config.request import Request
        from fedsim.runs.resume import continue_run

        _meet(allow_module or [])
        gc.freeze()  # see `main`
        gc.enable()
        request = Request(tuple(overrides or ()), False, config_dir, tuple(allow_module or ()))
        status, _ = continue_run(run_dir, request, after_round)
    raise typer.Exit(exit_code([status]))


app.command(name="list", epilog=list_command.EXAMPLES)(list_command.list_)
app.command(epilog=init_command.EXAMPLES)(init_command.init)
app.command()(doctor_command.doctor)
app.command(epilog=comparing.EXAMPLES)(comparing.compare)
app.command(epilog=report_command.EXAMPLES)(report_command.report)


@app.command(
    epilog="[b]Examples[/b]\n\nfedsim evaluate RUN_DIR\n\nfedsim evaluate RUN_DIR data.path=other.csv partition=natural"
)
def evaluate(
    run_dir: SavedRun,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OVERRIDES]...",
            help="Changes to the run's own config: data, partition, num_clients, seed, engine, device, dtype, threads.",
            autocompletion=completion.complete_overrides,
        ),
    ] = None,
    checkpoint: Checkpoint = "last",
    config_dir: ConfigDir = None,
    allow_module: AllowModule = None,
) -> None:
    """Score the model that a run saved, on its own test data or on other data."""
    with exit_codes():
        from fedsim.config.request import Request
        from fedsim.runs.evaluate import evaluate_run
        from fedsim.runs.evaluate import show as show_scores

        _check_checkpoint(checkpoint)
        request = Request(tuple(overrides or ()), False, config_dir, tuple(allow_module or ()))
        show_scores(*evaluate_run(run_dir, request, checkpoint))


@app.command(
    epilog="[b]Examples[/b]\n\nfedsim export RUN_DIR\n\n"
    "fedsim export RUN_DIR --to onnx --to int8 --prune 0.8 --out model"
)
def export(
    run_dir: SavedRun,
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to", metavar="torch|exported|onnx|int8", help="Format of the file (repeatable)  [default: torch]"
        ),
    ] = None,
    prune: Annotated[
        float | None,
        typer.Option("--prune", metavar="SHARE", help="First zero this share of the weights, smallest first."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to write  [default: RUN_DIR/export]")
    ] = None,
    checkpoint: Checkpoint = "last",
    allow_module: Annotated[
        list[str] | None,
        typer.Option("--allow-module", help="A module of yours whose classes the run's config names (repeatable)."),
    ] = None,
) -> None:
    """Write a run's model for use elsewhere: a torch.nn state dict, a torch.export program, ONNX, or int8 ONNX."""
    with exit_codes():
        from fedsim.runs.export import export_run
        from fedsim.runs.export import show as show_exports

        _check_checkpoint(checkpoint)
        show_exports(
            export_run(
                run_dir, to or ["torch"], prune=prune, out=out, which=checkpoint, allow_modules=allow_module or ()
            )
        )


def _meet(allow_modules: list[str]) -> None:
    """Join the other processes that torchrun started, if any (see `fedsim.runs.processes.meet`)."""
    if rank_and_size()[1] > 1:
        from fedsim.runs import processes

        processes.meet(allow_modules)


def _check_checkpoint(which: str) -> None:
    if which not in ("last", "best"):
        raise UserError(f"--checkpoint {which}: must be last or best")


@app.command(
    epilog="[b]Examples[/b]\n\n"
    "fedsim partition partition=dirichlet partition.alpha=0.3\n\n"
    "fedsim partition partition=shards num_clients=20 --csv split.csv --plot split.pdf\n\n"
    "fedsim partition data=text data.path=play.txt partition=natural partition.min_samples=10"
)
def partition(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OVERRIDES]...",
            help="The same overrides as for fedsim run, without -m.",
            autocompletion=completion.complete_overrides,
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Also write every client's numbers to a CSV.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Also draw the split: .png, .svg or .pdf (needs matplotlib)."),
    ] = None,
    config_dir: ConfigDir = None,
    allow_module: AllowModule = None,
) -> None:
    """Show which client would hold which samples, without training."""
    with exit_codes():
        from fedsim.cli import partition_command
        from fedsim.config.compose import check_request
        from fedsim.config.from_file import with_files
        from fedsim.config.request import Request, normalise

        request = Request(tuple(overrides or ()), False, config_dir, tuple(allow_module or ()))
        (job,) = check_request(normalise(with_files(request)))
        partition_command.show(job.experiment, csv, plot)


def main() -> None:
    """Entry point of the ``fedsim`` command; shows the help if there are no arguments, and usage errors in one line."""
    let_threads_sleep()
    gc.disable()  # imports make a million objects and hardly any garbage: collecting takes a sixth of the start
    try:
        code = EXIT_FAILED
        if completion.is_bash():
            completion.for_bash(app)
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except _USAGE_ERROR as error:
        print_once(usage.explained(error.format_message(), sys.argv[1:]))
        code = EXIT_USER
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else EXIT_FAILED
        raise
    finally:
        if "fedsim.parallel.processes" in sys.modules:
            sys.modules["fedsim.parallel.processes"].leave(code)
        gc.freeze()  # freeing them one by one at the end would take a second
    sys.exit(code)
