"""Queries with lists of documents: readers, the two kinds of columns, batches limited by documents, and errors."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tiny

from tfxfer import augmentation, data

RNG = np.random.default_rng(3)
SIZES = [1, 4, 2, 7, 3, 3, 1, 5, 2, 6, 4]
ROWS = [
    {
        "query": tiny.TEXTS[i % 5],
        "documents": [tiny.TEXTS[(i * 3 + k) % 8] + " card" * (k % 3) for k in range(size)],
        "grades": [(i + k) % 4 for k in range(size)],
    }
    for i, size in enumerate(SIZES)
]


@pytest.fixture(scope="module")
def preprocessor(tmp_path_factory):
    return tiny.preprocessor(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def columns(preprocessor):
    return {"text": data.RankingColumn(preprocessor)}


def lists(dataset):
    """Returns the queries, documents and grades of a dataset as Python lists."""
    queries, documents = dataset.x
    texts = [[text.decode() for text in row] for row in documents.to_list()]
    return [query.decode() for query in queries.numpy()], texts, dataset.y.to_list()


# === Readers ===


def test_nested_json_lines_become_lists(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    queries, documents, grades = lists(data.rankings(data.read(path)))
    assert queries == [row["query"] for row in ROWS]
    assert documents == [row["documents"] for row in ROWS]
    assert grades == [row["grades"] for row in ROWS]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"documents": []}, "column 'documents': no documents"),
        ({"documents": "a text"}, r"not a list of documents: 'a text'.*group_rows"),
        ({"documents": None}, "not a list of documents: None"),
        ({"documents": ["a", 3]}, "a document that is not text: 3, at index 1"),
        ({"documents": ["a", None]}, "a document that is not text: None, at index 1"),
        ({"grades": [1]}, "column 'grades': numbers and documents that differ in count: 1 for 2"),
        ({"grades": [1, float("nan")]}, "not a finite number: nan, at index 1"),
        ({"grades": [1, None]}, "not a finite number: None, at index 1"),
        ({"grades": ["x", 1]}, "not a finite number: 'x', at index 0"),
        ({"grades": 1}, "not a list of numbers: 1"),
        ({"query": None}, "column 'query': no text"),
        ({"query": 7}, "a text that is not a string: 7"),
    ],
)
def test_a_broken_row_is_an_error_that_names_file_and_line(changes, said, tmp_path):
    good = {"query": "q", "documents": ["a", "b"], "grades": ["2", 0.5]}
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, [good, {**good, **changes}, good])), encoding="utf-8")
    rows = data.read(path)
    with pytest.raises(ValueError, match=rf"(?s)train\.jsonl, line 2.*{said}"):
        data.rankings(rows)
    with pytest.warns(UserWarning, match="skipped 1 broken rows"):
        found = data.rankings(rows, on_error="skip")
    assert len(lists(found)[0]) == 2 and sum(found.skipped.values()) == 1
    assert lists(found)[2] == [[2.0, 0.5]] * 2


def test_lines_of_one_query_become_a_list_wherever_they_stand(tmp_path):
    path = tmp_path / "flat.tsv"
    lines = ["qid\tquery\tdocument\tgrade", "7\tfees\tPrices\t2", "9\tcard\tLost\t1", "7\tfees\tLoans\t0"]
    path.write_text("\n".join(lines), encoding="utf-8")
    rows = data.group_rows(data.read(path), "qid", ("document", "grade"))
    assert list(rows) == [
        {"qid": "7", "query": "fees", "document": ["Prices", "Loans"], "grade": ["2", "0"]},
        {"qid": "9", "query": "card", "document": ["Lost"], "grade": ["1"]},
    ]
    assert rows.place(1).endswith("flat.tsv, line 3")
    assert lists(data.rankings(rows, "query", "document", "grade"))[2] == [[2.0, 0.0], [1.0]]


@pytest.mark.parametrize(
    ("flat", "by", "named", "said"),
    [
        ({"id": [1, 1], "q": ["a", "b"], "d": ["x", "y"]}, "id", ["d"], "row 1 .*column 'q'.*'b', but .*row 0"),
        ({"id": [1, None], "d": ["x", "y"]}, "id", ["d"], "row 1 .*column 'id': no group: None"),
        ({"id": [1, 1], "d": ["x", "y"]}, "id", ["id"], "`lists`"),
        ({"id": [1, 1], "d": ["x", "y"]}, "key", ["d"], "`column`.*'key'"),
        ({"id": [1, 1], "d": ["x", "y"]}, "id", ["document"], "`column`.*'document'"),
    ],
)
def test_rows_that_do_not_group_are_an_error(flat, by, named, said):
    with pytest.raises(ValueError, match=f"(?s){said}"):
        data.group_rows(flat, by, named)


def test_judgements_are_joined_with_their_texts():
    queries = {"q1": "fees", "q2": "card", "q3": "hours"}
    corpus = {"d1": "Prices", "d2": "Loans", "d3": "Lost"}
    rows = data.lists_from_judgements(queries, corpus, {"q2": {"d3": 1}, "q1": {"d1": 3, "d2": -1}})
    assert list(rows) == [
        {
            "query_id": "q1",
            "query": "fees",
            "document_ids": ["d1", "d2"],
            "documents": ["Prices", "Loans"],
            "grades": [3, -1],
        },
        {"query_id": "q2", "query": "card", "document_ids": ["d3"], "documents": ["Lost"], "grades": [1]},
    ]
    assert rows.skipped == {"no judgment": 1}
    ids = data.lists_from_judgements(queries, corpus, {"q1": ["d2", "d1"]})
    assert ids[0]["documents"] == ["Loans", "Prices"] and ids[0]["grades"] == [1, 1]
    for relevant, said in (
        ({"q1": {"d9": 1}}, "`corpus`.*'q1' has a judgment of 'd9'"),
        ({"q9": {"d1": 1}}, "`relevant`.*'q9'"),
        ({}, "`relevant`.*at least one"),
        ({"q1": "d1"}, "`relevant`.*'q1'"),
    ):
        with pytest.raises(ValueError, match=said):
            data.lists_from_judgements(queries, corpus, relevant)


def test_mined_negatives_of_both_layouts_become_the_same_lists():
    long = {
        "anchor": ["a", "a", "b", "a"],
        "positive": ["p", "p", "o", "p2"],
        "negative": ["n", "m", "n", "n"],
        "positive_score": [0.9, 0.9, 0.8, 0.7],
        "negative_score": [0.5, 0.4, 0.3, 0.5],
    }
    wide = {
        "anchor": ["a", "b", "a"],
        "positive": ["p", "o", "p2"],
        "negative_1": ["n", "n", "n"],
        "negative_2": ["m", "k", "m"],
    }
    rows = data.lists_from_negatives(long)
    assert list(rows) == [
        {
            "query": "a",
            "documents": ["p", "p2", "n", "m"],
            "grades": [1.0, 1.0, 0.0, 0.0],
            "scores": [0.9, 0.7, 0.5, 0.4],
        },
        {"query": "b", "documents": ["o", "n"], "grades": [1.0, 0.0], "scores": [0.8, 0.3]},
    ]
    found = data.lists_from_negatives(wide)
    assert found["documents"] == [["p", "p2", "n", "m"], ["o", "n", "k"]] and found.columns == [*found.columns[:3]]
    with pytest.raises(ValueError, match=r"row 1 .*'p' is a positive and a negative of 'a'"):
        data.lists_from_negatives({"anchor": ["a", "a"], "positive": ["p", "q"], "negative": ["n", "p"]})
    with pytest.raises(ValueError, match=r"`negative`.*column"):
        data.lists_from_negatives({"anchor": ["a"], "positive": ["p"], "worse": ["n"]})
    with pytest.raises(ValueError, match=r"column 'negative': no text"):
        data.lists_from_negatives({"anchor": ["a"], "positive": ["p"], "negative": [None]})


def test_lists_become_triplets_with_a_teachers_margins():
    rows = [
        {"query": "a", "documents": ["n", "p", "m", "q"], "grades": [0, 1, 0, 2]},
        {"query": "b", "documents": ["p", "n"], "grades": [1, 0]},
    ]
    scores = [np.array([1.0, 5.0, 2.0, 9.0]), [3.0, 2.5]]
    found = data.triplets_from_lists(rows, scores=scores, num_negatives=2)
    assert [row["positive"] for row in found] == ["p", "q"] and found.skipped == {"too few negatives": 1}
    assert found[0]["negative_1"] == "n" and found[0]["negative_2"] == "m"
    assert [found[1][name] for name in ("positive_score", "negative_2_score", "margin_1", "margin_2")] == [9, 2, 8, 7]
    names = ("anchor", "positive", "negative_1", "negative_2")
    train = data.triplets(found, names, target=("margin_1", "margin_2"))
    assert train.y.numpy().tolist() == [[4.0, 3.0], [8.0, 7.0]]
    drawn = [data.triplets_from_lists(rows, sampling="random", seed=seed)["negative_1"] for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1] and len({tuple(each) for each in drawn}) > 1
    with pytest.raises(ValueError, match=r"`rows`.*above grade 0"):
        data.triplets_from_lists([{"query": "a", "documents": ["n"], "grades": [0]}])
    with pytest.raises(ValueError, match=r"`scores`.*2 rows"):
        data.triplets_from_lists(rows, scores=scores[:1])
    with pytest.raises(ValueError, match=r"row 1 .*scores.*1 for 2"):
        data.triplets_from_lists(rows, scores=[scores[0], [1.0]])


@pytest.mark.parametrize(
    ("sampling", "kept"), [("graded", ["b", "d", "e"]), ("first", ["a", "b", "c"]), ("random", None)]
)
def test_what_is_left_out_of_longer_lists_is_told(sampling, kept):
    rows = [
        {"query": "q", "documents": list("abcdef"), "grades": [0, 2, 0, 1, 2, 0]},
        {"query": "r", "documents": list("xyz"), "grades": [1, 0, 0]},
    ]
    said = rf"1 of 2 lists had more than 3 documents.*3 documents are left out.*sampling='{sampling}'"
    with pytest.warns(UserWarning, match=said):
        _, documents, grades = lists(data.rankings(rows, max_documents=3, sampling=sampling))
    known = dict(zip("abcdef", rows[0]["grades"], strict=True))
    assert len(documents[0]) == 3 and grades[0] == [known[text] for text in documents[0]]
    assert documents[0] == (kept or sorted(documents[0])) and documents[1] == list("xyz")


def test_random_negatives_are_of_other_queries_and_the_same_each_time():
    rows = [
        {"query": "q", "documents": ["a"], "grades": [1]},
        {"query": "q", "documents": ["b"], "grades": [2]},
        {"query": "r", "documents": ["c", "a"], "grades": [1, 0]},
        {"query": "s", "documents": ["d", "e"], "grades": [1, 0]},
    ]
    _, documents, grades = lists(data.rankings(rows, random_negatives=2, seed=3))
    assert [len(each) for each in documents] == [3, 3, 4, 4] and grades[0] == [1.0, 0.0, 0.0]
    assert not {"a", "b"} & {*documents[0][1:], *documents[1][1:]}
    assert lists(data.rankings(rows, random_negatives=2, seed=3))[1] == documents
    corpus = [f"text {i}" for i in range(50)]
    found = lists(data.rankings(rows, random_negatives=2, corpus=corpus))[1]
    assert all(text in corpus for each in found for text in each[-2:]) and found[0][1:] != found[1][1:]
    with pytest.raises(ValueError, match=r"`random_negatives`.*at least 4 for 'q'"):
        data.rankings(rows, random_negatives=4)
    with pytest.raises(ValueError, match=r"`max_documents`.*more than the 2"):
        data.rankings(rows, random_negatives=2, max_documents=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"target": "grades", "targets": [[1]]}, "`targets`.*None with `target`"),
        ({"targets": [[1]]}, "`targets`.*each of 11 rows"),
        ({"targets": [[1]] * 11, "random_negatives": 1}, "`random_negatives`"),
        ({"target": "score"}, "`column`.*'score'"),
        ({"sampling": "last"}, "`sampling`.*'graded'"),
        ({"max_documents": 0}, "`max_documents`"),
        ({"corpus": ["a"]}, "`corpus`.*None without `random_negatives`"),
        ({"random_negatives": 1, "corpus": "a"}, "`corpus`.*a list of strings"),
    ],
)
def test_an_argument_that_does_not_fit_is_an_error(arguments, said):
    with pytest.raises(ValueError, match=f"(?s){said}"):
        data.rankings(ROWS, **arguments)


# === Columns ===


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["a", "b"], "`x`.*two columns"),
        ((["a"], [["b"]], ["c"]), "`x`.*3 columns"),
        ((["a", "b"], [["c"], []]), r"`x\[1\]`.*at least one document.*row 1"),
        ((["a", "b"], [["c"], "d"]), r"`x\[1\]`.*row 1 .*Put a single document into a list"),
        ((["a", "b"], ["c", ["d"]]), r"`x\[1\]`.*row 1"),
        ((["a", "b"], [["c"], [3]]), r"`x\[1\]`.*strings.*row 1"),
        ((["a", "b"], [["c"], None]), r"`x\[1\]`.*row 1"),
        ((["a", "b"], [["c"]]), r"`x`.*one length.*\[2, 1\]"),
        ((["a", None], [["c"], ["d"]]), r"`x\[0\]`.*row 1"),
        ((["a"], tf.ragged.constant([[]], dtype=tf.string, ragged_rank=1)), r"`x\[1\]`.*row 0"),
    ],
)
def test_queries_and_documents_that_do_not_fit_are_an_error_with_the_row(values, said, columns):
    with pytest.raises(ValueError, match=f"(?s){said}"):
        columns["text"].read(values, "x")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([[1.0], []], "row 1 .*Drop the row"),
        ([[1.0], [float("inf")]], "finite.*row 1"),
        ([[1.0], [2.0, None]], "row 1 .*At index 1"),
        ([[1.0], ["a"]], "numbers.*row 1"),
        (np.array([[1.0, 2.0], [3.0, np.nan]]), "finite.*row 1"),
        ("abc", "`y`"),
    ],
)
def test_grades_that_are_no_numbers_are_an_error_with_the_row(values, said):
    with pytest.raises(ValueError, match=f"(?s)`y`.*{said}|{said}"):
        data.GradesColumn().read(values, "y")


def test_grades_are_read_in_every_form():
    column = data.GradesColumn()
    for values in (
        [[1, 2], [3, 4]],
        np.array([[1, 2], [3, 4]]),
        [np.array([1, 2]), (3, "4")],
        tf.ragged.constant([[1, 2], [3, 4]]),
    ):
        assert column.read(values, "y").to_list() == [[1.0, 2.0], [3.0, 4.0]]
    assert column.read([1, True], "y").to_list() == column.read(np.array([1.0, 1.0]), "y").to_list() == [[1.0], [1.0]]
    padded = column.batch(column.read([[1, 2], [3]], "y"), "y")["y"].numpy()
    np.testing.assert_array_equal(padded, [[1.0, 2.0], [3.0, np.nan]])
    assert column.encode(tf.constant([1, 0])).shape == (2, 1)


def test_grades_that_a_loss_does_not_take_are_an_error_with_the_row():
    bounded = data.GradesColumn(target_range=(0.0, 1.0))
    with pytest.raises(ValueError, match=r"`y`.*\[0, 1\].*2\.0.*row 1.*LambdaLoss"):
        bounded.read([[1, 0], [0.5, 2]], "y")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[0, 1\].*LambdaLoss"):
        bounded.batch(tf.constant([[0.0, 3.0]]), "y")
    single = data.GradesColumn(False)
    with pytest.raises(ValueError, match=r"`y`.*one number.*row 1.*reads pairs"):
        single.read([[1], [0, 1]], "y")
    with pytest.raises(tf.errors.InvalidArgumentError, match="reads pairs"):
        single.batch(tf.constant([[0.0, 1.0]]), "y")
    assert single.read([1, 0], "y").to_list() == [[1.0], [0.0]]


# === Batches ===


def expected(preprocessor, rows):
    """Returns the real tokens that the preprocessor gives for each pair of some rows."""
    pairs = [(row["query"], text) for row in rows for text in row["documents"]]
    packed = preprocessor(tuple(map(list, zip(*pairs, strict=True))))
    return tokens(packed)


def tokens(x):
    ids, mask = np.asarray(x["token_ids"]), np.asarray(x["padding_mask"]) > 0
    return [row[real].tolist() for row, real in zip(ids, mask, strict=True)]


def rows_of(batches):
    """Returns the batches of an epoch as lists with one (tokens of the documents, grades) per row."""
    found = []
    for x, y in batches:
        flat, y = iter(tokens(x)), y.to_list() if isinstance(y, tf.RaggedTensor) else y.numpy().tolist()
        found.append([([next(flat) for _ in grades], grades) for grades in y])
        assert next(flat, None) is None
    return found


def test_a_batch_holds_the_real_documents_of_its_lists_and_no_others(columns, preprocessor):
    batches = data.batches(data.rankings(ROWS), columns, 4, shuffle=False, bucket=False)
    found = list(batches)
    assert [len(x["token_ids"]) for x, _ in found] == [14, 12, 12]
    for start, (x, y) in zip((0, 4, 8), found, strict=True):
        assert tokens(x) == expected(preprocessor, ROWS[start : start + 4])
        assert x["token_ids"].shape[1] == max(map(len, tokens(x)))
        assert y.to_list() == [row["grades"] for row in ROWS[start : start + 4]]
        segments = np.asarray(x["segment_ids"])
        assert (segments.max(axis=1) == 1).all()


def test_compiled_shapes_are_filled_up_with_documents_of_padding_alone(columns):
    batches = data.batches(data.rankings(ROWS), columns, 4, shuffle=False, bucket=False, pad_to_multiple_of=8)
    for (x, _), real in zip(batches, (14, 12, 12), strict=True):
        assert len(x["token_ids"]) == 16 and x["token_ids"].shape[1] == 16
        assert np.asarray(x["padding_mask"])[real:].max() == 0 and len(tokens(x)[real - 1]) > 0


@pytest.mark.slow
def test_pairs_are_what_a_column_of_text_makes_of_them(columns, preprocessor):
    texts = (tiny.TEXTS[:5], tiny.TEXTS[3:8])
    of_text = {"text": data.TextColumn(preprocessor, count=2)}
    both = [data.batches((texts, np.arange(5.0)), each, 2, shuffle=False) for each in (columns, of_text)]
    for (x, y), (other, z) in zip(*both, strict=True):
        assert all((x[name].numpy() == other[name].numpy()).all() for name in other)
        assert (y.numpy() == z.numpy()).all()


@pytest.mark.parametrize("options", [pytest.param({}, marks=pytest.mark.slow), {"max_documents": 8}])
def test_every_list_comes_once_an_epoch_in_an_order_of_seed_and_epoch(options, columns, preprocessor):
    train = data.rankings(ROWS)
    every = sorted((expected(preprocessor, [row]), [float(grade) for grade in row["grades"]]) for row in ROWS)
    batches = data.batches(train, columns, 3, seed=5, **options)
    epochs = [rows_of(batches) for _ in range(2)]
    for epoch in epochs:
        assert len(epoch) == int(batches.cardinality()) and sorted(row for batch in epoch for row in batch) == every
        assert max(len(batch) for batch in epoch) <= 3
        if "max_documents" in options:
            assert max(sum(len(texts) for texts, _ in batch) for batch in epoch) <= options["max_documents"]
    assert epochs[0] != epochs[1]
    assert rows_of(batches.rest(1, batch=1)) == epochs[1][1:]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_documents": 6}, r"`max_documents`.*row 3 has 7.*data\.rankings"),
        ({"max_documents": 0}, "`max_documents`"),
        ({"max_documents": 8, "bucket": True}, "`bucket`.*`max_documents`"),
        ({"max_documents": 8, "unique_texts": True}, "`unique_texts`"),
        ({"max_documents": 8, "drop_remainder": True}, "`drop_remainder`"),
        ({"max_documents": 8, "cache": False}, "`cache`"),
    ],
)
def test_a_bound_that_cannot_hold_is_an_error(options, said, columns):
    with pytest.raises(ValueError, match=f"(?s){said}"):
        data.batches(data.rankings(ROWS), columns, 4, **options)


def test_a_bound_on_documents_is_for_lists_alone(columns, preprocessor):
    texts = (["a", "b", "c"], ["d", "e", "f"])
    assert int(data.batches((texts, np.arange(3.0)), columns, 4, max_documents=2).cardinality()) == 2
    with pytest.raises(ValueError, match=r"`dataset`.*one shape in every row.*data\.rankings"):
        data.batches(((["a", "b"], [["c"], ["d", "e"]]), [[1.0], [0.0, 1.0]]), columns)
    with pytest.raises(ValueError, match=r"`max_documents`.*None for rows of one sequence"):
        data.batches((texts, np.arange(3.0)), preprocessor, 4, max_documents=2)


@pytest.mark.slow
def test_a_dataset_that_is_mapped_mixed_or_cached_gives_the_same_lists(columns, preprocessor):
    train = data.rankings(ROWS)
    every = sorted((expected(preprocessor, [row]), [float(grade) for grade in row["grades"]]) for row in ROWS)
    mapped = train.map(lambda x, y: (x, y))
    for cache in (False, True):
        [*epoch] = rows_of(data.batches(mapped, columns, 4, seed=0, cache=cache))
        assert sorted(row for batch in epoch for row in batch) == every
    parts = [data.batches(train, columns, 4, seed=seed) for seed in (0, 1)]
    assert sorted(row for batch in rows_of(data.mix(parts, seed=0)) for row in batch) == sorted(every + every)
    with pytest.raises(ValueError, match=r"`dataset`.*\(query, documents\)"):
        data.batches(tf.data.Dataset.from_tensor_slices((["a"], [1.0])), columns)


@pytest.mark.slow
def test_texts_of_lists_are_augmented_each_by_itself(columns, preprocessor):
    train = data.rankings(ROWS[1:4])
    options = {"shuffle": False, "bucket": False, "seed": 1}
    plain = rows_of(data.batches(train, columns, 3, **options))[0]
    query = tokens(preprocessor(ROWS[1]["query"]))[0]
    changed = data.batches(train, columns, 3, augment={1: augmentation.Delete(0.5)}, **options)
    first, second = rows_of(changed)[0], rows_of(changed)[0]
    assert first != plain and first != second and rows_of(changed.rest(0))[0] == first
    assert all(text[: len(query)] == query for text in first[0][0])  # the first list keeps its query
    assert rows_of(changed.plain())[0] == plain
    whole = data.batches(train, columns, 3, augment=augmentation.Delete(0.5), max_documents=20, seed=1)
    assert sum(len(batch) for batch in rows_of(whole)) == 3
    with pytest.raises(ValueError, match=r"`augment`.*0 for queries, 1 for documents"):
        data.batches(train, columns, 3, augment={2: augmentation.Delete(0.5)})
