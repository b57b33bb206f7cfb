"""What taggers need in addition to ids: the tags, their transitions, and a numpy decoder for the README."""

import numpy as np

from tfxfer import data
from tfxfer.preprocessing import split_words

FILE = "tags.json"
RUN = '''\
tags = json.loads(pathlib.Path("tags.json").read_text(encoding="utf-8"))
start, transitions, end = (np.array(tags[name], "float32") for name in ("start", "transitions", "end"))


def best(emissions):
    """Returns the best sequence of tags (Viterbi) for scores (words, tags)."""
    score, back = start + emissions[0], []
    for row in emissions[1:]:
        paths = score[:, None] + transitions
        back.append(paths.argmax(axis=0))
        score = paths.max(axis=0) + row
    path = [int((score + end).argmax())]
    for previous in reversed(back):
        path.append(int(previous[path[-1]]))
    return [tags["tags"][index] for index in reversed(path)]


def run(texts):
    """Returns the tags of texts that are split into words; a word without a token gets O."""
    rows = tokenizer.encode_batch({words}, is_pretokenized=True)
    word_ids = np.array([[-1 if word is None else word for word in row.word_ids] for row in rows], "int32")
    count = max(len(text) for text in texts)
    word_mask = (word_ids[:, None, :] == np.arange(count)[None, :, None]).any(axis=-1)
    ids = {{
{ids}
        "word_ids": word_ids,
        "word_mask": word_mask.astype("int32"),
    }}
    found = []
    for text, emissions, known in zip(texts, {call}, word_mask):
        row = np.full(len(text), "O", object)
        if known.any():
            row[known[: len(text)]] = best(emissions[known])
        found.append(row.tolist())
    return found
'''


def reads_words(model):
    """Whether a model reads texts that are already split into words."""
    return any(isinstance(column, data.WordsColumn) for column in model.prediction_columns().values())


def ids(model, texts):
    """Returns the inputs of a model for raw texts, as tensors."""
    column = data.WordsColumn(model.preprocessor)
    return column.batch(column.encode(split_words(texts, model.split).words), "words")


def scores(model):
    """Returns the content of `tags.json`: the tags, their scheme, and the transition scores."""
    decoder = model.entity_decoder()
    transitions, start, end = (np.asarray(value).tolist() for value in decoder.potentials())
    return {
        "tags": model.tags,
        "scheme": model.scheme,
        "temperature": model.temperature,
        "start": start,
        "transitions": transitions,
        "end": end,
    }


def example_words(model, texts):
    """Returns texts as lists of words, for the README."""
    return [[word.decode() for word in row] for row in split_words(texts, model.split).words.to_list()]


def program(model, ids, call):
    """Returns the README's functions."""
    spaced = model.preprocessor.tokenizer.spec.kind == "bpe"
    words = '[[" " + word for word in text] for text in texts]' if spaced else "texts"
    return RUN.format(words=words, ids=ids, call=call)
