"""Selects the similarities to compute and names their scores."""

import numpy as np

from tfxfer import _check, _neighbours, _texts


def names(similarity):
    """Returns the requested similarities as a list: one name, several, or `"all"`."""
    if similarity == "all":
        return list(_neighbours.SIMILARITIES)
    listed = [similarity] if isinstance(similarity, str) else similarity
    if not isinstance(listed, (list, tuple)) or not listed or len(set(map(str, listed))) < len(listed):
        raise _check.invalid("similarity", "the name of a similarity, several different ones, or 'all'", similarity)
    return [_check.one_of("similarity", name, _neighbours.SIMILARITIES, "Or 'all'.") for name in listed]


def named(scores_of, measures):
    """Returns the scores of the first similarity under plain names, then those of each, if there are several.

    Args:
        scores_of: function of the name of a similarity that returns a dict of scores.
        measures: list of names.
    """
    found = {name: scores_of(name) for name in measures}
    scores = dict(found[measures[0]])
    if len(measures) > 1:
        scores |= {f"{key}_{name}": value for name, each in found.items() for key, value in each.items()}
    return scores


def keys(plain, measures):
    """Returns the keys that `named` creates from the plain ones."""
    return [*plain] + ([f"{key}_{name}" for name in measures for key in plain] if len(measures) > 1 else [])


def vectors(argument, first, second):
    """Returns two arrays of vectors with the same shape."""
    first, second = _neighbours.matrix(argument, first), _neighbours.matrix(argument, second)
    if first.shape != second.shape:
        raise _check.invalid(argument, "two arrays of one shape", (first.shape, second.shape))
    return first, second


def column_vectors(model, columns, batch_size, progress):
    """Returns the vectors of several columns of texts; all texts are encoded in one pass, duplicates once."""
    flat = [text for column in columns for text in column]
    encoded = _texts.encode(model, flat, batch_size=batch_size, progress=progress)
    return np.split(encoded, np.cumsum([len(column) for column in columns])[:-1])


def pair_similarities(model, columns, measures, batch_size, progress):
    """Returns a function that maps a similarity to the score of each pair, by embedder or cross-encoder."""
    if _texts.embedder_of(model) is not None:
        first, second = column_vectors(model, columns, batch_size, progress)
        return lambda name: _neighbours.paired(first, second, name)
    if measures != ["cosine"]:
        raise _check.invalid("similarity", "'cosine', the default, for a model that scores pairs itself", measures)
    scores = _texts.pair_scores(model, *columns, batch_size=batch_size, progress=progress)
    return lambda name: scores
