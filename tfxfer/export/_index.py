"""A corpus inside an export, for the `search` signature."""

import os
import tempfile

import numpy as np
import tensorflow as tf

from tfxfer import _check, _neighbours, _saved_index, _texts

SIMILARITIES = ("cosine", "dot", "euclidean")
_KEYS = ("texts", "ids", "embeddings", "similarity")
_REMEDY = f"A dict has `texts`, and optionally {', '.join(f'`{key}`' for key in _KEYS[1:])}."
# The least cosine between a text's stored vector, which may be int8, and the embedder's vector of the text.
_LEAST_COSINE = 0.98


class Index(tf.Module):
    """Texts, ids and vectors as variables, and the search over them.

    Vectors are stored as float32, or as the int8 codes of the given index, a quarter of the size.

    Args:
        texts: list of strings.
        ids: list of ints or strings.
        vectors: float array `(texts, dim)`, or a dict with int8 `codes` `(texts, dim)`, and float32 `scale` and
            `offset` `(dim,)`.
        similarity: one of `SIMILARITIES`.
        query_prompt: string prepended to each query; `None` for the embedder's own.
        max_k: int. Number of columns of the answer.
    """

    def __init__(self, texts, ids, vectors, similarity, query_prompt, max_k):
        super().__init__()
        self.similarity, self.query_prompt = similarity, query_prompt
        self.size, self.max_k = len(texts), min(max_k, len(texts))
        self.no_id = "" if isinstance(ids[0], str) else -1
        self.precision = "int8" if isinstance(vectors, dict) else "float32"
        self._texts = _constant(tf.constant(texts))
        self._ids = _constant(tf.constant(ids, tf.string if self.no_id == "" else tf.int64))
        if self.precision == "int8":
            floats = vectors["codes"].astype("float32") * vectors["scale"] + vectors["offset"]
            norms = np.maximum(np.linalg.norm(floats, axis=1), 1e-12)
            self._inverse_norms = _constant((1 / norms).astype("float32")) if similarity == "cosine" else None
            self._scale, self._offset = _constant(vectors["scale"]), _constant(vectors["offset"])
            self._vectors = _constant(vectors["codes"])
        else:
            vectors = np.asarray(vectors, "float32")
            self._vectors = _constant(_neighbours.unit(vectors) if similarity == "cosine" else vectors)

    def search(self, queries, k):
        """Returns the best `max_k` rows for each query.

        Args:
            queries: float32 `(n, dim)`.
            k: int32 `(n,)`. The number of rows wanted for each query.

        Returns:
            A dict of `ids`, `texts` and `scores`, each `(n, max_k)`; ties put the earlier row first.
        """
        if self.similarity == "cosine":
            queries /= tf.maximum(tf.norm(queries, axis=-1, keepdims=True), 1e-12)
        scores, rows = tf.math.top_k(self._scores(queries), self.max_k)
        if self.similarity == "euclidean":
            scores, rows = self._distances(queries, rows)
        wanted = tf.range(self.max_k)[tf.newaxis, :] < k[:, tf.newaxis]
        return {
            "ids": tf.where(wanted, tf.gather(self._ids, rows), self.no_id),
            "texts": tf.where(wanted, tf.gather(self._texts, rows), ""),
            "scores": tf.where(wanted, scores, 0.0),
        }

    def _scores(self, queries):
        """Returns dot products, or for `"euclidean"` scores with the ranking of the negated distances."""
        if self.precision == "int8":
            scores = tf.matmul(queries * self._scale, tf.cast(self._vectors, tf.float32), transpose_b=True)
            scores += tf.reduce_sum(queries * self._offset, axis=-1, keepdims=True)
            return scores if self._inverse_norms is None else scores * self._inverse_norms
        scores = tf.matmul(queries, self._vectors, transpose_b=True)
        if self.similarity == "euclidean":
            scores -= 0.5 * tf.reduce_sum(tf.square(self._vectors), axis=-1)
        return scores

    def _distances(self, queries, rows):
        """Returns the negated distances of the rows found, from differences, as squares lose small distances."""
        scores = -tf.norm(tf.gather(self._vectors, rows) - queries[:, tf.newaxis], axis=-1)
        order = tf.argsort(scores, axis=-1, direction="DESCENDING", stable=True)
        return tf.gather(scores, order, batch_dims=1), tf.gather(rows, order, batch_dims=1)


def _constant(values):
    return tf.Variable(values, trainable=False)


def make(index, embedder, max_k):
    """Returns the `Index` for the `index` argument of `saved_model`.

    Args:
        index: a `search.SemanticIndex`, the path of a directory that its `save` wrote, or a dict of `texts`, and
            optionally `ids`, `embeddings` and `similarity`.
        embedder: the `models.TextEmbedder` that encodes the queries.
        max_k: int.
    """
    max_k = _check.integer("max_k", max_k)
    if isinstance(index, dict):
        return _from_dict(index, embedder, max_k)
    if isinstance(index, (str, os.PathLike)):
        return _from_folder(index, embedder, max_k)
    if not (hasattr(index, "save") and hasattr(index, "texts")):
        raise _check.invalid("index", "a `search.SemanticIndex`, the folder of a saved one, or a dict", index, _REMEDY)
    # This module and `search` share only the file format.
    with tempfile.TemporaryDirectory() as folder:
        index.save(folder)
        return _from_folder(folder, embedder, max_k)


def _from_dict(given, embedder, max_k):
    unknown = [key for key in given if key not in _KEYS]
    if unknown or "texts" not in given:
        raise _check.invalid("index", f"a dict with keys from {', '.join(_KEYS)}", sorted(given), _REMEDY)
    texts = _texts.strings("index", given["texts"])
    ids = list(given.get("ids", range(len(texts))))
    ids = [value.item() if isinstance(value, np.generic) else value for value in ids]
    alike = all(isinstance(value, str) for value in ids) or all(
        isinstance(value, int) and not isinstance(value, bool) for value in ids
    )
    if len(ids) != len(texts) or not alike:
        raise _check.invalid("index", f"{len(texts)} `ids`, all ints or all strings", ids)
    similarity = _check.one_of("index", given.get("similarity", "cosine"), SIMILARITIES)
    vectors = given.get("embeddings")
    if vectors is None:
        vectors = _texts.encode(embedder, texts, prompt=_document_prompt(embedder, None))
    vectors = _checked(vectors, len(texts), embedder)
    return Index(texts, ids, vectors, similarity, _texts.prompt_for(embedder, None, _texts.QUERY_PROMPTS), max_k)


def _document_prompt(embedder, prompt):
    return _texts.prompt_for(embedder, prompt, _texts.DOCUMENT_PROMPTS)


def _checked(vectors, count, embedder):
    vectors = _neighbours.matrix("index", vectors)
    if vectors.shape != (count, embedder.embedding_dim):
        raise _check.invalid("index", f"vectors of shape {(count, embedder.embedding_dim)}", vectors.shape)
    return vectors


def _from_folder(folder, embedder, max_k):
    saved = _saved_index.read("index", folder)
    settings, texts, arrays = saved.settings, saved.texts, saved.arrays
    similarity = settings["similarity"]
    if similarity not in SIMILARITIES:
        raise _check.invalid("index", f"a similarity from {', '.join(SIMILARITIES)}", similarity)
    vectors = _finest(settings, arrays)
    if vectors is None or (isinstance(vectors, dict) and similarity == "euclidean"):
        received = {key: settings[key] for key in ("precision", "rescore", "backend", "similarity")}
        remedy = "Make the index with `precision='float32'`, or with 'int8' and a cosine, and `backend='exact'`."
        raise _check.invalid("index", "an index with float32 or int8 vectors", received, remedy)
    is_coded = isinstance(vectors, dict)
    first = vectors["codes"][:1] * vectors["scale"] + vectors["offset"] if is_coded else vectors[:1]
    _checked(vectors["codes"] if is_coded else vectors, len(texts), embedder)
    _check_embedder(embedder, texts[0], first, _document_prompt(embedder, settings["document_prompt"]))
    prompt = _texts.prompt_for(embedder, settings["query_prompt"], _texts.QUERY_PROMPTS)
    ids = list(range(len(texts))) if saved.records is None else saved.records["ids"]
    return Index(texts, ids, vectors, similarity, prompt, max_k)


def _finest(settings, arrays):
    """Returns the most precise vectors of a saved index: an array, a dict of int8 codes and steps, or `None`."""
    for name in ("searched", "rescoring"):
        if name in arrays:
            return arrays[name]
    for name, precision in (("searched", settings["precision"]), ("rescoring", settings["rescore"])):
        if precision == "int8" and f"{name}.codes" in arrays:
            return {key: arrays[f"{name}.{key}"] for key in ("codes", "scale", "offset")}
    return None


def _check_embedder(embedder, text, vector, prompt):
    """Raises if the vectors of an index come from another embedder."""
    again = _texts.encode(embedder, [text], prompt=prompt)
    cosine = float(_neighbours.paired(again, vector, "cosine")[0])
    if cosine < _LEAST_COSINE and np.linalg.norm(again) > 0:
        remedy = "Encode the texts again with the exported model: training changes all embeddings."
        raise _check.invalid("index", "the model's own vectors of the texts", f"cosine {cosine:.3f}", remedy)
