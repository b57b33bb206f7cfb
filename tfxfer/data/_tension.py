"""Pairs of texts for contrastive tension: each text with itself, and with random others."""

from collections.abc import Sequence

import numpy as np

from tfxfer import _check
from tfxfer.data._columns._base import read_list
from tfxfer.data._datasets import pairs
from tfxfer.data._examples import Examples


def tension_pairs(texts: Sequence[str], negatives: int = 7, *, seed: int = 0) -> Examples:
    """Makes the pairs of contrastive tension from texts without labels.

    Each text is paired with itself, with target 1, and with random other texts, with target 0.

    Args:
        texts: list of strings, at least two different ones.
        negatives: int. Pairs with other texts per text. Defaults to 7, as in the paper.
        seed: int >= 0. The seed of the random choice.

    Returns:
        A finite `tf.data.Dataset` (`Examples`) of ((a, b), y), as from `pairs`, y a float32 scalar, in the order of the
        texts, the pair with itself first. `batches` shuffles it.

    Raises:
        ValueError: if a text is missing or not a string, fewer than two texts differ, or `negatives` is below 1.

    Example:

    >>> found = tension_pairs(["a", "b"], negatives=1)
    >>> [(a.decode(), b.decode(), float(y)) for (a, b), y in found.as_numpy_iterator()]
    [('a', 'a', 1.0), ('a', 'b', 0.0), ('b', 'b', 1.0), ('b', 'a', 0.0)]

    Reference: Carlsson et al., 2021, https://openreview.net/forum?id=Ov_sMNau-PF.
    """
    found = read_list("texts", texts)
    negatives, seed = _check.integer("negatives", negatives), _check.integer("seed", seed, minimum=0)
    names = {text: number for number, text in enumerate(dict.fromkeys(found))}
    if len(names) < 2:
        raise _check.invalid("texts", "at least two different texts", found)
    ids = np.array([names[text] for text in found])
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(found), size=(len(found), negatives))
    # A text that occurs several times is not a negative of itself: draw again until it differs.
    same = ids[drawn] == ids[:, None]
    while same.any():
        drawn[same] = rng.integers(len(found), size=int(same.sum()))
        same = ids[drawn] == ids[:, None]
    rows = np.concatenate([np.arange(len(found))[:, None], drawn], axis=1)
    y = np.zeros(rows.shape, "float32")
    y[:, 0] = 1.0
    columns = {
        "first": [text for text in found for _ in range(negatives + 1)],
        "second": [found[row] for row in rows.ravel()],
        "same": y.ravel().tolist(),
    }
    return pairs(columns, ("first", "second"), target="same")
