"""`tfxfer export`."""

from typing import Any

from tfxfer import _check
from tfxfer._command import _arguments

HELP = "write a model for TF Serving, ONNX Runtime or LiteRT"
DESCRIPTION = """\
Writes a model for production. TF Serving loads the folder directly, with strings in and answers out; each call writes
the next version, which a running server finds by itself.

  tfxfer export --model intents.keras --output serving/intents --keep 3
  tfxfer export --model intents.keras --output intents_onnx --to onnx

README.md in the folder has the exact calls. In Python: tx.export.saved_model, onnx, litert, recipes.
"""


def add_arguments(parser):
    """Adds the command's arguments."""
    _arguments.add_model(parser)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="its name becomes the model's name")
    parser.add_argument("--to", choices=("saved_model", "onnx", "litert"), default="saved_model", help="the form")
    parser.add_argument("--pairs", action="store_true", help="the model was trained on two texts per row")
    parser.add_argument("--version-number", type=int, metavar="N", help="for saved_model (default: the next)")
    parser.add_argument("--index", metavar="FOLDER", help="a saved SemanticIndex, for the search signature")
    parser.add_argument("--max-k", type=int, metavar="N", help="the most results that search returns (default: 10)")
    parser.add_argument(
        "--dtype", choices=("float32", "float16", "int8"), help="dtype of products, for onnx and litert"
    )
    parser.add_argument("--weights-dtype", choices=("bfloat16", "int8"), help="smaller weights, for saved_model")
    parser.add_argument("--max-batch-size", type=int, metavar="N", help="rows that the server computes at a time")
    parser.add_argument("--warmup", choices=("short", "full", "none"), help="requests on loading (default: short)")
    parser.add_argument("--keep", type=int, metavar="N", help="versions to keep in the folder")
    parser.add_argument("--recipes", action="store_true", help="also write files for Docker, Kubernetes and others")


def run(given):
    """Writes the export; returns its path."""
    import tfxfer as tx

    saved_model = ("version_number", "index", "max_k", "weights_dtype", "max_batch_size", "warmup", "keep")
    is_saved_model = given.to == "saved_model"
    for name in ("dtype",) if is_saved_model else saved_model:
        if getattr(given, name) is not None:
            option = "--" + name.replace("_", "-")
            wanted = "--to onnx or litert" if is_saved_model else "--to saved_model"
            raise _check.invalid(option, f"nothing with --to {given.to}", getattr(given, name), f"It is for {wanted}.")
    model = _arguments.load(given.model, given.task)
    named = {name: getattr(given, name) for name in ("dtype", *saved_model) if getattr(given, name) is not None}
    write: Any = getattr(tx.export, given.to)
    if "version_number" in named:
        named["version"] = named.pop("version_number")
    path = str(write(model, given.output, pairs=given.pairs, **named))
    found = {"path": path, **({"version": tx.export.describe(path)["version"]} if is_saved_model else {})}
    return {**found, "recipes": tx.export.recipes(given.output)} if given.recipes else found
