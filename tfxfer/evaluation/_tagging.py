"""Scores of taggers."""

from typing import Any

from tfxfer import _check, data
from tfxfer.evaluation._entities import entity_scores


def entities(model: Any, x: Any, y: Any = None, *, batch_size: int = 32, verbose: int | str = 0) -> dict[str, Any]:
    """Scores a tagger on the entities that it finds in texts that are split into words.

    The entities are those of `model.tag`, read strictly in the model's scheme. Rows of any length are read in full.
    An entity without any tokenizable word counts as missed.

    Args:
        model: `models.TokenTagger` with a scheme.
        x: rows of words with their tags, as from `data.tagged`; or a list of lists of words.
        y: the tags of a list of lists of words: a list of tags for each row.
        batch_size: int. Number of windows of words computed at a time.
        verbose: 0, 1 or `"auto"`: whether to show a progress bar.

    Returns:
        The dict of `entity_scores`: `micro_f1` and the others.

    Raises:
        ValueError: if the model does not mark entities, a tag is unknown to it, `y` is missing, or `x` is empty.

    Example:

    ```python
    test = tx.data.tagged(tx.data.read_conll("test.conll"), labels=tagger.tags)
    tx.evaluation.entities(tagger, test)["micro_f1"]
    ```
    """
    check(model)
    words, gold = read(model, x, y)
    return entity_scores(gold, model.tag(words, batch_size, verbose=verbose), scheme=model.scheme)


def check(model: Any) -> None:
    """Raises if a model does not mark entities."""
    if not hasattr(model, "tag"):
        raise _check.invalid("model", "a model that tags words, e.g. a tagger", model)
    if model.scheme is None:
        remedy = "The metrics of `model.evaluate` and `evaluation.report` score its words."
        raise _check.invalid("model", "a tagger with a scheme, which marks entities", model.name, remedy)


def read(model: Any, x: Any, y: Any, names: tuple[str, str] = ("x", "y")) -> tuple[Any, list[list[str]]]:
    """Returns the words of the rows in the form that a tagger takes, and the tags of each row.

    Args:
        model: a task with `tag`.
        x: rows, as in `entities`.
        y: tags, as in `entities`.
        names: the names of `x` and `y` in error messages.
    """
    words, targets = data.Gate(model, (*names, "sample_weight")).in_memory(x, y)
    words = words["words"] if isinstance(words, dict) else words
    column, indices = model.target_columns(), targets.to_list() if hasattr(targets, "to_list") else targets.tolist()
    # If rows were padded to one length, the words determine the length of each.
    counts = words.row_lengths().numpy().tolist()
    return words, [column.decode(row[:count]) for row, count in zip(indices, counts, strict=True)]
