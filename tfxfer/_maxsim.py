"""MaxSim of token vectors in numpy, shared by models, searches and evaluations of late interaction."""

import numpy as np

from tfxfer import _check, _neighbours


def rows(argument, given, dim=None):
    """Returns token vectors as a list of float32 arrays `(tokens, dim)`; raises for another form, NaN or infinity.

    Args:
        argument: string. The argument's name, for errors.
        given: list of float arrays `(tokens, dim)`, or one such array for one text.
        dim: int. The required size of the vectors; `None` for any size that is the same in all rows.
    """
    if isinstance(given, np.ndarray) and given.ndim == 2:
        given = [given]
    if not isinstance(given, (list, tuple)) and getattr(given, "ndim", 0) != 3:
        raise _check.invalid(argument, "a list of arrays (tokens, dim), one for each text", given)
    found = []
    for row, each in enumerate(given):
        each = np.asarray(each)
        size = dim if dim is not None else found[0].shape[1] if found else None
        where = f"It is in row {row} (counting from 0)."
        if each.ndim != 2 or each.shape[1] == 0 or (size is not None and each.shape[1] != size):
            expected = f"arrays (tokens, {'dim' if size is None else size})"
            raise _check.invalid(argument, expected, each.shape, where)
        each = each.astype("float32")
        if not np.isfinite(each).all():
            raise _check.invalid(argument, "finite numbers", each, where)
        found.append(each)
    return found


def joined(found):
    """Returns a list of arrays `(tokens, dim)` as one `(all tokens, dim)`, and the number of tokens of each."""
    counts = np.array([len(each) for each in found], "int64")
    return (np.concatenate(found) if found else np.zeros((0, 1), "float32")), counts


def scores(queries, documents):
    """Returns the MaxSim of each query with each document, float32 `(queries, documents)`.

    A query token without a document token to compare with adds 0.

    Args:
        queries: list of float arrays `(tokens, dim)`.
        documents: the same.
    """
    counts = [len(document) for document in documents]
    parts = [of_flat(queries, *joined(documents[some])) for some in blocks(counts, 8 * _neighbours.CORPUS_CHUNK)]
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(queries), 0), "float32")


def of_flat(queries, flat, counts):
    """Returns `scores` of documents whose tokens are concatenated.

    Args:
        queries: list of float arrays `(tokens, dim)`.
        flat: float array `(all tokens, dim)`.
        counts: int array `(documents,)`, the number of tokens of each.
    """
    found = np.zeros((len(queries), len(counts)), "float32")
    places = np.flatnonzero(counts)
    if not len(places) or not len(queries):
        return found
    # Documents without tokens hold no place in `flat`, so that the starts of the others rise.
    starts = np.concatenate([[0], np.cumsum(counts[places])[:-1]])
    # As many products are held at a time as scores of dense vectors: 32 MB in float32.
    most = _neighbours.QUERY_CHUNK * _neighbours.CORPUS_CHUNK // len(flat)
    for some in blocks([len(query) for query in queries], most):
        part = queries[some]
        tokens, sizes = joined(part)
        if not len(tokens):
            continue
        best = np.maximum.reduceat(tokens @ flat.T, starts, axis=1)
        real = np.flatnonzero(sizes)
        sums = np.add.reduceat(best, np.concatenate([[0], np.cumsum(sizes[real])[:-1]]), axis=0)
        found[np.ix_(some.start + real, places)] = sums
    return found


def blocks(counts, most):
    """Yields slices of rows with at most `most` tokens in total, but at least one row."""
    start = total = 0
    for row, count in enumerate(counts):
        if row > start and total + count > most:
            yield slice(start, row)
            start, total = row, 0
        total += count
    if start < len(counts):
        yield slice(start, len(counts))
