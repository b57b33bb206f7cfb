"""Batches of token ids, in an order determined by a seed."""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer.data._augmenter import Augmenter
from tfxfer.data._by_documents import ByDocuments
from tfxfer.data._classes import ByClass
from tfxfer.data._columns import LabelColumn, TagsColumn, TextColumn, ValuesColumn
from tfxfer.data._columns._text import FORMS
from tfxfer.data._examples import Examples, columns_of
from tfxfer.data._forms import check_rows, from_arrays
from tfxfer.data._graph import as_it_is
from tfxfer.data._order import Order
from tfxfer.data._packer import Packer
from tfxfer.data._sources import Kept, Streamed, Varied
from tfxfer.data._unique import ByText


def batches(
    dataset: Any,
    inputs: Any,
    batch_size: int = 32,
    *,
    columns: Literal["joint", "separate"] | None = None,
    shuffle: bool = True,
    bucket: bool | None = None,
    seed: int | None = None,
    window: int = 50,
    examples_per_class: int | None = None,
    unique_texts: bool = False,
    max_documents: int | None = None,
    drop_remainder: bool = False,
    pad_to_multiple_of: int = 1,
    cache: bool | None = None,
    prefetch: bool = True,
    augment: Any = None,
) -> "Batches":
    """Makes batches of rows: tokenizes the texts, and pads each batch only to its longest row.

    Every row comes exactly once per epoch, whatever the seed (at least once with `examples_per_class`).

    **Buckets.** `bucket=True` batches rows of similar length: the rows are permuted, sorted by length within windows of
    `window` batches, cut into batches, and the batches of a window permuted. A batch then has about 1.03 to 1.15
    positions per real token, against 1.9 to 2.9 for rows in random order (more if separate columns differ in length,
    because they share one length). This is the default for one sequence per row, but not for separate columns: their
    losses compare the rows of a batch with one another, and batches of similar lengths sample the data less evenly.
    There is also little to gain, because on the TensorFlow backend the encoders skip padding everywhere but in the
    attention. Pass `bucket=True` if padding is computed in full: on other backends, and with GPT-2.

    **Classes.** `examples_per_class=K` is for losses that find positives and negatives among the rows of a batch: each
    batch has P = batch_size / K classes and K consecutive rows of each. Each class is split into groups of K rows.
    Every row is in at least one group per epoch, and no row of a class repeats before all its rows have come. A class
    with fewer than K rows repeats them. A full batch needs P classes. If groups are missing, at the end of the epoch or
    because one class has more than a P-th of all rows, they come from the classes whose rows were used least. An epoch
    therefore has max(G / P, G of the largest class) batches, rounded up, for G groups; without one dominant class and
    with many rows per class that is rows / batch_size.

    **Unique texts.** `unique_texts=True` is for in-batch negatives, where the text of one row is a negative of another
    row: no two rows of a batch share a text in any column, so no text is a negative of itself. (The texts of one row
    may be equal, as in SimCSE.) Texts are equal if their token ids are: an uncased vocabulary makes "Hello" and "hello"
    equal. Every row still comes once per epoch; rows that share a text go to different batches. Every epoch has the
    same number of batches: rows / batch_size, rounded up; or more, of nearly equal size, if a text occurs in more rows
    than that, or if the overlaps between rows require it. With `drop_remainder` all batches are full, and the remaining
    rows, different ones each epoch, are dropped.

    **Documents.** For lists of documents, as made by `data.rankings`, `batch_size` counts lists, and `max_documents`
    bounds the documents of a batch, which determine memory and time. Each epoch composes new batches, large lists first
    and lists of equal size in random order, so every epoch has the same number of batches, nearly all of them full. A
    list of more documents is an error: `data.rankings(max_documents=...)` selects the documents to drop.

    **Order.** The order of epoch e depends only on the data, the arguments, `seed` and e: the same seed gives the same
    epochs 0, 1, 2, ..., each in a different order. `Batches.epoch` is the number of the next epoch and can be set;
    `Batches.rest(epoch, batch)` returns the rest of an epoch. A run that stopped can therefore resume at the same row.

    **Memory.** Rows in memory (an unmodified `Examples`, or arrays) are tokenized immediately and their ids are cached:
    4 bytes per token, before truncation, and 8 per text; epochs then only pad and batch. Any other dataset (for
    example, one mapped with a random augmentation) is iterated over and tokenized again in each epoch, one window in
    memory at a time, and its rows are shuffled only within a buffer of one window. `cache` overrides this.

    **Augmentation.** `augment` changes the texts of the rows at random, differently in each epoch. The texts of row i
    in epoch e depend only on the row, `seed`, e and i, so they are the same in any batches. For rows in memory the
    words are cached instead of their ids, at some 50 bytes each, and tokenized in each epoch; buckets and unique texts
    use the unchanged rows. Targets stay as they are, except tags, which change with their words. `evaluate` and
    `predict` raise for augmented batches; `Batches.plain` returns batches of the unchanged rows.

    Args:
        dataset: the result of `labelled`, `regression`, `pairs`, `triplets` or `examples`; any `tf.data.Dataset` of
            single rows x, (x, y) or (x, y, sample_weight); or arrays in such a form, e.g. `(texts, y)` or `((a_texts,
            b_texts), y)`. x is a string, a tuple of strings, or a dict of column name to value. Or `Batches` of rows
            that are kept in memory: the same rows in new batches, without tokenizing them again.
        inputs: a task model, which knows its columns; or a `preprocessing.TextPreprocessor` for rows of text; or a dict
            of column name to column, e.g. `{"review": TextColumn(preprocessor), "age": NumberColumn()}`.
        batch_size: int. Rows in a batch.
        columns: how to encode several texts per row, if `inputs` is a preprocessor: `"joint"`, one sequence per pair,
            as cross-encoders read it; or `"separate"`, one sequence per text, as Siamese towers read them. Defaults to
            `"joint"`.
        shuffle: bool. `False` keeps the order of the rows, e.g. to match predictions with rows.
        bucket: bool. Whether to batch rows of similar length. Defaults to `shuffle` for `columns="joint"`, and to
            `False` for `columns="separate"`. With `shuffle=False`, `bucket=True` sorts all rows, longest first: the
            fastest way to evaluate if the order does not matter.
        seed: int >= 0. By default drawn from numpy's global generator, which `keras.utils.set_random_seed` seeds.
        window: int. Batches in a window: more means less padding, fewer means batches of more varied lengths.
        examples_per_class: int >= 2. K, see above; `batch_size` must be a multiple of it. y is then one label per row,
            an int or a string, as `labelled` returns it. Needs rows in memory or `cache=True`.
        unique_texts: bool. See above. Needs rows in memory or `cache=True`.
        max_documents: int. The maximum number of documents in a batch, for rows of lists; see above. Needs rows in
            memory or `cache=True`. Unlimited by default.
        drop_remainder: bool. Whether to drop the last batch if it is smaller; different rows are dropped each epoch.
        pad_to_multiple_of: int from 1 to 8. The length of a batch is rounded up to a multiple of it (up to the
            preprocessor's `sequence_length`). More than 1 only pays off if each shape is compiled separately (XLA).
        cache: bool. Whether to tokenize once and keep the ids. By default only for rows in memory.
        prefetch: bool. Whether to make batches while the model computes.
        augment: an augmentation of `tfxfer.augmentation`, or a list of them, for all texts; or a dict of these by the
            name of the column, or by the index of the text in its row, e.g. `{0: ...}` for the first text only.

    Returns:
        `Batches`, a `tf.data.Dataset` of x, (x, y) or (x, y, sample_weight). x is a dict of the columns' tensors; for
        text `token_ids`, `padding_mask` and, if the model has them, `segment_ids`, int32 `(batch, length)`, or
        `(batch, texts, length)` with one length for all texts if they are separate. The static shape of batch and
        length is `None`, so new shapes are not retraced. The cardinality is known if that of `dataset` is.

    Raises:
        ValueError: if an argument is out of range, the rows have an unsupported form, `dataset` is empty, a row has
            three or more texts with `columns="joint"`, there are fewer than P classes, a batch is too small for two
            classes of K, or `dataset` is `Batches` whose ids are not kept or come from another tokenizer.

    Example:

    ```python
    train = tx.data.labelled(tx.data.read("train.tsv"), "text", "label", labels=classifier.labels)
    classifier.fit(tx.data.batches(train, classifier, seed=0), epochs=3)

    mined = tx.data.batches(train, embedder, 64, examples_per_class=4)  # 16 classes in a batch
    questions = tx.data.pairs(tx.data.read("faq.tsv"), ("question", "answer"))
    ranked = tx.data.batches(questions, siamese, 64, unique_texts=True)
    ```

    Reference: Hermans et al., 2017, https://arxiv.org/abs/1703.07737 (batches of P classes x K examples).
    """
    _check.integer("batch_size", batch_size)
    _check.integer("window", window)
    _check.integer("seed", seed, minimum=0, optional=True)
    if _check.integer("pad_to_multiple_of", pad_to_multiple_of) > 8:
        raise _check.invalid("pad_to_multiple_of", "an int from 1 to 8", pad_to_multiple_of)
    packer = Packer(input_columns(inputs, columns), pad_to_multiple_of)
    if augment is not None and isinstance(dataset, Batches):
        raise _check.invalid("dataset", "rows with `augment`", dataset, "Batches keep ids, not texts to change.")
    in_memory = isinstance(dataset, (Examples, Batches)) or not isinstance(dataset, tf.data.Dataset)
    cache = in_memory if cache is None else bool(cache)
    if not isinstance(dataset, tf.data.Dataset):
        dataset = from_arrays(dataset, packer.columns)
    targets = getattr(dataset, "targets", None)
    if isinstance(dataset, Batches):
        dataset = _kept(dataset, packer, cache)
    else:
        check_rows(dataset.element_spec, packer.columns)
    if packer.draws is not None:
        _check_no_targets(dataset)
        targets = ValuesColumn()
    common = {
        "batch_size": int(batch_size),
        "seed": int(np.random.randint(2**31) if seed is None else seed),
    }
    if max_documents is not None:
        _check.integer("max_documents", max_documents)
        given = {"examples_per_class": examples_per_class, "unique_texts": unique_texts or None}
        given |= {"bucket": bucket or None, "drop_remainder": drop_remainder or None}
        for argument, value in given.items():
            if value is not None:
                raise _check.invalid(argument, "its default with `max_documents`, which decides the batches", value)
        if not cache:
            remedy = "Pass `cache=True`, or rows in memory."
            raise _check.invalid("cache", "True with `max_documents`, which has to see all rows", cache, remedy)
        order = ByDocuments(**common, max_documents=int(max_documents), shuffle=bool(shuffle))
    elif examples_per_class is not None or unique_texts:
        order = _composed(common, shuffle, bucket, cache, examples_per_class, unique_texts, bool(drop_remainder))
    else:
        order = Order(
            **common,
            window=int(window),
            shuffle=bool(shuffle),
            bucket=bool(shuffle and not packer.is_separate if bucket is None else bucket),
            drop_remainder=bool(drop_remainder),
        )
    if augment is None:
        return Batches((Kept if cache else Streamed)(dataset, packer, order), prefetch, targets=targets)
    spec = dataset.element_spec
    spec = spec if isinstance(spec, tuple) else (spec,)
    augmenter = Augmenter(augment, packer.columns, targets, spec, common["seed"])
    return Batches((Varied if cache else Streamed)(dataset, packer, order, augmenter), prefetch, targets=targets)


def input_columns(inputs, columns=None):
    """Returns the dict of input columns for the `inputs` of `batches`."""
    if callable(getattr(inputs, "pack", None)):
        return {"text": TextColumn(inputs, "joint" if columns is None else _check.one_of("columns", columns, FORMS))}
    if columns is not None:
        raise _check.invalid("columns", "None if `inputs` is a task model or a dict of columns", columns)
    return columns_of(inputs)


def _check_no_targets(dataset):
    """Raises for rows with targets if a column makes its own."""
    spec = dataset._rows[1] if isinstance(dataset, Kept) else getattr(dataset, "element_spec", None)
    has_targets = bool(spec) if isinstance(dataset, Kept) else isinstance(spec, tuple) and len(spec) > 1
    if has_targets:
        remedy = "The targets are made from the texts. Drop the others: `dataset.map(lambda x, *rest: x)`."
        raise _check.invalid("dataset", "rows of texts only", spec, remedy)


def _kept(dataset, packer, cache):
    """The rows of `Batches` that are kept in memory."""
    source = dataset._source
    if not isinstance(source, Kept) or not cache:
        remedy = "Make them with `cache=True`, and do not pass `cache=False` here."
        raise _check.invalid("dataset", "rows, or `Batches` of rows whose ids are kept", dataset, remedy)
    before = source.packer.columns
    tokenizers = [
        [getattr(getattr(column, "preprocessor", None), "tokenizer", None) for column in each.columns.values()]
        for each in (source.packer, packer)
    ]
    if list(before) != list(packer.columns) or any(a is not b for a, b in zip(*tokenizers, strict=True)):
        remedy = "Pass the rows themselves: another tokenizer produces different ids."
        raise _check.invalid("inputs", "the columns and the tokenizer of the batches", list(packer.columns), remedy)
    for name, column in packer.columns.items():
        if isinstance(column, TextColumn):
            column.check_count(len(column.token_ids(source._rows[0][name])), "dataset")
    return source


def _composed(common, shuffle, bucket, cache, examples_per_class, unique_texts, drop_remainder):
    """The order of batches that are composed by class or by unique text."""
    argument = "unique_texts" if examples_per_class is None else "examples_per_class"
    if not shuffle:
        raise _check.invalid("shuffle", f"True with `{argument}`, which cannot keep the order of rows", shuffle)
    if bucket:
        raise _check.invalid("bucket", f"None or False with `{argument}`, which decides the batches", bucket)
    if not cache:
        remedy = "Pass `cache=True`, or rows in memory: the result of `data.labelled` or `data.pairs`, or arrays."
        raise _check.invalid("cache", f"True with `{argument}`, which has to see all rows", cache, remedy)
    if examples_per_class is None:
        return ByText(**common, drop_remainder=drop_remainder)
    if unique_texts:
        remedy = "Losses that know the classes need no unique texts."
        raise _check.invalid("unique_texts", "False with `examples_per_class`", unique_texts, remedy)
    return ByClass(**common, examples_per_class=_check.integer("examples_per_class", examples_per_class, minimum=2))


class Batches(tf.data.Dataset):
    """The `tf.data.Dataset` that `batches` and `mix` return: each iteration over it yields the next epoch.

    An epoch counts as started when its first batch is requested; looking at one batch, `next(iter(train))`, uses up an
    epoch number. Keras may start epochs that it does not finish (under a `tf.distribute` strategy, and on other
    backends); there `fit` of task models counts completed epochs instead. To reproduce the order of another run, set
    `epoch` before `fit`.

    Args:
        source: the source of the batches of an epoch, made by `batches` or `mix`.
        prefetch: bool. Whether to make batches while the model computes.
        counter: the counter of epochs, if it is shared with other batches. By default a new one.
        targets: the column that encoded y, or a dict of them; see `Examples`. `None` if y is not encoded.

    Attributes:
        epoch: int. The number of the epoch that the next iteration yields, from 0.
        seed: int. The seed in use.
        targets: as given.
        labels: list of label names in the order of their indices in y; `None` if y is not encoded.

    Example:

    >>> train = tx.data.batches({"age": [39, 41, 25]}, {"age": tx.data.NumberColumn()}, 2, shuffle=False)
    >>> [x["age"].tolist() for x in train.as_numpy_iterator()], train.epoch
    ([[39.0, 41.0], [25.0]], 1)
    >>> [x["age"].tolist() for x in train.rest(epoch=0, batch=1).as_numpy_iterator()]
    [[25.0]]
    """

    def __init__(self, source: Any, prefetch: bool = True, counter: Any = None, targets: Any = None) -> None:
        self._source = source
        self.targets = targets
        self._prefetch = prefetch
        self._counter = _Counter() if counter is None else counter
        epochs = tf.data.Dataset.from_tensors(0).map(as_it_is(self._counter.next))
        if hasattr(source, "planned"):
            epochs = source.made(epochs.flat_map(as_it_is(source.planned)))
        else:
            epochs = epochs.flat_map(as_it_is(source.epoch))
        self._batches = self._finished(epochs, source.steps)
        super().__init__(self._batches._variant_tensor)

    def rest(self, epoch: int, batch: int = 0) -> Any:
        """Returns one epoch, starting at one of its batches; the attribute `epoch` does not change.

        Args:
            epoch: int. The number of the epoch, from 0.
            batch: int. The number of batches to skip.

        Returns:
            A `tf.data.Dataset` that yields the same batches each time.

        Raises:
            ValueError: if a number is negative, or the epoch has no more than `batch` batches.
        """
        _check.integer("epoch", epoch, minimum=0)
        _check.integer("batch", batch, minimum=0)
        steps = self._source.steps
        if steps is not None and batch >= steps:
            raise _check.invalid("batch", f"an int < {steps}, the number of batches in an epoch", batch)
        left = self._source.epoch(tf.constant(epoch, tf.int64), skip=int(batch))
        return self._finished(left, None if steps is None else steps - int(batch))

    def _finished(self, dataset, steps):
        if steps is not None:
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
        return dataset.prefetch(tf.data.AUTOTUNE) if self._prefetch else dataset

    def plain(self) -> "Batches":
        """Returns batches of the same rows in the same order without augmentation; they count their own epochs.

        Batches without augmentation are returned unchanged.
        """
        if self.augmentation is None:
            return self
        return Batches(self._source.plain(), self._prefetch, targets=self.targets)

    @property
    def augmentation(self) -> str | None:
        """A string that identifies the augmentation and its settings; `None` without augmentation."""
        augmenter = getattr(self._source, "augmenter", None)
        return None if augmenter is None else augmenter.identity

    @property
    def epoch(self) -> int:
        """The number of the epoch that the next iteration yields."""
        return self._counter.value

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._counter.value = _check.integer("epoch", value, minimum=0)

    @property
    def seed(self) -> Any:
        """The seed in use."""
        return self._source.seed

    @property
    def is_shuffled(self) -> bool:
        """Whether the rows of an epoch come in a random order."""
        order = getattr(self._source, "_order", None)  # a mix has none
        return getattr(order, "shuffle", True)

    @property
    def labels(self) -> list | None:
        """The label names in the order of their indices in y; `None` if y is not encoded."""
        return list(self.targets.labels) if isinstance(self.targets, (LabelColumn, TagsColumn)) else None

    def kept_targets(self) -> Any:
        """Returns y of all rows, in the rows' order; `None` if the rows are not kept in memory, or come from a mix."""
        rest = self._source._rows[1] if isinstance(self._source, (Kept, Varied)) else ()
        return rest[0] if rest else None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Context manager in which every iteration yields epoch number `epoch`, until it is set.

        For consumers that start iterations nobody reads: the training loop sets `epoch` at the end of each epoch.
        """
        before, self._counter.is_held = self._counter.is_held, True
        try:
            yield
        finally:
            self._counter.is_held = before

    @property
    def is_held(self) -> bool:
        """Whether iterations leave `epoch` unchanged; see `held`."""
        return self._counter.is_held

    def has_multiples_of(self, number: int) -> bool | None:
        """Whether every batch has a multiple of `number` rows; `None` if unknown."""
        known = [_has_multiples(source, number) for source in getattr(self._source, "_sources", [self._source])]
        return None if None in known else all(known)

    def text_lengths(self) -> list[tuple[int, int]]:
        """Returns a pair of ints per text column: the maximum length of a batch, and the multiple it is rounded to."""
        found = []
        for source in getattr(self._source, "_sources", [self._source]):
            columns = getattr(getattr(source, "_packer", None), "columns", {})
            for column in columns.values():
                preprocessor = getattr(column, "preprocessor", None)
                if preprocessor is not None:
                    found.append((preprocessor.sequence_length, getattr(preprocessor, "pad_to_multiple_of", 1)))
        return found

    def _inputs(self):
        return [self._batches]

    @property
    def element_spec(self) -> Any:
        """The spec of one batch."""
        return self._batches.element_spec


def _has_multiples(source, number):
    if isinstance(source, Streamed):
        return source.has_multiples_of(number)
    plan = getattr(source, "_plan", None)  # for cached rows
    return None if plan is None else not (np.diff(plan(0)[1], prepend=0) % number).any()


class _Counter:
    """Counts the epochs, in Python rather than in the graph, so that the count can be set between epochs."""

    is_held = False

    def __init__(self):
        self.value = 0

    def next(self, _):
        epoch = tf.numpy_function(self._count, [], tf.int64)
        epoch.set_shape(())
        return epoch

    def _count(self):
        found = self.value
        self.value += not self.is_held
        return np.int64(found)
