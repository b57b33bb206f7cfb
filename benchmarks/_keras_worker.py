"""tfxfer's side, and KerasHub's own embedder. Started by the benchmarks."""

import importlib.metadata
import pathlib
import tempfile
import time

import keras
import keras_hub
import numpy as np
import tensorflow as tf

import tfxfer as tx
from benchmarks._harness import Requests, peak_mib, read_tsv, shuffled_rows

LEARNING_RATE = 2e-5


def embedder(setup, dtype):
    """Returns the embedder, with the sequence length of the other side."""
    return tx.models.TextEmbedder.from_preset(setup["weights"], sequence_length=setup["sequence_length"], dtype=dtype)


def encoder(setup, requests):
    """Answers requests to encode texts: in float32, in mixed_bfloat16, with KerasHub's `predict`, with engines."""
    made = {dtype: embedder(setup, dtype).encode for dtype in ("float32", "mixed_bfloat16")}
    sizes = {}
    if setup.get("engines"):
        folder = tempfile.TemporaryDirectory()
        made |= engines(setup, pathlib.Path(folder.name), sizes)
    else:
        made["keras_hub"] = by_keras_hub(setup)

    def work(request):
        if request["variant"] == "sizes":
            return {"sizes": sizes}
        encode = made[request["variant"]]
        embeddings = encode(request["texts"], batch_size=request.get("batch_size", setup["batch_size"]))
        if "save" in request:
            np.save(request["save"], embeddings)
        return {"rows": len(request["texts"])}

    requests.send(versions=versions())
    requests.serve(work)


def by_keras_hub(setup):
    """Returns KerasHub's own embedder as a function of texts."""
    model = keras_hub.models.TextEmbedder.from_preset(setup["weights"])
    return lambda texts, batch_size: model.predict(texts, batch_size=batch_size, verbose=0)


def engines(setup, folder, sizes):
    """Returns other ways to compute vectors, a dict of name to function of texts; stores their megabytes in `sizes`."""
    made = {}
    for dtype in ("float32", "int8"):
        model = embedder(setup, "float32")
        model.engine = tx.export.Engine(model, dtype, threads=setup["threads"])
        path = pathlib.Path(tx.export.onnx(model.served_model(), folder / f"onnx_{dtype}", dtype=dtype))
        written = pathlib.Path(tx.export.litert(model.served_model(), folder / f"litert_{dtype}", dtype=dtype))
        sizes[f"engine {dtype}"] = megabytes(written / "model.tflite")
        sizes[f"onnx {dtype}"] = megabytes(path / "model.onnx")
        made |= {f"engine {dtype}": model.encode, f"onnx {dtype}": by_onnx_runtime(path, setup["threads"])}
    model = embedder(setup, "float32")
    path = pathlib.Path(tx.export.saved_model(model, folder / "served"))
    sizes["saved_model"] = sizes["float32"] = megabytes(*path.rglob("variables*"))
    served = tf.saved_model.load(str(path))
    embed = served.signatures["serving_default"]

    def by_export(texts, batch_size):
        parts = [texts[i : i + batch_size] for i in range(0, len(texts), batch_size)]
        return np.concatenate([embed(text=tf.constant(part))["embedding"].numpy() for part in parts])

    by_export.served = served  # its functions need it alive
    student = tx.models.static_student(model)
    sizes["static"] = round(4 * student.count_params() / 1e6, 1)
    return made | {"saved_model": by_export, "static": student.encode}


def by_onnx_runtime(folder, threads):
    """Vectors from ONNX Runtime, ids from Hugging Face's `tokenizers`, in batches of similar lengths."""
    import onnxruntime
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    columns = {"token_ids": "ids", "padding_mask": "attention_mask", "segment_ids": "type_ids"}

    def encode(texts, batch_size):
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        found = [None] * len(texts)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            tokens = tokenizer.encode_batch([texts[row] for row in rows])
            ids = {name: np.array([getattr(each, of) for each in tokens], "int32") for name, of in columns.items()}
            for row, vector in zip(rows, session.run(None, ids)[0], strict=True):
                found[row] = vector
        return np.stack(found)

    return encode


def megabytes(*files):
    """Returns the size of files in megabytes."""
    return round(sum(file.stat().st_size for file in files) / 1e6, 1)


class Slices(keras.callbacks.Callback):
    """Pauses `fit` until a slice is requested, and answers when its batches are done.

    This measures one ordinary `fit`, which pauses before a batch between two slices.
    """

    def __init__(self, requests, batch_size, warmup, facts):
        super().__init__()
        self.requests, self.batch_size, self.warmup, self.facts = requests, batch_size, warmup, facts
        self.left, self.batches, self.start = 0, 0, 0.0

    def on_train_batch_begin(self, batch, logs=None):
        if self.warmup or self.left:
            return
        request = self.requests.next()
        if request is None:
            raise EOFError
        self.left = self.batches = request["batches"]
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        if self.warmup:
            self.warmup -= 1
            if not self.warmup:
                self.requests.send(versions=versions(), **self.facts)
            return
        self.left -= 1
        if not self.left:
            seconds = time.perf_counter() - self.start
            self.requests.send(rows=self.batches * self.batch_size, seconds=seconds, loss=float(logs["loss"]))


def classifier(setup):
    """A linear head on the pooled output; `data.batches` with its defaults."""
    rows = shuffled_rows(read_tsv(setup["train"]), setup["batch_size"], 0)
    names = sorted({row["label"] for row in rows})
    model = tx.models.TextClassifier.from_preset(
        setup["weights"],
        labels=names,
        dropout=0.1,
        sequence_length=setup["sequence_length"],
        dtype=setup["dtype"],
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    dataset = tx.data.labelled(rows, "text", "label", labels=names)
    return model, loss, tx.data.batches(dataset, model.preprocessor, batch_size=setup["batch_size"], seed=0)


def pairs(setup):
    """CoSENT on scored pairs."""
    rows = shuffled_rows(read_tsv(setup["train"]), setup["batch_size"], 0)
    towers = embedder(setup, setup["dtype"])
    dataset = tx.data.pairs(
        [{**row, "score": float(row["score"]) / 5} for row in rows], ("sentence1", "sentence2"), target="score"
    )
    batches = tx.data.batches(dataset, towers.preprocessor, batch_size=setup["batch_size"], columns="separate", seed=0)
    return tx.models.Siamese(towers), tx.losses.CoSENTLoss(), batches


def triplets(setup):
    """In-batch softmax on triplets, each with its hard negative."""
    rows = shuffled_rows(read_tsv(setup["train"]), setup["batch_size"], 0)
    towers = embedder(setup, setup["dtype"])
    dataset = tx.data.triplets(rows, ("anchor", "positive", "negative"))
    batches = tx.data.batches(dataset, towers.preprocessor, batch_size=setup["batch_size"], columns="separate", seed=0)
    return tx.models.Siamese(towers), tx.losses.MultipleNegativesRankingLoss(), batches


def equal(setup):
    """In-batch softmax on a single batch of pairs, tokenized before the clock starts."""
    towers = embedder(setup, setup["dtype"])
    first, second = setup["columns"]
    dataset = tx.data.pairs(
        [{"a": a, "b": b, "y": 1.0} for a, b in zip(first, second, strict=True)], ("a", "b"), target="y"
    )
    batches = tx.data.batches(dataset, towers.preprocessor, batch_size=len(first), columns="separate", shuffle=False)
    [(x, _)] = list(batches)
    if tuple(x["token_ids"].shape) != (len(first), 2, setup["length"]):
        raise ValueError(f"the texts have the shape {x['token_ids'].shape}")
    return tx.models.Siamese(towers), tx.losses.MultipleNegativesRankingLoss(), batches.cache().repeat()


def rerank(setup):
    """LambdaLoss on a single batch of lists with cached ids."""
    model = tx.models.Reranker.from_preset(
        setup["weights"],
        dropout=0.1,
        sequence_length=setup["sequence_length"],
        dtype=setup["dtype"],
        backbone_only=True,
    )
    dataset, lists = tx.data.rankings(50 * setup["rows"]), len(setup["rows"])
    batches = tx.data.batches(dataset, model, batch_size=lists, shuffle=False, bucket=False)
    x, _ = next(iter(batches))
    if tuple(x["token_ids"].shape) != (setup["batch_size"], setup["length"]):
        raise ValueError(f"the pairs have the shape {x['token_ids'].shape}")
    return model, tx.losses.LambdaLoss(), batches


def places_per_real(batches, count):
    """Returns the positions in the batches per real token; all layers except attention compute only real tokens."""
    computed = real = 0
    for x, *_ in batches.take(count):
        computed += int(tf.size(x["padding_mask"]))
        real += int(tf.math.count_nonzero(x["padding_mask"]))
    return computed / real


def above_frozen(model, batches):
    """Returns the part above the frozen layers, its batches, and the seconds to fill the cache."""
    short = tx.freezing.AboveFrozen(model, progress=False)
    start = time.perf_counter()
    stored = short.cached(batches)
    facts = {"fill_seconds": round(time.perf_counter() - start, 2), "cache_mib": round(short.cache_bytes / 2**20, 1)}
    return short, stored, facts


def trainer(setup, requests):
    """Runs `fit` in slices."""
    keras.utils.set_random_seed(0)
    tasks = {"classifier": classifier, "pairs": pairs, "triplets": triplets, "equal": equal, "rerank": rerank}
    model, loss, batches = tasks[setup["task"]](setup)
    if setup.get("fused"):
        model.fused_elementwise = True
    if setup.get("frozen") is not None:
        tx.freezing.freeze(model, below=setup["frozen"])
    model.compile(tx.optimizers.AdamW(LEARNING_RATE, weight_decay=0.01), loss=loss)
    facts = {"places_per_real": round(places_per_real(batches, 100), 2)}
    if setup.get("cached"):
        model, batches, filled = above_frozen(model, batches)
        facts.update(filled)
    slices = Slices(requests, setup["batch_size"], setup["warmup"], facts)
    try:
        model.fit(batches, epochs=1000, steps_per_epoch=setup.get("steps"), callbacks=[slices], verbose=0)
    except EOFError:
        return


def quality(setup, requests):
    """Answers requests to train from scratch with CoSENT, in a given order or by length, and to score the test rows."""
    train, test = (
        [{**row, "score": float(row["score"])} for row in read_tsv(setup[name])] for name in ("train", "test")
    )
    columns = ("sentence1", "sentence2")

    def work(request):
        keras.utils.set_random_seed(request["seed"])
        towers = embedder(setup, "float32")
        numbers = [number for order in request["orders"] or () for number in order] or range(len(train))
        rows = [train[number] for number in numbers]
        batches = tx.data.batches(
            tx.data.pairs(rows, columns, target="score"),
            towers.preprocessor,
            setup["batch_size"],
            columns="separate",
            shuffle=request["orders"] is None,
            bucket=request["orders"] is None,
            seed=request["seed"],
        )
        epochs = setup["epochs"] if request["orders"] is None else 1
        steps = epochs * int(batches.cardinality())
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, decay_steps=steps - steps // 10, warmup_target=LEARNING_RATE, warmup_steps=steps // 10
        )
        model = tx.models.Siamese(towers)
        model.compile(tx.optimizers.AdamW(rate, weight_decay=0.01), loss=tx.losses.CoSENTLoss())
        start = time.perf_counter()
        model.fit(batches, epochs=epochs, verbose=0)
        seconds = time.perf_counter() - start
        scores = tx.evaluation.similarity(towers, tx.data.pairs(test, columns, target="score"), progress=False)
        return {"rows": len(rows), "seconds": round(seconds, 1), "spearman": round(scores["spearman"], 4)}

    requests.send(versions=versions())
    requests.serve(work)


def large_batch(setup, requests):
    """Answers a request for one step of in-batch softmax, in one pass or in chunks."""
    towers = embedder(setup, "float32")
    model = tx.models.Siamese(towers, chunk_size=setup["chunk"])
    model.compile(tx.optimizers.AdamW(LEARNING_RATE), loss=tx.losses.MultipleNegativesRankingLoss())
    rows = shuffled_rows(read_tsv(setup["train"]), 1, 0)
    columns = tuple([row[name] for row in rows] for name in ("anchor", "positive"))

    def step(count):
        x = model.preprocess_samples(tuple(column[:count] for column in columns))
        model.train_on_batch(x, np.zeros(count, "float32"))

    before = peak_mib()
    step(64)

    def work(request):
        start = time.perf_counter()
        step(setup["batch_size"])
        seconds = time.perf_counter() - start
        return {"rows": setup["batch_size"], "seconds": round(seconds, 2), "peak_mib": round(peak_mib() - before)}

    requests.send(versions=versions())
    requests.serve(work)


def versions():
    """Returns the versions that affect the figures."""
    names = ("tensorflow", "keras", "keras-hub", "tensorflow-text", "numpy")
    return {**{name: importlib.metadata.version(name) for name in names}, "tfxfer": tx.__version__}


def main():
    """Serves one workload."""
    requests = Requests()
    setup = requests.setup()
    {"encode": encoder, "train": trainer, "quality": quality, "large_batch": large_batch}[setup["workload"]](
        setup, requests
    )


if __name__ == "__main__":
    main()
