"""Inference of taggers on rows and texts: word scores, tags, and entities with their positions."""

import collections
import itertools
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import scipy.optimize
from keras import ops

from tfxfer import _chain, _check, _schemes, data, preprocessing
from tfxfer.layers._entities import GO_ON

Entity = collections.namedtuple("Entity", ["label", "start", "end", "text", "probability"])
Entity.__doc__ = (
    "An entity found by `TokenTagger.extract`: its type, its start and end in the text in code points, "
    "`text[start:end]`, and the probability of exactly this entity."
)
Span = collections.namedtuple("Span", ["label", "start", "end", "probability"])
Span.__doc__ = (
    "An entity found by `TokenTagger.spans`: its type, the index of its first word, the index after its last word, and "
    "the probability of exactly this entity."
)

# Limits of texts and characters read at a time: enough to sort by length, little memory.
_TEXTS, _CHARACTERS = 2048, 2**20
# Positions (words with padding) decoded at a time.
_PLACES = 2**16


class Decoders:
    """Decodes the scores of one tagger. The decoder is built once per temperature, and hidden from Keras."""

    def __init__(self, tagger):
        self._tagger = lambda: tagger
        self._made_for: Any = None
        self._run: Any = None

    def run(self, scores: data.WordScores) -> Iterator[tuple]:
        """Yields (rows, dict of arrays) for parts of the rows, the longest first; see `EntityDecoder`."""
        sizes = np.diff(scores.splits)
        order = np.argsort(-sizes, kind="stable")
        start = 0
        while start < len(order):
            count = max(_PLACES // max(int(sizes[order[start]]), 1), 1)
            rows = order[start : start + count]
            values, mask = data.padded(scores, rows)
            yield rows, self.decoded({"emissions": values, "word_mask": mask})
            start += count

    def decoded(self, inputs: dict) -> dict:
        """Returns the decoder's outputs for one batch, as a dict of arrays."""
        tagger = self._tagger()
        made_for = (tagger.temperature, *map(id, tagger.weights))
        if made_for != self._made_for:
            count = len(tagger.tags)
            given = {
                "emissions": keras.Input((None, count), name="emissions"),
                "word_mask": keras.Input((None,), dtype="int32", name="word_mask"),
            }
            decoder = keras.Model(given, tagger.entity_decoder()(**given), name="decoder")
            self._made_for, self._run = made_for, data.forward(decoder, inputs)
        return {name: np.asarray(value) for name, value in self._run(inputs).items()}

    def tags(self, scores: Any) -> Any:
        """Returns for each row (tag indices `(words,)`, bool array of which words have a token)."""
        scores, found = _as_scores(scores), {}
        for rows, decoded in self.run(scores):
            for row, tags in zip(rows, decoded["tags"], strict=True):
                size = int(scores.splits[row + 1] - scores.splits[row])
                found[int(row)] = (tags[:size], tags[:size] >= 0)
        return [found[row] for row in range(len(found))]

    def probabilities(self, scores: Any) -> list:
        """Returns for each row the probabilities `(words, tags)`."""
        scores, found = _as_scores(scores), {}
        for rows, decoded in self.run(scores):
            for row, values in zip(rows, decoded["probabilities"], strict=True):
                found[int(row)] = values[: scores.splits[row + 1] - scores.splits[row]]
        return [found[row] for row in range(len(found))]

    def spans(self, scores: Any) -> list:
        """Returns for each row a list of entities (index of the first tag, first word, last word, probability)."""
        scores, found = _as_scores(scores), {}
        for rows, decoded in self.run(scores):
            starts = [np.flatnonzero(flags) for flags in decoded["is_start"]]
            for place, (row, firsts) in enumerate(zip(rows, starts, strict=True)):
                columns = (decoded[name][place, firsts].tolist() for name in ("tags", "ends", "log_probabilities"))
                found[int(row)] = [
                    (tag, first, last, min(math.exp(log), 1.0))
                    for first, tag, last, log in zip(firsts.tolist(), *columns, strict=True)
                ]
        return [found[row] for row in range(len(found))]


def _as_scores(scores):
    """Converts the result of `predict`, a list of arrays `(words, tags)`, to `WordScores`."""
    if isinstance(scores, data.WordScores):
        return scores
    rows = [np.asarray(row, "float32") for row in scores]
    return _joined(rows, [row.any(axis=1) for row in rows], 1)


def _joined(rows, masks, outputs):
    """Joins the scores and masks of each row to `WordScores`."""
    splits = np.cumsum([0, *map(len, rows)])
    flat = np.concatenate(rows) if rows else np.zeros((0, outputs), "float32")
    return data.WordScores(flat, np.concatenate([np.zeros(0, bool), *masks]), splits)


# === Scores ===


def runner(tagger: Any) -> Any:
    """Returns the runner of a tagger on words; it is rebuilt if something that it traced has changed."""
    room, stride = tagger.window()

    def make():
        multiples = tagger._length_multiple(), tagger._row_multiple()
        return data.WordRunner(tagger, tagger.preprocessor, room, stride, *multiples)

    return tagger._made_once("words", (room, stride), make)


def scores(tagger: Any, words: Any, batch_size: int, progress: bool) -> data.WordScores:
    """Returns the scores of rows of words."""
    return runner(tagger)(words["words"] if isinstance(words, dict) else words, batch_size, progress)


def scores_of_batches(tagger: Any, form: str, found: Any, batch_size: int, steps: int | None) -> data.WordScores:
    """Returns the scores of batches, without the words after the last one that has a token."""
    gate = data.Gate(tagger)
    if form == "arrays":
        count = len(next(iter(found[0].values())))
        batches: Any = (
            {name: value[start : start + batch_size] for name, value in found[0].items()}
            for start in range(0, count, batch_size)
        )
    else:
        options = {} if form == "batches" else tagger._batch_options(shuffle=False, bucket=False)
        batches = gate.ready(gate.batches(form, found, batch_size, **options))
    rows, masks = [], []
    for batch in itertools.islice(iter(batches), steps):
        x = {name: np.asarray(value) for name, value in keras.utils.unpack_x_y_sample_weight(batch)[0].items()}
        mask = x["word_mask"] > 0
        sizes = np.where(mask.any(axis=1), mask.shape[1] - mask[:, ::-1].argmax(axis=1), 0)
        outputs = np.asarray(keras.Model.predict_on_batch(tagger, x)) * mask[..., np.newaxis]
        rows += [row[:size] for row, size in zip(outputs, sizes, strict=True)]
        masks += [row[:size] for row, size in zip(mask, sizes, strict=True)]
    return _joined(rows, masks, len(tagger.tags))


# === Words ===


def names(tagger: Any, scores: Any) -> list[list[str]]:
    """Returns the tags of each row; see `TokenTagger.tag`."""
    tags = tagger.tags
    outside = "O" if "O" in tags else tags[0]
    found = []
    for indices, is_known in tagger._decoders.tags(scores):
        row = [tags[index] if known else outside for index, known in zip(indices, is_known, strict=True)]
        if tagger.scheme is not None and not is_known.all():
            _fill(row, is_known, tags)
        found.append(row)
    return found


def _fill(row, is_known, tags):
    """Tags words without a token inside an entity as part of it, since the scheme has no gaps in entities."""
    after = "O"
    for place in reversed(range(len(row))):
        if is_known[place]:
            after = row[place]
            continue
        prefix, kind = _schemes.split(after)
        inside = f"I-{kind}"
        if prefix in GO_ON and inside in tags:
            row[place] = inside


def word_spans(tagger: Any, scores: Any) -> list[list[Span]]:
    """Returns the entities of each row, by word indices."""
    types = [_type(tag) for tag in tagger.tags]
    return [
        [Span(types[tag], first, last + 1, probability) for tag, first, last, probability in row]
        for row in tagger._decoders.spans(scores)
    ]


def doubts(tagger: Any, scores: data.WordScores) -> np.ndarray:
    """Returns 1 - the probability of each row's least certain entity, or of its least certain tag without entities.

    The value is -1 for a row without a token.
    """
    found = np.full(len(scores.splits) - 1, -1.0)
    for rows, decoded in tagger._decoders.run(scores):
        known = decoded["tags"] >= 0
        sure = np.where(known, decoded["probabilities"].max(axis=-1), 1.0).min(axis=1)
        if tagger.scheme is not None:
            starts = decoded["is_start"]
            least = np.where(starts, decoded["log_probabilities"], 0.0).min(axis=1)
            sure = np.where(starts.any(axis=1), np.exp(least), sure)
        found[rows] = np.where(known.any(axis=1), 1 - np.clip(sure, 0, 1), -1.0)
    return found


# === Texts ===


def found(tagger: Any, texts: list, batch_size: int) -> Iterator[list]:
    """Yields the list of entities of each text."""
    types = [_type(tag) for tag in tagger.tags]
    words = preprocessing.split_words(texts, tagger.split)
    starts, ends = words.starts.to_list(), words.ends.to_list()
    spans = tagger._decoders.spans(runner(tagger)(words.words, batch_size))
    for text, firsts, lasts, row in zip(texts, starts, ends, spans, strict=True):
        entities = []
        for tag, first, last, probability in row:
            start, end = firsts[first], lasts[last]
            entities.append(Entity(types[tag], start, end, text[start:end], probability))
        yield entities


def extracted(answers: Any, texts: list, batch_size: int, progress: bool) -> Iterator[list]:
    """Yields the answer for each text, from a function of (list of texts, batch size)."""
    bar = keras.utils.Progbar(len(texts), unit_name="text") if progress and texts else None
    for part in _parts(iter(texts)):
        yield from answers(part, batch_size)
        if bar is not None:
            bar.add(len(part))


def streamed(answers: Any, texts: Iterator, batch_size: int) -> Iterator[list]:
    """Yields the answer for each text of an iterator."""
    count = 0
    for part in _parts(texts):
        for row, text in enumerate(part, count):
            _check.text("texts", text, row)
        part = [text.decode(errors="replace") if isinstance(text, bytes) else text for text in part]
        yield from extracted(answers, part, batch_size, False)
        count += len(part)


def _parts(texts):
    """Splits an iterator of texts into lists of many short texts or few long ones."""
    part, size = [], 0
    for text in texts:
        part.append(text)
        size += len(text) if isinstance(text, (str, bytes)) else 1
        if len(part) >= _TEXTS or size >= _CHARACTERS:
            yield part
            part, size = [], 0
    if part:
        yield part


def _type(tag):
    return tag.partition("-")[2]


# === Calibration ===


class _Likelihood(keras.layers.Layer):
    """The log-likelihood `(batch,)` of tags `(batch, words)`, -1 for no tag, at a temperature `(batch,)`."""

    def __init__(self, crf, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self._crf = crf

    def call(self, emissions, tags, temperature):
        divisor = temperature[0]
        emissions, mask = emissions / divisor, tags >= 0
        if self._crf is not None:
            potentials = (score / divisor for score in self._crf.potentials())
            return _chain.log_likelihood(_chain.chain(emissions, mask, *potentials), ops.maximum(tags, 0))
        logs = ops.log_softmax(emissions, axis=-1)
        chosen = ops.take_along_axis(logs, ops.maximum(tags, 0)[..., None], axis=-1)[..., 0]
        return ops.sum(ops.where(mask, chosen, ops.zeros_like(chosen)), axis=1)

    def compute_output_spec(self, emissions, tags, temperature):
        return keras.KerasTensor(temperature.shape, "float32")


def fitted_temperature(tagger: Any, x: Any, y: Any, batch_size: int) -> float:
    """Returns the temperature in `[1/20, 20]` that maximizes the likelihood of the rows' tags."""
    form, rows = data.Gate(tagger).read(x, y)
    if form != "rows":
        raise _check.invalid("x", "rows in memory, with tags", x)
    found = runner(tagger)(rows.x["words"] if isinstance(rows.x, dict) else rows.x, batch_size)
    if not found.mask.any():
        raise _check.invalid("x", "a word with a token", x)
    truth = np.where(found.mask, rows.y.values.numpy(), -1).astype("int32")
    parts, order = [], np.argsort(-np.diff(found.splits), kind="stable")
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        values, _ = data.padded(found, chosen)
        tags = np.full(values.shape[:2], -1, "int32")
        for place, row in enumerate(chosen):
            first, last = found.splits[row], found.splits[row + 1]
            tags[place, : last - first] = truth[first:last]
        parts.append({"emissions": values, "tags": tags, "temperature": np.ones(len(chosen), "float32")})
    given = {
        "emissions": keras.Input((None, len(tagger.tags)), name="emissions"),
        "tags": keras.Input((None,), dtype="int32", name="tags"),
        "temperature": keras.Input((), name="temperature"),
    }
    run = data.forward(keras.Model(given, _Likelihood(tagger.crf)(**given)), parts[0])

    def loss(log_temperature):
        factor = np.float32(math.exp(log_temperature))
        return -sum(
            float(np.sum(np.asarray(run({**part, "temperature": part["temperature"] * factor})))) for part in parts
        )

    bound = math.log(20.0)
    best = scipy.optimize.minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-3})
    return float(math.exp(best.x))
