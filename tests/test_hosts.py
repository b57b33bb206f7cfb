"""Training over several devices and processes on Keras's JAX backend equals one process on the whole batches.

The functions below run in separate processes: on one machine here, on several hosts in practice.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import test_contracts
import test_devices
import tiny

import tfxfer as tx

TEXTS = tiny.TEXTS * 2
PAIRS = (TEXTS, (tiny.TEXTS[1:] + tiny.TEXTS[:1]) * 2)


def siamese(folder):
    keras.utils.set_random_seed(1)
    model = test_devices.siamese(folder)
    model.compile(keras.optimizers.Adam(1e-2, epsilon=1e-2), loss=tx.losses.MultipleNegativesRankingLoss())
    return model


def train(folder, name, kills=(), own=None):
    """Trains, optionally with interruptions; returns the model and its history. `own` gets the tokenizer's files."""
    for kill in [*kills, None]:
        model = siamese(own or folder)
        batches = tx.data.batches((PAIRS, np.zeros(16)), model, 4, seed=3, drop_remainder=True)
        callbacks = [
            tx.callbacks.EvaluateSimilarity(PAIRS, np.arange(16.0), keep_best=False),
            tx.callbacks.Resume(folder / name, every=1),
        ]
        callbacks += [] if kill is None else [test_devices.Kill(kill)]
        try:
            history = model.fit(batches, epochs=2, verbose=0, callbacks=callbacks).history
        except KeyboardInterrupt:
            continue
        assert batches.epoch == 2
    return model, history


def save(path, model, history):
    vectors = model.embedder.encode(TEXTS)
    np.savez(path, *[np.asarray(keras.ops.convert_to_numpy(each)) for each in model.weights], vectors)
    path.with_suffix(".json").write_text(json.dumps(history))


def on_one(folder):
    """The reference for every other way of training."""
    save(folder / "one.npz", *train(folder, "resume_one"))
    model, above = above_frozen(folder)
    above.fit(PAIRS, np.zeros(16), batch_size=4, seed=3, epochs=1, verbose=0)
    save(folder / "one_above.npz", model, {})
    save(folder / "one_rows.npz", on_own_rows(folder, range(16), 4), {})


def on_own_rows(folder, numbers, batch_size):
    """Trains on some rows without shuffling; all batches have one length."""
    keras.utils.set_random_seed(1)
    preprocessor = tiny.preprocessor(folder, pad_to_multiple_of=16)
    model = tx.models.Siamese(tx.models.TextEmbedder(test_devices.encoder(), preprocessor))
    model.compile(keras.optimizers.SGD(0.1), loss=tx.losses.MultipleNegativesRankingLoss())
    rows = tuple([column[i] for i in numbers] for column in PAIRS)
    batches = tx.data.batches((rows, np.zeros(len(numbers))), model, batch_size, shuffle=False, bucket=False)
    model.fit(tx.data.as_part(batches), epochs=1, verbose=0)
    return model


def above_frozen(own, /, **kwargs):
    keras.utils.set_random_seed(1)
    encoder = test_devices.encoder(num_layers=2)
    model = tx.models.Siamese(tx.models.TextEmbedder(encoder, tiny.preprocessor(own)))
    model.set_trainable({"embeddings": False, "block_0": False})
    model.compile(keras.optimizers.SGD(0.1), loss=tx.losses.MultipleNegativesRankingLoss())
    return model, tx.freezing.AboveFrozen(model, **kwargs)


def in_a_process_of_two(folder, number):
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    own = folder / f"process_{number}"
    own.mkdir()

    # Killed within an epoch and resumed; both processes share one checkpoint, which the first one writes.
    save(folder / f"two_{number}.npz", *train(folder, "resume_two", kills=[6], own=own))

    model = siamese(own)
    batches = tx.data.batches((PAIRS, np.zeros(16)), model, 4, seed=3, drop_remainder=True)
    writers = [
        keras.callbacks.ModelCheckpoint(folder / f"weights_{number}.weights.h5", save_weights_only=True),
        keras.callbacks.CSVLogger(folder / f"log_{number}.csv"),
    ]
    model.fit(batches, epochs=1, verbose=0, callbacks=writers)

    frozen, above = above_frozen(own, folder=folder / "features")
    above.fit(PAIRS, np.zeros(16), batch_size=4, seed=3, epochs=1, verbose=0)
    save(folder / f"two_above_{number}.npz", frozen, {})

    # Each process reads its own rows: two of every four.
    mine = [i for i in range(16) if i % 4 // 2 == number]
    save(folder / f"two_rows_{number}.npz", on_own_rows(own, mine, 2), {})
    with pytest.raises(ValueError, match=r"`dataset`.*one padded length.*pad_to_multiple_of=16"):
        tx.data.as_part(batches)

    # Both processes raise errors for what would make them diverge or fail later.
    short = tx.data.batches(((PAIRS[0][:15], PAIRS[1][:15]), np.zeros(15)), model, 4, seed=3)
    with pytest.raises(ValueError, match=r"`x`.*multiple of 2 rows.*drop_remainder=True"):
        model.fit(short)
    other = tx.data.batches((PAIRS, np.zeros(16)), model, 4, seed=number, drop_remainder=True)
    with pytest.raises(ValueError, match=r"`x`.*the same in all processes.*'seed'"):
        model.fit(other)
    # Only the first process sees its checkpoint here; the other one would start over.
    apart = [tx.callbacks.Resume(folder / f"apart_{number}")]
    model.fit(batches, epochs=1, verbose=0, callbacks=apart)
    with pytest.raises(ValueError, match=r"`folder`.*all processes see"):
        model.fit(batches, epochs=2, verbose=0, callbacks=apart)
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    with pytest.raises(ValueError, match=r"`distribution`.*auto_shard_dataset=False"):
        siamese(own).fit(batches)


def on_two_devices_of_one_process(folder):
    """Data parallelism, and model parallelism that splits the weights of large layers over the devices."""
    save(folder / "data.npz", *parallel(folder, keras.distribution.DataParallel()))
    mesh = keras.distribution.DeviceMesh((1, 2), ("batch", "model"), keras.distribution.list_devices())
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*(query|key|value)/kernel"] = (None, "model")
    layout[".*intermediate.*kernel"] = (None, "model")
    layout[".*token_embedding.*"] = ("model", None)
    save(folder / "model.npz", *parallel(folder, keras.distribution.ModelParallel(layout_map=layout)))


def parallel(folder, distribution):
    keras.distribution.set_distribution(distribution)
    if isinstance(distribution, keras.distribution.DataParallel):
        return train(folder, "resume_data")
    model, history = train(folder, "resume_model")
    parts = {weight.path: {str(shard.index) for shard in weight.value.addressable_shards} for weight in model.weights}
    cut = [path for path, found in parts.items() if len(found) > 1]
    assert len(cut) > 3, list(parts)
    return model, history


def process(function, folder, *arguments, devices=1, start=""):
    program = f"""
import keras, pathlib, tfxfer
{start}
import test_hosts
test_hosts.{function.__name__}(pathlib.Path({str(folder)!r}), *{arguments!r})
"""
    folders = [str(pathlib.Path(tiny.__file__).parent), str(pathlib.Path(tx.__file__).parent.parent)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(folders),
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
    }
    return subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE, text=True)


def finish(*processes):
    said = [each.communicate(timeout=1200)[1] for each in processes]
    for each, text in zip(processes, said, strict=True):
        assert each.returncode == 0, text[-3000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("hosts")
    finish(process(on_one, made))
    return made


def assert_same(folder, name, other, tolerance=1e-5):
    with np.load(folder / f"{name}.npz") as one, np.load(folder / f"{other}.npz") as two:
        assert one.files == two.files
        for key in one.files:
            np.testing.assert_allclose(two[key], one[key], rtol=tolerance, atol=tolerance)
    found = [json.loads((folder / f"{each}.json").read_text()) for each in (name, other)]
    for key, values in found[0].items():
        np.testing.assert_allclose(found[1][key], values, rtol=1e-4, atol=1e-4, err_msg=key)


@pytest.mark.slow  # starts processes that compile on JAX
def test_two_processes_train_the_weights_of_one_and_the_first_one_writes(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    starts = [f"keras.distribution.initialize({address!r}, 2, {number})" for number in range(2)]
    finish(*(process(in_a_process_of_two, folder, number, start=start) for number, start in enumerate(starts)))
    for number in range(2):
        assert_same(folder, "one", f"two_{number}")
        assert_same(folder, "one_above", f"two_above_{number}")
        assert_same(folder, "one_rows", f"two_rows_{number}")
    assert (folder / "weights_0.weights.h5").exists() and (folder / "log_0.csv").exists()
    assert not (folder / "weights_1.weights.h5").exists() and not (folder / "log_1.csv").exists()
    assert len(list((folder / "features").glob("*.bin"))) == 1


@pytest.mark.slow  # starts a process that compiles on JAX
def test_two_devices_train_the_weights_of_one(folder):
    finish(process(on_two_devices_of_one_process, folder, devices=2))
    assert_same(folder, "one", "data")
    assert_same(folder, "one", "model")


@pytest.mark.slow  # starts a process
def test_what_cannot_be_shared_by_two_devices_is_refused(tmp_path):
    test_contracts.run_afresh(f"""
        import os, pathlib
        os.environ.update(KERAS_BACKEND="jax")
        os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=2"
        import keras, numpy as np, pytest, test_hosts, tfxfer as tx
        keras.distribution.set_distribution(keras.distribution.DataParallel())
        model = test_hosts.siamese(pathlib.Path({str(tmp_path)!r}))
        short = (tuple(texts[:15] for texts in test_hosts.PAIRS), np.zeros(15))
        with pytest.raises(ValueError, match=r"`x`.*multiple of 2 rows.*drop_remainder"):
            model.fit(*short, batch_size=4)
        with pytest.raises(ValueError, match=r"`validation_data.*multiple of 2 rows"):
            model.fit(test_hosts.PAIRS, np.zeros(16), batch_size=4, validation_data=short)
    """)
