"""Masked language modeling: masking, the head, training on texts only, reading and writing checkpoints."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401 - the ops of the export
import tiny
from keras import ops

import tfxfer as tx
from tfxfer import backbones, data, models
from tfxfer.backbones.families import FAMILIES

MASK = tiny.VOCABULARY.index("[MASK]")
SPECIAL = [tiny.VOCABULARY.index(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]


# === Masking ===


def folded(seed, number):
    """SplitMix64 with Python's ints: the output at index `number` of the sequence of a seed."""
    x = (seed + (number + 1) * 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def drawn(seed, epoch, row, place, stream):
    return folded(folded(folded(folded(seed, epoch), row), stream), place) >> 2


def hidden(ids, seed, epoch, row, rate, mask_share, random_share, whole_words):
    """Masks one row in a loop over its tokens; returns (masked ids, positions, targets)."""
    usual = [i for i in range(len(tiny.VOCABULARY)) if i not in SPECIAL]
    places = [i for i, each in enumerate(ids) if each not in SPECIAL]
    groups, number = {}, 0
    for i in places:
        continues = tiny.VOCABULARY[ids[i]].startswith("##") and i - 1 in places
        number += not continues
        groups[i] = number if whole_words else i
    order = {i: drawn(seed, epoch, row, groups[i], 1) for i in places}
    budget = max(1, int(np.round(np.float32(len(places)) * np.float32(rate))))
    last = sorted(order.values())[budget - 1] if places else -1
    chosen = [i for i in places if order[i] <= last]
    read = list(ids)
    for i in chosen:
        kind = (drawn(seed, epoch, row, i, 2) >> 38) / 2**24
        if kind < mask_share:
            read[i] = MASK
        elif kind < mask_share + random_share:
            read[i] = usual[drawn(seed, epoch, row, i, 3) % len(usual)]
    return read, chosen, [ids[i] for i in chosen]


@pytest.mark.parametrize(
    ("side", "kept", "arguments"),
    [
        ("right", True, (0.15, 0.8, 0.1, False)),
        ("left", True, (0.4, 0.3, 0.6, True)),
        ("right", False, (0.3, 0.5, 0.5, False)),
    ],
)
def test_what_is_hidden_is_a_function_of_seed_epoch_and_row(side, kept, arguments, tmp_path):
    rate, mask_share, random_share, whole_words = arguments
    preprocessor = tiny.preprocessor(tmp_path, padding_side=side)
    options = {"whole_words": whole_words, "mask_share": mask_share, "random_share": random_share}
    column = data.MaskedTextColumn(preprocessor, rate, **options)
    texts = [*tiny.TEXTS, "cards costed the loans", "sents days"]
    plain = preprocessor(texts)
    whole = [
        row[mask == 1].tolist()
        for row, mask in zip(plain["token_ids"].numpy(), plain["padding_mask"].numpy(), strict=True)
    ]
    rows = texts if kept else tf.data.Dataset.from_tensor_slices(texts)
    for size in (3, 20):  # a row's masks do not depend on the rows next to it
        batches = data.batches(rows, {"text": column}, size, seed=7, shuffle=kept)
        for epoch in (0, 1):
            seen = []
            for x, y in batches.rest(epoch):
                x, y = {key: value.numpy() for key, value in x.items()}, y.numpy()
                for i in range(len(y)):
                    real = x["padding_mask"][i] == 1
                    first = int(np.argmax(real))
                    positions = x["mask_positions"][i][x["mask_positions"][i] >= 0] - first
                    read = x["token_ids"][i][real].tolist()
                    before = list(read)
                    for place, token in zip(positions, y[i], strict=False):
                        before[place] = token
                    assert (y[i][len(positions) :] == -1).all() and (y[i][: len(positions)] >= 0).all()
                    row = whole.index(before)
                    expected = hidden(before, 7, epoch, row, rate, mask_share, random_share, whole_words)
                    assert (read, positions.tolist(), y[i][: len(positions)].tolist()) == expected
                    seen.append(row)
            assert sorted(seen) == list(range(len(texts)))


def test_shares_and_counts_are_those_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(tiny.WORDS.split(), size=rng.integers(1, 60))) for _ in range(1000)]
    column = data.MaskedTextColumn(tiny.preprocessor(tmp_path, sequence_length=64))
    found = {"same": 0, "mask": 0, "random": 0}
    epochs = [next(iter(data.batches(texts, {"text": column}, 1000, seed=0, shuffle=False).rest(e))) for e in (0, 1)]
    for x, y in epochs:
        y, positions, ids = y.numpy(), x["mask_positions"].numpy(), x["token_ids"].numpy()
        counts = (y >= 0).sum(axis=1)
        tokens = x["padding_mask"].numpy().sum(axis=1) - 2
        np.testing.assert_array_equal(counts, np.maximum(np.round(tokens * 0.15), 1))
        read = np.take_along_axis(ids, np.maximum(positions, 0), axis=1)[y >= 0]
        found["mask"] += (read == MASK).sum()
        found["same"] += (read == y[y >= 0]).sum()
        found["random"] += ((read != MASK) & (read != y[y >= 0])).sum()
    total = sum(found.values())
    assert total > 8000
    assert found["mask"] / total == pytest.approx(0.8, abs=0.015)
    assert found["random"] / total == pytest.approx(0.1, abs=0.012)
    same = (epochs[0][0]["mask_positions"].numpy()[:, :1] == epochs[1][0]["mask_positions"].numpy()[:, :1]).mean()
    assert same < 0.3


def test_a_column_without_a_rate_finds_the_masks_of_texts(tmp_path):
    preprocessor = tiny.preprocessor(tmp_path)
    preprocessor.tokenizer.special_tokens_in_strings = True
    column = data.MaskedTextColumn(preprocessor, 0.0)
    x = next(iter(data.batches(tiny.MASKED, {"text": column}, 5, shuffle=False, bucket=False)))
    np.testing.assert_array_equal(x["mask_positions"], [[4, -1], [2, 4], [5, -1], [1, -1], [-1, -1]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": 1.0}, "`rate`.*below 1"),
        ({"rate": -0.1}, "`rate`"),
        ({"mask_share": 1.5}, "`mask_share`"),
        ({"mask_share": 0.8, "random_share": 0.3}, "`random_share`.*at most 0.2"),
        ({"whole_words": 1}, "`whole_words`"),
    ],
)
def test_shares_that_cannot_be_are_errors(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        data.MaskedTextColumn(tiny.preprocessor(tmp_path), **arguments)


# === The head ===


def test_logits_are_those_of_the_formula(tmp_path):
    model = tiny.masked(tmp_path)
    x = tiny.inputs(model)
    states = ops.convert_to_numpy(model.backbone({name: x[name] for name in model.backbone.input}))
    dense, norm = model.head.dense, model.head.norm
    table = ops.convert_to_numpy(model.backbone.token_embedding.embeddings)
    weights = [ops.convert_to_numpy(w) for w in (dense.kernel, dense.bias, norm.gamma, norm.beta, model.head.bias)]
    kernel, bias, gamma, beta, last = weights
    found = ops.convert_to_numpy(model(x))
    assert found.shape == (5, 2, len(tiny.VOCABULARY))
    for i, row in enumerate(x["mask_positions"]):
        for j, place in enumerate(row):
            if place < 0:
                continue
            h = states[i, place] @ kernel + bias
            h = ops.convert_to_numpy(keras.activations.gelu(h, approximate=True))  # as in the blocks of this BERT
            h = (h - h.mean()) / np.sqrt(h.var() + 1e-12) * gamma + beta
            np.testing.assert_allclose(found[i, j], table @ h + last, rtol=1e-4, atol=1e-4)


def test_perplexity_is_the_exponential_of_the_mean_over_all_tokens():
    rng = np.random.default_rng(0)
    metric, total, count = tx.metrics.Perplexity(), 0.0, 0.0
    for rows in (2, 3):
        y, logits, weights = rng.integers(-1, 5, (rows, 4)), rng.normal(size=(rows, 4, 5)), rng.random(rows)
        metric.update_state(y, logits, weights)
        for i, row in enumerate(y):
            for j, token in enumerate(row):
                if token >= 0:
                    total += weights[i] * (np.log(np.exp(logits[i, j]).sum()) - logits[i, j, token])
                    count += weights[i]
    assert float(metric.result()) == pytest.approx(np.exp(total / count), rel=1e-5)
    with pytest.raises(ValueError, match="`y_true`"):
        metric.update_state(np.zeros(3), np.zeros((3, 4)))


# === Training ===


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained model, its texts, its history, and its embeddings and output bias before training."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("masked")
    model = models.MaskedLanguageModel(tiny.backbone(), tiny.preprocessor(folder), pooling=("cls", "max"))
    model = model.with_added_tokens(["IBAN"])
    start = [ops.convert_to_numpy(model.backbone.token_embedding.embeddings), ops.convert_to_numpy(model.head.bias)]
    model.compile(keras.optimizers.Adam(0.03))
    texts = [*tiny.TEXTS, "my IBAN was lost", "the IBAN is good"]
    history = model.fit(texts, epochs=10, batch_size=5, seed=0, verbose=0, validation_data=texts, validation_freq=10)
    return model, texts, history.history, start


def test_it_learns_and_evaluates_alike_each_time(trained):
    model, texts, history, _ = trained
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    # The loss weights batches by rows, the perplexity by masked tokens.
    assert np.log(history["perplexity"]) == pytest.approx(history["loss"], rel=0.15)
    scores = [model.evaluate(texts, batch_size=5, verbose=0, return_dict=True) for _ in range(2)]
    assert scores[0] == scores[1]
    assert scores[0]["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-5)
    assert scores[0]["accuracy"] == pytest.approx(history["val_accuracy"][-1], rel=1e-5)


def test_rows_of_new_tokens_train_and_are_saved(trained, tmp_path):
    model, _, _, (table, bias) = trained
    row = tiny.VOCABULARY.index("##ed") + 1
    assert model.preprocessor.tokenizer.id_to_token(row) == "IBAN" and len(bias) == len(table) == row + 1
    grown = ops.convert_to_numpy(model.backbone.token_embedding.embeddings)
    assert np.abs(grown[row] - table[row]).max() > 0.05
    assert abs(ops.convert_to_numpy(model.head.bias)[row] - bias[row]) > 0.01
    model.save_to_preset(tmp_path / "saved")
    again = models.MaskedLanguageModel.from_preset(tmp_path / "saved", mask_rate=0.5)
    assert again.mask_rate == 0.5
    np.testing.assert_array_equal(ops.convert_to_numpy(again.backbone.token_embedding.embeddings)[row], grown[row])
    assert again.fill_mask(["my [MASK] was lost"]) == model.fill_mask(["my [MASK] was lost"])
    for classifier in (
        models.TextClassifier.from_preset(tmp_path / "saved", labels=["a", "b"]),  # without a warning
        models.TextClassifier.from_model(model, labels=["a", "b"]),
    ):
        assert classifier.pooling == ("cls", "max")
        np.testing.assert_array_equal(classifier.backbone.get_weights()[0], model.backbone.get_weights()[0])
        assert classifier.preprocessor.tokenizer(["my IBAN"]).to_list()[0][-1] == row
    with pytest.raises(ValueError, match=r"`labels`.*MaskedLanguageModel"):
        models.TextClassifier.from_model(model)


def test_masks_are_filled_with_the_likeliest_tokens(tmp_path):
    model = tiny.masked(tmp_path, pooling=("cls", "max")).with_added_tokens(["IBAN"])
    found = model.fill_mask(tiny.MASKED[:4], k=3)
    assert [len(row) for row in found] == [1, 2, 1, 1]
    logits = model.predict(tiny.MASKED, verbose=0)
    assert [len(row) for row in logits] == [1, 2, 1, 1, 0]
    for row, masks in zip(logits, found, strict=False):
        for scores, fillings in zip(row, masks, strict=True):
            shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            best = np.argsort(-shares)[:3]
            vocabulary = model.preprocessor.tokenizer.vocabulary
            assert [each.token for each in fillings] == [vocabulary[i] for i in best]
            np.testing.assert_allclose([each.probability for each in fillings], shares[best], rtol=1e-4)
    for one, other in zip(model.decode(logits[:1])[0][0], found[0][0], strict=False):
        assert one.token == other.token and one.probability == pytest.approx(other.probability, rel=1e-4)
    assert not model.preprocessor.tokenizer.special_tokens_in_strings
    with pytest.raises(ValueError, match=r"`texts`.*'\[MASK\]'.*row 1"):
        model.fill_mask(["my [MASK]", "my card"])
    with pytest.raises(ValueError, match="`k`"):
        model.fill_mask(["my [MASK]"], k=0)
    [streamed] = list(model.fill_mask(text for text in tiny.MASKED[:4]))
    assert [each.token for each in streamed[1][1][:3]] == [each.token for each in found[1][1]]


def test_every_form_of_texts_trains_and_targets_are_refused(tmp_path):
    model = tiny.masked(tmp_path)
    model.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
    rows = tf.data.Dataset.from_tensor_slices(tiny.TEXTS)
    forms = {
        "rows": tiny.TEXTS,
        "dataset of rows": rows,
        "batches": data.batches(tiny.TEXTS, model, 4, seed=0),
        "raw batches": rows.batch(4),
        "generator of rows": (text for text in tiny.TEXTS),
        "generator of batches": (tiny.TEXTS[i : i + 4] for i in (0, 4)),
    }
    for name, x in forms.items():
        before = ops.convert_to_numpy(model.head.bias)
        model.fit(x, batch_size=4, verbose=0)
        assert np.abs(ops.convert_to_numpy(model.head.bias) - before).max() > 0, name
    assert np.isfinite(model.train_on_batch(tiny.TEXTS)).all()
    assert np.isfinite(model.test_on_batch(tiny.TEXTS)).all()
    with pytest.raises(ValueError, match=r"`y`.*texts make the targets"):
        model.fit(tiny.TEXTS, tiny.LABELS)
    labelled = data.labelled({"text": tiny.TEXTS, "label": tiny.LABELS}, "text", "label")
    with pytest.raises(ValueError, match=r"`dataset`.*rows of texts only"):
        model.fit(labelled)
    with pytest.raises(ValueError, match=r"`x`.*batches of texts only"):
        model.fit(labelled.batch(4))
    with pytest.raises(ValueError, match="`callbacks`"):
        model.predict(tiny.TEXTS, callbacks=[keras.callbacks.Callback()])
    for x in (rows, rows.batch(3), data.batches(tiny.MASKED, {"text": model.prediction_columns()["text"]}, 2)):
        assert len(model.predict(x, verbose=0)) in (5, 8)


def test_a_run_that_is_taken_up_hides_the_same(tmp_path):
    found = []
    for parts in ([3], [1, 3]):
        keras.utils.set_random_seed(0)
        model = tiny.masked(tmp_path)
        model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
        folder = tmp_path / f"run{len(parts)}"
        for epochs in parts:
            batches = data.batches(tiny.TEXTS, model, 4, seed=3)
            model.fit(batches, epochs=epochs, verbose=0, callbacks=[tx.callbacks.Resume(folder)])
        found.append(ops.convert_to_numpy(model.head.bias))
    np.testing.assert_allclose(*found, atol=1e-5)


def test_half_precision_and_adapters_train(tmp_path):
    model = tiny.masked(tmp_path, "mixed_bfloat16")
    tx.freezing.add_lora(model, rank=2)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    table = ops.convert_to_numpy(model.backbone.token_embedding.embeddings)
    before = [ops.convert_to_numpy(v) for v in model.backbone.lora_variables().values()]
    model.fit(tiny.TEXTS, epochs=2, batch_size=4, verbose=0)
    after = [ops.convert_to_numpy(v) for v in model.backbone.lora_variables().values()]
    assert any(np.abs(a - b).max() > 0 for a, b in zip(after, before, strict=True))
    np.testing.assert_array_equal(ops.convert_to_numpy(model.backbone.token_embedding.embeddings), table)


def test_an_export_fills_masks_as_python_does(trained, tmp_path):
    model = trained[0]
    served = tf.saved_model.load(tx.export.saved_model(model, tmp_path / "served")).signatures["serving_default"]
    found = served(text=tf.constant(tiny.MASKED[:4]))
    expected = model.fill_mask(tiny.MASKED[:4])
    for row, masks in enumerate(expected):
        for j, fillings in enumerate(masks):
            ids = found["token_ids"][row, j].numpy().astype(int)
            assert [model.preprocessor.tokenizer.id_to_token(int(i)) for i in ids] == [f.token for f in fillings]
            np.testing.assert_allclose(found["scores"][row, j], [f.probability for f in fillings], rtol=1e-4)


# === Backbones ===


@pytest.mark.slow  # each case exports
@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_small_weights_of_a_table_that_is_read_as_a_whole(trained, tmp_path, dtype):
    path = tx.export.saved_model(trained[0], tmp_path / "small", weights_dtype=dtype)
    served = tf.saved_model.load(path).signatures["serving_default"](text=tf.constant(tiny.MASKED))
    whole = tf.saved_model.load(tx.export.saved_model(trained[0], tmp_path / "whole")).signatures["serving_default"]
    expected = whole(text=tf.constant(tiny.MASKED))
    np.testing.assert_allclose(served["scores"], expected["scores"], atol=0.02)
    np.testing.assert_array_equal(served["token_ids"][:, :, 0], expected["token_ids"][:, :, 0])


def test_backbones_and_arguments_that_cannot_be_are_errors(tmp_path):
    def model(family="bert", **arguments):
        sizes = {"vocabulary_size": 40, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
        return models.MaskedLanguageModel(backbones.Backbone(family, **sizes, max_sequence_length=16), **arguments)

    for family in ("gpt2", "llama"):
        with pytest.raises(ValueError, match=r"`backbone`.*bidirectional"):
            model(family)
    quantized = tiny.backbone()
    quantized.quantize("int8")
    with pytest.raises(ValueError, match=r"`backbone`.*not quantized"):
        models.MaskedLanguageModel(quantized)
    with pytest.raises(ValueError, match=r"`mask_rate`"):
        model(mask_rate=0.0)
    with pytest.raises(ValueError, match=r"`head`.*'activation'"):
        model(head={"size": 3})
    with pytest.raises(ValueError, match=r"`activation`"):
        model(head={"activation": "softmax"})
    found = tiny.masked(tmp_path)
    with pytest.raises(NotImplementedError, match="Quantize the model created from it"):
        found.quantize("int8")
    tx.freezing.freeze(found, below=1)
    with pytest.raises(ValueError, match=r"same inputs in each epoch"):
        tx.freezing.AboveFrozen(found)
    with pytest.raises(ValueError, match=r"`format`"):
        found.save_to_preset(tmp_path / "st", format="sentence-transformers")
    found = models.MaskedLanguageModel(tiny.backbone(), tiny.preprocessor(tmp_path), head={"activation": "relu"})
    with pytest.raises(ValueError, match=r"BertForMaskedLM has another head.*'gelu"):
        found.save_to_preset(tmp_path / "hf", format="huggingface")


FAMILIES_WITH_HEADS = sorted(name for name, family in FAMILIES.items() if family.masked_head({}) is not None)


def masked_of(family, folder):
    """A small model of a family with random weights, including those of the head."""
    options = {"embedding_dim": 4} if family in ("albert", "electra") else {}
    backbone = backbones.Backbone(
        family,
        vocabulary_size=len(tiny.VOCABULARY),
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=24,
        **options,
    )
    model = models.MaskedLanguageModel(
        backbone, tiny.preprocessor(folder, segment_ids=FAMILIES[family].has_segment_ids), pooling=backbone.pooling
    )
    rng = np.random.default_rng(0)
    model.set_weights([w + rng.normal(0, 0.2, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


@pytest.mark.parametrize("family", FAMILIES_WITH_HEADS)
def test_a_familys_head_goes_out_and_comes_back(family, tmp_path):
    model = masked_of(family, tmp_path)
    model.save_to_preset(tmp_path / "written", format="huggingface")
    again = models.MaskedLanguageModel.from_preset(tmp_path / "written")
    x = tiny.inputs(model)
    np.testing.assert_allclose(ops.convert_to_numpy(again(x)), ops.convert_to_numpy(model(x)), atol=1e-5)
    assert again.optimizer.group_multipliers["head"] == 1.0
    classifier = models.TextClassifier.from_preset(tmp_path / "written", labels=["a", "b"])  # without a warning
    np.testing.assert_array_equal(classifier.backbone.get_weights()[0], model.backbone.get_weights()[0])
    new = models.MaskedLanguageModel.from_preset(tmp_path / "written", backbone_only=True)
    assert new.has_new_head() and new.optimizer.group_multipliers["head"] == 10.0
    with pytest.raises(ValueError, match="`head`"):
        models.MaskedLanguageModel.from_preset(tmp_path / "written", head={"activation": "relu"})


@pytest.mark.slow
def test_jax_trains_and_gives_the_same_numbers(tmp_path):
    from test_contracts import run_afresh

    model = tiny.masked(tmp_path)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "expected.npz", *model.predict(tiny.MASKED, verbose=0))
    run_afresh(f"""
        import os
        os.environ["KERAS_BACKEND"] = "jax"
        import keras, numpy as np, tiny, tfxfer as tx
        model = keras.saving.load_model({str(tmp_path / "model.keras")!r})
        expected = np.load({str(tmp_path / "expected.npz")!r})
        for name, row in zip(expected.files, model.predict(tiny.MASKED, verbose=0), strict=True):
            np.testing.assert_allclose(row, expected[name], atol=1e-4)
        history = model.fit(tiny.TEXTS, epochs=2, batch_size=4, seed=0, verbose=0)
        assert np.isfinite(history.history["loss"]).all()
        assert len(model.fill_mask(["my [MASK]"])[0][0]) == 5
    """)
