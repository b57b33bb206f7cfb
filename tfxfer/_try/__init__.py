"""`tfxfer try`: a local page for typing in texts and seeing a model's answers.

Also `python -m tfxfer._try MODEL`.
"""

import argparse
from collections.abc import Sequence
from typing import Any

HELP = "open a local page to type texts into"
DESCRIPTION = """\
Serves a page on this machine: type a text and see labels with probabilities and the words that support them, entities
marked in the text, the similarity of two texts, or the nearest rows of an index.

  tfxfer try intents.keras
  tfxfer try serving/intents                        # a SavedModel; with explanations if exported with explain=True
  tfxfer try all_minilm_l6_v2 --task TextEmbedder --index questions.txt   # nearest lines

Nothing leaves the machine: the page loads no external resources, and the server answers only this machine unless
--allow-remote is given. It is for inspecting a model, not for serving it.
"""
PORT = 8765


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a .keras file, a folder written by save_to_preset, an export, or a preset's name",
    )
    parser.add_argument("--task", metavar="CLASS", help="for a preset's name: its class, e.g. TextEmbedder")
    parser.add_argument("--pairs", action="store_true", help="for a cross-encoder: ask for two texts")
    parser.add_argument(
        "--index",
        metavar="PATH",
        help="for an embedder: a folder written by SemanticIndex.save, or a text file with one text per line",
    )
    parser.add_argument("--port", type=int, default=PORT, metavar="N", help=f"default: {PORT}; 0 for a free one")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="the address to listen at (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--allow-remote",
        action="append",
        default=[],
        metavar="NAME",
        help="needed for a --host that others can reach: a name by which they address this machine. Texts then cross "
        "the network unencrypted, and anyone who can reach the port can ask",
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address without opening a browser")


def run(given: Any) -> None:
    """Loads the model and serves until it is interrupted."""
    from tfxfer._try import _server

    _server.check_host(given.host, given.allow_remote)
    from tfxfer._try import _answers  # loads TensorFlow

    asked = _answers.load(given.model, task=given.task, pairs=given.pairs, index=given.index)
    _server.serve(asked, given.host, given.port, allowed=given.allow_remote, opens_browser=not given.no_browser)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command on its own; returns its exit code."""
    parser = argparse.ArgumentParser(
        "tfxfer try", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    run(parser.parse_args(arguments))
    return 0
