"""Explanations of predictions: `explain` of the task models."""

import bisect
import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import keras
import numpy as np
import scipy.stats
from keras import ops

from tfxfer import _check, _gradients, data, preprocessing
from tfxfer.models import _paths
from tfxfer.models._attributions import Attribution, Explanation

STEPS = 32
# Erased texts held in memory at a time.
_ERASED = 4096
# The logit that masks out a class.
_LOWEST = -1e9

_Mixin: Any = object  # the class that uses this mixin has the methods of a task model


@dataclasses.dataclass(frozen=True)
class Options:
    """The arguments of `explain` that all tasks share."""

    steps: int
    max_steps: int | None
    tolerance: float
    baseline: str | None
    erasure: bool
    split: Literal["punctuation", "whitespace"]
    batch_size: int

    def __post_init__(self):
        _gradients.check_backend()
        _check.integer("steps", self.steps)
        _check.integer("max_steps", self.max_steps, minimum=self.steps, optional=True)
        _check.number("tolerance", self.tolerance, above=0.0)
        if self.baseline is not None:
            _check.one_of("baseline", self.baseline, _paths.BASELINES)
        _check.one_of("split", self.split, preprocessing.SPLITS)
        _check.integer("batch_size", self.batch_size)
        _check.instance("erasure", self.erasure, bool, "True or False")


@dataclasses.dataclass(frozen=True)
class Explained:
    """The number that `explain` explains for a task. `TextTask.explained` returns it; override that for another number.

    Attributes:
        of: string. The kind of number, for example `"log-odds"`.
        number: function of (outputs `(rows, n)`, int targets `(rows,)`) to numbers `(rows,)`, in `keras.ops`.
        targets: list of the names of the targets, in the order of the outputs.
        chosen: function of outputs `(rows, n)` to ints `(rows,)`, in `keras.ops`: the default target of each row.
            `None` if the caller must pass a target.

    Example:

    >>> ratio = tx.models.Explained(
    ...     of="ratio",
    ...     number=lambda outputs, targets: outputs[:, 0] / outputs[:, 1],
    ...     targets=["ratio"],
    ...     chosen=lambda outputs: keras.ops.zeros_like(outputs[:, 0], dtype="int32"),
    ... )
    >>> float(ratio.number(np.array([[3.0, 2.0]]), None)[0])
    1.5
    """

    of: str
    number: Any
    targets: list
    chosen: Any


class Explains(_Mixin):
    """Mixin with `explain`, for models with one output number, or one for each of several targets."""

    def explained(self) -> Explained:
        """Returns the number that `explain` explains: by default an output `(rows, n)`, selected by its index."""
        shape = self.output_shape
        if not isinstance(shape, tuple) or len(shape) != 2:
            expected = "a model with one number, or a vector of numbers, for each text"
            remedy = "Explain one of its parts, or override `explained`."
            raise _check.invalid("model", expected, f"{type(self).__name__} with outputs {shape}", remedy)
        return Explained("value", picked, list(range(shape[1])), first if shape[1] == 1 else None)

    def explain(
        self,
        x: Any,
        target: Any = None,
        *,
        steps: int = STEPS,
        max_steps: int | None = None,
        tolerance: float = 0.05,
        baseline: Literal["pad", "mask", "unknown", "zero"] | None = None,
        erasure: bool = False,
        split: Literal["punctuation", "whitespace"] = "punctuation",
        batch_size: int = 64,
    ) -> list[Explanation]:
        """Explains which words of a text support a prediction and which oppose it, by integrated gradients.

        The value of a token is its contribution to the explained number along the straight path of token embeddings
        from a baseline to the text. The baseline is the same row with the padding token at each position of the text:

            value_i = sum over components of (x_i - b_i) * integral over a in [0, 1] of d number(b + a (x - b)) / d x_i

        The values add up to number(text) - number(baseline), up to the quadrature `error`, which each explanation
        reports. The value of a word is the sum over its tokens. A token that spans several words is divided among them
        by code points.

        | model | explained number |
        |---|---|
        | classifier | log-odds of the label: log p / (1 - p), from the logits, so that it does not saturate |
        | regressor | the output, without `score_activation` |
        | custom task | an output; override `explained` for another number |

        `erasure=True` adds a second measure: the drop of the number when the encoder reads the row without the tokens
        of a word (the padding mask removes them; the positions of the others close up as if the text had been written
        without the word), and the rank correlation of both measures. It costs one forward pass per word.

        Args:
            x: rows, as in `predict`: a list or other sequence of strings; a tuple of two for a model that reads pairs.
            target: the label to explain, or the index of the output; or a list with one for each row. Defaults to the
                most likely label, or to the only output. Required with `multi_label` and several outputs.
            steps: int. Number of points on the path (Gauss-Legendre quadrature). Each costs a forward and a backward
                pass. Defaults to 32.
            max_steps: int >= `steps`. Rows whose error exceeds the tolerance are recomputed with twice the steps, up to
                this number. By default they are not recomputed.
            tolerance: float > 0. The largest error without a warning, as a share of the sum of absolute values.
                Defaults to 0.05.
            baseline: `"pad"`, `"mask"` or `"unknown"`: the special token that replaces each token of the text in the
                baseline (a padding token is read like any token there); or `"zero"`, embeddings of zero. Defaults to
                the first of these tokens that the tokenizer has: in the comparison of `docs/explain.md`, the integral
                from the padding token is the most exact.
            erasure: bool. Whether to also leave out each word in turn. Defaults to `False`.
            split: the definition of a word, as in `preprocessing.split_words`. Defaults to `"punctuation"`.
            batch_size: int. Number of points per batch. Defaults to 64.

        Returns:
            A list of `Explanation`, one for each row. Padding and the order of rows do not change them, up to rounding.
            With `erasure`, encoders whose `depends_on_padding` is true raise an error.

        Raises:
            ValueError: if rows are not texts, or a label or output is unknown; if the model reads columns other than
                texts, or outputs more than one vector per row; if the backend is neither TensorFlow nor JAX.

        Example:

        ```python
        why = classifier.explain(["My card is gone", "What does a loan cost?"], erasure=True)
        why[0].target, why[0].top(1)[0].text  # ("card", "card")
        print(why[0].to_terminal())
        ```

        References:
            - [Sundararajan et al., 2017](https://arxiv.org/abs/1703.01365), integrated gradients
            - [Li et al., 2016](https://arxiv.org/abs/1612.08220), erasure
        """
        options = Options(steps, max_steps, tolerance, baseline, erasure, split, batch_size)
        what = self.explained()
        given = read_texts(self, x)
        if not len(given[0]):
            return []
        names = self._explained_targets(what, x, target, len(given[0]), batch_size)
        places = np.array([what.targets.index(name) for name in names], "int32")
        if self.tower() is not self:
            return self._explain_apart(what, given, names, places, options)
        path = self._made_once(
            "explain",
            len(given),
            lambda: _paths.Path(self, self, self.output, lambda outputs, x: what.number(outputs, x["target"])),
        )
        rows = Rows(self.preprocessor, given, options)
        side = rows.explained(path, {"target": places}, options)
        return explanations([rows], [side], names, what.of, options, depth=3)

    def _explained_targets(self, what, x, target, count, batch_size):
        """Returns the target of each row, one of `what.targets`."""
        known = "one of the model's outputs" if what.of == "value" else "one of the model's labels"
        if target is None:
            if what.chosen is None:
                raise _check.invalid("target", f"{known}, {_shown(what.targets)}", None)
            outputs = ops.convert_to_tensor(self.predict(x, batch_size, verbose=0))
            return [what.targets[int(i)] for i in ops.convert_to_numpy(what.chosen(outputs))]
        names = list(target) if isinstance(target, (list, tuple, np.ndarray)) else [target] * count
        if len(names) != count:
            raise _check.invalid("target", f"one target, or one for each of {count} rows", f"{len(names)} targets")
        names = [name.item() if isinstance(name, np.generic) else name for name in names]
        for row, name in enumerate(names):
            if isinstance(name, bool) or name not in what.targets:
                remedy = f"It is in row {row} (counting from 0)." if len(names) > 1 else None
                raise _check.invalid("target", f"{known}, {_shown(what.targets)}", name, remedy)
        return names

    def _explain_apart(self, what, given, names, places, options):
        """Explains a number of two separately encoded texts: the words of each, with the other text fixed."""
        tower = self.tower()
        if len(given) != 2:
            raise _check.invalid("x", "two text columns, (firsts, seconds)", f"{len(given)} text columns")
        towers = self.get_layer("towers").output
        decoding = keras.Model(towers, self.output, name="decoding")

        def number(vectors, x):
            other = ops.cast(x["other"], vectors.dtype)
            side = ops.reshape(x["side"], (-1, 1, 1))
            pairs = ops.where(side == 0, ops.stack([vectors, other], axis=1), ops.stack([other, vectors], axis=1))
            return what.number(decoding(pairs, training=False), x["target"])

        path = self._made_once("explain", 2, lambda: _paths.Path(self, tower, tower.output, number))
        vectors = [np.asarray(tower.encode(column, options.batch_size, prompt="")) for column in given]
        return both_sides(tower, path, given, ("", ""), vectors, {"target": places}, names, what.of, options)


def picked(outputs: Any, targets: Any) -> Any:
    """Returns the output of each row's target, `(rows,)`."""
    return ops.cast(ops.take_along_axis(outputs, ops.expand_dims(targets, 1), axis=1)[:, 0], "float32")


def first(outputs: Any) -> Any:
    """Returns the first target for each row."""
    return ops.zeros_like(outputs[:, 0], dtype="int32")


def log_odds(logits: Any, targets: Any) -> Any:
    """Returns log p / (1 - p) of each row's class, from softmax logits `(rows, classes)`."""
    logits = ops.cast(logits, "float32")
    is_other = ops.expand_dims(targets, 1) != ops.expand_dims(ops.arange(logits.shape[1], dtype="int32"), 0)
    return picked(logits, targets) - ops.logsumexp(ops.where(is_other, logits, _LOWEST), axis=1)


def similarity(name: str) -> Any:
    """Returns the function of that name, from two tensors of vectors `(rows, dim)` to their similarity `(rows,)`."""

    def unit(vectors):
        squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
        return vectors / ops.sqrt(ops.maximum(squares, 1e-24))

    def distance(a, b):
        # The square root has no gradient at 0.
        return ops.sqrt(ops.maximum(ops.sum(ops.square(a - b), axis=-1), 1e-24))

    return {
        "cosine": lambda a, b: ops.sum(unit(a) * unit(b), axis=-1),
        "dot": lambda a, b: ops.sum(a * b, axis=-1),
        "euclidean": lambda a, b: -distance(a, b),
        "manhattan": lambda a, b: -ops.sum(ops.abs(a - b), axis=-1),
    }[name]


def explain_similarity(embedder: Any, a: Any, b: Any, prompts: tuple[str, str], options: Options) -> list:
    """Returns an `Explanation` for each row of two columns of texts; see `TextEmbedder.explain`."""
    column = data.TextColumn(embedder.preprocessor)
    given = tuple(column.read([each] if isinstance(each, str) else each, name) for name, each in (("a", a), ("b", b)))
    for name, each in zip(("a", "b"), given, strict=True):
        if isinstance(each, tuple):
            raise _check.invalid(name, "a string or one list of strings", f"{len(each)} columns")
    if len(given[0]) != len(given[1]):
        expected = f"as many texts as in `a`, {len(given[0])}"
        raise _check.invalid("b", expected, f"{len(given[1])} texts", "Row i of `a` is compared with row i of `b`.")
    if not len(given[0]):
        return []
    of_vectors = similarity(embedder.similarity_fn_name)

    def number(vectors, x):
        return of_vectors(ops.cast(vectors, "float32"), x["other"])

    vectors = [
        np.asarray(embedder.encode(each, options.batch_size, prompt=prompt))
        for each, prompt in zip(given, prompts, strict=True)
    ]
    lengths = [embedder.prompt_length(prompt) for prompt in prompts]
    made = {
        length: embedder._made_once(
            ("explain", length),
            embedder.similarity_fn_name,
            lambda prompt=prompt: _paths.Path(embedder, embedder, embedder.for_prompt(prompt).output, number),
        )
        for length, prompt in zip(lengths, prompts, strict=True)
    }
    paths = [made[length] for length in lengths]
    return both_sides(embedder, paths, given, prompts, vectors, {}, [None] * len(given[0]), "similarity", options)


def both_sides(tower, paths, given, prompts, vectors, more, names, of, options):
    """Explains a number of two vectors: the words of the first texts, then the words of the second texts."""
    paths = paths if isinstance(paths, list) else [paths, paths]
    every, sides = [], []
    for side, column in enumerate(given):
        rows = Rows(tower.preprocessor, (column,), options, prompts[side])
        fixed = {**more, "other": vectors[1 - side].astype("float32")}
        if more:
            fixed["side"] = np.full(len(column), side, "int32")
        every.append(rows)
        sides.append(rows.explained(paths[side], fixed, options))
    return explanations(every, sides, names, of, options, depth=5)


def read_texts(model: Any, x: Any) -> tuple:
    """Returns the text columns of rows, a tuple of string tensors; raises if the task reads anything else."""
    columns = model.prediction_columns()
    if len(columns) != 1 or not isinstance(next(iter(columns.values())), data.TextColumn):
        expected = "a model that reads only texts"
        raise _check.invalid("model", expected, f"{type(model).__name__} with {', '.join(map(repr, columns))}")
    if model.preprocessor is None:
        raise _check.invalid("x", "ids, for a model without a preprocessor", x, "Set `model.preprocessor`.")
    if isinstance(x, str):
        raise _check.invalid("x", "a list of texts", x, "Wrap it in a list.")
    name, column = next(iter(columns.items()))
    if isinstance(x, Mapping):  # columns by name, as in `predict`
        if list(x) != [name]:
            raise _check.invalid("x", f"only the column {name!r}", list(x))
        x = x[name]
    found = column.read(x, "x")
    return found if isinstance(found, tuple) else (found,)


@dataclasses.dataclass
class Side:
    """The attributions of some rows, arrays `(rows,)`, and lists with one entry for each row."""

    scores: np.ndarray
    baselines: np.ndarray
    products: np.ndarray
    errors: np.ndarray
    relative: np.ndarray
    steps: np.ndarray
    erased: list | None


class Rows:
    """The texts of one path, with their tokens and words.

    Args:
        preprocessor: `preprocessing.TextPreprocessor`.
        given: tuple of string tensors: the texts of each row that are read as one sequence.
        options: `Options`.
        prompt: string put before each text, but not part of it.
    """

    def __init__(self, preprocessor: Any, given: tuple, options: Options, prompt: str = "") -> None:
        tokenizer = preprocessor.tokenizer
        found = [preprocessing.token_offsets(tokenizer, data.with_prefix(column, prompt)) for column in given]
        split = [preprocessing.split_words(column, options.split) for column in given]
        ids = tuple(each.token_ids for each in found)
        packed = preprocessor.pack_with_places(ids if len(ids) > 1 else ids[0])
        packed = {name: np.asarray(value) for name, value in packed.items()}
        self._column, self._token = packed.pop("texts"), packed.pop("tokens")
        stand_in = _paths.baseline_id(tokenizer, options.baseline)
        is_text = self._column >= 0
        self.x = {
            **packed,
            "baseline_ids": np.where(
                is_text, packed["token_ids"] if stand_in is None else stand_in, packed["token_ids"]
            ),
            "kept": np.where(is_text & (stand_in is None), 0.0, 1.0).astype("float32"),
        }
        shift = len(prompt)
        self.texts = list(
            zip(*([text.decode(errors="replace") for text in each.numpy()] for each in given), strict=True)
        )
        self._words = [_spans(each) for each in split]
        # Tokens of the prompt have no position in the text.
        self._spans = [
            [[(max(s - shift, 0), e - shift) if e > shift or not shift else None for s, e in row] for row in column]
            for column in map(_spans, found)
        ]
        self.shares = [self._shares(row) for row in range(len(self.texts))]

    def _shares(self, row):
        """Returns the tokens and words of a row that the model reads, and the assignment of tokens to words.

        Tokens: list of (position, column, start, end); words: list of (column, start, end); shares: list of (position,
        index of the word, share).
        """
        tokens, used, shares = [], {}, []
        for place in np.flatnonzero(self._column[row] >= 0):
            column, number = self._column[row, place], self._token[row, place]
            span = self._spans[column][row][number]
            if span is None:
                continue
            tokens.append((place, int(column), *span))
            for word, share in _overlaps(span, self._words[column][row]):
                used.setdefault((int(column), word), len(used))
                shares.append((place, used[int(column), word], share))
        words = [(column, *self._words[column][row][word]) for column, word in used]
        return tokens, words, shares

    def explained(self, path: _paths.Path, fixed: dict, options: Options) -> Side:
        """Returns the attributions of the rows; `fixed` holds the further inputs of the path's `number`, row by row."""
        x, count = {**self.x, **fixed}, len(self.texts)
        width = x["token_ids"].shape[1]
        scores, baselines, errors, relative = np.zeros((4, count))
        side = Side(scores, baselines, np.zeros((count, width)), errors, relative, np.zeros(count, int), None)
        todo, steps = np.arange(count), options.steps
        while len(todo):
            some = {name: values[todo] for name, values in x.items()}
            side.scores[todo], side.baselines[todo], side.products[todo] = path.integrate(
                some, steps, options.batch_size
            )
            side.errors[todo], side.relative[todo] = _paths.errors(
                side.scores[todo], side.baselines[todo], side.products[todo]
            )
            side.steps[todo] = steps
            if options.max_steps is None or steps >= options.max_steps:
                break
            todo, steps = todo[side.relative[todo] > options.tolerance], min(2 * steps, options.max_steps)
        if options.erasure:
            side.erased = self._erased(path, x, side.scores, options)
        return side

    def _erased(self, path, x, scores, options):
        """Returns the drop of the score without each word: a list of arrays, one for each row."""
        path.check_erasure()
        pairs = [(row, word) for row, (_, words, _) in enumerate(self.shares) for word in range(len(words))]
        if not pairs:
            return [np.zeros(0) for _ in self.shares]
        falls = []
        for start in range(0, len(pairs), _ERASED):
            part = pairs[start : start + _ERASED]
            rows = np.array([row for row, _ in part])
            some = {name: values[rows] for name, values in x.items()}
            some["length"] = some["padding_mask"].sum(axis=1)
            for mask, (row, word) in zip(some["padding_mask"], part, strict=True):
                mask[[place for place, number, _ in self.shares[row][2] if number == word]] = 0
            falls.append(scores[rows] - path.numbers(some, options.batch_size))
        ends = np.cumsum([len(words) for _, words, _ in self.shares])
        return np.split(np.concatenate(falls), ends[:-1])


def _spans(found):
    """Returns the (start, end) pairs of each row's tokens or words."""
    return [list(zip(*row, strict=True)) for row in zip(found.starts.to_list(), found.ends.to_list(), strict=True)]


def _overlaps(span, words):
    """Returns (index of a word, share) for the words that a token spans; the shares sum to 1."""
    start, end = span
    first = bisect.bisect_right(words, start, key=lambda word: word[1])  # the first word that ends after the start
    if start == end:  # whitespace belongs to the following word, or to the last word at the end of a text
        return [(min(first, len(words) - 1), 1.0)] if words else []
    found = []
    for number in range(first, len(words)):
        if words[number][0] >= end:
            break
        found.append((number, min(end, words[number][1]) - max(start, words[number][0])))
    total = sum(size for _, size in found)
    return [(number, size / total) for number, size in found]


def explanations(every: list, sides: list, names: list, of: str, options: Options, depth: int) -> list[Explanation]:
    """Returns the `Explanation` of each row, whose texts are read as one sequence or separately.

    Warns if errors exceed the tolerance. `depth` is the `stacklevel` of the warning.
    """
    relative = np.max([side.relative for side in sides], axis=0)
    off = np.flatnonzero(relative > options.tolerance)
    if len(off):
        shown = ", ".join(map(str, off[:5])) + (", ..." if len(off) > 5 else "")
        message = (
            f"The attributions of {len(off)} of {len(relative)} rows (rows {shown}) are off by more than "
            f"{options.tolerance:g} of their sum of absolute values, at most {relative.max():.3g}. Pass `max_steps=` "
            "to use more steps for these rows."
        )
        warnings.warn(message, stacklevel=depth)
    found = []
    for row, name in enumerate(names):
        words: list[Attribution] = []
        tokens: list[Attribution] = []
        rest, texts = [], []
        for part, (rows, side) in enumerate(zip(every, sides, strict=True)):
            new_words, new_tokens, left = _row(rows, side, row, part)
            words, tokens = [*words, *new_words], [*tokens, *new_tokens]
            rest.append(left)
            texts += rows.texts[row]
        found.append(
            Explanation(
                texts=tuple(texts),
                target=name,
                of=of,
                score=float(sides[0].scores[row]),
                baselines=tuple(float(side.baselines[row]) for side in sides),
                words=words,
                tokens=tokens,
                rest=tuple(rest),
                error=float(max(side.errors[row] for side in sides)),
                steps=int(max(side.steps[row] for side in sides)),
                agreement=_agreement(words) if options.erasure else None,
            )
        )
    return found


def _row(rows, side, row, part):
    """Returns the words and tokens of a row with their attributions, and the remainder."""
    products, texts = side.products[row], rows.texts[row]
    tokens, words, shares = rows.shares[row]
    values = np.zeros(len(words))
    for place, word, share in shares:
        values[word] += share * products[place]
    erased = [None] * len(words) if side.erased is None else side.erased[row].tolist()
    made = [
        Attribution(texts[column][start:end], start, end, float(value), part + column, fall)
        for (column, start, end), value, fall in zip(words, values, erased, strict=True)
    ]
    of_tokens = [
        Attribution(texts[column][start:end], start, end, float(products[place]), part + column)
        for place, column, start, end in tokens
    ]
    return made, of_tokens, float(products.sum() - values.sum())


def _agreement(words):
    values = [(word.value, word.erased) for word in words]
    if len(values) < 2 or any(len(set(each)) == 1 for each in zip(*values, strict=True)):
        return None
    return float(scipy.stats.spearmanr(*zip(*values, strict=True)).statistic)


def _shown(targets):
    shown = ", ".join(map(repr, targets[:10]))
    return f"{shown}, ..." if len(targets) > 10 else shown
