"""The PyTorch side of `gpu.py`: sentence-transformers with SDPA, the same rows, weights and shapes. Started by it."""

import contextlib
import importlib.metadata
import itertools
import time
import traceback

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses

from benchmarks import _gpu_rows
from benchmarks._harness import Requests

LEARNING_RATE = 2e-5


class Side:
    """Models and rows of one process."""

    def __init__(self, setup):
        self.setup = setup
        self.rows = _gpu_rows.read_rows(setup["rows"])
        self.device = "cuda" if torch.cuda.is_available() and not setup["cpu"] else "cpu"
        # JAX's default.
        torch.set_float32_matmul_precision("high")
        self._encoders, self._trained, self._batches = {}, {}, {}

    def load(self, size, dtype="float32", dropout=True):
        """Returns a new model with the weights of a size, in evaluation mode."""
        options = {"attn_implementation": "sdpa", "dtype": getattr(torch, dtype)}
        config = {} if dropout else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return SentenceTransformer(
            self.setup["folders"][size], device=self.device, model_kwargs=options, config_kwargs=config
        ).eval()

    def precision(self, cell):
        """Returns a context for a training step: autocast, or nothing."""
        if cell["dtype"] == "bfloat16":
            return torch.autocast(self.device, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def features(self, ids):
        """Returns the inputs of a model for ids with zeros at padding, on the device."""
        ids = torch.from_numpy(ids).to(self.device, non_blocking=True).long()
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "token_type_ids": torch.zeros_like(ids)}

    def wait(self):
        """Waits until the device has finished all work."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    # === Batches ===

    def encode_batches(self, cell):
        """Returns all rows as (row indices, int32 array), padded to the longest."""
        key = ("encode", cell["batch"])
        if key not in self._batches:
            self._batches[key] = _gpu_rows.batches(self.rows["ids"], cell["batch"], to_bucket=False)
        return self._batches[key]

    def train_batches(self, cell):
        """Returns some batches for a training cell, the same as the other side's."""
        key = (cell["part"], cell["batch"])
        if key not in self._batches:
            self._batches[key] = _gpu_rows.train_batches(self.rows, *key)
        return self._batches[key]

    # === Requests ===

    def prepare(self, cells):
        """Creates the models of the cells and runs each shape once."""
        start = time.perf_counter()
        for cell in cells:
            if cell["part"] == "encode":
                key = (cell["size"], cell["dtype"])
                if key not in self._encoders:
                    self._encoders[key] = self.load(*key)
                self.encode(cell, 1, cell.get("texts", False))
            else:
                self.slice(cell, 1 if not cell.get("compiled") else 3)
        self.wait()
        return {"seconds": round(time.perf_counter() - start, 1)}

    def encode(self, cell, passes, texts):
        """Encodes all rows: copies ids to the device and vectors back, in the rows' order; or texts with `encode`."""
        model = self._encoders[(cell["size"], cell["dtype"])]
        if texts:
            start = time.perf_counter()
            for _ in range(passes):
                vectors = model.encode(self.rows["texts"], batch_size=cell["batch"], show_progress_bar=False)
            return vectors, time.perf_counter() - start
        batches = self.encode_batches(cell)
        order = np.concatenate([rows for rows, _ in batches])
        start = time.perf_counter()
        for _ in range(passes):
            with torch.inference_mode():
                outputs = [model(self.features(batch))["sentence_embedding"] for _, batch in batches]
                found = torch.cat(outputs).float().cpu().numpy()
            vectors = np.empty_like(found)
            vectors[order] = found
        return vectors, time.perf_counter() - start

    def step_of(self, cell):
        """Returns a function that runs one training step on a batch; created again if another cell trained before."""
        key = tuple(cell[name] for name in ("part", "size", "dtype")) + tuple(
            cell.get(name) for name in ("compiled", "dropout", "chunk")
        )
        if key in self._trained:
            return self._trained[key]
        model = self.load(cell["size"], dropout=cell.get("dropout", True))
        model.train()
        if cell.get("compiled"):
            model[0].compile()
        parameters = list(model.parameters())
        if cell["part"] == "pairs":
            objective = losses.MultipleNegativesRankingLoss(model)
            if cell.get("chunk"):
                objective = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=cell["chunk"])

            def loss_of(ids, labels):
                return objective([self.features(np.ascontiguousarray(ids[:, column])) for column in (0, 1)], None)

        else:
            head = torch.nn.Linear(_gpu_rows.SIZES[cell["size"]][0], _gpu_rows.CLASSES).to(self.device)
            drop = torch.nn.Dropout(0.1 if cell.get("dropout", True) else 0.0)
            transformer, pooling = model[0], model[1]
            parameters += list(head.parameters())

            def loss_of(ids, labels):
                pooled = pooling(transformer(self.features(ids)))["sentence_embedding"]
                labels = torch.from_numpy(labels).to(self.device, non_blocking=True).long()
                return torch.nn.functional.cross_entropy(head(drop(pooled)), labels)

        # The fused kernel is PyTorch's fastest.
        optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01, fused=self.device == "cuda")

        def step(batch):
            with self.precision(cell):
                loss = loss_of(*batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        self._trained[key] = step
        return step

    def slice(self, cell, repeats):
        """Runs one slice: passes over the rows, or training steps."""
        if cell["part"] == "encode":
            vectors, seconds = self.encode(cell, repeats, cell.get("texts", False))
            return {"rows": len(vectors) * repeats, "seconds": seconds}
        step = self.step_of(cell)
        batches = itertools.cycle(self.train_batches(cell))
        self.wait()
        start = time.perf_counter()
        for _ in range(repeats):
            loss = step(next(batches))
        loss = loss.item()
        self.wait()
        return {"rows": cell["batch"] * repeats, "seconds": time.perf_counter() - start, "loss": loss}

    def vectors(self, size, dtype, precision, count, save):
        """Saves the vectors of the first rows, with a given precision of matrix products."""
        torch.set_float32_matmul_precision(precision or "high")
        model = self.load(size, dtype)
        with torch.inference_mode():
            np.save(save, model(self.features(self.rows["ids"][:count]))["sentence_embedding"].float().cpu().numpy())
        torch.set_float32_matmul_precision("high")
        return {}

    def memory(self, cell, steps):
        """Runs steps of one cell, and returns the peak memory of the device."""
        self.slice(cell, 1)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        answer = self.slice(cell, steps)
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.device == "cuda" else 0
        return {**answer, "peak_mib": round(peak)}

    def ceilings(self, side, megabytes):
        """Returns the rates of a large matrix product and a large copy."""
        a, b = (torch.randn(side, side, dtype=torch.bfloat16, device=self.device) for _ in "ab")
        c = torch.ones(megabytes * 2**18, device=self.device)
        found = {}
        for name, run, amount in (
            ("tflops", lambda: a @ b, 2 * side**3 / 1e12),
            ("terabytes", lambda: c + 1, 2 * c.nbytes / 1e12),
        ):
            run()
            self.wait()
            start = time.perf_counter()
            for _ in range(10):
                run()
            self.wait()
            found[f"{name}_a_second"] = round(10 * amount / (time.perf_counter() - start), 3)
        return found

    def forget(self):
        """Drops models and the allocator's cache."""
        self._encoders, self._trained = {}, {}
        if self.device == "cuda":
            torch.cuda.empty_cache()
        return {}

    def work(self, request):
        """Answers one request: the method named by `do`. A failure, such as out of memory, is an answer too."""
        request = dict(request)
        try:
            return getattr(self, request.pop("do"))(**request)
        except Exception as error:
            traceback.print_exc()
            failed = f"{type(error).__name__}: {error}"[:300]
        self.forget()
        return {"error": failed}


def main():
    """Serves one side."""
    requests = Requests()
    torch.manual_seed(0)
    side = Side(requests.setup())
    names = ("torch", "sentence-transformers", "transformers")
    device = torch.cuda.get_device_name() if side.device == "cuda" else "processor"
    requests.send(
        versions={name: importlib.metadata.version(name) for name in names}, device=f"{side.device}: {device}"
    )
    requests.serve(side.work)


if __name__ == "__main__":
    main()
