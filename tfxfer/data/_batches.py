"""Batches of token ids, in an order that a seed fixes."""

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
    """Makes batches out of rows: texts become token ids, and each batch is padded only to its longest row.

    In an epoch every row comes exactly once, whatever the seed (at least once with `examples_per_class`).

    **Buckets.** With `bucket=True` rows of like length come together: the rows are permuted, sorted by length within
    windows of `window` batches, cut into batches, and the batches of a window permuted. A batch then has about 1.03 to
    1.15 places per real token, against 1.9 to 2.9 for rows in random order (more where separate columns are unlike in
    length, for they share one). It is the default for one sequence a row. It is not for separate columns: their losses
    compare the rows of a batch with one another, and rows alike in length are a poorer sample of the data; nor would it
    gain much there, for on the TensorFlow backend the encoders leave padding out of all but the attention. Pass
    `bucket=True` where padding is computed in full: other backends, and GPT-2.

    **Classes.** `examples_per_class=K` is for losses that find their positives and negatives among the rows of a batch:
    each batch has P = batch_size / K classes and K rows of each, side by side. A class takes part in groups of K rows;
    every row stands in at least one group an epoch, and no row of a class comes twice before all of them have come. A
    class of fewer than K rows repeats them. Full batches need P classes each: what groups are missing for that, at the
    end or because one class has more than a P-th of all rows, come from the classes whose rows were used least. So an
    epoch has max(G / P, G of the largest class) batches, rounded up, for G groups; without one large class and with
    classes of many rows that is rows / batch_size.

    **Unique texts.** `unique_texts=True` is for in-batch negatives, where the text of one row counts as a negative of
    another: no two rows of a batch share a text, in whatever columns, so none is a negative of itself. (The texts of
    one row may be equal, as in SimCSE.) Texts are equal if their token ids are: "Hello" and "hello" are to an uncased
    vocabulary. Every row still comes once an epoch, those that collide in different batches, and every epoch has as
    many batches: rows / batch_size, rounded up; or more, alike in size, where a text stands in more rows than that, or
    texts are so entangled that it takes more. With `drop_remainder` all batches are full, and what rows are left over,
    others each epoch, are left out.

    **Documents.** For lists of documents, as `data.rankings` makes them, `batch_size` counts lists, and `max_documents`
    bounds the documents of a batch, on which memory and time depend. Each epoch fills new batches, large lists
    first and those of one size in random order, so that every epoch has as many batches, nearly all full. A
    list of more documents is an error: `data.rankings(max_documents=...)` says which ones to leave out.

    **Order.** The order of epoch e is a function of the data, the arguments, `seed` and e alone: the same seed gives
    the same epochs 0, 1, 2, ..., each another order. `Batches.epoch` is the number of the next one and can be set;
    `Batches.rest(epoch, batch)` gives an epoch from its middle on. So a run that stopped can be taken up at the row
    where it was.

    **Memory.** Rows in memory (`Examples` as they are, or arrays) are tokenised here and now, and their ids kept: 4
    bytes a token, before truncation, and 8 a text; epochs then only pack. Any other dataset (one that is mapped with a
    random augmentation, say) is run and tokenised again each epoch, one window in memory at a time, and its rows are
    permuted only as far as a buffer of one window goes; `cache` decides otherwise.

    **Augmentation.** `augment` changes the texts of the rows at random, in another way each epoch: the texts of row i
    in epoch e are a function of the row, `seed`, e and i alone, and so are the same in any batches. Of rows in memory
    the words are kept in place of their ids, some 50 bytes each, and tokenized in each epoch; buckets and unique texts
    go by the rows as they are. Targets stay, except tags, which go along with their words. `evaluate` and `predict`
    refuse such batches; `Batches.plain` gives those of the unchanged rows.

    Args:
        dataset: what `labelled`, `regression`, `pairs`, `triplets` or `examples` made; any `tf.data.Dataset` of single
            rows x, (x, y) or (x, y, sample_weight); or arrays in such a form, e.g. `(texts, y)` or `((a_texts,
            b_texts), y)`. x is a string, a tuple of strings, or a dict of column name to value. Or `Batches` of rows
            that are kept in memory: the same rows in other batches, without tokenizing them again.
        inputs: a task model, which knows its columns; or a `preprocessing.TextPreprocessor` for rows of text; or a dict
            of column name to kind, such as `{"review": TextColumn(preprocessor), "age": NumberColumn()}`.
        batch_size: int. Rows in a batch.
        columns: what several texts a row become, where `inputs` is a preprocessor: `"joint"`, one sequence for a pair,
            as cross-encoders want it; or `"separate"`, a sequence each, as Siamese towers want them. Defaults to
            `"joint"`.
        shuffle: bool. `False` keeps the order of the rows, as comparing predictions with rows needs it.
        bucket: bool. Whether rows of like length come together. By default as `shuffle` for `columns="joint"`, and
            `False` for `columns="separate"`. With `shuffle=False`, `bucket=True` sorts all rows, longest first: the
            quickest way to evaluate, where order does not matter.
        seed: int >= 0. By default one is drawn from numpy's global generator, which `keras.utils.set_random_seed`
            seeds.
        window: int. Batches in a window: more means less padding, fewer means batches more mixed in length.
        examples_per_class: int >= 2. K, see above; `batch_size` is a multiple of it. y is then one label a row, an int
            or a string, as `labelled` gives it. Needs rows in memory or `cache=True`.
        unique_texts: bool. See above. Needs rows in memory or `cache=True`.
        max_documents: int. The most documents of a batch, for rows of lists; see above. Needs rows in memory or
            `cache=True`. By default as many as the lists have.
        drop_remainder: bool. Whether to leave out the last batch if it is smaller; the rows in it are other ones each
            epoch.
        pad_to_multiple_of: int from 1 to 8. What the length of a batch is rounded up to (up to the preprocessor's
            `sequence_length`). More than 1 only pays where each shape is compiled on its own (XLA).
        cache: bool. Whether to tokenise once and keep the ids. By default for rows in memory only.
        prefetch: bool. Whether batches are made while the model is at work.
        augment: an augmentation of `tfxfer.augmentation`, or a list of them, for all texts; or a dict of these by the
            name of the column, or by the number of the text in its row, `{0: ...}` for the first one alone.

    Returns:
        `Batches`, a `tf.data.Dataset` of x, (x, y) or (x, y, sample_weight). x is a dict of what the columns give, for
        text `token_ids`, `padding_mask` and perhaps `segment_ids`, int32 `(batch, length)`, or `(batch, texts, length)`
        with one length for all texts where they are separate. The static shape of batch and length is `None`, so that
        nothing is traced again. Its cardinality is known where that of `dataset` is.

    Raises:
        ValueError: for an argument out of range, rows of another form, no rows, three or more texts a row with
            `columns="joint"`, fewer classes than P, a batch too small for two classes of K, or `Batches` whose ids are
            not kept or come from another tokenizer.

    Example:

    ```python
    train = tx.data.labelled(tx.data.read("train.tsv"), "text", "label", labels=classifier.labels)
    classifier.fit(tx.data.batches(train, classifier, seed=0), epochs=3)

    mined = tx.data.batches(train, embedder, 64, examples_per_class=4)  # 16 classes in a batch
    questions = tx.data.pairs(tx.data.read("faq.tsv"), ("question", "answer"))
    ranked = tx.data.batches(questions, siamese, 64, unique_texts=True)
    ```

    Reference: batches of P classes x K examples: Hermans et al., 2017, https://arxiv.org/abs/1703.07737.
    """
    _check.integer("batch_size", batch_size)
    _check.integer("window", window)
    _check.integer("seed", seed, minimum=0, optional=True)
    if _check.integer("pad_to_multiple_of", pad_to_multiple_of) > 8:
        raise _check.invalid("pad_to_multiple_of", "an int from 1 to 8", pad_to_multiple_of)
    packer = Packer(input_columns(inputs, columns), pad_to_multiple_of)
    if augment is not None and isinstance(dataset, Batches):
        raise _check.invalid("dataset", "rows with `augment`", dataset, "Batches keep ids, and no texts to change.")
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
    """Returns the dict of input columns for what `batches` takes as `inputs`."""
    if callable(getattr(inputs, "pack", None)):
        return {"text": TextColumn(inputs, "joint" if columns is None else _check.one_of("columns", columns, FORMS))}
    if columns is not None:
        raise _check.invalid("columns", "None where `inputs` is a task model or a dict of columns", columns)
    return columns_of(inputs)


def _check_no_targets(dataset):
    """Raises for rows with targets, where a column makes its own."""
    spec = dataset._rows[1] if isinstance(dataset, Kept) else getattr(dataset, "element_spec", None)
    has_targets = bool(spec) if isinstance(dataset, Kept) else isinstance(spec, tuple) and len(spec) > 1
    if has_targets:
        remedy = "The texts make the targets. Leave the others out: `dataset.map(lambda x, *rest: x)`."
        raise _check.invalid("dataset", "rows of texts alone", spec, remedy)


def _kept(dataset, packer, cache):
    """The rows of `Batches` that are kept in memory."""
    source = dataset._source
    if not isinstance(source, Kept) or not cache:
        remedy = "Make them with `cache=True`, and do not say `cache=False` here."
        raise _check.invalid("dataset", "rows, or `Batches` of rows whose ids are kept", dataset, remedy)
    before = source.packer.columns
    tokenizers = [
        [getattr(getattr(column, "preprocessor", None), "tokenizer", None) for column in each.columns.values()]
        for each in (source.packer, packer)
    ]
    if list(before) != list(packer.columns) or any(a is not b for a, b in zip(*tokenizers, strict=True)):
        remedy = "Pass the rows themselves: another tokenizer makes other ids."
        raise _check.invalid("inputs", "the columns and the tokenizer of the batches", list(packer.columns), remedy)
    for name, column in packer.columns.items():
        if isinstance(column, TextColumn):
            column.check_count(len(column.token_ids(source._rows[0][name])), "dataset")
    return source


def _composed(common, shuffle, bucket, cache, examples_per_class, unique_texts, drop_remainder):
    """The order of batches whose rows are chosen to suit one another."""
    argument = "unique_texts" if examples_per_class is None else "examples_per_class"
    if not shuffle:
        raise _check.invalid("shuffle", f"True with `{argument}`, which cannot keep the order of rows", shuffle)
    if bucket:
        raise _check.invalid("bucket", f"None or False with `{argument}`, which decides the batches", bucket)
    if not cache:
        remedy = "Pass `cache=True`, or rows in memory: what `data.labelled` or `data.pairs` gives, or arrays."
        raise _check.invalid("cache", f"True with `{argument}`, which has to see all rows", cache, remedy)
    if examples_per_class is None:
        return ByText(**common, drop_remainder=drop_remainder)
    if unique_texts:
        remedy = "Losses that know the classes need no unique texts."
        raise _check.invalid("unique_texts", "False with `examples_per_class`", unique_texts, remedy)
    return ByClass(**common, examples_per_class=_check.integer("examples_per_class", examples_per_class, minimum=2))


class Batches(tf.data.Dataset):
    """The `tf.data.Dataset` that `batches` and `mix` make: each time that it is iterated over, it gives the next epoch.

    An epoch counts as begun when its first batch is asked for; looking at one batch, `next(iter(train))`, uses up an
    epoch number. Where Keras reads ahead of epochs that never come (under a `tf.distribute` strategy, and on other
    backends), `fit` of task models counts the epochs that end instead. Where the order must be exactly that of another
    run, set `epoch` before `fit`.

    Attributes:
        epoch: int. The number of the epoch that the next iteration gives, from 0.
        seed: int. The seed in use.
        targets: what encoded y, see `Examples`; `None` where y is as the rows had it.
        labels: list of label names in the order of the indices or places in y; `None` where y is not encoded.
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
        """Gives one epoch, from one of its batches on; `epoch` (the attribute) stays as it is.

        Args:
            epoch: int. The number of the epoch, from 0.
            batch: int. How many of its batches are left out.

        Returns:
            A `tf.data.Dataset`, which gives the same batches each time.

        Raises:
            ValueError: if a number is negative, or the epoch has not more than `batch` batches.
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
        """Returns batches of the same rows in the same order, without their augmentation; they count their own epochs.

        Batches without augmentation are returned as they are.
        """
        if self.augmentation is None:
            return self
        return Batches(self._source.plain(), self._prefetch, targets=self.targets)

    @property
    def augmentation(self) -> str | None:
        """What changes the texts, as a string that is the same for the same settings; `None` where nothing does."""
        augmenter = getattr(self._source, "augmenter", None)
        return None if augmenter is None else augmenter.identity

    @property
    def epoch(self) -> int:
        """The number of the epoch that the next iteration gives."""
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
        """The label names in the order of the indices or places in y, if it is encoded."""
        return list(self.targets.labels) if isinstance(self.targets, (LabelColumn, TagsColumn)) else None

    def kept_targets(self) -> Any:
        """Returns y of all rows, in the rows' order; `None` where rows are not kept in memory, or come from a mix."""
        rest = self._source._rows[1] if isinstance(self._source, (Kept, Varied)) else ()
        return rest[0] if rest else None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Within, every iteration gives the epoch of the number `epoch`, until that is set anew.

        For consumers that begin iterations which nobody reads: who trains sets `epoch` at the end of each epoch.
        """
        before, self._counter.is_held = self._counter.is_held, True
        try:
            yield
        finally:
            self._counter.is_held = before

    @property
    def is_held(self) -> bool:
        """Whether iterations leave `epoch` as it is; see `held`."""
        return self._counter.is_held

    def has_multiples_of(self, number: int) -> bool | None:
        """Whether the rows of every batch are a multiple of a number; `None` where that is not known."""
        known = [_has_multiples(source, number) for source in getattr(self._source, "_sources", [self._source])]
        return None if None in known else all(known)

    def text_lengths(self) -> list[tuple[int, int]]:
        """Returns pairs of ints for each text column: the longest a batch may be, and what its length is rounded to."""
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
    plan = getattr(source, "_plan", None)  # of rows that are kept
    return None if plan is None else not (np.diff(plan(0)[1], prepend=0) % number).any()


class _Counter:
    """Numbers the epochs. It lives in Python and not in the graph, so that it can be set between two of them."""

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
