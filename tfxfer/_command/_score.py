"""`tfxfer score`."""

from tfxfer._command import _arguments

HELP = "write a table again with a model's answers"
DESCRIPTION = """\
Writes a table again with the model's answers as further columns. A table of any size takes the same memory.

  tfxfer score --model intents.keras --input rows.parquet --output scored.parquet --text-column question

A classifier adds label and probability, a regressor score, a tagger entities (as JSON). A run that was killed continues
with --resume, and no row is lost or there twice. In Python: model.predict_table(...).
"""


def add_arguments(parser):
    """Adds the command's arguments."""
    _arguments.add_table(parser)
    parser.add_argument("--probabilities", action="store_true", help="a classifier's probability of each label as well")
    parser.add_argument("--threshold", type=float, metavar="P", help="the least probability of a label, of several")


def run(given):
    """Scores the table; returns the counts."""
    options = {"probabilities": True} if given.probabilities else {}
    options.update({} if given.threshold is None else {"threshold": given.threshold})
    return _arguments.predict_table(_arguments.load(given.model, given.task), given, **options)
