"""The shared inputs of both sides of `gpu.py`: encoder sizes, rows of token ids, batches of few shapes, random weights.

numpy and safetensors only: both environments import this file.
"""

import json
import pathlib
import shutil

import numpy as np

# hidden_dim, num_layers, num_heads, intermediate_dim.
SIZES = {"minilm": (384, 6, 12, 1536), "bert_base": (768, 12, 12, 3072), "tiny": (32, 2, 2, 64)}
VOCABULARY = 30522
POSITIONS = 512
# Lengths that batches are padded to: powers of two, and the numbers halfway between them. A batch of any lengths gets
# one of these shapes, so a compiler sees only a handful of them; at most a third of a row is padding.
LENGTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128)
# Tokens per row for which a full batch has room: longer rows come in smaller batches.
ROOM = 32
TRAIN_LENGTH = 32
CLASSES = 77
LAST = 102  # the id of [SEP]


def padded(rows, length):
    """Returns rows of ids as int32 `(rows, length)`, zeros at padding; truncated rows keep their last id."""
    ids = np.zeros((len(rows), length), "int32")
    for place, row in enumerate(rows):
        row = row if len(row) <= length else [*row[: length - 1], row[-1]]
        ids[place, : len(row)] = row
    return ids


def bucket(length):
    """Returns the shortest of `LENGTHS` that holds a row of `length` tokens."""
    return next((each for each in LENGTHS if each >= length), LENGTHS[-1])


def batches(ids, batch_size, to_bucket):
    """Splits rows into batches by length, longest first.

    Args:
        ids: int array `(rows, length)`, 0 at padding.
        batch_size: int.
        to_bucket: bool. Whether a batch is padded to one of `LENGTHS`, holds at most `batch_size * ROOM` positions, and
            is filled up with empty rows, so that each length has one shape. Otherwise, batches have `batch_size` rows,
            padded to the longest.

    Returns:
        A list of (row indices, int32 array).
    """
    lengths = (ids > 0).sum(axis=1)
    order = np.argsort(-lengths, kind="stable")
    found, start = [], 0
    while start < len(order):
        longest = int(lengths[order[start]])
        width = bucket(longest) if to_bucket else longest
        count = batch_size
        while to_bucket and count * width > batch_size * ROOM:
            count //= 2
        rows = order[start : start + count]
        batch = np.zeros((count if to_bucket else len(rows), width), "int32")
        batch[: len(rows)] = ids[rows, :width]
        found.append((rows, batch))
        start += count
    return found


def train_batches(rows, part, batch_size):
    """Returns eight batches of `"pairs"` or `"classes"` in random order, with the training length.

    Returns:
        A list of (ids, labels): int32 `(batch, 2, length)` and `None`, or `(batch, length)` and `(batch,)`.
    """
    ids, labels = {"pairs": (rows["pairs"], None), "classes": (rows["ids"], rows["labels"])}[part]
    count = min(len(ids), len(rows["labels"]))
    order = np.concatenate([np.random.default_rng(seed).permutation(count) for seed in range(8)])
    made = []
    for start in range(0, 8 * batch_size, batch_size):
        numbers = np.take(order, range(start, start + batch_size), mode="wrap")
        cut = ids[numbers][..., :TRAIN_LENGTH].copy()
        cut[..., -1] = np.where(ids[numbers][..., TRAIN_LENGTH] > 0, LAST, cut[..., -1])
        made.append((cut, None if labels is None else labels[numbers]))
    return made


def forward_flops(size, tokens, length):
    """Returns the floating-point operations of the encoder's matrix products on `tokens` tokens in rows of `length`."""
    hidden, layers, _, intermediate = SIZES[size]
    return layers * tokens * (2 * (4 * hidden**2 + 2 * hidden * intermediate) + 4 * length * hidden)


def read_rows(file):
    """Reads a file of `write_rows`: a dict of arrays, with `texts` as a list of strings."""
    with np.load(file) as arrays:
        rows = dict(arrays)
    rows["texts"] = json.loads(rows["texts"].tobytes().decode())
    return rows


def write_rows(file, rows):
    """Writes a dict of arrays, with `texts` as a list of strings."""
    texts = np.frombuffer(json.dumps(rows["texts"]).encode(), "uint8")
    np.savez_compressed(file, **{**rows, "texts": texts})


def random_rows(count, seed=0):
    """Returns rows of random ids with the lengths of short texts, for tests without a data set."""
    generator = np.random.default_rng(seed)

    def ids():
        lengths = 3 + generator.poisson(10, count)
        rows = [[101, *generator.integers(1000, VOCABULARY, n - 2), 102] for n in lengths]
        return padded(rows, LENGTHS[-1])

    texts = [" ".join(["card"] * int(n)) for n in 1 + generator.poisson(8, count)]
    pairs = np.stack([ids(), ids()], axis=1)
    return {"texts": texts, "ids": ids(), "pairs": pairs, "labels": generator.integers(0, CLASSES, count, "int32")}


def tensors(size):
    """Returns random BERT weights under the names of Hugging Face's checkpoints, the same on every machine."""
    hidden, layers, _, intermediate = SIZES[size]
    shapes = {
        "embeddings.word_embeddings.weight": (VOCABULARY, hidden),
        "embeddings.position_embeddings.weight": (POSITIONS, hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
    }
    norms = ["embeddings.LayerNorm"]
    for number in range(layers):
        block = f"encoder.layer.{number}"
        dense = {
            "attention.self.query": (hidden, hidden),
            "attention.self.key": (hidden, hidden),
            "attention.self.value": (hidden, hidden),
            "attention.output.dense": (hidden, hidden),
            "intermediate.dense": (intermediate, hidden),
            "output.dense": (hidden, intermediate),
        }
        for name, shape in dense.items():
            shapes |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
        norms += [f"{block}.attention.output.LayerNorm", f"{block}.output.LayerNorm"]
    generator = np.random.default_rng(0)
    # Uniform numbers, whose stream does not change between numpy releases, with the spread of BERT's initial weights.
    found = {name: (generator.random(shape, "float32") - 0.5) * 0.14 for name, shape in shapes.items()}
    for name in norms:
        found |= {f"{name}.weight": np.ones(hidden, "float32"), f"{name}.bias": np.zeros(hidden, "float32")}
    return found


def write_checkpoint(folder, size, tokenizer=None):
    """Writes a sentence-transformers directory with random weights of a size: mean pooling, unit length.

    Args:
        folder: path.
        size: one of `SIZES`.
        tokenizer: path of a directory with the files of BERT's tokenizer, or `None`.
    """
    from safetensors.numpy import save_file

    folder = pathlib.Path(folder)
    hidden, layers, heads, intermediate = SIZES[size]
    (folder / "1_Pooling").mkdir(parents=True)
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "vocab_size": VOCABULARY,
        "pad_token_id": 0,
    }
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    files = {
        "config.json": config,
        "modules.json": entries,
        "sentence_bert_config.json": {"max_seq_length": LENGTHS[-1], "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if tokenizer is not None and (pathlib.Path(tokenizer) / name).is_file():
            shutil.copy(pathlib.Path(tokenizer) / name, folder / name)
    save_file(tensors(size), str(folder / "model.safetensors"), metadata={"format": "pt"})
