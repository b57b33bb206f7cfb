"""Prediction on tables: adds a model's outputs as columns to a file of any size."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np

from tfxfer import _check, data
from tfxfer.models import _rows

_Mixin: Any = object  # classes that use the mixin have the methods of a task
# Keys of a configuration that may differ between two models with the same outputs.
_UNSAID = ("name", "trainable", "compile_config", "build_config", "new_head")


class WritesTables(_Mixin):
    """Mixin with `predict_table`, for any task."""

    def table_columns(self, x: Any, batch_size: int = 32, **options: Any) -> dict[str, tuple[str, Any]]:
        """Returns the columns that `predict_table` adds for rows, a dict of name to `(kind, values)`.

        By default, they come from the result of `classify` or `answer`. A `Classification` gives `label` and
        `probability` (with `multi_label`, `labels`), and `in_scope` and `set` if it has attributes `in_scope` and
        `sets`. Numbers give `score`, or `scores` if there are several. Anything else gives `answer`, as JSON. A task
        with other results overrides it.

        Args:
            x: rows, as `predict` takes them.
            batch_size: int. Rows per batch.
            **options: `probabilities=True` adds `probability_<label>` for each label; other options go to `classify`.
        """
        probabilities = options.pop("probabilities", False)
        ask = self.classify if hasattr(self, "classify") else self.answer
        answers = ask(x, batch_size, **options)
        if hasattr(answers, "labels") and hasattr(answers, "probabilities"):
            return _classes(answers, self.labels, self.multi_label, probabilities)
        if probabilities:
            raise _check.invalid("probabilities", f"False for a `{type(self).__name__}`", probabilities)
        if isinstance(answers, np.ndarray) and answers.dtype.kind == "f" and answers.ndim in (1, 2):
            return {"score": ("number", answers)} if answers.ndim == 1 else {"scores": ("vector", answers)}
        return {"answer": ("json", [_plain(each) for each in answers])}

    def table_inputs(self) -> dict[str, Any]:
        """Returns the columns that `predict_table` reads, a dict of name to `data.Column`; those of predictions."""
        return self.prediction_columns()

    def predict_table(
        self,
        source: str | os.PathLike[str],
        output: str | os.PathLike[str],
        columns: str | Sequence[str] | Mapping[str, str] | None = None,
        *,
        batch_size: int = 32,
        prefix: str = "",
        on_error: Literal["raise", "skip", "keep"] = "raise",
        overwrite: bool = False,
        resume: bool = False,
        progress: bool | None = None,
        format: str | None = None,
        output_format: str | None = None,
        header: Sequence[str] | None = None,
        delimiter: str | None = None,
        quoting: bool = True,
        encoding: str = "utf-8",
        **options: Any,
    ) -> dict[str, Any]:
        """Writes a copy of a table (TSV, CSV, JSON Lines, Parquet) with added columns of the model's outputs.

        Memory does not depend on the number of rows. `resume=True` continues a killed run without losing or repeating a
        row; see `data.map_table` for formats, types and broken rows.

        | model | columns | options |
        |---|---|---|
        | classifiers | `label`, `probability` | `probabilities=True`: also `probability_<label>` for each label |
        | with `multi_label` | `labels`, most likely first | `probabilities=True`; `threshold` |
        | that reject texts | also `in_scope`; `label` and `probability` are empty if it is false | |
        | with conformal sets | also `set` | |
        | `TextRegressor` | `score`; `scores` with several outputs | |
        | `TextEmbedder`, `Siamese` | `embedding` | those of `encode`: `prompt_name`, `normalize`, `workers` and so on |
        | `TokenTagger` | `entities`: objects of label, start, end, text, probability | |
        | `MultiTask` | `<task>_<column>` for the columns of each task | |

        `probability` is that of the label. A custom task can override `table_columns`.

        Args:
            source: path of the table, on the local disk.
            output: path of the table to write, in the format of its extension.
            columns: the column of the texts; for pairs, two columns; for a task that also reads other columns, a dict
                of the task's names to those of the table. Defaults to `"text"`, for a model that compares two texts to
                `"text_a"` and `"text_b"`, and for a task with other columns to the task's names.
            batch_size: int. Rows per batch.
            prefix: string to prepend to the names of the added columns.
            on_error: what to do with broken rows: `"raise"`, `"skip"` (leave them out) or `"keep"` (without outputs).
                They are counted and described in `<output>.broken.jsonl`.
            overwrite: bool. Whether to start over if there is an output or an unfinished run.
            resume: bool. Whether to continue an unfinished run; if there is none, a new run starts.
            progress: bool. Whether to show rows and rows per second on standard error. By default, in a terminal.
            format: `"tsv"`, `"csv"`, `"jsonl"` or `"parquet"`. By default, the extension of the source decides.
            output_format: the same for the output.
            header: list of names for a TSV or CSV file without a header line.
            delimiter: string of one character that separates the fields of TSV or CSV.
            quoting: bool. `False` for TSV or CSV files in which `"` is an ordinary character.
            encoding: string. The encoding of text files.
            **options: see the table.

        Returns:
            A dict of counts, paths and speed; see `data.map_table`.

        Raises:
            FileExistsError: if there is an output or an unfinished run, with neither `overwrite` nor `resume`.
            ValueError: if a row is broken, a column is missing, a name clashes, the output is the source, or an
                unfinished run has another source, model or arguments.

        Example:

        ```python
        classifier.predict_table("tickets.parquet", "scored.parquet", "question")
        # {"output": "scored.parquet", "rows": 120000, "answered": 120000, "broken": {}, "rows_per_second": 812.4, ...}
        embedder.predict_table("corpus.jsonl", "vectors.jsonl", truncate_dim=128, resume=True)
        ```
        """
        _check.integer("batch_size", batch_size)
        parts = self.served_parts()
        for part in parts.values():
            if part.preprocessor is None:
                raise _check.invalid("model", "a model with a preprocessor", part, "Set `model.preprocessor` again.")
        names, texts, arrange = _inputs(next(iter(parts.values())), columns)

        def answers(values):
            # Not every model can compute zero rows: if only names and kinds are needed, it computes an empty text.
            is_asked = set(texts) == set(names) and not values[texts[0]]
            rows, found = arrange({name: [""] for name in names} if is_asked else values), {}
            for name, part in parts.items():
                added = part.table_columns(rows, batch_size, **options)
                found.update({f"{name}_{key}" if name else key: column for key, column in added.items()})
            return {name: (kind, []) for name, (kind, _) in found.items()} if is_asked else found

        workers = options.pop("workers", None)  # does not affect the outputs
        identity = [{name: _identity(part) for name, part in parts.items()}, dict(options)]
        with contextlib.ExitStack() as stack:
            if workers is not None:
                if not hasattr(self, "workers"):
                    raise _check.invalid("workers", f"None for a `{type(self).__name__}`", workers)
                is_made = hasattr(workers, "close")
                # Processes start only once for all parts of the table.
                if not is_made:
                    workers = stack.enter_context(self.workers(_check.integer("workers", workers)))
                options["workers"] = workers
            return data.map_table(
                source,
                output,
                answers,
                names,
                identity=identity,
                prefix=prefix,
                part_rows=batch_size * _rows.STREAM_BATCHES,
                on_error=on_error,
                overwrite=overwrite,
                resume=resume,
                progress=progress,
                texts=texts,
                format=format,
                output_format=output_format,
                header=header,
                delimiter=delimiter,
                quoting=quoting,
                encoding=encoding,
            )


def _inputs(model, columns):
    """Returns the columns to read, which of them are texts, and a function from them to the model's rows."""
    known = model.table_inputs() if model.text_form == "joint" else {"text": None}
    if set(known) == {"text"}:
        if columns is None:
            columns = ("text_a", "text_b") if model.reads_pairs() else "text"
        if isinstance(columns, Mapping):
            raise _check.invalid("columns", "the name of a column, or two", columns)
        names = [columns] if isinstance(columns, str) else list(columns)
        if model.reads_pairs() and len(names) < 2:
            raise _check.invalid("columns", "the names of two columns, for a model that compares texts", columns)
        keys = {f"text_{k}": name for k, name in enumerate(names)}
        if len(names) == 1:
            return keys, list(keys), lambda values: values["text_0"]
        return keys, list(keys), lambda values: tuple(values[key] for key in keys)
    texts = [name for name, column in known.items() if isinstance(column, data.TextColumn)]
    given = {name: name for name in known} if columns is None else columns
    if not isinstance(given, Mapping) or set(given) != set(known):
        raise _check.invalid("columns", f"a dict of {', '.join(map(repr, known))} to columns of the table", columns)
    numbers = {name for name, column in known.items() if isinstance(column, data.NumberColumn)}
    return dict(given), texts, lambda values: {n: _read(v) if n in numbers else v for n, v in values.items()}


def _read(values):
    """Parses numbers, which are strings in TSV and CSV; an empty string is a missing value."""
    if not any(isinstance(value, str) for value in values):
        return values
    return [None if value == "" else float(value) if isinstance(value, str) else value for value in values]


def _classes(answers, labels, multi_label, probabilities):
    """Returns the columns of a `Classification`."""
    found: dict[str, tuple[str, Any]] = {}
    shares = np.asarray(answers.probabilities)
    if multi_label:
        found["labels"] = ("texts", [None if given is None else list(map(str, given)) for given in answers.labels])
    else:
        places = {label: k for k, label in enumerate(labels)}
        given = [None if label is None else str(label) for label in answers.labels]
        found["label"] = ("text", given)
        best = [
            None if label is None else row[places[label]] for label, row in zip(answers.labels, shares, strict=True)
        ]
        found["probability"] = ("number", best)
    if getattr(answers, "in_scope", None) is not None:
        found["in_scope"] = ("flag", np.asarray(answers.in_scope, bool).tolist())
    if getattr(answers, "sets", None) is not None:
        found["set"] = ("texts", [list(map(str, names)) for names in answers.sets])
    if probabilities:
        found.update({f"probability_{label}": ("number", shares[:, k]) for k, label in enumerate(labels)})
    return found


def _plain(value):
    """Converts a result to JSON types."""
    if hasattr(value, "_asdict"):
        return {name: _plain(each) for name, each in value._asdict().items()}
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(each) for each in (sorted(value, key=str) if isinstance(value, (set, frozenset)) else value)]
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def _identity(model):
    """Everything on which a model's outputs depend: weights, arguments, vocabulary, and the engine."""
    found = hashlib.sha256()
    for weight in model.weights:
        found.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).tobytes())
    config = _said(model.get_config())
    words = hashlib.sha256("\n".join(map(str, model.preprocessor.tokenizer.vocabulary)).encode()).hexdigest()
    engine = None if model.engine is None else model.engine.dtype
    settings = [type(model).__name__, found.hexdigest(), words, json.dumps(config, sort_keys=True, default=str), engine]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def _said(value):
    """Returns a configuration without names and flags."""
    if isinstance(value, dict):
        return {str(key): _said(each) for key, each in value.items() if key not in _UNSAID}
    if isinstance(value, (list, tuple)):
        return [_said(each) for each in value]
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
