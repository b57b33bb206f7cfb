"""The signatures of an export, for each kind of model.

Dimension 0 of every input and output is the batch, so a server may merge the rows of several requests into one batch
and split them again. A row's answer does not depend on the other rows.
"""

import dataclasses
import keyword
import re
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfxfer import _check, data
from tfxfer.data import _inference
from tfxfer.export import _adapters, _explain, _extract, _weights

TEXT = tf.TensorSpec([None], tf.string)
# Any shape: one document per row, or several.
DOCUMENTS = tf.TensorSpec(None, tf.string)
COUNT = tf.TensorSpec([None], tf.int32)
DEFAULT = "serving_default"
# Bytes of a text that are read: a minimum, and a number for each token that the model takes. The rest is cut off before
# tokenization, whose time grows with the square of the length for some texts (one unknown word of 5 MB takes minutes in
# SentencePiece) and whose memory reaches gigabytes.
LEAST_BYTES, BYTES_PER_TOKEN = 32_768, 64
# TF Serving's own name for the input of its Classify and Regress APIs.
EXAMPLES = "inputs"
# A README abbreviates values with more numbers than this.
_MANY = 16


@dataclasses.dataclass
class Signature:
    """One signature of an export.

    Attributes:
        function: a concrete function from named tensors to a dict of tensors.
        purpose: string. What it answers, for readers of the README.
        roles: dict of the name of an input, or of a feature of the Classify and Regress APIs, to its content:
            `"first"` and `"second"` for the texts of a pair, `"one"` for a text that all rows share, `"count"`, or the
            `data.Column` of an input that is not a text.
        api: string. The TF Serving API that calls it: `"predict"`, `"classify"` or `"regress"`.
        warms_up: bool. Whether warm-up requests include batches for it, in addition to one text.
    """

    function: Any
    purpose: str
    roles: dict
    api: str = "predict"
    warms_up: bool = True

    def values(self, rows):
        """Returns the inputs of a call for rows `(first text, second text)`: a dict of name to list."""
        columns = {
            "first": [first for first, _ in rows],
            "second": [second for _, second in rows],
            "one": [rows[0][0]] * len(rows),
            "count": [3] * len(rows),
        }
        return {
            name: columns[role] if isinstance(role, str) else _example_values(role, len(rows))
            for name, role in self.roles.items()
        }

    def request(self, rows):
        """Returns the function's inputs for some rows."""
        values = self.values(rows)
        if self.api == "predict":
            return {name: self._typed(name, value) for name, value in values.items()}
        return {EXAMPLES: [_example(values, row) for row in zip(*values.values(), strict=True)]}

    def dtype(self, name):
        """Returns the dtype of an input that needs an explicit one; `None` for texts and Python's number types."""
        role = self.roles[name]
        if isinstance(role, str) or isinstance(role, data.CategoryColumn):
            return None
        dtype = role.spec().dtype
        return None if dtype in (tf.string, tf.float32, tf.int32) else dtype.name

    def _typed(self, name, value):
        dtype = self.dtype(name)
        return value if dtype is None else np.array(value, dtype)

    def answer(self, rows):
        """Returns the function's outputs for some rows, as arrays."""
        inputs = {name: tf.constant(value) for name, value in self.request(rows).items()}
        return {name: value.numpy() for name, value in self.function(**inputs).items()}


class Zeros(list):
    """Nested lists of zeros with a short `repr`: `[[0] * 3] * 8`."""

    def __init__(self, shape):
        self._shape = shape
        super().__init__(np.zeros(shape, "int32").tolist())

    def __repr__(self):
        inner, *outer = reversed(self._shape)
        text = f"[0] * {inner}"
        for size in outer:
            text = f"[{text}] * {size}"
        return text


def _example_values(column, count):
    """Returns values that a column accepts, for warm-up and examples."""
    if isinstance(column, data.CategoryColumn):
        return [str(column.names[i % len(column.names)]) for i in range(count)]
    spec = column.spec()
    if spec.shape.num_elements() > _MANY and spec.dtype != tf.string:
        return [Zeros(tuple(spec.shape))] * count
    return np.zeros((count, *spec.shape), spec.dtype.as_numpy_dtype).tolist()


def _example(names, texts):
    """One row as a serialized `tf.Example`."""
    feature = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
        for name, text in zip(names, texts, strict=True)
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


class Served(tf.Module):
    """The module that is saved: the variables (once), the tokenizer's tables, the index and the label files.

    Args:
        model: a task model with its preprocessor.
        weights_dtype: see `Weights`.
        index: the `Index` that `search` reads, or `None`.
        labels_files: list of paths of files that become assets.
        adapters: the `Adapters` that rows choose from, or `None`.
        explain: bool. Whether `explain` is served, too, which differentiates the model itself.
    """

    def __init__(self, model, weights_dtype=None, index=None, labels_files=(), adapters=None, explain=False):
        super().__init__()
        model = model.served_model() if adapters is None else adapters.model
        self._adapters = adapters
        parts = model.served_parts().values()
        self._model = _weights.Untracked(model)
        left_out = {} if adapters is None else {"left_out": adapters.stands_for}
        narrows = adapters is None and not explain
        self._weights = _weights.Weights(model, weights_dtype, narrows=narrows, **left_out)
        self._explains = explain
        self._tokenizer = list(
            {id(each): each for part in parts for each in part.preprocessor.tokenizer.trackables}.values()
        )
        self._index = index
        self._functions = _weights.Untracked({})
        self._tables = []
        self._labels_files = [tf.saved_model.Asset(str(path)) for path in labels_files]

    def signatures(self, pairs):
        """Returns a dict of name to `Signature`, the model's own first, and on request `explain` last."""
        model = self._model.value
        found = {}
        for asked in model.signatures(pairs):
            if asked.kind == "search" and self._index is None:
                continue
            if self._adapters is not None and asked.kind not in _adapters.KINDS:
                continue
            own = pairs if asked.pairs is None else asked.pairs
            found |= _MAKERS[asked.kind](self, asked.model or model, asked, own)
        if self._adapters is not None:
            self._tables += self._adapters.column.trackables
        if self._explains:
            found["explain"] = self._explain(model)
        return found

    def _explain(self, model):
        explained, most = _explain.Explainer(model), text_bytes(model)

        def explain(text):
            return explained(tf.strings.substr(_rows(text), 0, most))

        purpose = (
            "The words of each text, in order, with the contribution of each to `score`, the explained number, from "
            f"integrated gradients with {_explain.STEPS} points: `attributions` sum to `score` - `baseline`, up to "
            "`error` and special tokens. For a classifier, `score` is the log-odds of the likeliest label, `label`. "
            'Row i has `counts[i]` words; later columns hold "", -1 and 0, and the number of columns is a multiple of '
            "16. `starts` and `ends` are code points, `byte_starts` and `byte_ends` bytes of UTF-8. A request takes "
            f"about {3 * _explain.STEPS} times as long as one for the answer alone."
        )
        return Signature(_traced(explain, TEXT), purpose, {"text": "first"}, warms_up=False)

    def vectors(self, model, prompt):
        """Returns the function from texts `(n,)`, and optionally sets of adapters, to vectors `(n, dim)`.

        It prepends a prompt to each text.

        All prompts share one graph function, unless the pooling excludes their tokens: then there is one for each
        number of tokens.
        """
        run = self.encoder(model, prompt)
        return lambda texts, *sets: run(_join(prompt, texts), *sets)

    def encoder(self, model, prompt=""):
        """Returns the graph function from texts, prompts included, to vectors that `vectors` calls."""
        embedder = model.tower()
        length = embedder.prompt_length(prompt)
        functions = self._functions.value
        key = (id(embedder), length)
        if key not in functions:
            forward = embedder.for_prompt(prompt) if length else embedder
            functions[key] = self._text_function(embedder, 1, forward)
        return functions[key]

    def side(self, model, forward=None):
        """Returns the graph function from texts to the outputs of a model, or of `forward` instead."""
        functions = self._functions.value
        key = (id(model), "side", id(forward))
        if key not in functions:
            functions[key] = self._text_function(model, 1, model if forward is None else forward)
        return functions[key]

    def outputs(self, model, pairs, forward=None):
        """Returns (specs, roles, function): the raw inputs of a task, and the function from them to its outputs.

        `forward` replaces the model's computation; it uses the model's layers.
        """
        forward = model if forward is None else forward
        columns = model.prediction_columns()
        texts = {name: column for name, column in columns.items() if isinstance(column, data.TextColumn)}
        separate = any(column.separate for column in texts.values())
        specs, roles, names = {}, {}, input_names(columns)
        for name, column in columns.items():
            if name in texts and (pairs or separate):
                for each, role in (("text_a", "first"), ("text_b", "second")):
                    specs[each], roles[each] = TEXT, role
            else:
                specs[names[name]] = tf.nest.map_structure(_batch_spec, column.spec())
                roles[names[name]] = "first" if name in texts else column
        is_plain = all(type(column).batch is data.TextColumn.batch for column in columns.values())
        if is_plain and len(texts) == 1:
            run = self._towers(model, forward) if separate else self._text_function(model, len(specs), forward)
            if self._adapters is not None:
                specs[_adapters.INPUT], roles[_adapters.INPUT] = TEXT, self._adapters.column
            return specs, roles, run

        most = text_bytes(model)

        def run_columns(*values):
            given, found = dict(zip(specs, values, strict=True)), {}
            for name, column in columns.items():
                value = given[names[name]] if names[name] in specs else (given["text_a"], given["text_b"])
                if name in texts:
                    value = tf.nest.map_structure(lambda text: tf.strings.substr(text, 0, most), value)
                found |= column.batch(column.encode(value), name)
            return self._computed(model, forward, found)

        function = _traced(run_columns, *specs.values())
        self._tables += [each for column in columns.values() for each in column.trackables]
        return specs, roles, function

    def _towers(self, model, forward):
        """Returns the function from two texts to the outputs of `forward`, computed from the vectors of its tower."""
        encode = self.encoder(model)
        towers = model.get_layer("towers").output
        above = tf.identity if towers is forward.output else keras.Model(towers, forward.output, name="above")

        def run(first, second):
            vectors = tf.reshape(encode(tf.concat([first, second], axis=0)), [2, -1, model.tower().embedding_dim])
            return tf.cast(above(tf.transpose(vectors, [1, 0, 2]), training=False), tf.float32)

        return run

    def _text_function(self, model, count, forward):
        """Returns the function from `count` string tensors `(n,)` to a model's outputs, float32 `(n, ...)`.

        If rows choose among adapters, the names of their sets are an additional tensor.

        It is one graph function, which all signatures share. `forward` replaces the model's computation; it uses the
        model's layers.
        """
        most = text_bytes(model)

        def run(*inputs):
            texts = [tf.strings.substr(text, 0, most) for text in inputs[:count]]
            ids = model.preprocessor(texts[0] if count == 1 else tuple(texts))
            if self._adapters is None:
                outputs = self._computed(model, forward, ids)
            else:
                outputs = self._adapters(lambda ids: self._weights(forward, ids), ids, inputs[count])
            if isinstance(outputs, tf.Tensor):
                outputs.set_shape([None, *forward.output_shape[1:]])
            return outputs

        return _traced(run, *[TEXT] * (count + (self._adapters is not None)))

    def _computed(self, model, forward, inputs):
        """Returns the outputs for a batch; their bits do not depend on the number of rows."""
        count = tf.shape(tf.nest.flatten(inputs)[0])[0]
        outputs = self._weights(forward, _inference.whole(inputs, model._row_multiple()))
        return tf.nest.map_structure(lambda values: values[:count], outputs)


def labels_of(model):
    """Returns the class names of a model's own signature; `None` without classes or for several tasks."""
    return model.served_model().signatures()[0].labels if len(model.served_parts()) == 1 else None


def text_bytes(model):
    """Returns the number of bytes of a text that an export reads; `None` for all. The maximum over several tasks."""
    parts = model.served_parts()
    if len(parts) > 1:
        found = [text_bytes(part) for part in parts.values()]
        return None if None in found else max(found)
    if model.served_model().signatures()[0].kind in ("entities", "tags"):
        return None
    return max(LEAST_BYTES, BYTES_PER_TOKEN * model.preprocessor.sequence_length)


def input_names(columns):
    """Returns the names of an export's inputs: a dict of column to name.

    TensorFlow accepts ASCII letters, digits and underscores, starting with a letter, and no Python keywords: `class`
    becomes `class_`, `star rating` becomes `star_rating`, and `2nd` becomes `column_2nd`.

    Raises:
        ValueError: if two columns would get the same name.
    """
    found = {}
    for column in columns:
        name = re.sub(r"\W", "_", column, flags=re.ASCII)
        name = name if name[:1].isalpha() else f"column_{name}"
        name = f"{name}_" if keyword.iskeyword(name) else name
        if name in found.values():
            other = next(each for each, taken in found.items() if taken == name)
            raise _check.invalid("model", "columns whose names differ in ASCII letters and digits", [other, column])
        found[column] = name
    return found


def _traced(compute, *specs):
    # The concrete function: a `tf.function` is traced again after its first call, and each trace would be saved.
    return tf.function(compute, input_signature=specs, autograph=False).get_concrete_function()


def _rows(values):
    """Fails if a request's tensor is not `(n,)`: the server does not check shapes against the signature."""
    return tf.ensure_shape(values, [None])


def _same_length(first, second, names):
    """Returns both tensors; fails if their lengths differ, before anything is computed from them."""
    message = f"{names} must have one length"
    same = tf.debugging.assert_equal(tf.shape(first)[0], tf.shape(second)[0], message=message)
    with tf.control_dependencies([same]):
        return tf.identity(first), tf.identity(second)


def _parse(examples, features):
    """Returns string features of serialized `tf.Example`s, in order; a missing feature is an error."""
    parsed = tf.io.parse_example(_rows(examples), {name: tf.io.FixedLenFeature([], tf.string) for name in features})
    return [parsed[name] for name in features]


def _batch_spec(spec):
    """The spec of a batch of rows."""
    if isinstance(spec, tf.RaggedTensorSpec):
        return tf.RaggedTensorSpec([None, *spec.shape], spec.dtype, spec.ragged_rank + 1)
    return tf.TensorSpec([None, *spec.shape], spec.dtype)


def _named(function, specs):
    """Makes a concrete function with named inputs from one with positional inputs."""
    named = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()}

    def call(**inputs):
        values = [_rows(inputs[name]) if spec.shape.rank == 1 else inputs[name] for name, spec in specs.items()]
        if len(values) > 1:
            values = _same_lengths(values, list(specs))
        return function(*values)

    return tf.function(call, autograph=False).get_concrete_function(**named)


def _same_lengths(values, names):
    first, *rest = values
    shown = " and ".join(f"`{name}`" for name in names)
    found = []
    for value in rest:
        first, value = _same_length(first, value, shown)
        found.append(value)
    return [first, *found]


# === Vectors ===


def _join(prompt, texts):
    return tf.strings.join([prompt, texts]) if prompt else texts


def _unit_vectors(run, columns):
    """Returns the vectors of columns of texts, scaled to length 1; equal texts are encoded once."""
    texts, place = tf.unique(tf.concat(columns, axis=0))
    vectors = run(texts)
    vectors /= tf.maximum(tf.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return [tf.gather(vectors, part) for part in tf.split(place, [tf.size(texts) for texts in columns])]


def _cosines(served, model, prompts):
    """Returns the function from two columns of texts `(n,)` to the cosines of their rows `(n,)`.

    A text that occurs in several rows is encoded once.
    """
    runs = [served.encoder(model, prompt) for prompt in prompts]

    def cosines(first, second):
        columns = [_join(prompts[0], first), _join(prompts[1], second)]
        if runs[0] is runs[1]:
            first, second = _unit_vectors(runs[0], columns)
        else:
            first, second = (_unit_vectors(run, [texts])[0] for run, texts in zip(runs, columns, strict=True))
        return tf.reduce_sum(first * second, axis=-1)

    return cosines


def _vectors(served, model, asked, pairs):
    encode = served.vectors(model, asked.prompts[0])
    if served._adapters is not None:
        specs = {"text": TEXT, _adapters.INPUT: TEXT}
        roles = {"text": "first", _adapters.INPUT: served._adapters.column}
        chosen = _named(lambda text, sets: {"embedding": encode(text, sets)}, specs)
        return {asked.name: Signature(chosen, asked.purpose, roles)}

    def embed(text):
        return {"embedding": encode(_rows(text))}

    return {asked.name: Signature(_traced(embed, TEXT), asked.purpose, {"text": "first"})}


def _compared(served, model, asked):
    """Returns the function from two columns of texts `(n,)` to the scores of their rows, from a task's `compare`.

    A text that occurs in several rows of a column is encoded once.
    """
    runs = [served.side(model, forward) for forward in asked.sides]

    def compared(first, second):
        found = []
        for run, texts in zip(runs, (first, second), strict=True):
            texts, place = tf.unique(texts)
            found.append(tf.gather(run(texts), place))
        return asked.compare(*found)

    return compared


def _similarity(served, model, asked, pairs):
    cosines = _compared(served, model, asked) if asked.compare else _cosines(served, model, asked.prompts)

    def similarity(text_a, text_b):
        text_a, text_b = _same_length(_rows(text_a), _rows(text_b), "`text_a` and `text_b`")
        return {"similarity": cosines(text_a, text_b)}

    roles = {"text_a": "first", "text_b": "second"}
    purpose = asked.purpose or "The cosine of the two texts of each row."
    return {asked.name: Signature(_traced(similarity, TEXT, TEXT), purpose, roles)}


def _rank(served, model, asked, pairs):
    if asked.compare is not None:
        score = _compared(served, model, asked)
    elif asked.finish is None:
        score = _cosines(served, model, asked.prompts)
    else:
        _, _, outputs = served.outputs(model, True)
        score = lambda first, second: asked.finish(outputs(first, second))  # noqa: E731

    def rank(query, documents):
        query, documents = _same_length(_rows(query), documents, "`query` and `documents`")
        flat = tf.reshape(documents, [-1])
        queries = tf.repeat(query, tf.size(flat) // tf.maximum(tf.size(query), 1))
        return {"scores": tf.reshape(score(queries, flat), tf.shape(documents))}

    purpose = asked.purpose or (
        "How well each document matches the query of its row; larger is better. `documents` holds one text per row, or "
        "`(batch, n)` texts, n for each query; `scores` has the same shape. A server with batching merges rows of one "
        "text; requests with lists that arrive together must all have the same n, or all fail."
    )
    roles = {"query": "one", "documents": "second"}
    return {asked.name: Signature(_traced(rank, TEXT, DOCUMENTS), purpose, roles)}


def _search(served, model, asked, pairs):
    index = served._index
    prompt = asked.prompts[0] if index.query_prompt is None else index.query_prompt
    encode = served.vectors(model, prompt)

    def search(query, k):
        query, k = _same_length(_rows(query), _rows(k), "`query` and `k`")
        return index.search(encode(query), k)

    purpose = asked.purpose or (
        f"The texts of the index nearest to each query, best first. All outputs have {index.max_k} columns; from "
        f"column `k` on they hold id {index.no_id!r}, score 0 and text ''. A `k` above {index.max_k} counts as "
        f"{index.max_k}, one below 0 as 0."
    )
    return {asked.name: Signature(_traced(search, TEXT, COUNT), purpose, {"query": "first", "k": "count"})}


# === Values and classes ===


def _renamed(model):
    """Returns a remark on the inputs whose names differ from their columns."""
    names = input_names(model.input_columns())
    shown = [f"`{name}` is the column {column!r}" for column, name in names.items() if column != name]
    return f" ({'; '.join(shown)}.)" if shown else ""


def _classes(served, model, asked, pairs):
    specs, roles, outputs = served.outputs(model, pairs, asked.forward)
    names = tf.constant([str(label) for label in asked.labels])

    def ordered(found):
        probabilities = asked.finish(found)
        order = tf.argsort(probabilities, axis=-1, direction="DESCENDING", stable=True)
        return tf.gather(names, order), tf.gather(probabilities, order, batch_dims=1), probabilities

    def classify(*values):
        found = outputs(*values)
        answers = dict(zip(("labels", "scores", "probabilities"), ordered(found), strict=True))
        return answers if asked.decide is None else {**answers, **asked.decide(found)}

    found = {asked.name: Signature(_named(classify, specs), asked.purpose + _renamed(model), roles)}
    if asked.api and all(spec == TEXT for spec in specs.values()):

        def classify_examples(inputs):
            labels, scores, _ = ordered(outputs(*_parse(inputs, specs)))
            return {"classes": labels, "scores": scores}

        purpose = "The same with TF Serving's Classify API."
        found[f"{asked.name}_examples"] = Signature(_traced(classify_examples, TEXT), purpose, roles, asked.api)
    return found


def _values(served, model, asked, pairs):
    specs, roles, outputs = served.outputs(model, pairs, asked.forward)

    def values(*inputs):
        found = outputs(*inputs)
        found = found if asked.finish is None else asked.finish(found)
        found = found if isinstance(found, dict) else {asked.output: found}
        return {name: tf.cast(value, tf.float32) for name, value in found.items()}

    found = {asked.name: Signature(_named(values, specs), asked.purpose + _renamed(model), roles)}
    if asked.api and all(spec == TEXT for spec in specs.values()):

        def values_examples(inputs):
            return values(*_parse(inputs, specs))

        purpose = "The same with TF Serving's Regress API."
        found[f"{asked.name}_examples"] = Signature(_traced(values_examples, TEXT), purpose, roles, asked.api)
    return found


def _entities(served, model, asked, pairs):
    extract = _extract.Extractor(model, lambda ids: served._weights(model, ids))
    served._tables += [each for column in model.prediction_columns().values() for each in column.trackables]

    def entities(text):
        return extract(_rows(text))

    purpose = asked.purpose or (
        "The words of each text with their tags: the outputs of `extract`, with every word an entity and its tag the "
        "label."
        if asked.kind == "tags"
        else "The entities of each text, in order: `labels`, `texts` and `scores`, the probability of exactly this "
        "entity; `starts` and `ends` in code points, `byte_starts` and `byte_ends` in bytes of UTF-8. Row i has "
        '`counts[i]` of them; later columns hold "", -1 and 0, and the number of columns is a multiple of 16. A text '
        "may have any length. A request of more rows than the server computes at a time must not mix texts of more "
        "than 16 entities with others."
    )
    return {asked.name: Signature(_traced(entities, TEXT), purpose, {"text": "first"})}


_MAKERS = {
    "entities": _entities,
    "tags": _entities,
    "values": _values,
    "classes": _classes,
    "vectors": _vectors,
    "similarity": _similarity,
    "rank": _rank,
    "search": _search,
}
