"""Private names of Keras and KerasHub in the package, and of the package in its tests: each has a reason."""

import ast
import io
import pathlib
import re
import tokenize

import keras
import keras_hub
import numpy as np
import pytest

import tfxfer

# Private names of Keras that the package uses, and why no public name will do. It uses no private names of KerasHub.
REASONS = {
    "_maybe_symbolic_build": "Keras takes the mean of the replicas' parts of a batch there, which may differ in size",
    "_compile_metrics": "makes the variables of metrics outside of the step that TensorFlow traces",
    "_initial_epoch": "`fit` looks there for the epoch to go on with, as Keras's own BackupAndRestore does",
    "_symbolic_build": "makes the variables of metrics before their values are restored",
}
OPTIMIZERS = {
    "_accumulated_gradients": "a variable that joins late must not start with what was accumulated for it before",
    "_apply_weight_decay": "Keras offers no hook for the decay of one variable",
    "_clip_gradients": "Keras's makes the rows of an embedding table's gradient dense",
    "_backend_apply_gradients": "to refuse an optimizer that makes its steps there",
    "_backend_increment_gradient_accumulators": "Keras's makes new arrays, of whole tables for the rows of a batch",
    "_backend_update_step": "as above",
    "_iterations": "batches, where `iterations` counts the steps of accumulated gradients",
    "_model_variables_moving_average": "Keras's SwapEMAWeights reads it of a wrapper, too",
    "_trainable_variables": "which variables an optimizer was built on",
    "_trainable_variables_indices": "Keras reads it of the wrapper, too",
    "_u_product": "Nadam's product, which all variables share",
    "_use_weight_decay": "Keras's answer to whether a variable decays",
    "_var_key": "the key of a variable in an optimizer, which differs between backends",
}
# Our own attributes and functions; classes of Keras happen to use the same names.
OURS = {
    "_dropout": "a function that reads a module",
    "_dtype": "of records in `data` and of hypermodels",
    "_history": "a function of the report",
    "_inputs": "a function in `data`",
    "_metrics": "a function of model cards",
    "_model": "of tokenizers and signatures",
    "_name": "functions",
    "_output_dense": "a method of classifiers",
    "_path": "of `Resume`, and functions",
    "_shape": "a function in `data`",
    "_variables": "a function of exports",
}


# The maximum number of test files that import private names of the package. They test inner parts whose failures would
# be hard to find through public names.
MOST_FILES = 19


def used():
    """The private names that the package reads, sets or defines, with one location for each."""
    found = {}
    for file in sorted(pathlib.Path(tfxfer.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = getattr(node, "attr", None) if isinstance(node, ast.Attribute) else None
            if isinstance(node, ast.FunctionDef):
                name = node.name
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                name = node.value  # for `getattr` or `vars`
            if name and name.startswith("_") and not name.startswith("__"):
                found.setdefault(name, f"{file.name}:{node.lineno}")
    return found


def private_names_of_keras():
    """The private names that objects and classes of Keras and KerasHub have."""
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    model.compile("adam", "mse")
    model.fit(np.zeros((2, 2)), np.zeros((2, 2)), verbose=0)
    sizes = {"vocabulary_size": 5, "num_layers": 1, "num_heads": 1, "hidden_dim": 2, "intermediate_dim": 2}
    backbones = (keras_hub.models.BertBackbone(**sizes), keras_hub.models.DebertaV3Backbone(**sizes))
    averaging = keras.optimizers.AdamW(use_ema=True, gradient_accumulation_steps=2)
    averaging.build(model.trainable_variables)
    nadam = keras.optimizers.Nadam()
    nadam.build(model.trainable_variables)
    things = [
        model,
        model.optimizer,
        *model.layers,
        keras.Variable(1.0),
        keras.callbacks.CallbackList(model=model),
        keras.callbacks.EarlyStopping(),
        keras.losses.MeanSquaredError(),
        keras.metrics.Mean(),
        keras.layers.Dropout(0.1),
        keras.layers.Embedding(2, 2),
        keras.layers.LayerNormalization(),
        averaging,
        nadam,
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
        keras.optimizers.schedules.CosineDecay(0.1, 10),
        keras_hub.models.Preprocessor,
        keras_hub.models.Task,
        keras_hub.tokenizers.Tokenizer,
        *(layer for backbone in backbones for layer in (backbone, *backbone.layers)),
    ]
    inner = [value for thing in things for value in vars(thing).values() if isinstance(value, keras.layers.Layer)]
    names = {name for thing in (*things, *inner) for name in dir(thing)}
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def test_private_names_of_keras_have_a_reason_each_and_are_few():
    names = used()
    shared = {name: names[name] for name in sorted(private_names_of_keras() & set(names))}
    listed = {*REASONS, *OPTIMIZERS, *OURS}
    assert not {name: place for name, place in shared.items() if name not in listed}
    assert not sorted(listed - set(shared)), "no longer used: take it off the list"
    assert len(REASONS) + len(OPTIMIZERS) <= 17


# === In tests ===


def is_private(name):
    """Whether a part of a dotted name begins with an underscore, except for names such as `__init__`."""
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def imported(tree):
    """Returns the imports of the package: each node, with a dict of variable to dotted name."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        else:
            continue
        names = {variable: name for variable, name in names.items() if name.split(".")[0] == "tfxfer"}
        if names:
            found.append((node, names))
    return found


def dotted(node):
    """The dotted name of a variable or of an attribute of one; `None` for anything else."""
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return base and f"{base}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else None


def reached(tree):
    """Yields (node, name) where a file imports a private name of the package, or reaches one through an import."""
    variables = {}
    for node, names in imported(tree):
        variables |= {variable.split(".")[0]: name for variable, name in names.items() if not is_private(name)}
        yield from ((node, name) for name in names.values() if is_private(name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = dotted(node) or ""
            if name.split(".")[0] in variables and is_private(node.attr):
                yield node, name
        elif isinstance(node, ast.Call):  # `setattr` and the like
            for thing, name in zip(node.args, node.args[1:], strict=False):
                of_ours = (dotted(thing) or "").split(".")[0] in variables
                if of_ours and isinstance(name, ast.Constant) and is_private(str(name.value)):
                    yield node, f"{dotted(thing)}.{name.value}"
        for text in strings(node):
            if re.fullmatch(r"tfxfer(\.\w+)*\._\w*(\.\w+)*", text):
                yield node, text


def strings(node):
    """The strings among a call's arguments or in a subscript, including the parts of f-strings."""
    given = node.args if isinstance(node, ast.Call) else [node.slice] if isinstance(node, ast.Subscript) else []
    parts = [part for each in given for part in (each.values if isinstance(each, ast.JoinedStr) else [each])]
    return [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def private_names(source):
    """The private names of the package in a file, and those without a comment on their lines or right above."""
    found = sorted({(node.lineno, node.end_lineno, name) for node, name in reached(ast.parse(source))})
    if not found:
        return [], []
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    texts = {token.start[0]: token.string.strip("# ") for token in tokens if token.type == tokenize.COMMENT}
    comments = {line for line, text in texts.items() if not text.startswith(("noqa", "type:"))}
    bare = [name for first, last, name in found if not comments & set(range(first - 1, last + 1))]
    return [name for _, _, name in found], bare


def test_tests_import_private_names_of_the_package_for_a_reason_and_in_few_files():
    files = sorted(pathlib.Path(__file__).parent.glob("*.py"))
    found = {file.name: private_names(file.read_text(encoding="utf-8")) for file in files}
    assert not {name: bare for name, (_, bare) in found.items() if bare}, "no comment that says why"
    reaching = [name for name, (names, _) in found.items() if names]
    assert len(reaching) <= MOST_FILES, f"test public names instead: {reaching}"


@pytest.mark.parametrize(
    ("before", "line", "name"),
    [
        ("", "from tfxfer import _ops", "tfxfer._ops"),
        ("", "from tfxfer._ops import unit_norm", "tfxfer._ops.unit_norm"),
        ("def f():\n", "    from tfxfer.data._columns import Column", "tfxfer.data._columns.Column"),
        ("", "import tfxfer._ops", "tfxfer._ops"),
        ("", "import tfxfer.data._mix as mix", "tfxfer.data._mix"),
        ("import tfxfer as tx\n", "tx.data._mix", "tx.data._mix"),
        ("import tfxfer.data\n", "tfxfer.data._mix.turns", "tfxfer.data._mix"),
        ("from tfxfer import data\n", "print(data._mix)", "data._mix"),
        ("from tfxfer.freezing import AboveFrozen\n", "patch(AboveFrozen, '_computed', 1)", "AboveFrozen._computed"),
        ("", "patch('tfxfer.data._mix.turns', 1)", "tfxfer.data._mix.turns"),
        ("", "patch(sys.modules[f'tfxfer.export._{name}'], 1)", "tfxfer.export._"),
    ],
)
def test_the_walk_sees_private_names_and_the_comments_beside_them(before, line, name):
    for source in (f"{before}{line}", f"# why\n\n{before}{line}", f"{before}{line}  # noqa: E402"):
        assert private_names(source) == ([name], [name])
    for source in (f"{before}{line}  # why", f"{before}# why\n{line}"):
        assert private_names(source) == ([name], [])


@pytest.mark.parametrize(
    "source",
    [
        "import tfxfer as tx\ntx.data.mix\ntx.__version__\nself._x",
        "from keras import _x\nimport keras\nkeras._x",
        "import tfxfer\n'tfxfer is _private'",
        "from tiny import _x",
    ],
)
def test_the_walk_passes_over_other_names(source):
    assert private_names(source) == ([], [])
