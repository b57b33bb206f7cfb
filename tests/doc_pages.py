"""The code blocks of the pages in docs, and the names that the pages assume: a small encoder, rows, models."""

import pathlib
import re

import keras
import numpy as np
from keras import ops

import tfxfer as tx
from tfxfer import backbones, data, models, preprocessing

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in DOCS.rglob("*.md")
    if path.relative_to(DOCS).parts[0] not in ("_build", "reference")
)
# Pages that `test_readme.py` runs with real weights.
REAL = ("tour.md", "checkpoints.md")
# A Python block, with an optional comment above it that says why it is not run.
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n+)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


def blocks(page):
    """Returns the Python blocks of a page as (line, code, reason not to run it or `None`)."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [(text[: found.start("code")].count("\n"), found["code"], found["reason"]) for found in BLOCK.finditer(text)]


# Pages that refer to the blocks of an encoder with six of them.
DEEP = {"concepts.md", "heads.md"}


def encoder(folder, num_layers):
    """Makes a small embedder and writes its vocabulary files under `folder`.

    The vocabulary has the words of the shipped questions and all letters, so that any text has tokens.
    """
    questions = data.read(ROOT / "examples" / "data" / "support_questions" / "train.tsv")["text"]
    words = sorted({word for text in questions for word in re.findall(r"\w+", text.lower()) if word.isascii()})
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    signs = [*"!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"]
    known = {*letters, *signs}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *signs, *letters, *(f"##{each}" for each in letters)]
    vocabulary += [word for word in words if word not in known]
    source = folder / "vocabulary"
    source.mkdir(parents=True)
    (source / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    (source / "tokenizer_config.json").write_text('{"do_lower_case": true, "tokenizer_class": "BertTokenizer"}')
    (source / "config.json").write_text('{"model_type": "bert"}')
    backbone = backbones.Backbone(
        "bert",
        vocabulary_size=len(vocabulary),
        num_layers=num_layers,
        num_heads=2,
        hidden_dim=64,
        intermediate_dim=64,
        max_sequence_length=256,
    )
    rng = np.random.default_rng(0)
    # Word embeddings differ more than position embeddings, so that the vector of a text depends on its words.
    scales = [1.0 if w.shape[:1] == (len(vocabulary),) else 0.05 for w in backbone.get_weights()]
    pairs = zip(backbone.get_weights(), scales, strict=True)
    backbone.set_weights([w + rng.normal(0, scale, w.shape).astype(w.dtype) for w, scale in pairs])
    preprocessor = preprocessing.TextPreprocessor(preprocessing.Tokenizer.from_folder(source), sequence_length=128)
    return models.TextEmbedder(backbone, preprocessor)


def presets(folder):
    """Writes small substitutes for the checkpoints that pages name; returns the directory of each `hf://` handle.

    all-MiniLM-L6-v2 has two: one with a single block (key 1) and one with six blocks (key 6).
    """
    found = {}
    for num_layers in (6, 1):
        embedder = encoder(folder / str(num_layers), num_layers)
        found[num_layers] = folder / f"encoder_{num_layers}"
        embedder.save_to_preset(found[num_layers], format="sentence-transformers")
    parts = (embedder.backbone, embedder.preprocessor)
    models.Reranker(*parts).save_to_preset(folder / "cross_encoder", format="sentence-transformers")
    found["cross-encoder/ms-marco-MiniLM-L6-v2"] = folder / "cross_encoder"
    models.MaskedLanguageModel(*parts).save_to_preset(folder / "masked", format="huggingface")
    found["naver/splade-cocondenser-ensembledistil"] = folder / "masked"
    sentiment = models.TextClassifier(*parts, labels=["NEGATIVE", "POSITIVE"])
    sentiment.save_to_preset(folder / "sentiment")
    found["distilbert/distilbert-base-uncased-finetuned-sst-2-english"] = folder / "sentiment"
    tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    models.TokenTagger(*parts, tags=tags).save_to_preset(folder / "tagger", format="huggingface")
    found["dslim/bert-base-NER"] = folder / "tagger"
    return found


class Names(dict):
    """The names that a page may use, each created on first use."""

    def __missing__(self, name):
        maker = MAKERS.get(name)
        if maker is None:
            raise KeyError(name)
        self[name] = maker(self)
        return self[name]


def questions(split):
    """Returns a function that reads a split of the shipped questions."""
    return lambda names: data.read(ROOT / "examples" / "data" / "support_questions" / f"{split}.tsv")


def trained(names):
    """Trains a classifier on the questions for one epoch."""
    model = names["classifier"]
    train = names["train"]
    model.compile()
    model.fit(train["text"], train["label"], batch_size=16, epochs=1, seed=0, verbose=0)
    return model


MAKERS = {
    "tx": lambda names: tx,
    "keras": lambda names: keras,
    "np": lambda names: np,
    "ops": lambda names: ops,
    "train": questions("train"),
    "dev": questions("dev"),
    "test": questions("test"),
    "texts": lambda names: names["train"]["text"][:40],
    "targets": lambda names: names["train"]["label"][:40],
    "labels": lambda names: data.labels(names["train"], "label"),
    "embedder": lambda names: models.TextEmbedder.from_preset("all_minilm_l6_v2"),
    "classifier": lambda names: models.TextClassifier.from_preset("all_minilm_l6_v2", labels=names["labels"]),
    "trained_model": trained,
    "model": trained,
    "teacher": lambda names: names["embedder"],
    "siamese": lambda names: models.Siamese(names["embedder"]),
    "queries": lambda names: ["Where is my parcel?", "Can I pay by invoice?"],
    "candidates": lambda names: [names["texts"][:5], names["texts"][5:9]],
}


# Code to run before the first block of a page that shows only parts of a program.
BEFORE = {
    "decisions.md": """
model = trained_model
both = {name: [*dev[name], *test[name]] for name in ("text", "label")}
calibration = tx.data.labelled(dev, "text", "label")
train, dev = tx.data.labelled(train, "text", "label"), tx.data.labelled(both, "text", "label")
""",
    "kinds.md": """
rows = [{"query": a, "document": b} for a, b in zip(texts[:8], texts[8:16])]
""",
    "ranking.md": """
rows = [{"query": q, "documents": texts[4 * i : 4 * i + 4], "grades": [2, 0, 1, 0]} for i, q in enumerate(texts[20:26])]
dev_rows = rows[:2]
""",
    "search.md": """
import pathlib
pathlib.Path("corpus.txt").write_text("\\n".join(texts))
vectors = embedder.encode(texts)
np.save("part-0.npy", vectors[:20])
np.save("part-1.npy", vectors[20:])
numbers = list(range(len(texts)))
languages, years = ["en", "de"] * 20, [2024, 2020] * 20
cross_encoder = tx.models.TextRegressor.from_preset("hf://cross-encoder/ms-marco-MiniLM-L6-v2")
""",
    "skewed.md": """
reviews = tx.data.read("examples/data/clothing_reviews/train.tsv")
texts, targets = reviews["review"][:60], [each == "no" for each in reviews["recommended"][:60]]
dev_texts = reviews["review"][60:100]
dev_targets = [["not recommended"] if each == "no" else [] for each in reviews["recommended"][60:100]]
""",
}


def run(page, names):
    """Runs the blocks of a page, top to bottom, as one program; returns how many ran."""
    exec(BEFORE.get(page, ""), names)
    ran = 0
    for line, code, reason in blocks(page):
        if reason:
            continue
        exec(compile("\n" * line + code, page, "exec"), names)
        ran += 1
    return ran


def notes(page):
    """Returns the reasons why blocks of a page are not run."""
    return [reason for _, _, reason in blocks(page) if reason]
