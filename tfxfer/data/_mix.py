"""Batches of several datasets in one training."""

import copy
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer.data._batches import Batches
from tfxfer.data._graph import as_it_is

_STOPS = ("all", "first", "last")


def mix(
    datasets: Sequence[Any],
    *,
    strategy: Literal["proportional", "round_robin"] = "proportional",
    stop: Literal["all", "first", "last"] | None = None,
    seed: int | None = None,
    prefetch: bool = True,
) -> Batches:
    """Mixes the batches of several datasets, each batch from one of them, as in-batch losses require.

    | strategy | stop | batches in an epoch, for datasets of s_1, ..., s_k batches |
    |---|---|---|
    | `"proportional"` | | s_1 + ... + s_k: each batch of each, in random order |
    | `"round_robin"` | `"all"` | s_1 + ... + s_k: in turn; an exhausted dataset is skipped |
    | `"round_robin"` | `"first"` | k min(s): in turn, until the smallest is exhausted |
    | `"round_robin"` | `"last"` | k max(s): in turn, until the largest is exhausted; the others start over |

    The order depends only on `seed` and the epoch number, and so do the batches if all datasets are `Batches`: epoch e
    consists of their epochs e (with `"last"`, of the next epochs that each has not yet yielded). As in `Batches`,
    `epoch` can be set, and `rest(epoch, batch)` resumes within an epoch. The `epoch` of the datasets themselves is
    neither read nor changed. Any other `tf.data.Dataset` of batches is simply iterated over again.

    All batches must have the same structure, dtypes and number of columns, because they share one loss; a separate loss
    for each dataset needs a model with several outputs.

    Args:
        datasets: list of at least two `Batches` (or other finite `tf.data.Dataset` of batches with known cardinality).
        strategy: `"proportional"`, the default, which weights each dataset by its size and yields every row once; or
            `"round_robin"`, which weights small and large datasets equally.
        stop: when an epoch ends, with `"round_robin"`: `"all"`, the default, `"first"` or `"last"`.
        seed: int >= 0. By default drawn from numpy's global generator, which `keras.utils.set_random_seed` seeds.
        prefetch: bool. Whether to make batches while the model computes.

    Returns:
        `Batches`, with known cardinality.

    Raises:
        ValueError: if the batches differ in structure (the message names it), or their number is unknown or infinite.

    Example:

    ```python
    options = {"columns": "separate", "batch_size": 64, "unique_texts": True}
    train = tx.data.mix(
        [tx.data.batches(pairs, embedder.preprocessor, **options) for pairs in (questions, titles)],
        strategy="round_robin",
        stop="first",
        seed=0,
    )
    model.fit(train, epochs=3)
    ```
    """
    _check.one_of("strategy", strategy, ("proportional", "round_robin"))
    _check.integer("seed", seed, minimum=0, optional=True)
    if strategy == "proportional" and stop is not None:
        raise _check.invalid("stop", 'None with strategy="proportional", which yields every batch', stop)
    stop = _check.one_of("stop", "all" if stop is None else stop, _STOPS)
    if not isinstance(datasets, (list, tuple)) or len(datasets) < 2:
        raise _check.invalid("datasets", "a list of two or more datasets of batches", datasets)
    sources = [source_of(f"datasets[{k}]", dataset) for k, dataset in enumerate(datasets)]
    for k, dataset in enumerate(datasets):
        if dataset.element_spec != datasets[0].element_spec:
            expected = f"batches with the structure of datasets[0]: {datasets[0].element_spec}"
            remedy = "Make them with the same preprocessor, number of text columns and kind of target."
            raise _check.invalid(f"datasets[{k}]", expected, dataset.element_spec, remedy)
    targets = [getattr(dataset, "targets", None) for dataset in datasets]
    labels = [getattr(dataset, "labels", None) for dataset in datasets]
    for k, each in enumerate(labels):
        if each != labels[0]:
            remedy = "Pass the same `labels` to each `data.labelled`."
            raise _check.invalid(f"datasets[{k}]", f"batches with the labels of datasets[0]: {labels[0]}", each, remedy)
    seed = int(np.random.randint(2**31) if seed is None else seed)
    order = turns([source.steps for source in sources], stop)
    mixed = Mixed(sources, seed, order, shuffle=strategy == "proportional")
    return Batches(mixed, prefetch, targets=targets[0])


class Mixed:
    """Sources in turn or at random.

    Args:
        sources: list of sources of the batches of an epoch, with known numbers of batches.
        seed: int.
        order: int array. The source of each batch of an epoch.
        shuffle: bool. Whether to permute them in each epoch.
    """

    def __init__(self, sources, seed, order, *, shuffle):
        self.seed = seed
        self._sources = sources
        self._shuffle = shuffle
        self._turns = order
        self.steps = len(self._turns)
        counts = np.bincount(self._turns).tolist()
        self._passes = [-(-count // source.steps) for count, source in zip(counts, sources, strict=True)]

    @property
    def augmenter(self):
        """The augmentations of the sources, with their common `identity`; `None` without augmentation."""
        found = [getattr(source, "augmenter", None) for source in self._sources]
        return _Augmenters(found) if any(each is not None for each in found) else None

    def plain(self):
        """Returns the same mix without augmentation."""
        made = copy.copy(self)
        made._sources = [
            source.plain() if getattr(source, "augmenter", None) is not None else source for source in self._sources
        ]
        return made

    def epoch(self, epoch, skip=0):
        turns, skips = tf.numpy_function(self._plan, [epoch, skip], (tf.int64, tf.int64))
        turns.set_shape((None,))
        skips.set_shape((len(self._sources),))
        parts = [self._part(k, epoch, skips[k]) for k in range(len(self._sources))]
        choices = tf.data.Dataset.from_tensor_slices(turns)
        return tf.data.Dataset.choose_from_datasets(parts, choices, stop_on_empty_dataset=False)

    def _plan(self, epoch, skip):
        """The source of each batch from index `skip` on, and the number of earlier batches of each source."""
        order = self._turns
        if self._shuffle:
            order = np.random.default_rng([self.seed, int(epoch)]).permutation(order)
        return order[skip:], np.bincount(order[:skip], minlength=len(self._sources)).astype("int64")

    def _part(self, k, epoch, skip):
        return passes_of(self._sources[k], self._passes[k], epoch, skip)


class _Augmenters:
    """The augmentations of several sources."""

    def __init__(self, augmenters):
        self.identity = "; ".join("none" if each is None else each.identity for each in augmenters)


def passes_of(source, passes, epoch, skip):
    """Returns the batches of a source in an epoch: of one of its own epochs, or of several if it starts over.

    Args:
        source: the source of the batches.
        passes: int. The number of its own epochs.
        epoch: int64 tensor.
        skip: int64 tensor. The number of batches to skip.
    """
    if passes == 1:
        return source.epoch(epoch, skip)
    first = skip // source.steps
    begun = tf.data.Dataset.range(first, passes)

    @as_it_is
    def epoch_of(number):
        left_out = tf.where(number == first, skip % source.steps, tf.constant(0, tf.int64))
        return source.epoch(epoch * passes + number, left_out)

    return begun.flat_map(epoch_of)


class Plain:
    """A dataset of batches that is simply iterated over in each epoch."""

    def __init__(self, dataset, steps):
        self.steps = steps
        self._dataset = dataset

    def epoch(self, epoch, skip=0):
        return self._dataset.skip(skip)


def turns(steps, stop):
    """The source of each batch of an epoch, in turn: int64 array.

    Args:
        steps: list of int. The number of batches of each source.
        stop: `"all"`, `"first"` or `"last"`; see `mix`.
    """
    rounds = min(steps) if stop == "first" else max(steps)
    order = np.tile(np.arange(len(steps)), rounds)
    if stop == "all":
        order = order[np.repeat(np.arange(rounds), len(steps)) < np.tile(steps, rounds)]
    return order


def source_of(argument, dataset):
    """Returns the source of a dataset's epochs; raises if the number of batches is unknown."""
    if not isinstance(dataset, tf.data.Dataset):
        raise _check.invalid(argument, "a tf.data.Dataset of batches, as returned by `data.batches`", dataset)
    steps = int(dataset.cardinality())
    if steps <= 0:
        remedy = "Limit the batches: `.take(n)`; or count them: `data.batches(..., cache=True)`."
        expected = "a dataset with a known, finite number of batches"
        raise _check.invalid(argument, expected, f"cardinality {steps}", remedy)
    return dataset._source if isinstance(dataset, Batches) else Plain(dataset, steps)
