"""Arguments shared by several commands, and the models that they name."""

import difflib
import pathlib

SAVED = "tfxfer.json"  # in a directory written by `save_to_preset`


def add_model(parser):
    """Adds `--model` and `--task`."""
    parser.add_argument(
        "--model", required=True, metavar="M", help="a .keras file, or a folder written by save_to_preset"
    )
    parser.add_argument(
        "--task",
        metavar="CLASS",
        help="for --model with a preset's name or a Hugging Face folder: its class, e.g. TextClassifier",
    )


def add_columns(parser, example="text"):
    """Adds `--text-column`."""
    parser.add_argument(
        "--text-column",
        action="append",
        metavar="NAME",
        help=f"the column of the texts (default: {example}); twice for pairs of texts",
    )


def add_format(parser):
    """Adds the arguments for the format of a file of rows."""
    parser.add_argument(
        "--format", choices=("tsv", "csv", "jsonl", "parquet"), help="if the file extension does not tell"
    )
    parser.add_argument("--header", metavar="A,B,...", help="names of the columns, for a file without a header line")
    parser.add_argument("--delimiter", metavar="C", help="separator of the fields of TSV or CSV")
    parser.add_argument("--no-quoting", action="store_true", help='for TSV or CSV that uses " as an ordinary character')
    parser.add_argument("--encoding", default="utf-8", help="of text files (default: utf-8)")


def format_of(given):
    """Returns the arguments of `add_format` under the library's names."""
    return {
        "format": given.format,
        "header": given.header.split(",") if given.header else None,
        "delimiter": {"\\t": "\t"}.get(given.delimiter, given.delimiter),
        "quoting": not given.no_quoting,
        "encoding": given.encoding,
    }


def add_table(parser):
    """Adds the arguments of `predict_table`."""
    add_model(parser)
    parser.add_argument("--input", required=True, metavar="FILE", help="TSV, CSV, JSON Lines or Parquet")
    parser.add_argument("--output", required=True, metavar="FILE", help="its extension sets the format")
    add_columns(parser)
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="rows computed at a time (default: 32)")
    parser.add_argument("--prefix", default="", metavar="P", help="prefix for the names of the added columns")
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip", "keep"),
        default="raise",
        help="broken rows: stop, leave them out, or keep them without an answer (default: raise); "
        "<output>.broken.jsonl lists them",
    )
    parser.add_argument("--resume", action="store_true", help="resume an interrupted run, if there is one")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output or an interrupted run")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    add_format(parser)


def predict_table(model, given, **options):
    """Runs `predict_table` with the arguments of `add_table`."""
    columns = given.text_column
    return model.predict_table(
        given.input,
        given.output,
        columns[0] if columns and len(columns) == 1 else columns,
        batch_size=given.batch_size,
        prefix=given.prefix,
        on_error=given.on_error,
        resume=given.resume,
        overwrite=given.overwrite,
        progress=False if given.quiet else None,
        **format_of(given),
        **options,
    )


def load(name, task=None):
    """Loads a trained model of any task, or creates one of a class of `models` from any preset."""
    import tfxfer as tx

    path = pathlib.Path(name)
    if task is not None:
        return task_class(task).from_preset(name)
    if path.suffix == ".keras":
        if not path.is_file():
            raise FileNotFoundError(f"{name}: no such file.")
        tx.models  # noqa: B018 - registers the classes, and starts TensorFlow quietly
        import keras

        return keras.saving.load_model(path)
    if not path.is_dir() and (len(path.parts) > 1 or path.suffix):
        raise FileNotFoundError(f"{name}: no such file or folder.")
    if not (path / SAVED).is_file():
        raise ValueError(f"{name} is neither a .keras file nor written by save_to_preset; for a preset, give --task.")
    return tx.models.TextTask.from_preset(name)


def load_embedder(name, task=None):
    """Loads a model that encodes: a trained one, or an embedder created from a preset."""
    if task is None and not name.endswith(".keras") and not pathlib.Path(name, SAVED).is_file():
        task = "TextEmbedder"
    model = load(name, task)
    embedder = model.tower()
    if not hasattr(embedder, "encode"):
        raise ValueError(f"{name} is a {type(model).__name__}, which returns no vectors.")
    return embedder


def task_class(name):
    """Returns the class of a task by its name."""
    import tfxfer as tx

    tasks = {n: each for n in tx.models.__all__ if isinstance(each := getattr(tx.models, n), type)}
    tasks = {n: each for n, each in tasks.items() if issubclass(each, tx.models.TextTask)}
    return tasks[known("task", name, tasks)]


def known(what, name, names):
    """Returns a name if it is one of several; the error suggests a similar name."""
    if name not in names:
        alike = difflib.get_close_matches(str(name), list(names), 1)
        hint = f"Did you mean {alike[0]!r}?" if alike else f"Known: {', '.join(names)}."
        raise ValueError(f"unknown {what} {name!r}. {hint}")
    return name


def rows_of(model, path, given):
    """Reads labeled rows for the model's task: a data set for `evaluation`."""
    import tfxfer as tx

    kind = kind_of(model)
    texts = given.text_column or (["text"] if kind != "vectors" else ["text_a", "text_b"])
    text = texts[0] if len(texts) == 1 else tuple(texts)
    if kind == "entities":
        return tx.data.tagged(tx.data.read_conll(path), labels=model.tags, scheme=model.scheme)
    rows = tx.data.read(path, **format_of(given))
    if kind == "classes":
        return tx.data.labelled(
            rows, text, given.label_column or "label", labels=model.labels, separator=given.separator
        )
    target = given.label_column or "score"
    return tx.data.pairs(rows, text, target=target) if len(texts) > 1 else tx.data.regression(rows, text, target)


def kind_of(model):
    """Returns the kind of a model's answers: that of its first signature."""
    return model.served_model().signatures()[0].kind
