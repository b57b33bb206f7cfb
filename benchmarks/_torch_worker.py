"""The PyTorch side: sentence-transformers as its users run it. Started by the benchmarks, in their own environment."""

import contextlib
import importlib.metadata
import itertools
import math
import random
import time

import numpy as np
import torch
from scipy.stats import spearmanr
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.cross_encoder.losses import LambdaLoss
from sentence_transformers.sentence_transformer import losses

from benchmarks._harness import Requests, peak_mib, read_tsv, shuffled_rows

LEARNING_RATE = 2e-5
TRIPLET = ("anchor", "positive", "negative")


def load(setup):
    """Returns the model, with the other side's sequence length; for a reranker, a cross-encoder with one output."""
    if setup.get("task") == "rerank":
        return CrossEncoder(setup["weights"], num_labels=1, max_length=setup["sequence_length"], device="cpu")
    model = SentenceTransformer(setup["weights"], device="cpu")
    model.max_seq_length = setup["sequence_length"]
    return model


def precision(name):
    """Returns a context for one step or call: autocast to bfloat16, or nothing."""
    if name == "autocast":
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def encoder(setup):
    """Answers requests to encode texts in one of three precisions."""
    models = {"float32": load(setup)}
    models["autocast"] = models["float32"]
    models["bfloat16"] = load(setup).bfloat16()

    def work(request):
        name = request["variant"]
        with precision(name), torch.inference_mode():
            embeddings = models[name].encode(
                request["texts"],
                batch_size=request.get("batch_size", setup["batch_size"]),
                show_progress_bar=False,
                convert_to_tensor=True,
            )
        if "save" in request:
            np.save(request["save"], embeddings.float().numpy())
        return {"rows": len(request["texts"])}

    return work


def shuffled_batches(rows, batch_size):
    """Yields endless epochs of batches in random order, like a `DataLoader` with a random sampler."""
    order = random.Random(0)
    while True:
        epoch = list(rows)
        order.shuffle(epoch)
        for start in range(0, len(epoch), batch_size):
            yield epoch[start : start + batch_size]


class Counter:
    """Counts the tokens that the model computes, and those of them that are not padding."""

    def __init__(self, model):
        self.model, self.computed, self.real = model, 0, 0

    def preprocess(self, texts):
        """`model.preprocess`, counted."""
        features = self.model.preprocess(texts)
        self.computed += features["attention_mask"].numel()
        self.real += int(features["attention_mask"].sum())
        return features


def classifier_steps(setup, model, counter):
    """A linear head on the pooled output; each batch padded to its longest row."""
    rows = shuffled_rows(read_tsv(setup["train"]), setup["batch_size"], 0)
    names = sorted({row["label"] for row in rows})
    ids = {name: index for index, name in enumerate(names)}
    head = torch.nn.Linear(model.get_embedding_dimension(), len(names))
    dropout = torch.nn.Dropout(0.1)
    transformer, pooling = model[0], model[1]

    def losses_of():
        for batch in shuffled_batches(rows, setup["batch_size"]):
            with precision(setup["dtype"]):
                features = counter.preprocess([row["text"] for row in batch])
                pooled = pooling(transformer(features))["sentence_embedding"]
                labels = torch.tensor([ids[row["label"]] for row in batch])
                loss = torch.nn.functional.cross_entropy(head(dropout(pooled)), labels)
            yield loss, len(batch)

    return losses_of(), [*model.parameters(), *head.parameters()]


def pair_steps(setup, model, counter):
    """CoSENT on scored pairs; each column padded to its longest row."""
    rows = shuffled_rows(read_tsv(setup["train"]), setup["batch_size"], 0)
    objective = losses.CoSENTLoss(model)

    def losses_of():
        for batch in shuffled_batches(rows, setup["batch_size"]):
            with precision(setup["dtype"]):
                columns = [counter.preprocess([row[name] for row in batch]) for name in ("sentence1", "sentence2")]
                loss = objective(columns, torch.tensor([float(row["score"]) / 5 for row in batch]))
            yield loss, len(batch)

    return losses_of(), list(model.parameters())


def triplet_steps(setup, model, counter):
    """In-batch softmax on triplets, each with its hard negative; each column padded to its longest row."""
    rows = shuffled_rows(read_tsv(setup["train"]), setup["batch_size"], 0)
    objective = losses.MultipleNegativesRankingLoss(model)

    def losses_of():
        for batch in shuffled_batches(rows, setup["batch_size"]):
            with precision(setup["dtype"]):
                columns = [counter.preprocess([row[name] for row in batch]) for name in TRIPLET]
                loss = objective(columns, None)
            yield loss, len(batch)

    return losses_of(), list(model.parameters())


def equal_steps(setup, model, counter):
    """In-batch softmax on a single batch of pairs, tokenized before the clock starts."""
    columns = [counter.preprocess(column) for column in setup["columns"]]
    lengths = {tuple(features["input_ids"].shape) for features in columns}
    if lengths != {(len(setup["columns"][0]), setup["length"])}:
        raise ValueError(f"the texts have the shapes {lengths}")
    objective = losses.MultipleNegativesRankingLoss(model)

    def losses_of():
        for _ in itertools.count():
            with precision(setup["dtype"]):
                loss = objective([dict(features) for features in columns], None)
            yield loss, len(setup["columns"][0])

    return losses_of(), list(model.parameters())


def rerank_steps(setup, model, counter):
    """LambdaLoss on a single batch of lists, which its class tokenizes in each step."""
    rows = setup["rows"]
    inputs = [[row["query"] for row in rows], [row["documents"] for row in rows]]
    labels = [torch.tensor(row["grades"], dtype=torch.float32) for row in rows]
    features = counter.preprocess([(row["query"], document) for row in rows for document in row["documents"]])
    if tuple(features["input_ids"].shape) != (setup["batch_size"], setup["length"]):
        raise ValueError(f"the pairs have the shape {features['input_ids'].shape}")
    objective = LambdaLoss(model, mini_batch_size=-1)

    def losses_of():
        for _ in itertools.count():
            with precision(setup["dtype"]):
                loss = objective(inputs, labels)
            yield loss, setup["batch_size"]

    return losses_of(), list(model.parameters())


def freeze(model, below):
    """Freezes the embeddings and the blocks below a number; the model has a pooler, which is unused here."""
    encoder = model[0].auto_model
    for part in (encoder.embeddings, *encoder.encoder.layer[:below]):
        part.requires_grad_(False)


def trainer(setup):
    """Answers requests for a number of training steps."""
    torch.manual_seed(0)
    model = load(setup)
    model.train()
    makers = {"classifier": classifier_steps, "pairs": pair_steps, "triplets": triplet_steps, "equal": equal_steps}
    make = {**makers, "rerank": rerank_steps}[setup["task"]]
    counter = Counter(model)
    steps, parameters = make(setup, model, counter)
    if setup.get("frozen") is not None:
        freeze(model, setup["frozen"])
    optimizer = torch.optim.AdamW([each for each in parameters if each.requires_grad], lr=LEARNING_RATE)

    def work(request):
        rows = 0
        total = 0.0
        for _ in range(request["batches"]):
            loss, count = next(steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            rows += count
        seen = round(counter.computed / counter.real, 2)
        return {"rows": rows, "loss": total / request["batches"], "places_per_real": seen}

    work({"batches": setup["warmup"]})
    return work


def quality(setup):
    """Answers requests to train from scratch with CoSENT in a given order, and to score the test rows."""
    train, test = read_tsv(setup["train"]), read_tsv(setup["test"])
    columns = ("sentence1", "sentence2")

    def work(request):
        torch.manual_seed(request["seed"])
        model = load(setup)
        model.train()
        objective = losses.CoSENTLoss(model)
        # Keras's epsilon.
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, eps=1e-7)
        size = setup["batch_size"]
        batches = [order[start : start + size] for order in request["orders"] for start in range(0, len(order), size)]
        warmup = len(batches) // 10
        start = time.perf_counter()
        for step, numbers in enumerate(batches):
            share = min(step / warmup, 0.5 + 0.5 * math.cos(math.pi * max(step - warmup, 0) / (len(batches) - warmup)))
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * share
            rows = [train[number] for number in numbers]
            features = [model.preprocess([row[name] for row in rows]) for name in columns]
            loss = objective(features, torch.tensor([float(row["score"]) / 5 for row in rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seconds = time.perf_counter() - start
        model.eval()
        first, second = (model.encode([row[name] for row in test], show_progress_bar=False) for name in columns)
        scores = spearmanr((first * second).sum(axis=1), [float(row["score"]) for row in test])
        return {"rows": len(train), "seconds": round(seconds, 1), "spearman": round(float(scores[0]), 4)}

    return work


def large_batch(setup):
    """Answers a request for one step of sentence-transformers' cached in-batch softmax."""
    model = load(setup)
    model.train()
    objective = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=setup["chunk"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    rows = shuffled_rows(read_tsv(setup["train"]), 1, 0)

    def step(batch):
        columns = [model.preprocess([row[name] for row in batch]) for name in ("anchor", "positive")]
        loss = objective(columns, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    before = peak_mib()
    step(rows[:64])

    def work(request):
        start = time.perf_counter()
        step(rows[: setup["batch_size"]])
        seconds = time.perf_counter() - start
        return {"rows": setup["batch_size"], "seconds": round(seconds, 2), "peak_mib": round(peak_mib() - before)}

    return work


def main():
    """Serves one workload."""
    requests = Requests()
    setup = requests.setup()
    torch.set_num_threads(setup["threads"])
    work = {"encode": encoder, "train": trainer, "quality": quality, "large_batch": large_batch}[setup["workload"]](
        setup
    )
    versions = {name: importlib.metadata.version(name) for name in ("torch", "sentence-transformers", "transformers")}
    requests.send(versions=versions)
    requests.serve(work)


if __name__ == "__main__":
    main()
