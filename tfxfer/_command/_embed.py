"""`tfxfer embed`."""

from tfxfer._command import _arguments

HELP = "copy a table and add a vector for each text"
DESCRIPTION = """\
Copies a table and adds the column embedding, a vector for each text: a list of floats in Parquet, a JSON array in other
formats. Memory does not grow with the size of the table, and --resume continues an interrupted run.

  tfxfer embed --model all_minilm_l6_v2 --input corpus.jsonl --output vectors.jsonl --text-column body

In Python: embedder.predict_table(...).
"""


def add_arguments(parser):
    """Adds the command's arguments."""
    _arguments.add_table(parser)
    parser.add_argument("--prompt-name", metavar="NAME", help="one of the model's prompts, e.g. query")
    parser.add_argument("--truncate-dim", type=int, metavar="N", help="keep the first N components")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that compute (default: only this one)")
    parser.add_argument(
        "--normalize", action="store_true", help="scale vectors to length 1, even if the model does not"
    )


def run(given):
    """Encodes the table; returns the counts."""
    options = {"prompt_name": given.prompt_name, "truncate_dim": given.truncate_dim, "workers": given.workers}
    options["normalize"] = True if given.normalize else None
    options = {name: value for name, value in options.items() if value is not None}
    return _arguments.predict_table(_arguments.load_embedder(given.model, given.task), given, **options)
