"""Added tokens: the tokenizer, the rows of the embedding table, and errors for ids without a row."""

import keras
import numpy as np
import pytest
import tiny

import tfxfer as tx

TOKENS = ["IBAN", "my card", "loans"]


@pytest.fixture
def model(tmp_path):
    return tiny.classifier(tmp_path, labels=["a", "b"])


def table(model):
    return model.backbone.token_embedding.embeddings.numpy()


def test_rows_of_new_tokens_are_the_means_of_what_they_were_before(model):
    old = model.preprocessor.tokenizer
    made = model.with_added_tokens([*TOKENS, "loan"])  # the last token already exists
    size = len(tiny.VOCABULARY)
    assert made.preprocessor.tokenizer.vocabulary_size() == made.backbone.vocabulary_size == size + 3
    assert made.preprocessor.tokenizer.vocabulary[size:] == TOKENS
    before, after = table(model), table(made)
    np.testing.assert_array_equal(after[:size], before)
    np.testing.assert_allclose(after[size], before.mean(axis=0), atol=1e-6)  # IBAN was unknown before
    np.testing.assert_allclose(after[size + 1], before[old(["my card"]).to_list()[0]].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(after[size + 2], before[old(["loans"]).to_list()[0]].mean(axis=0), atol=1e-6)
    assert (old.vocabulary_size(), model.backbone.vocabulary_size) == (size, size)


def test_texts_without_new_tokens_are_answered_as_before_and_with_them_otherwise(model):
    made = model.with_added_tokens(TOKENS)
    np.testing.assert_array_equal(tiny.outputs(made, ["the bank", "a day"]), tiny.outputs(model, ["the bank", "a day"]))
    assert made.preprocessor.tokenizer(["the my card"]).to_list() == [[9, len(tiny.VOCABULARY) + 1]]
    assert not np.allclose(tiny.outputs(made, ["my card"]), tiny.outputs(model, ["my card"]))


def test_a_model_with_new_tokens_trains_and_is_saved(model, tmp_path):
    made = model.with_added_tokens(TOKENS, special=False)
    made.compile(keras.optimizers.SGD(0.5), run_eagerly=True)
    before = table(made)
    made.fit(["my card", "a bank"], ["a", "b"], verbose=0)
    assert np.abs(table(made) - before)[len(tiny.VOCABULARY) + 1].max() > 1e-4
    made.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(tiny.outputs(again, ["IBAN", "my card"]), tiny.outputs(made, ["IBAN", "my card"]))


def test_every_task_and_its_flags_come_along(tmp_path):
    embedder = tiny.embedder(tmp_path, normalize=False)
    tx.freezing.freeze(embedder, below=1)
    towers = tx.models.Siamese(embedder, decoder="cosine")
    made = towers.with_added_tokens(TOKENS)
    assert type(made) is tx.models.Siamese and made.embedder.normalize is False
    assert not made.trainable_weights
    columns = (["the bank", "a day"], ["my loan", "good"])
    np.testing.assert_allclose(tiny.outputs(made, columns), tiny.outputs(towers, columns), atol=1e-6)


def test_ids_without_a_row_are_an_error_that_says_what_to_do(model):
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    model.predict(["my card"])
    assert model.preprocessor.tokenizer.add_tokens(["IBAN"]) == 1
    for call in (
        lambda: model.predict(["IBAN"]),
        lambda: model.classify(["IBAN"]),
        lambda: model.fit(["IBAN", "card"], ["a", "b"], verbose=0),
        lambda: model.preprocess_samples(["IBAN"]),
    ):
        with pytest.raises(ValueError, match="with_added_tokens"):
            call()


@pytest.mark.parametrize("tokens", ["IBAN", [""], [1]])
def test_what_is_no_list_of_strings_is_an_error(model, tokens):
    with pytest.raises(ValueError, match="argument `tokens`"):
        model.with_added_tokens(tokens)
