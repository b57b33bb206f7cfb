"""The command line, a thin layer over the library: each subcommand is a file here and a row in `COMMANDS`.

A file has `HELP` (one line), `DESCRIPTION` (with an example), `add_arguments(parser)`, and `run(given)`, which returns
the result for standard output, or `None`. TensorFlow is imported only inside `run`.
"""

import argparse
import json
import sys
import types
from collections.abc import Sequence
from typing import Any

from tfxfer import _try
from tfxfer._command import _describe, _embed, _evaluate, _export, _score, _train
from tfxfer._version import __version__

COMMANDS: dict[str, types.ModuleType] = {
    "score": _score,
    "embed": _embed,
    "train": _train,
    "evaluate": _evaluate,
    "export": _export,
    "describe": _describe,
    "try": _try,
}
_PROGRAM = "tfxfer"
_EPILOG = """\
First steps:
  tfxfer train intents.toml                                       # fine-tunes a model
  tfxfer evaluate --model intents.keras --input test.csv          # measures its quality
  tfxfer score --model intents.keras --input rows.parquet --output scored.parquet
  tfxfer export --model intents.keras --output serving/intents    # for TF Serving

`tfxfer <command> --help` explains a command. `python -m tfxfer` is the same program.
Results are JSON on standard output; progress and errors go to standard error. An error exits with code 2.
"""


def parser() -> argparse.ArgumentParser:
    """Returns the parser with all commands."""
    made = argparse.ArgumentParser(
        _PROGRAM,
        description="Transfer learning on text: train, evaluate and run models on files.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=__version__)
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = made.add_subparsers(dest="command", metavar="command", required=True)
    for name, command in COMMANDS.items():
        one = commands.add_parser(
            name,
            help=command.HELP,
            description=command.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(one)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit code.

    Args:
        arguments: list of strings. Defaults to those of the process.
    """
    given = parser().parse_args(arguments)
    try:
        found = COMMANDS[given.command].run(given)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if given.debug:
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        sys.stderr.write(f"{_PROGRAM} {given.command}: {said}\n")
        return 2
    if found is not None:
        sys.stdout.write(_text(found))
    return 0


def _text(found: Any) -> str:
    return f"{json.dumps(found, indent=2, ensure_ascii=False, default=str)}\n"
