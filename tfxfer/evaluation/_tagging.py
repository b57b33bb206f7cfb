"""Scores of a tagger."""

from typing import Any

from tfxfer import _check, data
from tfxfer.evaluation._entities import entity_scores


def entities(model: Any, x: Any, y: Any = None, *, batch_size: int = 32, verbose: int | str = 0) -> dict[str, Any]:
    """Scores a tagger by the entities that it finds in texts that are split into words.

    The entities are those of `model.tag`, read strictly in the model's scheme. Rows of any length are read as a whole;
    an entity all of whose words have no token counts as missed.

    Args:
        model: `models.TokenTagger` with a scheme.
        x: rows of words with their tags, as `data.tagged` makes them; or a list of lists of words.
        y: the tags of a list of lists of words: a list of tags for each row.
        batch_size: int. Windows of words computed at a time.
        verbose: 0, 1 or `"auto"`: whether to show a progress bar.

    Returns:
        The dict of `entity_scores`: `micro_f1` and the others.

    Raises:
        ValueError: for a model that marks no entities, a tag that the model does not know, missing `y`, or no rows.

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
    """Raises where a model marks no entities."""
    if not hasattr(model, "tag"):
        raise _check.invalid("model", "a model that tags words, e.g. a tagger", model)
    if model.scheme is None:
        remedy = "Its words are scored by the metrics of `model.evaluate`, and by `evaluation.report`."
        raise _check.invalid("model", "a tagger with a scheme, which marks entities", model.name, remedy)


def read(model: Any, x: Any, y: Any, names: tuple[str, str] = ("x", "y")) -> tuple[Any, list[list[str]]]:
    """Returns the words of rows, as a tagger takes them, and the tags of each row.

    Args:
        model: a task with `tag`.
        x: rows, as `entities` takes them.
        y: tags, as `entities` takes them.
        names: what errors call `x` and `y`.
    """
    words, targets = data.Gate(model, (*names, "sample_weight")).in_memory(x, y)
    words = words["words"] if isinstance(words, dict) else words
    column, indices = model.target_columns(), targets.to_list() if hasattr(targets, "to_list") else targets.tolist()
    # Where rows were padded to one length, the words say how long each is.
    counts = words.row_lengths().numpy().tolist()
    return words, [column.decode(row[:count]) for row, count in zip(indices, counts, strict=True)]
