"""Command line: ``python -m benchmarks run NAME``, ``list``, ``table NAME``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import _runner
from ._data import ENVIRONMENT_VARIABLE, MissingData


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks of skinfluence.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name the benchmarks")
    run = commands.add_parser("run", help="run one, and store JSON and Markdown (a quick run only prints)")
    run.add_argument("name", choices=_runner.NAMES)
    run.add_argument("--quick", action="store_true", help="a small part of it, in under a minute")
    run.add_argument(
        "--data-home", help=f"folder of the data; default: the environment variable {ENVIRONMENT_VARIABLE}"
    )
    run.add_argument("--out", type=Path, help="folder for the JSON and Markdown; default: benchmarks/results")
    table = commands.add_parser("table", help="print the Markdown of the stored JSON")
    table.add_argument("name", choices=_runner.NAMES)
    given = parser.parse_args(arguments)

    if given.command == "list":
        for name in _runner.NAMES:
            print(f"{name:16} {(_runner.benchmark(name).__doc__ or '').strip().splitlines()[0]}")
    elif given.command == "table":
        print(_runner.markdown(_runner.load(given.name)), end="")
    else:
        try:
            result = _runner.run(given.name, quick=given.quick, data_home=given.data_home)
        except MissingData as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        print(_runner.markdown(result), end="")
        if given.out or not given.quick:
            print("stored:", *_runner.save(result, given.out or _runner.RESULTS), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
