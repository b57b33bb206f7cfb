"""SetFit's own library on the rows of `few_shot.py`, in an environment of its own. Started by `few_shot.py`.

Its defaults but for what the paper and the other side have: 20 pairs of each kind for each text, one epoch in batches
of 16 at 2e-5, texts of at most 64 tokens, and scikit-learn's logistic regression on top.
"""

import importlib.metadata
import tempfile
import time

import torch
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments

from benchmarks._harness import Requests

LENGTH = 64


def accuracy(weights, request):
    """Trains on the rows of a request; returns the accuracy on its held-out rows, and the seconds of the training."""
    model = SetFitModel.from_pretrained(weights, device="cpu")
    model.model_body.max_seq_length = LENGTH
    rows = Dataset.from_dict({name: [row[name] for row in request["train"]] for name in ("text", "label")})
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            batch_size=16,
            num_epochs=1,
            num_iterations=request["pairs"],
            body_learning_rate=2e-5,
            seed=request["draw"],
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            show_progress_bar=False,
        )
        start = time.perf_counter()
        Trainer(model=model, args=settings, train_dataset=rows).train()
        seconds = time.perf_counter() - start
    found = model.predict([row["text"] for row in request["test"]], batch_size=32, show_progress_bar=False)
    right = sum(str(name) == row["label"] for name, row in zip(found, request["test"], strict=True))
    return {"rows": len(rows), "accuracy": right / len(request["test"]), "seconds": seconds}


def main():
    """Answers requests for one draw each."""
    requests = Requests()
    setup = requests.setup()
    torch.set_num_threads(setup["threads"])
    requests.send(versions={n: importlib.metadata.version(n) for n in ("setfit", "sentence-transformers", "torch")})
    requests.serve(lambda request: accuracy(setup["weights"], request))


if __name__ == "__main__":
    main()
