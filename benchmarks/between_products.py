"""What lies between the matrix products of a training step: TensorFlow's operations and XLA's, part by part.

    python benchmarks/between_products.py

The parts of a block of MiniLM (384 wide, 1,536 between, 12 heads) on `--tokens` real tokens in float32, each forward
and backward, on one thread:

products: the six products of a block and their gradients.
gelu: the exact GELU on (tokens, 1,536).
residual: dropout of a given mask, the residual sum and the layer norm on (tokens, 384); twice in a block.
draws: the random numbers of the two dropouts on (tokens, 384) and the one on attention's weights.

TensorFlow runs the package's own layers. `XLA` compiles a program for each number of tokens, `XLA in pieces` one
program for pieces of `--piece` tokens, whatever their number. The sides take turns in one process; milliseconds are
those of the processor, the median of `--rounds`. Results go to `results/between_products.json`.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import importlib.metadata
import math
import os
import statistics
import time
import types

THREADS = 1
for _name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
    os.environ[_name] = str(THREADS)

import tfxfer  # noqa: F401  sets up TensorFlow

# isort: split
import numpy as np
import tensorflow as tf

from benchmarks import _harness
from tfxfer.backbones import _parts

HIDDEN, INNER, HEADS, RATE = 384, 1536, 12, 0.1
# How often a block has each part.
TIMES = {"products": 1, "gelu": 1, "residual": 2, "draws": 1}


def numbers(*shape):
    """Returns random numbers."""
    return tf.constant(np.random.default_rng(0).normal(size=shape).astype("float32"))


def own_gelu(x):
    """The GELU of the package in training."""
    with _parts.trains(True):
        return _parts.ACTIVATIONS["gelu"](x)


def gelu(x):
    """The exact GELU, for XLA."""
    return 0.5 * x * (1.0 + tf.math.erf(x * math.sqrt(0.5)))


def own_residual():
    """Returns the dropout, residual sum and layer norm of the package."""

    def compute(part, x, gamma, beta, kept):
        norm.gamma, norm.beta = gamma, beta
        return norm(_parts._scaled(part, kept, 1 / (1 - RATE)) + x)

    norm = _parts.norm("layer", HIDDEN, 1e-12, dtype="float32", name="norm")
    return compute


def residual(part, x, gamma, beta, kept):
    """Dropout, residual sum and layer norm, for XLA."""
    x = part * (tf.cast(kept, part.dtype) * (1 / (1 - RATE))) + x
    mean = tf.reduce_mean(x, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), axis=-1, keepdims=True)
    scale = tf.math.rsqrt(variance + 1e-12) * gamma
    return x * scale + (beta - mean * scale)


def products(x, inner, *kernels):
    """The six products of a block with its dense layers; each reads the same numbers."""
    square, wide, back = kernels
    return [*(x @ square for _ in range(4)), x @ wide, inner @ back]


def both(function, count, jit=None):
    """Returns a function that computes `function` and the gradients of its first `count` arguments."""

    @tf.function(jit_compile=jit, autograph=False)
    def run(upstream, *arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments[:count])
            found = function(*arguments)
        return found, tape.gradient(found, arguments[:count], upstream)

    return run


def in_pieces(function, size):
    """Returns a function of tensors `(tokens, ...)` that has XLA compute `size` rows at a time.

    The forward and the backward pass go through the rows separately, as in training.
    """
    forward = tf.function(function, jit_compile=True, autograph=False)

    @tf.function(jit_compile=True, autograph=False)
    def backward(upstream, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            found = function(x)
        return tape.gradient(found, x, upstream)

    def walk(compute, *tensors):
        width = tensors[0].shape[1]
        rows = tf.shape(tensors[0])[0]
        whole = rows // size
        rest = rows - whole * size

        def body(i, found):
            piece = (tf.ensure_shape(x[i * size : (i + 1) * size], (size, width)) for x in tensors)
            return i + 1, found.write(i, compute(*piece))

        found = tf.TensorArray(tf.float32, whole + 1, element_shape=(None, width), infer_shape=False)
        _, found = tf.while_loop(lambda i, _: i < whole, body, (0, found), parallel_iterations=8)

        def last():
            piece = (tf.pad(x[whole * size :], ((0, size - rest), (0, 0))) for x in tensors)
            return compute(*(tf.ensure_shape(x, (size, width)) for x in piece))[:rest]

        return found.write(whole, tf.cond(rest > 0, last, lambda: tf.zeros((0, width)))).concat()

    @tf.function(input_signature=[tf.TensorSpec((None, INNER))] * 2, autograph=False)
    def run(upstream, x):
        return walk(forward, x), [walk(backward, upstream, x)]

    return run


def sides_of(tokens, length, piece):
    """Returns the sides: dict of (part, way) to a function and its arguments."""
    x, inner, up = numbers(tokens, HIDDEN), numbers(tokens, INNER), numbers(tokens, HIDDEN)
    kept = tf.random.stateless_uniform((tokens, HIDDEN), (1, 2)) >= RATE
    kernels = numbers(HIDDEN, HIDDEN), numbers(HIDDEN, INNER), numbers(INNER, HIDDEN)
    upstream = [*[up] * 4, inner, up]
    rows = tokens // length
    seed = tf.constant((1, 2))

    def draw(seed):
        shapes = ((tokens, HIDDEN), (tokens, HIDDEN), (rows, HEADS, length, length))
        return [tf.random.stateless_uniform(shape, seed) >= RATE for shape in shapes]

    scales = numbers(HIDDEN), numbers(HIDDEN)
    return {
        ("products", "TensorFlow"): (both(products, 5), (upstream, x, inner, *kernels)),
        ("gelu", "TensorFlow"): (both(own_gelu, 1), (inner, inner)),
        ("gelu", "XLA"): (both(gelu, 1, jit=True), (inner, inner)),
        ("gelu", "XLA in pieces"): (in_pieces(gelu, piece), (inner, inner)),
        ("residual", "TensorFlow"): (both(own_residual(), 4), (up, x, up, *scales, kept)),
        ("residual", "XLA"): (both(residual, 4, jit=True), (up, x, up, *scales, kept)),
        ("draws", "TensorFlow"): (tf.function(draw, autograph=False), (seed,)),
        ("draws", "XLA"): (tf.function(draw, jit_compile=True, autograph=False), (seed,)),
    }


def check(sides):
    """Raises if XLA's numbers are others."""
    for part in ("gelu", "residual"):
        expected = tf.nest.flatten(sides[part, "TensorFlow"][0](*sides[part, "TensorFlow"][1]))
        for (name, way), (run, arguments) in sides.items():
            if name == part and way != "TensorFlow":
                for a, b in zip(expected, tf.nest.flatten(run(*arguments)), strict=True):
                    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max())


def main():
    """Measures all parts in turn, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1536)
    parser.add_argument("--length", type=int, default=24, help="tokens of a row")
    parser.add_argument("--piece", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    sides = sides_of(arguments.tokens, arguments.length, arguments.piece)
    compiling, seconds, names = {}, {side: [] for side in sides}, list(sides)
    for side, (run, inputs) in sides.items():
        start = time.process_time()
        run(*inputs)
        compiling[side] = time.process_time() - start
    check(sides)
    for turn in range(arguments.rounds):
        for side in names[turn % len(names) :] + names[: turn % len(names)]:
            run, inputs = sides[side]
            start = time.process_time()
            run(*inputs)
            seconds[side].append(time.process_time() - start)
    found = {f"{part}, {way}": 1e3 * statistics.median(seconds[part, way]) for part, way in names}
    for name, value in found.items():
        print(f"{name:26} {value:8.2f} ms")
    block = {part: TIMES[part] * found[f"{part}, TensorFlow"] for part in TIMES}
    total = sum(block.values())
    best = {
        way: total
        - sum(
            block[part] - TIMES[part] * found[f"{part}, {way}"]
            for part in ("gelu", "residual")
            if f"{part}, {way}" in found
        )
        for way in ("XLA", "XLA in pieces")
    }
    for part, value in block.items():
        print(f"{part:10} {value / total:.0%} of {total:.0f} ms")
    for way, value in best.items():
        print(f"a block with {way}: {total / value:.3f} times as fast")
    result = {
        "machine": {**_harness.machine(), "threads": THREADS},
        **{name: getattr(arguments, name) for name in ("tokens", "length", "piece", "rounds")},
        "first_call_seconds": {f"{part}, {way}": round(compiling[part, way], 2) for part, way in names},
        "milliseconds": {name: round(value, 3) for name, value in found.items()},
        "shares": {part: round(value / total, 3) for part, value in block.items()},
        "speedup": {way: round(total / value, 3) for way, value in best.items()},
    }
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}
    _harness.write("between_products", result, [types.SimpleNamespace(versions=versions)])


if __name__ == "__main__":
    main()
