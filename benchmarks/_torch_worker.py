"""The PyTorch side: sentence-transformers as its users run it. Started by the benchmarks, in their own environment."""

import contextlib
import importlib.metadata
import itertools
import random

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses

from benchmarks._harness import Requests, read_tsv, shuffled_rows

LEARNING_RATE = 2e-5


def load(setup):
    """The model, cut at the sequence length that the other side uses."""
    model = SentenceTransformer(setup["weights"], device="cpu")
    model.max_seq_length = setup["sequence_length"]
    return model


def precision(name):
    """A context for one step or call: autocast to bfloat16, or nothing."""
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
                request["texts"], batch_size=setup["batch_size"], show_progress_bar=False, convert_to_tensor=True
            )
        if "save" in request:
            np.save(request["save"], embeddings.float().numpy())
        return {"rows": len(request["texts"])}

    return work


def shuffled_batches(rows, batch_size):
    """Endless epochs of batches in random order, as a `DataLoader` with a random sampler gives them."""
    order = random.Random(0)
    while True:
        epoch = list(rows)
        order.shuffle(epoch)
        for start in range(0, len(epoch), batch_size):
            yield epoch[start : start + batch_size]


class Counter:
    """Tokens that the model computes, and those of them that are none of padding."""

    def __init__(self, model):
        self.model, self.computed, self.real = model, 0, 0

    def preprocess(self, texts):
        """`model.preprocess`, counted."""
        features = self.model.preprocess(texts)
        self.computed += features["attention_mask"].numel()
        self.real += int(features["attention_mask"].sum())
        return features


def classifier_steps(setup, model, counter):
    """A linear head on the pooled output; the batch padded to its longest row."""
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


def equal_steps(setup, model, counter):
    """In-batch softmax on one and the same batch of pairs, tokenised before the clock starts."""
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


def trainer(setup):
    """Answers requests for a number of training steps."""
    torch.manual_seed(0)
    model = load(setup)
    model.train()
    make = {"classifier": classifier_steps, "pairs": pair_steps, "equal": equal_steps}[setup["task"]]
    counter = Counter(model)
    steps, parameters = make(setup, model, counter)
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)

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
        return {"rows": rows, "loss": total / request["batches"], "computed_per_real": seen}

    work({"batches": setup["warmup"]})
    return work


def main():
    """Serves one workload."""
    requests = Requests()
    setup = requests.setup()
    torch.set_num_threads(setup["threads"])
    work = {"encode": encoder, "train": trainer}[setup["workload"]](setup)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "sentence-transformers", "transformers")}
    requests.send(versions=versions)
    requests.serve(work)


if __name__ == "__main__":
    main()
