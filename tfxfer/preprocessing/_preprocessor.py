"""`TextPreprocessor`: strings to the inputs of a backbone."""

from collections.abc import Mapping
from typing import Any, Literal

import keras
import keras_hub
import tensorflow as tf

from tfxfer import _check
from tfxfer.preprocessing import _tokenizer


@keras.saving.register_keras_serializable("tfxfer")
class TextPreprocessor(keras_hub.models.Preprocessor):
    """Turns texts, or pairs of texts, into padded token ids with the special tokens of the checkpoint.

    Each batch is padded to its longest row. Texts are truncated as in Hugging Face: a single text at its end, before
    the final special token; of two texts the longer one, until both fit. Everything runs as TensorFlow graph
    operations.

    Args:
        tokenizer: a `Tokenizer`.
        sequence_length: int. The maximum number of tokens in a row, special tokens included. Defaults to `512`.
        padding_side: `"right"` or `"left"`. Defaults to `"right"`.
        pad_to_multiple_of: int. The length of a batch is rounded up to a multiple of this, up to `sequence_length`.
            Defaults to `1`, no rounding, because varying lengths cost nothing on CPU and GPU without XLA.
        add_special_tokens: bool. Whether to add the special tokens of the checkpoint to each row. Defaults to `True`;
            static embeddings have none.
        drop_unknown_tokens: bool. Whether to drop unknown tokens, as Model2Vec does. Defaults to `False`.
        segment_ids: bool. Whether to return `"segment_ids"`. Defaults to `None`: if the family uses them (BERT, ALBERT,
            ELECTRA).

    Call arguments:
        x: strings `(n,)` (string, list, numpy array or tensor); or a tuple of two of them, the two texts of each row,
            which become one sequence.
        y: optional; returned unchanged.
        sample_weight: optional; returned unchanged.

    Returns:
        A dict of int32 tensors `(n, length)`: `"token_ids"`, `"padding_mask"` (1 at tokens, 0 at padding) and, if
        requested, `"segment_ids"`. With `y`, the tuple `(x, y)` or `(x, y, sample_weight)`.

    Raises:
        ValueError: if an argument is out of range; if `sequence_length` leaves no room for tokens in addition to the
            special tokens; if texts are not strings.

    Example:

    ```python
    tokenizer = tfxfer.preprocessing.Tokenizer.from_folder("all-MiniLM-L6-v2")
    preprocessor = tfxfer.preprocessing.TextPreprocessor(tokenizer, sequence_length=128)
    preprocessor(["Where is my card?"])["token_ids"]  # [[101, 2073, 2003, 2026, 4003, 1029, 102]]
    ```
    """

    def __init__(
        self,
        tokenizer: Any,
        sequence_length: int = 512,
        *,
        padding_side: Literal["right", "left"] = "right",
        pad_to_multiple_of: int = 1,
        segment_ids: bool | None = None,
        add_special_tokens: bool = True,
        drop_unknown_tokens: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "int32")
        super().__init__(**kwargs)
        _check.instance("tokenizer", tokenizer, _tokenizer.Tokenizer, "a tfxfer.preprocessing.Tokenizer")
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length
        self.padding_side = _check.one_of("padding_side", padding_side, ("right", "left"))
        self.pad_to_multiple_of = _check.integer("pad_to_multiple_of", pad_to_multiple_of)
        if segment_ids is not None:
            _check.instance("segment_ids", segment_ids, bool, "True, False or None")
        self.segment_ids = segment_ids
        self.add_special_tokens = _check.instance("add_special_tokens", add_special_tokens, bool, "True or False")
        self.drop_unknown_tokens = _check.instance("drop_unknown_tokens", drop_unknown_tokens, bool, "True or False")
        self.built = True

    @property
    def sequence_length(self) -> int:
        """The maximum number of tokens in a row, special tokens included."""
        return self._sequence_length

    @sequence_length.setter
    def sequence_length(self, value: int) -> None:
        self._sequence_length = _check.integer("sequence_length", value)

    @property
    def has_segment_ids(self) -> bool:
        """Whether the result has the key `"segment_ids"`."""
        return self.tokenizer.spec.segments if self.segment_ids is None else self.segment_ids

    @tf.autograph.experimental.do_not_convert
    def __call__(self, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        # Bypasses `Layer.__call__`, which repeats all texts in its error messages.
        return self.call(x, y, sample_weight)

    def call(self, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        if isinstance(x, tuple):
            if len(x) != 2:
                raise _check.invalid("x", "strings, or a tuple of two of them", x)
            texts = tuple(_tokenizer.as_strings(part, "x") for part in x)
            ids = tuple(self.tokenizer.tokenize(part) for part in texts)
        else:
            ids = self.tokenizer.tokenize(_tokenizer.as_strings(x, "x"))
        return keras.utils.pack_x_y_sample_weight(self.pack(ids), y, sample_weight)

    def pack(self, ids: Any, aligned: Mapping[str, Any] | None = None) -> Any:
        """Adds special tokens to token ids, truncates and pads them.

        Args:
            ids: int32 `RaggedTensor` `(n, None)` without special tokens, as returned by `tokenizer`; or a tuple of two.
            aligned: dict of name to int32 `RaggedTensor` with a value for each of `ids`; for pairs, a tuple of two. The
                values are truncated and padded with the ids; special tokens and padding get -1.

        Returns:
            The same dict as calling the preprocessor.
        """
        kept = self._known(ids)
        before, content, segments, after = self._content(kept)
        lengths = _row_lengths(content)
        totals = lengths + len(before) + len(after)
        longest = self._round_up(tf.reduce_max(tf.concat([totals, [1]], axis=0)))
        pad = self.tokenizer.pad_token_id
        columns = tf.range(longest)[tf.newaxis, :]

        def dense(values, default, start, end):
            rows = tf.shape(lengths)[0]
            body = values.with_values(tf.cast(values.values, tf.int32)).to_tensor(default, shape=[None, None])
            body = tf.concat([tf.tile(tf.constant([start], tf.int32, shape=[1, len(start)]), [rows, 1]), body], axis=1)
            body = body[:, :longest]
            body = tf.pad(body, [[0, 0], [0, longest - tf.shape(body)[1]]], constant_values=default)
            for i, value in enumerate(end):
                at = columns == (lengths + len(start) + i)[:, tf.newaxis]
                body = tf.where(at, tf.constant(value, tf.int32), body)
            return self._to_side(body, totals)

        features = {
            "token_ids": dense(content, pad, [item[0] for item in before], [item[0] for item in after]),
            "padding_mask": self._to_side(tf.cast(columns < totals[:, tf.newaxis], tf.int32), totals),
        }
        if self.has_segment_ids:
            if segments is None:
                features["segment_ids"] = tf.zeros_like(features["token_ids"])
            else:
                features["segment_ids"] = dense(segments, 0, [item[1] for item in before], [item[1] for item in after])
        for name, values in (aligned or {}).items():
            _, values, _, _ = self._content(kept, self._known(ids, values))
            features[name] = dense(values, -1, [-1] * len(before), [-1] * len(after))
        return features

    def pack_with_places(self, ids: Any) -> Any:
        """Adds special tokens, truncates and pads as `pack`, and returns the source of each token.

        Args:
            ids: as in `pack`.

        Returns:
            The dict of `pack` with two more int32 tensors `(n, length)`, -1 at special tokens and padding: `"texts"`, 0
            or 1, the text of the row that the token comes from; `"tokens"`, its index among the tokens of that text.
        """
        parts = ids if isinstance(ids, tuple) else (ids,)
        tokens = tuple(part.with_values(tf.ragged.range(_row_lengths(part)).values) for part in parts)
        texts = tuple(part.with_values(tf.fill(tf.shape(part.values), i)) for i, part in enumerate(parts))
        aligned = {"texts": texts, "tokens": tokens}
        if not isinstance(ids, tuple):
            aligned = {name: values[0] for name, values in aligned.items()}
        return self.pack(ids, aligned)

    def pack_each(self, ids: Any) -> Any:
        """Adds special tokens to each token, as if it were a whole text.

        Args:
            ids: int array `(n,)`.

        Returns:
            The same dict as calling the preprocessor, with `n` rows.
        """
        ids = tf.cast(ids, tf.int32)
        return self.pack(tf.RaggedTensor.from_row_splits(ids, tf.range(tf.size(ids) + 1)))

    def lengths(self, ids: Any) -> Any:
        """Returns the lengths of the rows after `pack`, special tokens and truncation included.

        Args:
            ids: as in `pack`.

        Returns:
            An int32 tensor `(n,)`.
        """
        ids = self._known(ids)
        if isinstance(ids, tuple):
            first, second = self._pair_lengths(*ids)
            return first + second + len(self._template(True)) - 2
        room = self._room(False)
        return tf.minimum(_row_lengths(ids), room) + len(self._template(False)) - 1

    @property
    def room(self) -> int:
        """The maximum number of tokens of one text in a row, special tokens excluded."""
        return self._room(False)

    def _known(self, ids, values=None):
        """Drops unknown tokens, if requested, from ids or from values aligned with them."""
        values = ids if values is None else values
        if not self.drop_unknown_tokens or self.tokenizer.unk_token_id is None:
            return values
        if isinstance(ids, tuple):
            return tuple(map(self._known, ids, values))
        return tf.ragged.boolean_mask(values, tf.not_equal(ids, tf.cast(self.tokenizer.unk_token_id, ids.dtype)))

    def _template(self, pair):
        if not self.add_special_tokens:
            return [["A", 0], ["B", 0]] if pair else [["A", 0]]
        return self.tokenizer.spec.pair if pair else self.tokenizer.spec.single

    def _room(self, pair):
        """Returns the number of tokens for which the special tokens leave room."""
        template = self._template(pair)
        specials = len(template) - (2 if pair else 1)
        if self.sequence_length <= specials:
            raise _check.invalid(
                "sequence_length", f"an int > {specials}, the number of special tokens", self.sequence_length
            )
        return self.sequence_length - specials

    def _content(self, ids, values=None):
        """Returns the special tokens before, the truncated content, its segments (`None` for all 0), and those after.

        With values aligned with the ids, the content is the values, with -1 at special tokens in between.
        """
        shown = ids if values is None else values
        if not isinstance(ids, tuple):
            template = self._template(False)
            at = [item[0] for item in template].index("A")
            return template[:at], shown[:, : self._room(False)], None, template[at + 1 :]
        template = self._template(True)
        names = [item[0] for item in template]
        first, last = names.index("A"), names.index("B")
        parts = [_cut(part, length) for part, length in zip(shown, self._pair_lengths(*ids), strict=True)]
        rows = tf.shape(parts[0].row_splits)[0] - 1
        between = [
            tf.RaggedTensor.from_tensor(tf.fill([rows, 1], tf.constant(item[0] if values is None else -1, tf.int32)))
            for item in template[first + 1 : last]
        ]
        content = [parts[0], *between, parts[1]]
        segments = [
            part.with_values(tf.fill(tf.shape(part.values), item[1]))
            for part, item in zip(content, template[first : last + 1], strict=True)
        ]
        return template[:first], tf.concat(content, axis=1), tf.concat(segments, axis=1), template[last + 1 :]

    def _pair_lengths(self, first, second):
        """Returns the lengths of a pair's texts after truncation: first of the longer text, then of both evenly."""
        room = self._room(True)
        first, second = _row_lengths(first), _row_lengths(second)
        short = tf.minimum(first, second)
        # The longer text also gets the odd token; of two equally long texts, the second.
        kept = tf.minimum(short, room // 2)
        fits = first + second <= room
        swapped = first > second
        return (
            tf.where(fits, first, tf.where(swapped, room - kept, kept)),
            tf.where(fits, second, tf.where(swapped, kept, room - kept)),
        )

    def _round_up(self, length):
        multiple = self.pad_to_multiple_of
        return tf.minimum(-(-length // multiple) * multiple, tf.maximum(length, self.sequence_length))

    def _to_side(self, rows, totals):
        if self.padding_side == "right":
            return rows
        return tf.reverse(tf.reverse_sequence(rows, totals, seq_axis=1, batch_axis=0), [1])

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(
            {
                "sequence_length": self.sequence_length,
                "padding_side": self.padding_side,
                "pad_to_multiple_of": self.pad_to_multiple_of,
                "segment_ids": self.segment_ids,
                "add_special_tokens": self.add_special_tokens,
                "drop_unknown_tokens": self.drop_unknown_tokens,
            }
        )
        return config


def _row_lengths(ids):
    return tf.cast(ids.row_lengths(), tf.int32)


def _cut(ids, lengths):
    """Returns the first `lengths[i]` ids of each row."""
    position = tf.ragged.range(_row_lengths(ids))
    kept = position.values < tf.gather(lengths, tf.cast(position.value_rowids(), tf.int32))
    return tf.RaggedTensor.from_row_lengths(
        tf.boolean_mask(ids.values, kept), tf.cast(lengths, tf.int64), validate=False
    )
