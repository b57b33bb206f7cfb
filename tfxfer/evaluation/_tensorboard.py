"""Files for TensorBoard: points for its projector, and the values of a history."""

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfxfer import _check, _disk, _neighbours, _texts

CONFIG_FILE = "projector_config.pbtxt"
_LONGEST = 300


def projector(
    folder: str | os.PathLike[str],
    model: Any,
    texts: Sequence[str],
    labels: Any = None,
    *,
    name: str = "embeddings",
    batch_size: int = 32,
    progress: bool | None = None,
) -> Any:
    """Writes the vectors of texts for TensorBoard's projector, which shows them as points in space.

    Writing does not require the package tensorboard; `tensorboard --logdir folder` displays the files. One directory
    can hold points with several names; points with the same name are overwritten. `callbacks.Projector` writes them
    during training.

    Args:
        folder: string or path on the local disk. Created if it does not exist.
        model: `models.TextEmbedder`, `models.Siamese`, or any object with `encode(list of strings) -> (texts, dim)`;
            or an array `(texts, dim)` of existing vectors.
        texts: list of strings, shown with the points on one line, truncated to 300 characters.
        labels: list of names or numbers, one per text, for coloring the points; or a dict of name to such a list. By
            default there are none.
        name: string of letters, digits and `_ - .`: the name of the points. Defaults to `"embeddings"`.
        batch_size: int. Number of texts encoded at a time.
        progress: bool. Whether to show a progress bar. By default, one is shown for long-running work.

    Returns:
        The path of the projector's configuration file.

    Raises:
        ValueError: if lists differ in length, `texts` is empty, or `name` contains other characters.

    Example:

    ```python
    tx.evaluation.projector("logs/banking", embedder, texts, labels)
    ```

    Reference: Smilkov et al., 2016, https://arxiv.org/abs/1611.05469.
    """
    folder = _disk.local_path("folder", folder, kind="folder")
    texts, columns = point_columns(texts, labels)
    _check_name(name)
    if hasattr(model, "shape"):
        vectors = _neighbours.matrix("model", model)
        if len(vectors) != len(texts):
            raise _check.invalid("model", f"{len(texts)} vectors, one for each text", vectors.shape)
    else:
        vectors = _texts.encode(model, texts, batch_size=batch_size, progress=progress)
    config = _config(folder, name)
    with _disk.replacing_folder(folder) as staged:
        # As text, though larger: TensorBoard first tries to read every file as text, which fails on some binary ones.
        with open(staged / f"{name}.tsv", "w", encoding="utf-8", newline="\n") as file:
            for row in np.asarray(vectors, "float64"):
                file.write("\t".join(f"{value:.6g}" for value in row) + "\n")
        with open(staged / f"{name}_metadata.tsv", "w", encoding="utf-8", newline="\n") as file:
            # A file of one column has no header.
            if len(columns) > 1:
                file.write("\t".join(map(_field, columns)) + "\n")
            for row in zip(*columns.values(), strict=True):
                file.write("\t".join(map(_field, row)) + "\n")
        if config is not None:
            (staged / CONFIG_FILE).write_text(config, encoding="utf-8", newline="\n")
    return folder / CONFIG_FILE


def point_columns(texts, labels=None):
    """Returns the texts and the columns shown with them; raises if their lengths do not match."""
    texts = _texts.strings("texts", texts)
    named = labels if isinstance(labels, dict) else {} if labels is None else {"label": labels}
    columns = {"text": texts}
    for key, column in named.items():
        column = list(column)
        if len(column) != len(texts):
            raise _check.invalid("labels", f"{len(texts)} values, one for each text", len(column))
        if key == "text":
            raise _check.invalid("labels", "names other than 'text'", key)
        columns[key] = column
    return texts, columns


def _check_name(name):
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name, re.ASCII) or name.startswith("."):
        raise _check.invalid("name", "letters, digits, '_', '-' and '.'", name)


def _field(value):
    """Returns a value as one field of a line: TensorBoard splits at tabs and line ends and skips empty fields."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    shown = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    return (shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…") or "(empty)"


def _config(folder, name):
    """Returns the configuration in a directory with the points added, or `None` if it already contains them."""
    block = (
        "embeddings {\n"
        f'  tensor_name: "{name}"\n'
        f'  tensor_path: "{name}.tsv"\n'
        f'  metadata_path: "{name}_metadata.tsv"\n'
        "}\n"
    )
    file, text = folder / CONFIG_FILE, ""
    if file.exists() and (file.is_dir() or file.stat().st_size):
        text = _disk.Reader("folder", folder, "a folder for TensorBoard", "Delete that file.").text(file)
    if block in text:
        return None
    return text + ("" if not text or text.endswith("\n") else "\n") + block


def require_tensorboard():
    """Raises an ImportError that names the package if tensorboard is not installed."""
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        message = "Event files require the package tensorboard: `pip install tensorboard`, or the extra `tune`."
        raise ImportError(message) from error


def write_events(folder, history, pictures=()):
    """Writes the values of a history, and plots, as an event file.

    Args:
        folder: `pathlib.Path`.
        history: dict of name to list of numbers, one per epoch.
        pictures: paths of PNG files.

    Raises:
        ImportError: if tensorboard is not installed.
    """
    require_tensorboard()
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer import event_file_writer

    writer = event_file_writer.EventFileWriter(str(folder))
    try:
        for name, values in history.items():
            for epoch, value in enumerate(values):
                found = summary_pb2.Summary.Value(tag=name, simple_value=float(value))
                writer.add_event(event_pb2.Event(step=epoch, summary=summary_pb2.Summary(value=[found])))
        for path in pictures:
            image = summary_pb2.Summary.Image(encoded_image_string=path.read_bytes(), colorspace=3)
            found = summary_pb2.Summary.Value(tag=path.stem, image=image)
            writer.add_event(event_pb2.Event(step=0, summary=summary_pb2.Summary(value=[found])))
    finally:
        writer.close()
