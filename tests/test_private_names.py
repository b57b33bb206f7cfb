"""The private names of Keras and KerasHub that the package uses: each with its reason, and no others."""

import ast
import pathlib

import keras
import keras_hub
import numpy as np

import tfxfer

# Names with a leading underscore that belong to Keras, and why there is no public way. Of KerasHub's there are none.
REASONS = {
    "_compile_metrics": "makes the variables of metrics outside of the step that TensorFlow traces",
    "_initial_epoch": "`fit` looks there for the epoch to go on with, as Keras's own BackupAndRestore does",
    "_symbolic_build": "makes the variables of metrics before their values are restored",
}
OPTIMIZERS = {
    "_accumulated_gradients": "a variable that joins late must not start with what was accumulated for it before",
    "_apply_weight_decay": "Keras offers no hook for the decay of one variable",
    "_backend_apply_gradients": "to refuse an optimizer that makes its steps there",
    "_backend_update_step": "as above",
    "_iterations": "batches, where `iterations` counts the steps of accumulated gradients",
    "_model_variables_moving_average": "Keras's SwapEMAWeights reads it of a wrapper, too",
    "_trainable_variables": "which variables an optimizer was built on",
    "_trainable_variables_indices": "Keras reads it of the wrapper, too",
    "_u_product": "Nadam's product, which all variables share",
    "_use_weight_decay": "Keras's answer to whether a variable decays",
    "_var_key": "the key of a variable in an optimizer, which differs between backends",
}
# Attributes and functions of our own that other classes of Keras happen to have as well.
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


def used():
    """The private names that the package reads, sets or defines, with one place each."""
    found = {}
    for file in sorted(pathlib.Path(tfxfer.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = getattr(node, "attr", None) if isinstance(node, ast.Attribute) else None
            if isinstance(node, ast.FunctionDef):
                name = node.name
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                name = node.value  # by `getattr` or `vars`
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
    assert len(REASONS) + len(OPTIMIZERS) <= 15
