"""What an export answers: for each kind of model its signatures.

Dimension 0 of every input and output is the batch, so that a server may merge the rows of several requests into one
batch and part them again; nothing in a row's answer depends on its neighbours.
"""

import dataclasses
import re
from typing import Any

import tensorflow as tf

from tfxfer import _check, _texts, models
from tfxfer.export import _weights

TEXT = tf.TensorSpec([None], tf.string)
# Any shape: one document a row, or several.
DOCUMENTS = tf.TensorSpec(None, tf.string)
COUNT = tf.TensorSpec([None], tf.int32)
DEFAULT = "serving_default"
# Bytes of a text that are read: at least so many, and so many for each token that the model takes. What lies behind is
# cut off before tokenising, which takes time that grows with the square of the length for some texts (one unknown
# word of 5 MB is minutes in SentencePiece), and gigabytes of memory.
LEAST_BYTES, BYTES_PER_TOKEN = 32_768, 64
# TF Serving's own names for its Classify and Regress API.
EXAMPLES = "inputs"


@dataclasses.dataclass
class Signature:
    """One signature of an export.

    Attributes:
        function: a concrete function from named tensors to a dict of tensors.
        purpose: string. What it answers, for people.
        roles: dict of the name of an input, or of a feature of the Classify and Regress API, to what it holds:
            `"first"` and `"second"` for the texts of a pair, `"one"` for a text that all rows share, `"count"`.
        api: the part of TF Serving's API that it is for: `"predict"`, `"classify"` or `"regress"`.
    """

    function: Any
    purpose: str
    roles: dict
    api: str = "predict"

    def values(self, rows):
        """Returns what a call holds for rows `(first text, second text)`: dict of name to list."""
        columns = {
            "first": [first for first, _ in rows],
            "second": [second for _, second in rows],
            "one": [rows[0][0]] * len(rows),
            "count": [3] * len(rows),
        }
        return {name: columns[role] for name, role in self.roles.items()}

    def request(self, rows):
        """Returns the function's inputs for some rows."""
        values = self.values(rows)
        if self.api == "predict":
            return values
        return {EXAMPLES: [_example(values, row) for row in zip(*values.values(), strict=True)]}

    def answer(self, rows):
        """Returns what the function gives for some rows, as arrays."""
        inputs = {name: tf.constant(value) for name, value in self.request(rows).items()}
        return {name: value.numpy() for name, value in self.function(**inputs).items()}


def _example(names, texts):
    """One row as a serialized `tf.Example`."""
    feature = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
        for name, text in zip(names, texts, strict=True)
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


class Served(tf.Module):
    """What is written: the variables once, the tokenizer's tables, and what an index and labels need.

    Args:
        model: a task model with its preprocessor.
        weights_dtype: see `Weights`.
        index: `None`, or the `Index` that `search` looks into.
        labels_file: `None`, or the path of the file that becomes an asset.
    """

    def __init__(self, model, weights_dtype=None, index=None, labels_file=None):
        super().__init__()
        if isinstance(model, models.Siamese) and not isinstance(model, models.SiameseClassifier):
            model = model.embedder
        self._model = _weights.Untracked(model)
        self._weights = _weights.Weights(model, weights_dtype)
        self._tokenizer = list(model.preprocessor.tokenizer.trackables)
        self._index = index
        if labels_file is not None:
            self._labels_file = tf.saved_model.Asset(str(labels_file))

    def signatures(self, pairs):
        """Returns a dict of name to `Signature`, the model's own one first."""
        model = self._model.value
        make = next(make for kind, make in _MAKERS.items() if isinstance(model, kind))
        return make(self, model, pairs)

    def texts_to(self, model, count=1, forward=None):
        """Returns the function from `count` string tensors `(n,)` to what a model gives, float32 `(n, ...)`.

        It is one graph function, whatever the number of signatures that call it. `forward` computes in the model's
        place, on its layers.
        """
        most = text_bytes(model)
        forward = model if forward is None else forward

        def run(*texts):
            texts = [tf.strings.substr(text, 0, most) for text in texts]
            outputs = self._weights(forward, model.preprocessor(texts[0] if count == 1 else tuple(texts)))
            outputs.set_shape([None, *model.output_shape[1:]])
            return outputs

        return _traced(run, *[TEXT] * count)


def text_bytes(model):
    """Returns how many bytes of a text an export reads."""
    return max(LEAST_BYTES, BYTES_PER_TOKEN * model.preprocessor.sequence_length)


def _traced(compute, *specs):
    # The concrete function: a `tf.function` is traced anew after its first call, and each trace would be written.
    return tf.function(compute, input_signature=specs, autograph=False).get_concrete_function()


def _rows(values):
    """Fails where a request's tensor is not `(n,)`: the server holds no shape against the signature's."""
    return tf.ensure_shape(values, [None])


def _same_length(first, second, names):
    """Returns both tensors; fails where their lengths differ, before anything is computed of them."""
    message = f"{names} must have one length"
    same = tf.debugging.assert_equal(tf.shape(first)[0], tf.shape(second)[0], message=message)
    with tf.control_dependencies([same]):
        return tf.identity(first), tf.identity(second)


def _parse(examples, features):
    """Returns string features of serialized `tf.Example`s, in order; one that is missing is an error."""
    parsed = tf.io.parse_example(_rows(examples), {name: tf.io.FixedLenFeature([], tf.string) for name in features})
    return [parsed[name] for name in features]


# === Embedders ===


class _Encoder:
    """Encodes texts behind prompts.

    All prompts share one graph function, unless the pooling leaves their tokens out: then there is one for each number
    of tokens.

    Args:
        served: `Served`.
        embedder: `models.TextEmbedder`.
    """

    def __init__(self, served, embedder):
        self._served, self._embedder = served, embedder
        self._functions = {}

    def behind(self, prompt):
        """Returns the function from texts `(n,)` to their vectors `(n, dim)` behind a prompt."""
        run = self._function(prompt)
        return lambda texts: run(_join(prompt, texts))

    def cosines(self, first_prompt, second_prompt):
        """Returns the function from two columns of texts `(n,)` to the cosines of their rows `(n,)`.

        A text that stands in several rows is encoded once.
        """
        runs = [self._function(prompt) for prompt in (first_prompt, second_prompt)]

        def cosines(first, second):
            columns = [_join(first_prompt, first), _join(second_prompt, second)]
            if runs[0] is runs[1]:
                first, second = _unit_vectors(runs[0], columns)
            else:
                first, second = (_unit_vectors(run, [texts])[0] for run, texts in zip(runs, columns, strict=True))
            return tf.reduce_sum(first * second, axis=-1)

        return cosines

    def _function(self, prompt):
        length = self._embedder.prompt_length(prompt)
        if length not in self._functions:
            forward = self._embedder.for_prompt(prompt)
            self._functions[length] = self._served.texts_to(self._embedder, forward=forward)
        return self._functions[length]


def _unit_vectors(run, columns):
    """Returns the vectors of columns of texts, scaled to length 1; equal texts are encoded once."""
    texts, place = tf.unique(tf.concat(columns, axis=0))
    vectors = run(texts)
    vectors /= tf.maximum(tf.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return [tf.gather(vectors, part) for part in tf.split(place, [tf.size(texts) for texts in columns])]


def _embedder(served, embedder, pairs=False):
    encoder = _Encoder(served, embedder)
    default = embedder.prompts.get(embedder.default_prompt_name, "")
    found = {"embed": _embed(encoder.behind(default), "The vector of each text.")}
    for name, prompt in embedder.prompts.items():
        signature = f"embed_{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}"
        if signature in found:
            names = sorted(embedder.prompts)
            raise _check.invalid("model", "prompts whose names differ in more than signs", names, "Rename one.")
        purpose = f"The vector of each text behind the prompt {prompt!r}."
        found[signature] = _embed(encoder.behind(prompt), purpose)
    found["similarity"] = _similarity(encoder.cosines(default, default))
    sides = [_texts.prompt_for(embedder, None, names) for names in (_texts.QUERY_PROMPTS, _texts.DOCUMENT_PROMPTS)]
    query, document = (default if prompt is None else prompt for prompt in sides)
    found["rank"] = _rank(encoder.cosines(query, document))
    if served._index is not None:
        prompt = served._index.query_prompt
        found["search"] = _search(encoder.behind(default if prompt is None else prompt), served._index)
    return found


def _join(prompt, texts):
    return tf.strings.join([prompt, texts]) if prompt else texts


def _embed(encode, purpose):
    def embed(text):
        return {"embedding": encode(_rows(text))}

    return Signature(_traced(embed, TEXT), purpose, {"text": "first"})


def _similarity(cosines):
    def similarity(text_a, text_b):
        text_a, text_b = _same_length(_rows(text_a), _rows(text_b), "`text_a` and `text_b`")
        return {"similarity": cosines(text_a, text_b)}

    roles = {"text_a": "first", "text_b": "second"}
    return Signature(_traced(similarity, TEXT, TEXT), "The cosine of the two texts of each row.", roles)


def _rank(score):
    def rank(query, documents):
        query, documents = _same_length(_rows(query), documents, "`query` and `documents`")
        flat = tf.reshape(documents, [-1])
        queries = tf.repeat(query, tf.size(flat) // tf.maximum(tf.size(query), 1))
        return {"scores": tf.reshape(score(queries, flat), tf.shape(documents))}

    purpose = (
        "How well each document goes with the query of its row; larger is better. `documents` holds one text a row, or "
        "`(batch, n)` texts, n for each query; `scores` has its shape. A server with batching merges rows of one text, "
        "but of requests with lists that arrive together all must have the same n, or all fail."
    )
    return Signature(_traced(rank, TEXT, DOCUMENTS), purpose, {"query": "one", "documents": "second"})


def _search(encode, index):
    def search(query, k):
        query, k = _same_length(_rows(query), _rows(k), "`query` and `k`")
        return index.search(encode(query), k)

    purpose = (
        f"The texts of the index nearest to each query, the best first. All outputs have {index.max_k} columns; from "
        f"column `k` on they hold id {index.no_id!r}, score 0 and text ''. A `k` above {index.max_k} counts as "
        f"{index.max_k}, one below 0 as 0."
    )
    return Signature(_traced(search, TEXT, COUNT), purpose, {"query": "first", "k": "count"})


# === Classifiers ===


def _classifier(served, model, pairs):
    logits = served.texts_to(model, 2 if pairs else 1)
    found = _classify(model, logits, pairs)
    if pairs and len(model.labels) == 2 and not model.multi_label:
        found["rank"] = _rank(lambda first, second: model.probabilities(logits(first, second))[:, 1])
    return found


def _siamese_classifier(served, model, pairs):
    encode = served.texts_to(model.embedder)
    decode = model.get_layer("decoder")

    def logits(first, second):
        vectors = tf.reshape(encode(tf.concat([first, second], axis=0)), [2, -1, model.embedder.embedding_dim])
        return tf.cast(decode(tf.transpose(vectors, [1, 0, 2]), training=False), tf.float32)

    return {**_classify(model, logits, True), **_embedder(served, model.embedder)}


def _classify(model, logits, pairs):
    names = tf.constant([str(label) for label in model.labels])

    def ordered(*texts):
        probabilities = model.probabilities(logits(*texts))
        order = tf.argsort(probabilities, axis=-1, direction="DESCENDING", stable=True)
        return tf.gather(names, order), tf.gather(probabilities, order, batch_dims=1), probabilities

    def answer(*texts):
        return dict(zip(("labels", "scores", "probabilities"), ordered(*texts), strict=True))

    def classify(text):
        return answer(_rows(text))

    def classify_pairs(text_a, text_b):
        text_a, text_b = _same_length(_rows(text_a), _rows(text_b), "`text_a` and `text_b`")
        return answer(text_a, text_b)

    roles = _columns(pairs)

    def classify_examples(inputs):
        labels, scores, _ = ordered(*_parse(inputs, roles))
        return {"classes": labels, "scores": scores}

    what = "each pair of texts" if pairs else "each text"
    several = "each probability for itself" if model.multi_label else "which sum to 1"
    purpose = (
        f"The classes of {what}: `labels` and `scores` from the likeliest down, `probabilities` in the order of "
        f"`assets/labels.txt`, {several}."
    )
    function = _traced(classify_pairs, TEXT, TEXT) if pairs else _traced(classify, TEXT)
    return {
        "classify": Signature(function, purpose, roles),
        "classify_examples": Signature(
            _traced(classify_examples, TEXT), "The same by TF Serving's Classify API.", roles, "classify"
        ),
    }


def _columns(pairs):
    return {"text_a": "first", "text_b": "second"} if pairs else {"text": "first"}


# === Regressors ===


def _regressor(served, model, pairs):
    values = served.texts_to(model, 2 if pairs else 1)
    roles = _columns(pairs)

    def regress(text):
        return {"outputs": values(_rows(text))}

    def regress_pairs(text_a, text_b):
        text_a, text_b = _same_length(_rows(text_a), _rows(text_b), "`text_a` and `text_b`")
        return {"outputs": values(text_a, text_b)}

    def regress_examples(inputs):
        return {"outputs": values(*_parse(inputs, roles))}

    function = _traced(regress_pairs, TEXT, TEXT) if pairs else _traced(regress, TEXT)
    what = "each pair of texts" if pairs else "each text"
    found = {"regress": Signature(function, f"The model's numbers for {what}, `(batch, {model.num_outputs})`.", roles)}
    if model.num_outputs == 1:
        purpose = "The same by TF Serving's Regress API."
        found["regress_examples"] = Signature(_traced(regress_examples, TEXT), purpose, roles, "regress")
        if pairs:
            found["rank"] = _rank(lambda first, second: model.to_scores(values(first, second))[:, 0])
    return found


_MAKERS = {
    models.TextEmbedder: _embedder,
    models.TextClassifier: _classifier,
    models.TextRegressor: _regressor,
    models.SiameseClassifier: _siamese_classifier,
}
