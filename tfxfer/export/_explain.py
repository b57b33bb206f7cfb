"""Explanations in the graph: integrated gradients, summed to words with their positions."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfxfer import _check, data
from tfxfer.export._extract import COLUMNS
from tfxfer.models import _paths
from tfxfer.preprocessing import split_words

# Points of a path. They are computed one after another, so a call needs the memory of one point.
STEPS = 32


def check(model: Any, pairs: bool) -> None:
    """Raises if the export cannot explain the model's answers."""
    columns = model.prediction_columns()
    reads_text = len(columns) == 1 and isinstance(next(iter(columns.values())), data.TextColumn)
    kinds = ("classes", "values")
    if model.signatures()[0].kind not in kinds or pairs or not reads_text or len(model.served_parts()) != 1:
        remedy = "Call `model.explain` in Python."
        expected = "False for this model: an export explains classifiers and regressors of one text"
        raise _check.invalid("explain", expected, True, remedy)
    what = model.explained()
    if what.chosen is None and what.of != "log-odds":
        raise _check.invalid("explain", "False for a regressor of several outputs", True)


class Explainer:
    """Maps texts `(n,)` to their words and attributions.

    Args:
        model: a task model that `check` accepts.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._what = model, model.explained()
        self._below, self._above = _paths.parts(model, model.output)
        self._stand_in = _paths.baseline_id(model.preprocessor.tokenizer, None)
        nodes, weights = np.polynomial.legendre.leggauss(STEPS)
        self._shares, self._weights = (tf.constant(each, tf.float32) for each in ((nodes + 1) / 2, weights / 2))

    def _likeliest(self, outputs):
        return tf.argmax(self._model.probabilities(outputs), axis=-1)

    def __call__(self, texts: Any) -> dict[str, Any]:
        """Returns a dict of tensors `(n,)` and padded tensors `(n, most words)`."""
        preprocessor, rows = self._model.preprocessor, tf.shape(texts)[:1]
        ids = preprocessor.tokenizer(texts)
        packed = preprocessor.pack_with_places(ids)
        is_text, token = packed.pop("texts") >= 0, packed.pop("tokens")
        kept = tf.ones_like(token, tf.float32)
        baseline = packed["token_ids"]
        if self._stand_in is None:
            kept = tf.where(is_text, 0.0, 1.0)
        else:
            baseline = tf.where(is_text, tf.cast(self._stand_in, tf.int32), baseline)
        outputs = tf.cast(
            self._above([self._below(packed, training=False), packed["padding_mask"]], training=False), tf.float32
        )
        chosen = self._what.chosen
        target = tf.cast(self._likeliest(outputs) if chosen is None else chosen(outputs), tf.int32)
        x = {**packed, "baseline_ids": baseline, "kept": kept, "target": target}

        def number(outputs, x):
            return self._what.number(outputs, x["target"])

        def point(share):
            found = {**x, "share": tf.fill(rows, share)}
            numbers, products = _paths.attribute(self._below, self._above, number, found)
            return tf.cast(numbers, tf.float32), products

        def step(i, total):
            _, products = point(self._shares[i])
            return i + 1, total + self._weights[i] * products

        start = (tf.constant(0), tf.zeros(tf.shape(token)))
        shapes = (tf.TensorShape([]), tf.TensorShape([None, None]))
        _, products = tf.while_loop(lambda i, _: i < STEPS, step, start, shape_invariants=shapes, parallel_iterations=1)
        score = tf.cast(self._what.number(outputs, target), tf.float32)
        base, _ = point(tf.constant(0.0))
        found = {
            "score": score,
            "baseline": base,
            "error": tf.abs(tf.reduce_sum(products, axis=1) - (score - base)),
            **self._words(texts, ids, token, products),
        }
        if self._what.of == "log-odds":
            found["label"] = tf.gather(tf.constant([str(each) for each in self._what.targets]), target)
        return found

    def _words(self, texts, ids, token, products):
        """Sums the values of tokens to words; returns the words with their positions."""
        chosen = self._aligned(texts, ids)
        owner, starts, ends, byte_starts, byte_ends = chosen
        width = tf.shape(starts)[1]
        rows = tf.shape(texts)[0]
        known = token >= 0
        word = tf.gather(owner, tf.where(known, token, 0), batch_dims=1)
        word = tf.where(known, word, width)  # special tokens and padding: after all words
        segment = word + tf.range(rows)[:, tf.newaxis] * (width + 1)
        total = rows * (width + 1)

        def summed(values):
            flat = tf.math.unsorted_segment_sum(tf.reshape(values, [-1]), tf.reshape(segment, [-1]), total)
            return tf.reshape(flat, [rows, width + 1])[:, :width]

        values, is_read = summed(products), summed(tf.ones_like(products)) > 0
        places = tf.range(width)[tf.newaxis, :]
        counts = tf.reduce_max(tf.where(is_read, places + 1, 0), axis=1)
        is_word = places < counts[:, tf.newaxis]
        lengths = tf.where(is_word, byte_ends - byte_starts, 0)
        words = tf.strings.substr(tf.tile(texts[:, tf.newaxis], [1, width]), tf.where(is_word, byte_starts, 0), lengths)
        found = {"words": words, "attributions": tf.where(is_word, values, 0.0), "counts": counts}
        spans = {"starts": starts, "ends": ends, "byte_starts": byte_starts, "byte_ends": byte_ends}
        return {**found, **{name: tf.where(is_word, each, -1) for name, each in spans.items()}}

    def _aligned(self, texts, ids):
        """Returns the word of each token and the positions of words, dense, for the finest split that is exact.

        A split cuts a text into pieces, each a word with the whitespace before it. It is exact for a row if tokenizing
        the pieces one by one gives the tokens of the whole text. The splits, finest first: words; the runs between
        whitespace; the whole text.
        """
        ways = [split_words(texts, "punctuation"), _glued(split_words(texts, "whitespace"))]
        count = tf.cast(ids.bounding_shape(1), tf.int32)
        flat = ids.to_tensor(-1, shape=[None, None])
        sizes = [tf.cast(way[0].bounding_shape(1), tf.int32) for way in (each[1:] for each in ways)]
        width = tf.maximum(tf.reduce_max(tf.stack(sizes)), 1)
        width = -(-width // COLUMNS) * COLUMNS
        rows = tf.shape(texts)[0]
        points = tf.strings.length(texts, unit="UTF8_CHAR")
        whole = [tf.zeros([rows], tf.int32), points, tf.zeros([rows], tf.int32), tf.strings.length(texts)]
        first = tf.range(width)[tf.newaxis, :] == 0
        chosen = [tf.zeros([rows, tf.maximum(count, 1)], tf.int32)]
        chosen += [tf.where(first, each[:, tf.newaxis], 0) for each in whole]
        for way in reversed(ways):
            starts, ends, byte_starts, byte_ends = way[1:]
            owner, is_exact = self._owners(texts, flat, byte_ends)
            dense = [each.to_tensor(0, shape=[None, None]) for each in (starts, ends, byte_starts, byte_ends)]
            dense = [tf.pad(each, [[0, 0], [0, width - tf.shape(each)[1]]]) for each in dense]
            fine = [tf.pad(owner, [[0, 0], [0, tf.maximum(count, 1) - tf.shape(owner)[1]]]), *dense]
            chosen = [tf.where(is_exact[:, tf.newaxis], new, old) for new, old in zip(fine, chosen, strict=True)]
        return chosen

    def _owners(self, texts, flat, byte_ends):
        """Returns the word of each token `(n, tokens)`, and whether it is exact for each row `(n,)`."""
        sizes = tf.strings.length(texts)
        numbers = tf.ragged.range(tf.cast(byte_ends.row_lengths(), tf.int32))
        row = tf.cast(byte_ends.value_rowids(), tf.int32)
        is_last = numbers.values == tf.gather(tf.cast(byte_ends.row_lengths(), tf.int32), row) - 1
        begin = tf.concat([[0], byte_ends.values[:-1]], axis=0)[: tf.size(row)]
        begin = tf.where(numbers.values == 0, 0, begin)
        end = tf.where(is_last, tf.gather(sizes, row), byte_ends.values)
        pieces = tf.strings.substr(tf.gather(texts, row), begin, end - begin)
        ids = byte_ends.with_values(self._model.preprocessor.tokenizer(pieces))
        owner = ids.with_values(ids.values.with_values(tf.repeat(numbers.values, ids.values.row_lengths())))
        merged = ids.merge_dims(1, 2).to_tensor(-1, shape=[None, None])
        owner = owner.merge_dims(1, 2).to_tensor(0, shape=[None, None])
        width = tf.maximum(tf.shape(merged)[1], tf.shape(flat)[1])
        merged, whole = (
            tf.pad(each, [[0, 0], [0, width - tf.shape(each)[1]]], constant_values=-1) for each in (merged, flat)
        )
        return owner[:, : tf.shape(flat)[1]], tf.reduce_all(merged == whole, axis=1)


def _glued(words):
    """Joins words that no whitespace separates."""
    row = words.byte_starts.value_rowids()
    before = tf.concat([[-1], words.byte_ends.values[:-1]], axis=0)[: tf.size(row)]
    same_row = tf.concat([tf.fill([1], False), row[1:] == row[:-1]], axis=0)[: tf.size(row)]
    begins = ~(same_row & (before == words.byte_starts.values))
    number = tf.cumsum(tf.cast(begins, tf.int32)) - 1
    rows = tf.boolean_mask(row, begins)
    count = words.byte_starts.nrows()

    def joined(values, reduce):
        return tf.RaggedTensor.from_value_rowids(reduce(values.values, number), rows, nrows=count, validate=False)

    spans = [(words.starts, tf.math.segment_min), (words.ends, tf.math.segment_max)]
    spans += [(words.byte_starts, tf.math.segment_min), (words.byte_ends, tf.math.segment_max)]
    return words._replace(
        **dict(
            zip(
                ("starts", "ends", "byte_starts", "byte_ends"),
                [joined(values, reduce) for values, reduce in spans],
                strict=True,
            )
        )
    )
