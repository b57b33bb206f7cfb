"""`tfxfer evaluate`."""

from tfxfer._command import _arguments

HELP = "evaluate a model on labeled rows"
DESCRIPTION = """\
Evaluates a model on labeled rows and writes the scores as JSON.

  tfxfer evaluate --model intents.keras --input test.csv --text-column question --label-column intent
  tfxfer evaluate --model all_minilm_l6_v2 --task TextEmbedder --input sts.tsv --text-column a --text-column b

Classifiers: accuracy, F1 and calibration. Embedders, and regressors of pairs: the correlation with --label-column
(default: score). Taggers read CoNLL files. In Python: tx.evaluation.classification and the other functions there.
"""


def add_arguments(parser):
    """Adds the command's arguments."""
    _arguments.add_model(parser)
    parser.add_argument("--input", required=True, metavar="FILE", help="TSV, CSV, JSON, JSON Lines, Parquet or CoNLL")
    _arguments.add_columns(parser, "text; for an embedder text_a and text_b")
    parser.add_argument("--label-column", metavar="NAME", help="the labels or scores (default: label, or score)")
    parser.add_argument("--separator", metavar="S", help="separator of several labels in a row")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="rows computed at a time (default: 32)")
    _arguments.add_format(parser)


def run(given):
    """Returns the scores."""
    import tfxfer as tx

    model = _arguments.load(given.model, given.task)
    kind, rows = _arguments.kind_of(model), _arguments.rows_of(model, given.input, given)
    if kind == "classes":
        return tx.evaluation.classification(model, rows, batch_size=given.batch_size)
    if kind == "entities":
        return tx.evaluation.entities(model, rows, batch_size=given.batch_size)
    return tx.evaluation.similarity(model, rows, batch_size=given.batch_size)
