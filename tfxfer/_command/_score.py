"""`tfxfer score`."""

from tfxfer._command import _arguments

HELP = "copy a table and add a model's answers"
DESCRIPTION = """\
Copies a table and adds the model's answers as columns. Memory does not grow with the size of the table.

  tfxfer score --model intents.keras --input rows.parquet --output scored.parquet --text-column question

A classifier adds label and probability, a regressor score, a tagger entities (as JSON). --resume continues an
interrupted run, and no row is lost or duplicated. In Python: model.predict_table(...).
"""


def add_arguments(parser):
    """Adds the command's arguments."""
    _arguments.add_table(parser)
    parser.add_argument("--probabilities", action="store_true", help="also a classifier's probability of each label")
    parser.add_argument("--threshold", type=float, metavar="P", help="the least probability of a label, for several")


def run(given):
    """Scores the table; returns the counts."""
    options = {"probabilities": True} if given.probabilities else {}
    options.update({} if given.threshold is None else {"threshold": given.threshold})
    return _arguments.predict_table(_arguments.load(given.model, given.task), given, **options)
