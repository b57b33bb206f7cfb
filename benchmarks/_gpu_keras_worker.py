"""tfxfer's side of `gpu.py`, on Keras's JAX backend. Started by it; uses a GPU if JAX finds one."""

import os

os.environ["KERAS_BACKEND"] = "jax"

from benchmarks import _without_tensorflow

_without_tensorflow.install()

import concurrent.futures
import importlib.metadata
import itertools
import pathlib
import tempfile
import time
import traceback

import jax
import jax.numpy as jnp
import keras
import numpy as np

import tfxfer as tx
from benchmarks import _gpu_rows
from benchmarks._harness import Requests
from tfxfer.backbones._attention import Attention
from tfxfer.backbones._presets import read_backbone  # only the encoder: the tokenizer needs TensorFlow

LEARNING_RATE = 2e-5
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


class Side:
    """Models, compiled functions and rows of one process."""

    def __init__(self, setup):
        self.setup = setup
        self.rows = _gpu_rows.read_rows(setup["rows"])
        self.compilations = 0
        self._embedders, self._models, self._compiled, self._lowered, self._batches = {}, {}, {}, {}, {}

    # === Models ===

    def embedder(self, size, dtype, dropout=True):
        """Returns a new embedder with the weights of a size."""
        backbone = read_backbone(pathlib.Path(self.setup["folders"][size]), dtype=POLICIES.get(dtype, dtype))
        if not dropout:
            config = {**backbone.get_config(), "dropout": 0.0, "attention_dropout": 0.0, "embeddings_dropout": 0.0}
            weights, backbone = backbone.get_weights(), type(backbone).from_config(config)
            backbone.set_weights(weights)
        return tx.models.TextEmbedder(backbone, pooling="mean", normalize=True)

    def _encoder(self, cell):
        """Returns (function, its fixed arguments) for an encoding cell."""
        key = (cell["size"], cell["dtype"])
        if key not in self._embedders:
            model = self.embedder(*key)

            @jax.jit
            def encode(trainable, others, token_ids):
                return model.stateless_call(trainable, others, _inputs(token_ids), training=False)[0]

            values = [
                [each.value for each in group] for group in (model.trainable_variables, model.non_trainable_variables)
            ]
            self._embedders[key] = (encode, values)
        return self._embedders[key]

    def _trained(self, cell):
        """Returns a compiled model for a training cell, and its state; created again if another cell trained before."""
        key = (cell["part"], cell["size"], cell["dtype"], *(cell.get(name) for name in ("chunk", "dropout", "prng")))
        if key not in self._models:
            embedder = self.embedder(cell["size"], cell["dtype"], cell.get("dropout", True))
            if cell["part"] == "pairs":
                model = tx.models.Siamese(embedder, chunk_size=cell.get("chunk"))
                loss = tx.losses.MultipleNegativesRankingLoss()
            else:
                model = tx.models.TextClassifier(embedder.backbone, labels=[str(i) for i in range(_gpu_rows.CLASSES)])
                loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(tx.optimizers.AdamW(LEARNING_RATE, weight_decay=0.01), loss=loss)
            model.optimizer.build(model.trainable_variables)
            model._symbolic_build(data_batch=self.train_batches({**cell, "batch": 2})[0])
            groups = (
                model.trainable_variables,
                model.non_trainable_variables,
                model.optimizer.variables,
                model.metrics_variables,
            )
            # Copies: a step donates the memory of its state to the next one.
            state = tuple([jnp.copy(each.value) for each in group] for group in groups)
            self._models[key] = [model, jax.jit(model.train_step, donate_argnums=0), state]
        return self._models[key]

    # === Batches ===

    def encode_batches(self, cell):
        """Returns all rows as (row indices, int32 array)."""
        key = ("encode", cell["batch"])
        if key not in self._batches:
            self._batches[key] = _gpu_rows.batches(self.rows["ids"], cell["batch"], to_bucket=True)
        return self._batches[key]

    def train_batches(self, cell):
        """Returns some batches for a training cell, in Keras's form: (inputs, targets)."""
        key = (cell["part"], cell["batch"])
        if key not in self._batches:
            made = []
            for ids, labels in _gpu_rows.train_batches(self.rows, *key):
                targets = np.zeros(len(ids), "float32") if labels is None else labels
                made.append((keras.tree.map_structure(np.asarray, _inputs(ids)), targets))
            self._batches[key] = made
        return self._batches[key]

    # === Requests ===

    def prepare(self, cells):
        """Traces every shape of the cells, and compiles them in parallel."""
        start = time.perf_counter()
        lowered = {}
        for cell in cells:
            if cell["part"] == "encode":
                encode, values = self._encoder(cell)
                for shape in {batch.shape for _, batch in self.encode_batches(cell)}:
                    key = (cell["size"], cell["dtype"], "encode", shape)
                    if key not in self._compiled:
                        lowered[key] = encode.lower(*values, jax.ShapeDtypeStruct(shape, "int32"))
            else:
                _, step, state = self._trained(cell)
                key = _key(cell)
                if key not in self._compiled:
                    with jax.default_prng_impl(cell.get("prng", "threefry2x32")):
                        lowered[key] = step.lower(state, self.train_batches(cell)[0])
        traced = time.perf_counter() - start
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            made = dict(zip(lowered, pool.map(lambda each: each.compile(), lowered.values()), strict=True))
        self._compiled.update(made)
        self.compilations += len(made)
        return {
            "traced_seconds": round(traced, 1),
            "seconds": round(time.perf_counter() - start, 1),
            "compilations": len(made),
        }

    def encode(self, cell, passes):
        """Encodes all rows: copies ids to the device and vectors back, in the rows' order."""
        _, values = self._encoder(cell)
        batches = self.encode_batches(cell)
        start = time.perf_counter()
        for _ in range(passes):
            outputs = []
            for _, batch in batches:
                run = self._compiled[(cell["size"], cell["dtype"], "encode", batch.shape)]
                output = run(*values, jax.device_put(batch))
                output.copy_to_host_async()
                outputs.append(output)
            vectors = np.empty((len(self.rows["ids"]), outputs[0].shape[1]), "float32")
            for (rows, _), output in zip(batches, outputs, strict=True):
                vectors[rows] = np.asarray(output)[: len(rows)]
        return vectors, time.perf_counter() - start

    def slice(self, cell, repeats):
        """Runs one slice: passes over the rows, or training steps."""
        if cell["part"] == "encode":
            vectors, seconds = self.encode(cell, repeats)
            return {"rows": len(vectors) * repeats, "seconds": seconds}
        entry = self._trained(cell)
        run, state = self._compiled[_key(cell)], entry[2]
        batches = itertools.cycle(self.train_batches(cell))
        start = time.perf_counter()
        for _ in range(repeats):
            logs, state = run(state, jax.device_put(next(batches)))
        loss = float(logs["loss"])
        jax.block_until_ready(state)
        entry[2] = state
        return {"rows": cell["batch"] * repeats, "seconds": time.perf_counter() - start, "loss": loss}

    def facts(self, cell):
        """Returns what a cell compiled and computes, and whether cuDNN's attention runs at every shape."""
        if cell["part"] == "encode":
            batches = [batch for _, batch in self.encode_batches(cell)]
            shapes = sorted({batch.shape for batch in batches})
            keys = [(cell["size"], cell["dtype"], "encode", shape) for shape in shapes]
            flops = sum(_gpu_rows.forward_flops(cell["size"], batch.size, batch.shape[1]) for batch in batches)
            real, places, rows = (
                (self.rows["ids"] > 0).sum(),
                sum(batch.size for batch in batches),
                len(self.rows["ids"]),
            )
        else:
            x = self.train_batches(cell)[0][0]["token_ids"]
            shapes, keys, rows = [x.shape], [_key(cell)], cell["batch"]
            flops = 3 * _gpu_rows.forward_flops(cell["size"], x.size, x.shape[-1])
            real, places = (x > 0).sum(), x.size
        memory = [self._compiled[key].memory_analysis() for key in keys]
        return {
            "shapes": len(shapes),
            "places_per_real": round(float(places / real), 2),
            "gflop_a_row": round(flops / rows / 1e9, 4),
            "fused_attention": all("fmha" in self._compiled[key].as_text() for key in keys),
            "temporary_mib": round(max(each.temp_size_in_bytes for each in memory) / 2**20),
        }

    def fit(self, cell, steps):
        """Runs the same steps with `fit`, on arrays of ids."""
        model, _, _ = self._trained(cell)
        x, y = self.train_batches(cell)[0]
        x, y = (keras.tree.map_structure(lambda each: np.concatenate([each] * steps), part) for part in (x, y))
        start = time.perf_counter()
        model.fit(x, y, batch_size=cell["batch"], shuffle=False, verbose=0)
        return {"rows": cell["batch"] * steps, "seconds": time.perf_counter() - start}

    def vectors(self, size, dtype, precision, count, save):
        """Saves the vectors of the first rows, with a given precision of matrix products."""
        model = self.embedder(size, dtype)
        ids = self.rows["ids"][:count]
        with jax.default_matmul_precision(precision):
            np.save(save, np.asarray(model.predict_on_batch(_inputs(ids)), "float32"))
        return {}

    def memory(self, cell, steps):
        """Runs steps of one cell, and returns the peak memory of the device."""
        prepared = self.prepare([cell])
        self.slice(cell, 1)
        answer = self.slice(cell, steps)
        # What XLA allocates for one step: the state, which is updated in place, the batch, and all intermediates.
        plan = self._compiled[_key(cell)].memory_analysis()
        peak = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
        peak += plan.temp_size_in_bytes
        stats = jax.devices()[0].memory_stats() or {}
        return {
            **answer,
            "peak_mib": round(peak / 2**20),
            "process_peak_mib": round(stats.get("peak_bytes_in_use", 0) / 2**20),
            "prepare_seconds": prepared["seconds"],
        }

    def profile(self, cell, repeats, save):
        """Returns the kernels of one slice by total time; saves the program that XLA compiled for the cell."""
        largest = max((key for key in self._compiled if _is_of(key, cell)), key=str)
        pathlib.Path(save).write_text(self._compiled[largest].as_text(), encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                answer = self.slice(cell, repeats)
            [file] = pathlib.Path(folder).glob("**/*.xplane.pb")
            profile = jax.profiler.ProfileData.from_file(str(file))
        kernels = {}
        for plane in profile.planes:
            if not plane.name.startswith("/device:"):
                continue
            for line in plane.lines:
                if not line.name.startswith("Stream"):
                    continue
                for event in line.events:
                    stats = {name: str(value) for name, value in event.stats}
                    source = stats.get("tf_op", stats.get("name", ""))
                    name = f"{event.name[:80]} | {stats.get('hlo_op', '')[:60]} | {source[-120:]}"
                    count, nanoseconds = kernels.get(name, (0, 0.0))
                    kernels[name] = (count + 1, nanoseconds + event.duration_ns)
        total = sum(nanoseconds for _, nanoseconds in kernels.values())
        top = sorted(kernels.items(), key=lambda item: -item[1][1])[:25]
        return {
            "seconds": answer["seconds"],
            "device_ms": round(total / 1e6, 3),
            "kernels": [[name, count, round(nanoseconds / 1e6, 3)] for name, (count, nanoseconds) in top],
        }

    def attention(self, shapes, places, repeats):
        """Returns microseconds of `keras.ops.dot_product_attention` by bias form, and whether cuDNN's kernel ran."""
        runs = []
        for batch, length, heads, dim in shapes:
            q, k, v = (jax.random.normal(key, (batch, length, heads, dim), "bfloat16") for key in _keys(3))
            real = jnp.arange(length) < jnp.arange(batch)[:, None] % length + 1
            row = jnp.where(real, 0.0, -3e4).astype("bfloat16")[:, None, None, :]
            forms = {"one row": row, "whole": jnp.broadcast_to(row, (batch, 1, length, length)), "none": None}
            forms["whole, each head"] = jnp.broadcast_to(row, (batch, heads, length, length))
            layer = Attention(heads * dim, heads, dtype="mixed_bfloat16")
            first = [jnp.swapaxes(each, 1, 2) for each in (q, k, v)]  # heads first
            plain = lambda q, k, v, bias, layer=layer: layer._attend(q, k, v, bias, False)  # noqa: E731
            shape = [batch, length, heads, dim]
            for kind, run in (("forward", plain), ("gradients", _gradient(plain))):
                runs.append(
                    ({"shape": shape, "bias": "plain", "kind": kind}, jax.jit(run).lower(*first, row), (*first, row))
                )
            for form, bias in forms.items():
                for kind, function in (("forward", _attend), ("gradients", _gradient(_attend))):
                    facts = {"shape": shape, "bias": form, "kind": kind}
                    runs.append((facts, jax.jit(function).lower(q, k, v, bias), (q, k, v, bias)))
        x = jax.random.normal(_keys(1)[0], (places, 1536), "bfloat16")
        for name, function in {
            "erfc": lambda x: keras.ops.gelu(x, False),
            "erf": _gelu,
            "tanh": keras.ops.gelu,
        }.items():
            for kind, run in (("forward", function), ("gradients", _gradient(function))):
                runs.append(({"gelu": name, "kind": kind}, jax.jit(run).lower(x), (x,)))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            compiled = list(pool.map(lambda run: _tried(run[1].compile), runs))
        for (row, _, arguments), run in zip(runs, compiled, strict=True):
            if isinstance(run, Exception):  # a kernel may reject a shape: that is a finding
                row["error"] = str(run)[:200]
                continue
            jax.block_until_ready(run(*arguments))
            start = time.perf_counter()
            jax.block_until_ready([run(*arguments) for _ in range(repeats)])
            row["us"] = round((time.perf_counter() - start) / repeats * 1e6, 1)
            row["fused"] = "fmha" in run.as_text()
        return {"rows": [row for row, *_ in runs]}

    def ceilings(self, side, megabytes):
        """Returns the rates of a large matrix product and a large copy."""
        a, b = (jax.random.normal(jax.random.key(i), (side, side), "bfloat16") for i in (0, 1))
        c = jnp.ones(megabytes * 2**18, "float32")
        product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
        found = {}
        for name, run, amount in (
            ("tflops", lambda: product(a, b), 2 * side**3 / 1e12),
            ("terabytes", lambda: copy(c), 2 * c.nbytes / 1e12),
        ):
            jax.block_until_ready(run())
            start = time.perf_counter()
            for _ in range(10):
                output = run()
            jax.block_until_ready(output)
            found[f"{name}_a_second"] = round(10 * amount / (time.perf_counter() - start), 3)
        return found

    def forget(self):
        """Drops models and compiled functions."""
        self._embedders, self._models, self._compiled = {}, {}, {}
        return {}

    def work(self, request):
        """Answers one request: the method named by `do`. A failure, such as out of memory, is an answer too."""
        request = dict(request)
        try:
            return getattr(self, request.pop("do"))(**request)
        except Exception as error:
            traceback.print_exc()
            self._models = {}  # a failed step has donated its state
            return {"error": f"{type(error).__name__}: {error}"[:300]}


def _is_of(key, cell):
    """Whether a compiled function belongs to a cell."""
    return key == _key(cell) or (cell["part"] == "encode" and key[:3] == (cell["size"], cell["dtype"], "encode"))


def _keys(count):
    return jax.random.split(jax.random.key(0), count)


def _attend(q, k, v, bias):
    return keras.ops.dot_product_attention(q, k, v, bias=bias)


def _gradient(function):
    """Returns the gradient of the sum of a function's output with respect to its first arguments."""

    def total(arguments, *rest):
        return function(*arguments, *rest).astype("float32").sum()

    return lambda *arguments: jax.grad(total)(arguments[:3], *arguments[3:])


def _gelu(x):
    """The exact GELU with erf; Keras uses JAX's, with erfc."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


def _tried(function):
    """Returns the result of a function, or the exception that it raised."""
    try:
        return function()
    except Exception as error:
        return error


def _inputs(token_ids):
    """Returns the inputs of an encoder for ids with zeros at padding."""
    return {"token_ids": token_ids, "padding_mask": (token_ids > 0).astype("int32"), "segment_ids": token_ids * 0}


def _key(cell):
    return tuple(sorted(cell.items()))


def main():
    """Serves one side."""
    requests = Requests()
    keras.utils.set_random_seed(0)
    side = Side(requests.setup())
    device = jax.devices()[0]
    names = ("jax", "keras", "keras-hub", "numpy")
    requests.send(
        versions={**{name: importlib.metadata.version(name) for name in names}, "tfxfer": tx.__version__},
        device=f"{device.platform}: {device.device_kind}",
    )
    requests.serve(side.work)


if __name__ == "__main__":
    main()
