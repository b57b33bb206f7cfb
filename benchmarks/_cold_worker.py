"""A cold-starting process: times the first run of each step. Run once per figure, in either environment."""

import importlib.metadata
import time

from benchmarks._harness import Requests

# Seconds of each step by name, as (wall time, CPU time).
LAPS = {}


class Lap:
    """Context that times its block."""

    def __init__(self, name):
        self._name = name

    def __enter__(self):
        self._start = time.perf_counter(), time.process_time()

    def __exit__(self, *_):
        LAPS[self._name] = [time.perf_counter() - self._start[0], time.process_time() - self._start[1]]


def keras_side(setup):
    """Tfxfer."""
    with Lap("import"):
        import tfxfer as tx
    options = {"sequence_length": 128}
    with Lap("load"):
        embedder = tx.models.TextEmbedder.from_preset(setup["weights"], **options)
    for name in ("first encode", "second encode"):
        with Lap(name):
            embedder.encode(setup["texts"][:1])
    labels = sorted(set(setup["labels"]))
    model = tx.models.TextClassifier.from_preset(setup["weights"], labels=labels, **options)
    model.compile(tx.optimizers.AdamW(2e-5))
    for name in ("first step", "second step"):
        with Lap(name):
            model.fit(setup["texts"], setup["labels"], batch_size=len(setup["texts"]), verbose=0)
    for name in ("first evaluate", "second evaluate"):
        with Lap(name):
            model.evaluate(setup["texts"], setup["labels"], batch_size=len(setup["texts"]), verbose=0)
    return ("tensorflow", "keras", "keras-hub", "tfxfer")


def torch_side(setup):
    """sentence-transformers; for the classifier, a minimal PyTorch loop over its model."""
    with Lap("import"):
        import sentence_transformers
        import torch
    torch.set_num_threads(setup["threads"])
    with Lap("load"):
        model = sentence_transformers.SentenceTransformer(setup["weights"], device="cpu")
    model.max_seq_length = 128
    for name in ("first encode", "second encode"):
        with Lap(name):
            model.encode(setup["texts"][:1], show_progress_bar=False)
    labels = sorted(set(setup["labels"]))
    model = sentence_transformers.SentenceTransformer(setup["weights"], device="cpu")
    model.max_seq_length = 128
    head = torch.nn.Linear(model.get_embedding_dimension(), len(labels))
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=2e-5)
    targets = torch.tensor([labels.index(label) for label in setup["labels"]])
    loss_of = torch.nn.CrossEntropyLoss()

    def loss():
        return loss_of(head(model(model.preprocess(setup["texts"]))["sentence_embedding"]), targets)

    for name in ("first step", "second step"):
        with Lap(name):
            model.train()
            loss().backward()
            optimizer.step()
            optimizer.zero_grad()
    for name in ("first evaluate", "second evaluate"):
        with Lap(name), torch.no_grad():
            model.eval()
            loss()
    return ("torch", "sentence-transformers", "transformers")


def main():
    """Runs one side and reports its times."""
    requests = Requests()
    setup = requests.setup()
    names = {"keras": keras_side, "torch": torch_side}[setup["stack"]](setup)
    requests.send(versions={name: importlib.metadata.version(name) for name in names}, laps=LAPS)


if __name__ == "__main__":
    main()
