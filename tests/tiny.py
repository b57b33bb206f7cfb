"""A small encoder with its tokenizer, for tests that need a complete model but no real weights."""

import numpy as np
from keras import ops

from tfxfer import backbones, data, models, preprocessing

WORDS = "the a my your card cards loan money bank is was lost found where when how much cost arrived sent day good bad"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".?!,", *WORDS.split(), "##s", "##ed"]
TEXTS = [
    "Where is my card?",
    "The card was lost",
    "How much is a loan?",
    "My loan was sent. When arrived the money?",
    "good day!",
    "",
    "The bank lost my card, and the money is found",
    "cost",
]
# Rows of words and their tags: things and one place.
TAGS = ["O", "B-place", "I-place", "B-thing", "I-thing"]
WORD_ROWS = [
    ["Where", "is", "my", "card", "?"],
    ["The", "card", "was", "lost"],
    ["How", "much", "is", "a", "loan", "?"],
    ["The", "bank", "lost", "my", "card"],
    ["good", "day", "!"],
    ["money"],
]
TAG_ROWS = [
    ["O", "O", "B-thing", "I-thing", "O"],
    ["B-thing", "I-thing", "O", "O"],
    ["O", "O", "O", "B-thing", "I-thing", "O"],
    ["B-place", "I-place", "O", "B-thing", "I-thing"],
    ["O", "O", "O"],
    ["B-thing"],
]
# Numbers and categories that go with the texts; some are missing.
AGES = [20, 31, None, 53, 64, 75, 86, 97]
KINDS = ["a", "b", "a", "", "c", "a", "b", "b"]
LABELS = ["card", "card", "loan", "loan", "other", "other", "card", "loan"]


def tokenizer(folder):
    """A WordPiece tokenizer with `VOCABULARY`, read from files written to `folder`."""
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "tokenizer_class": "BertTokenizer"}')
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return preprocessing.Tokenizer.from_folder(folder)


def preprocessor(folder, **kwargs):
    """A preprocessor with a sequence length of 16 by default."""
    return preprocessing.TextPreprocessor(tokenizer(folder), **{"sequence_length": 16, **kwargs})


def backbone(seed=0, dtype=None, num_layers=1):
    """A BERT with one layer by default. Its weights are large enough for outputs to differ between texts."""
    made = backbones.Backbone(
        "bert",
        vocabulary_size=len(VOCABULARY),
        num_layers=num_layers,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=32,
        dtype=dtype,
    )
    rng = np.random.default_rng(seed)
    made.set_weights([w + rng.normal(0, 0.3, w.shape).astype(w.dtype) for w in made.get_weights()])
    return made


def outputs(model, texts):
    """Returns a model's outputs for raw texts as numpy, like `predict`; saves the seconds for tracing a graph."""
    return ops.convert_to_numpy(model(model.preprocess_samples(texts)))


# Texts with one mask or two; the last has none.
MASKED = ["Where is my [MASK]?", "The [MASK] was [MASK]", "How much is a [MASK]?", "[MASK] day!", "my loan"]


def rows(model):
    """Returns five rows in a task's format: texts, pairs of texts, words, or columns; for several tasks, a dict."""
    if hasattr(model, "tasks"):
        return {name: rows(task) for name, task in model.tasks.items()}
    if "mask_positions" in model.input:
        return MASKED
    if "words" in model.input_columns():
        return WORD_ROWS[:5]
    if "age" in model.input_columns():
        return {"text": TEXTS[:5], "age": AGES[:5], "kind": KINDS[:5]}
    return (TEXTS[:5], TEXTS[1:6]) if model.reads_pairs() else TEXTS[:5]


def inputs(model):
    """Returns the tensors that a task makes from `rows`, as numpy."""
    if hasattr(model, "tasks"):
        return {name: inputs(task) for name, task in model.tasks.items()}
    return data.Gate(model, asks=True).encode_batch((rows(model),))


def embedder(folder, dtype=None, **kwargs):
    """A `TextEmbedder` on the small encoder."""
    return models.TextEmbedder(backbone(dtype=dtype), preprocessor(folder), **kwargs)


def classifier(folder, dtype=None, **kwargs):
    """A `TextClassifier` on the small encoder."""
    kwargs = {"labels": ["card", "loan", "other"], **kwargs}
    return models.TextClassifier(backbone(dtype=dtype), preprocessor(folder), **kwargs)


def columns():
    """The columns of `AGES` and `KINDS`."""
    return data.tabular_columns({"age": AGES, "kind": KINDS}, numbers=["age"], categories=["kind"])


def tagger(folder, dtype=None, **kwargs):
    """A `TokenTagger` on the small encoder, with a random head and random transitions."""
    made = models.TokenTagger(backbone(dtype=dtype), preprocessor(folder), **{"tags": TAGS, **kwargs})
    rng = np.random.default_rng(1)
    for layer in (made.head, made.crf):
        for weight in [] if layer is None else layer.weights:
            weight.assign(rng.normal(0, 1.0, weight.shape))
    return made


def masked(folder, dtype=None, **kwargs):
    """A `MaskedLanguageModel` on the small encoder, with a random head."""
    made = models.MaskedLanguageModel(backbone(dtype=dtype), preprocessor(folder), **kwargs)
    rng = np.random.default_rng(1)
    for weight in made.head.weights:
        weight.assign(weight + rng.normal(0, 0.5, weight.shape))
    return made


def sparse(folder, dtype=None, **kwargs):
    """A `SparseEmbedder` on the small encoder, with a random head."""
    made = models.SparseEmbedder(backbone(dtype=dtype), preprocessor(folder), **kwargs)
    rng = np.random.default_rng(1)
    for weight in made.head.weights:
        weight.assign(weight + rng.normal(0, 0.5, weight.shape))
    return made
