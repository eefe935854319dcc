"""Published results, run by one command and held against what their papers say.

    python scripts/reproduce.py list                                  # what there is, and what it needs
    python scripts/reproduce.py run quadratics                        # seconds
    python scripts/reproduce.py run mcmahan --data shakespeare.txt    # the short version: minutes
    python scripts/reproduce.py run reddi --data tff --full           # the full version; the same command resumes it
    python scripts/reproduce.py plan reddi --data tff --full          # how long that takes here, without running it
    python scripts/reproduce.py table reddi --full                    # the verdicts so far, without running anything

Each reproduction has its tolerance written down with its reason, before the first run. Runs go to ``outputs/reproduce``
(``--output``) and are kept: a stopped one continues from its last checkpoint, a finished one is not run again.
``--only`` and ``--seeds`` run a part. Next to the runs lie ``result.md`` and ``result.json``: a verdict for each cell.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fedsim.errors import UserError, print_error
from fedsim.runs.estimate import duration
from reproductions.alie import ALIE
from reproductions.fedprox import FEDPROX
from reproductions.frame import Job, Judged, Reproduction
from reproductions.knn_per import KNN_PER
from reproductions.mcmahan import MCMAHAN
from reproductions.reddi import REDDI
from reproductions.scaffold import QUADRATICS
from reproductions.turbofan import TURBOFAN

ALL = {one.name: one for one in (QUADRATICS, MCMAHAN, FEDPROX, REDDI, TURBOFAN, ALIE, KNN_PER)}


def show() -> None:
    """List the reproductions."""
    for one in ALL.values():
        print(f"{one.name:<12}{one.title}")
        print(f"{'':<12}{one.source}")
        if one.data:
            optional = " (the short version has data of its own)" if one.default else ""
            print(f"{'':<12}--data: {one.data}{optional}")


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def run(job: Job) -> None:
    """Say how long it will take, and run it."""
    if todo := job.todo():
        say(f"{len(todo)} runs; how long they take here, as their first rounds do:")
        say(f"about {duration(job.seconds(say))} in all, at most; Ctrl-C stops, the same command goes on")
        job.run(say)


def judge(job: Job) -> list[Judged]:
    """Show and store the verdicts."""
    one, judged = job.reproduction, job.judge()
    print(f"\n{one.source}\n\nTolerance: {job.version.tolerance}\n\nNot as published: {one.differences}\n")
    print(job.store(judged))
    print(f"{job.folder}/result.md")
    return judged


def job_of(options: argparse.Namespace) -> Job:
    """The job that the command line asks for."""
    one: Reproduction = ALL[options.name]
    version = one.full if options.full else one.short
    folder = Path(options.output) / one.name / ("full" if options.full else "short")
    seeds = [int(seed) for seed in options.seeds.split(",")] if options.seeds else []
    only = options.only.split(",") if options.only else []
    return Job(one, version, folder, options.data, only, seeds)


def main() -> int:
    """Return 0 if no cell is outside its tolerance, 1 if one is, 2 for a mistake in the request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what there is")
    for command, what in (("run", "run and judge"), ("plan", "say how long it takes"), ("table", "judge what was run")):
        sub = commands.add_parser(command, help=what)
        sub.add_argument("name", choices=[*ALL])
        sub.add_argument("--full", action="store_true", help="the published size; hours to days")
        sub.add_argument("--data", help="the path of the data that it needs, see list")
        sub.add_argument("--only", default="", help="comma-separated labels of cases")
        sub.add_argument("--seeds", default="", help="comma-separated seeds")
        sub.add_argument("--output", default="outputs/reproduce", help="folder for runs and results")
    options = parser.parse_args()
    if options.command == "list":
        show()
        return 0
    try:
        job = job_of(options)
        if options.command == "plan":
            say(f"at most {duration(job.seconds(say))} for {len(job.todo())} runs")
            return 0
        if options.command == "run":
            run(job)
        return int(any(one.verdict == "outside" for one in judge(job)))
    except UserError as error:
        print_error(str(error))
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
