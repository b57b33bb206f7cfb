"""Kinds of columns: the values they accept and reject, and the batches they make."""

import numpy as np
import pandas
import pytest
import tensorflow as tf
import tiny

import tfxfer as tx
from tfxfer import data


@pytest.fixture(scope="module")
def preprocessor(tmp_path_factory):
    return tiny.preprocessor(tmp_path_factory.mktemp("tiny"))


IMAGES = np.arange(5 * 4 * 6 * 3).reshape(5, 4, 6, 3) % 256
WORDS = [["my", "card"], ["the", "cards"], ["lost"], ["a", "loan", "is", "good"], ["money"]]


WORD_KEYS = {"token_ids", "padding_mask", "segment_ids", "word_ids", "word_mask"}


def kinds(preprocessor):
    """Returns each kind of column with five values and the keys of its batches."""
    return {
        "text": (data.TextColumn(preprocessor), tiny.TEXTS[:5], {"token_ids", "padding_mask", "segment_ids"}),
        "pair": (
            data.TextColumn(preprocessor, "separate"),
            (tiny.TEXTS[:5], tiny.TEXTS[1:6]),
            {"token_ids", "padding_mask", "segment_ids"},
        ),
        "texts": (
            data.TextListColumn(preprocessor),
            [tiny.TEXTS[:2], [], tiny.TEXTS[2:5], ["a"], ["the card", "money"]],
            {"token_ids", "padding_mask", "segment_ids", "list_mask"},
        ),
        "words": (data.WordsColumn(preprocessor), WORDS, WORD_KEYS),
        "tags": (data.TagsColumn(["O", "X"]), [["X"] * len(row) for row in WORDS], {"column"}),
        "number": (data.NumberColumn(), [1, 2.5, "3", 4, 5], {"column"}),
        "numbers": (data.NumberColumn(2), [[1, 2]] * 5, {"column"}),
        "category": (data.CategoryColumn(["a", "b"]), ["a", "b", "a", "a", "b"], {"column"}),
        "vector": (data.VectorColumn(3), np.ones((5, 3)), {"column"}),
        "image": (data.ImageColumn((4, 6)), IMAGES, {"column"}),
        "label": (data.LabelColumn(["a", "b"]), ["a", "b", "a", "a", "b"], {"column"}),
        "labels": (data.LabelColumn(["a", "b"], True), [["a"], [], ["b", "a"], ["b"], ["a"]], {"column"}),
        "values": (data.ValuesColumn(), [1.0, 2, 3, 4, 5], {"column"}),
    }


KINDS = ["text", "pair", "texts", "words", "tags", "number", "numbers", "category", "vector", "image", "label"]
KINDS += ["labels", "values"]


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_every_kind_hold_each_row_once_in_an_order_of_the_seed(preprocessor, kind):
    column, values, names = kinds(preprocessor)[kind]
    columns = {"column": column, "number": data.NumberColumn()}
    rows = data.Examples({"column": column.read(values, "column"), "number": np.arange(5, dtype="float32")})
    made = data.batches(rows, columns, 2, seed=1)
    epochs = [np.concatenate([batch["number"] for batch in made]) for _ in range(2)]
    assert [sorted(epoch.tolist()) for epoch in epochs] == [[0, 1, 2, 3, 4]] * 2
    again = data.batches(rows, columns, 2, seed=1)
    assert np.concatenate([batch["number"] for batch in again]).tolist() == epochs[0].tolist()
    streamed = data.batches(rows, columns, 2, seed=1, cache=False)
    assert sorted(np.concatenate([batch["number"] for batch in streamed]).tolist()) == [0, 1, 2, 3, 4]
    for batch in made.rest(0):
        assert set(batch) == names | {"number"}
        alone = data.Examples(
            {"column": column.read([values[int(i)] for i in batch["number"]], "column")}
            if kind != "pair"
            else {"column": column.read(tuple([part[int(i)] for i in batch["number"]] for part in values), "column")}
        )
        expected = next(iter(data.batches(alone, {"column": column}, 5, shuffle=False)))
        for name in names:
            np.testing.assert_array_equal(batch[name], expected[name])


def test_columns_of_several_kinds_mix_and_keep_texts_apart(preprocessor):
    columns = {"text": data.TextColumn(preprocessor), "age": data.NumberColumn(missing=-1.0)}
    parts = [
        data.batches(({"text": tiny.TEXTS[:4], "age": ages},), columns, 2, seed=0)
        for ages in ([1, 2, None, 4], np.array([5.0, 6, 7, np.nan]))
    ]
    mixed = data.mix(parts, strategy="round_robin", seed=0)
    ages = np.concatenate([batch["age"] for batch in mixed])
    assert sorted(ages.tolist()) == [-1, -1, 1, 2, 4, 5, 6, 7]
    texts = ["a card", "a card", "money", "loan", "money", "day"]
    unique = data.batches(({"text": texts, "age": range(6)},), columns, 2, unique_texts=True, seed=0)
    for batch in unique:
        assert len({tuple(row) for row in batch["token_ids"].numpy()}) == len(batch["token_ids"])


def test_words_know_their_tokens_wherever_the_padding_is(tmp_path):
    words = [["my", "cards", "day"], ["?", "lost"], ["the"] * 20]
    for side in ("right", "left"):
        column = data.WordsColumn(tiny.preprocessor(tmp_path, padding_side=side, sequence_length=8))
        batch = next(iter(data.batches(({"w": words},), {"w": column}, 3, shuffle=False)))
        pieces = column.preprocessor.tokenizer
        for row, ids, word_ids, mask in zip(
            words, *(batch[k].numpy() for k in ("token_ids", "word_ids", "padding_mask")), strict=True
        ):
            assert (word_ids[mask == 0] == -1).all() and word_ids[mask == 1][[0, -1]].tolist() == [-1, -1]
            for word in set(word_ids[word_ids >= 0].tolist()):
                assert ids[word_ids == word].tolist() == pieces([row[word]])[0].numpy().tolist()
        assert batch["word_ids"][2].numpy().tolist().count(-1) == 2  # truncated to six words


@pytest.mark.parametrize("row", [0, 3])
@pytest.mark.parametrize(
    ("kind", "bad", "message"),
    [
        ("text", None, "a text in every row.*row {}"),
        ("text", float("nan"), "a text in every row.*row {}"),
        ("text", 5, "texts that are strings.*row {}"),
        ("text", "\ud800", "UTF-8.*row {}"),
        ("text", pandas.NA, "a text in every row.*row {}"),
        ("texts", "one text", "a list of strings in every row.*row {}"),
        ("texts", ["a", None], "a text in every row.*row {}"),
        ("words", [], "at least one of the words.*row {}"),
        ("words", "my card", "a list of words.*row {}"),
        ("tags", ["Y"], "one of 2 tags.*row {}"),
        ("number", "five", "numbers.*row {}"),
        ("number", None, "a number in every row.*row {}"),
        ("number", float("inf"), "finite.*row {}"),
        ("numbers", [1], "2 numbers.*row {}"),
        ("numbers", 1, "2 numbers.*row {}"),
        ("category", "c", "one of 2 names.*row {}"),
        ("category", None, "one of 2 names.*row {}"),
        ("image", np.zeros((4, 6)), "height.*row {}"),
        ("image", np.full((4, 6, 3), 300), "0 to 255.*row {}"),
        ("label", "c", "one of the 2 labels.*row {}"),
        ("label", None, "a label in every row.*row {}"),
        ("label", float("nan"), "a label in every row.*row {}"),
        ("label", 7, "indices from 0 to 1|one of the 2 labels.*row {}"),
        ("labels", "a", "a list of labels.*row {}"),
        ("labels", ["c"], "one of the 2 labels.*row {}"),
        ("values", "high", "a number.*row {}"),
        ("values", None, "a number.*row {}"),
    ],
)
def test_a_bad_value_is_an_error_with_its_row(preprocessor, kind, bad, message, row):
    column, values, _ = kinds(preprocessor)[kind]
    values = list(values)
    values[row] = bad
    with pytest.raises(ValueError, match=f"`given`.*{message.format(row)}"):
        column.read(values, "given")


def test_images_are_read_from_files_and_resized(tmp_path):
    paths = []
    for i, image in enumerate(IMAGES[:2].astype("uint8")):
        paths.append(tmp_path / f"{i}.png")
        paths[-1].write_bytes(tf.io.encode_png(image).numpy())
    column = data.ImageColumn((4, 6))
    batch = next(iter(data.batches(({"image": paths},), {"image": column}, 2, shuffle=False)))
    np.testing.assert_array_equal(batch["image"], IMAGES[:2])
    assert column.batch(column.read([np.full((8, 2, 3), 7)], "image"), "image")["image"].shape == (1, 4, 6, 3)
    with pytest.raises(ValueError, match=r"files that exist.*row 1"):
        column.read([paths[0], tmp_path / "none.png"], "image")


def test_unknown_categories_have_an_index_of_their_own_where_asked():
    column = data.CategoryColumn([1, 2], unknown="index")
    assert column.encode(column.read([2, 7, None, 1.0], "c")).numpy().tolist() == [1, 2, 2, 0]
    assert column.size == 3
    for names in ([], "ab", ["a", "a"], {"a", "b"}):
        with pytest.raises(ValueError, match="`names`"):
            data.CategoryColumn(names)


def test_rows_become_examples_by_the_names_of_columns(preprocessor):
    frame = pandas.DataFrame({"body": tiny.TEXTS, "age": range(8), "w": [1.0] * 8})
    columns = {"body": data.TextColumn(preprocessor), "age": data.NumberColumn()}
    found = tx.data.examples(frame, columns, sample_weight=None)
    assert next(found.as_numpy_iterator())[0]["age"] == 0
    with pytest.raises(ValueError, match="'size'"):
        tx.data.examples(frame, {"size": data.NumberColumn()})
    with pytest.raises(ValueError, match="`target`"):
        tx.data.examples(frame, columns, "age")
