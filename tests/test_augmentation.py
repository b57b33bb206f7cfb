"""Augmentation: what it changes, how often and with which seed, and that nothing else changes."""

import collections
import json
import re
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import tfxfer as tx
from tfxfer import augmentation

WORDS = "where is my card the bank has lost it and how much does a loan cost".split()
TABLE = {"card": ["cards", "visa"], "bank": ["lender"], "loan": ["credit"], "lost": ["missed"], "where": ["when"]}
CANDIDATES = augmentation.Candidates(TABLE)
RNG = np.random.default_rng(0)
# Several kinds of whitespace and punctuation, all different.
GAPS = [" ", "  ", ", ", " - ", "; ", "\t", "! "]
TEXTS = [
    "".join(
        part
        for word in RNG.choice(WORDS, RNG.integers(4, 12)).tolist()
        for part in (word.capitalize() if RNG.random() < 0.2 else word, str(RNG.choice(GAPS)))
    )
    for _ in range(300)
]
EDGES = [
    "", "  ", "?!", "card", "\u6211\u7231\u4f60", "\U0001f600", "\U0001f600 \U0001f600", " a", "\t tab\n", "don't it's",
    "abc\u6211def", "x-ray (my card), 3.14 http://a.b/c?d", "\U0001f468\u200d\U0001f469\u200d\U0001f467 ok",
    "\u0130stanbul \u00df STRASSE", "\u0e01\u0e47\u0e44\u0e17\u0e22", "a\x00b c",
]  # fmt: skip
PROPOSALS = {text: [(0, ["hello"]), (2, ["this", "that"])] for text in TEXTS}
# One instance of each augmentation, with non-default arguments.
MADE = {
    "Delete": augmentation.Delete(0.3),
    "Swap": augmentation.Swap(0.2, probability=0.9),
    "Replace": augmentation.Replace(CANDIDATES, 0.4, entities=True),
    "Insert": augmentation.Insert(TABLE, 0.3),
    "ReplaceInContext": augmentation.ReplaceInContext(PROPOSALS, 0.3),
    "EasyData": augmentation.EasyData(CANDIDATES, 0.2, probability=0.9),
    "Typos": augmentation.Typos(0.5, ("swap", "keyboard"), "qwertz", 3),
    "Case": augmentation.Case(("upper", "title"), probability=0.7),
    "Punctuation": augmentation.Punctuation(0.5, ("!", "--")),
    "DropPunctuation": augmentation.DropPunctuation(0.5, probability=1.0),
    "Compose": augmentation.Compose([augmentation.Delete(0.2), augmentation.Typos()], probability=0.8),
    "OneOf": augmentation.OneOf([augmentation.Swap(), augmentation.Case(probability=1.0)], [1.0, 2.0]),
    "ReplaceMentions": augmentation.ReplaceMentions({"P": [["Eve"], ["Al", "K.", "Li"]]}, 0.7, probability=0.9),
}
FOR_TEXTS = {name: made for name, made in MADE.items() if name != "ReplaceMentions"}


def changed(made, texts=None, seed=0, **options):
    """The augmented texts, as strings."""
    return [text.decode() for text in made(TEXTS if texts is None else texts, seed, **options).numpy()]


def words_of(text):
    return re.findall(r"\w+", text)


def skeleton(text):
    return re.sub(r"\w+", "w", text)


# === Common to all augmentations ===


def test_every_augmentation_has_a_row():
    classes = {
        name
        for name, each in vars(augmentation).items()
        if isinstance(each, type) and issubclass(each, augmentation.Augmentation)
    }
    assert classes - {"Augmentation"} == set(MADE)


@pytest.mark.parametrize("name", MADE)
def test_it_comes_back_from_its_config_and_cannot_be_changed(name):
    made = MADE[name]
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(made)))
    again = keras.saving.deserialize_keras_object(config)
    assert again == made and hash(again) == hash(made) and type(again) is type(made)
    with pytest.raises(AttributeError):
        made.probability = 0.5


@pytest.mark.parametrize("name", FOR_TEXTS)
def test_a_row_is_a_function_of_seed_epoch_and_number_in_any_batch(name):
    made = FOR_TEXTS[name]
    first = changed(made, seed=5)
    assert first == changed(made, seed=5) != changed(made, seed=6)
    assert changed(made, seed=5, epoch=1) != first != changed(made, seed=5, text=1)
    # Only some of the rows, in a different order.
    numbers = np.random.default_rng(1).permutation(len(TEXTS))[:40]
    seeds = augmentation.text_seeds(augmentation.row_seeds(5, 0, tf.constant(numbers)), 0)
    assert made.on_texts(tf.constant(TEXTS)[:0], seeds[:0]).shape == (0,)
    found = made.on_texts(tf.gather(TEXTS, numbers), seeds).numpy()
    assert [text.decode() for text in found] == [first[i] for i in numbers]


@pytest.mark.parametrize("name", FOR_TEXTS)
def test_texts_of_any_kind_pass_and_none_becomes_empty(name):
    for before, after in zip(EDGES, changed(FOR_TEXTS[name], EDGES), strict=True):
        assert bool(after.strip()) == bool(before.strip()) and "\ufffd" not in after
        assert before.strip() or before == after


def test_what_is_not_changed_stays_byte_for_byte():
    assert changed(augmentation.Delete(0.0), EDGES + TEXTS) == EDGES + TEXTS
    for made in (augmentation.Delete(0.5, probability=0.0), augmentation.Case(probability=0.0)):
        assert changed(made) == TEXTS


def splitmix(state, number):
    """The output of SplitMix64 at index `number`, from 0, of the stream that starts at `state`."""
    z = (state + (number + 1) * 0x9E3779B97F4A7C15) % 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ z >> shift) * factor % 2**64
    return z ^ z >> 31


def test_seeds_of_rows_are_numbers_of_splitmix_and_even():
    # The first outputs for the seed 0, as published by the authors of SplitMix64.
    assert [splitmix(0, i) for i in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    found = augmentation.row_seeds(2**31 + 7, 4, tf.range(100_000)).numpy().astype("uint64")
    epoch = splitmix(2**31 + 7, 4)
    assert found[:50].tolist() == [splitmix(epoch, i) for i in range(50)]
    shares = found / 2.0**64
    np.testing.assert_allclose(np.histogram(shares, 10, (0, 1))[0], 10_000, rtol=0.05)
    assert abs(np.corrcoef(shares[:-1], shares[1:])[0, 1]) < 0.01


# === Each augmentation ===


def test_delete_removes_each_word_with_its_probability_and_the_space_before_it():
    made = changed(augmentation.Delete(0.2))
    total = sum(len(words_of(text)) for text in TEXTS)
    lost = total - sum(len(words_of(text)) for text in made)
    assert lost / total == pytest.approx(0.2, abs=0.02)
    for before, after in zip(TEXTS, made, strict=True):
        rest = iter(words_of(before))
        assert all(word in rest for word in words_of(after))  # in the original order
        assert re.sub(r"[\w\s]", "", before) == re.sub(r"[\w\s]", "", after)
    assert changed(augmentation.Delete(1.0), ["one, two"]) in (["one,"], [", two"], ["one, "])
    assert {len(words_of(text)) for text in changed(augmentation.Delete(1.0))} == {1}


def test_words_do_not_grow_together():
    drop = augmentation.DropPunctuation(probability=1.0)
    assert changed(drop, ["my (card) is", "Paris\u2014London", '"Well, well"']) == [
        "my card is",
        "Paris London",
        "Well well",
    ]
    insert = augmentation.Insert({"b": ["x"]}, 0.5)
    for text in changed(insert, ["(b) b"] * 20):
        assert set(words_of(text)) == {"b", "x"} and len(words_of(text)) == 3


def test_swap_exchanges_words_and_leaves_what_is_between_them():
    made = changed(augmentation.Swap(0.1))
    for before, after in zip(TEXTS, made, strict=True):
        pairs = max(1, len(words_of(before)) // 10)
        moved = sum(a != b for a, b in zip(words_of(before), words_of(after), strict=True))
        assert sorted(words_of(before)) == sorted(words_of(after)) and skeleton(before) == skeleton(after)
        assert moved <= 2 * pairs
    assert np.mean([a != b for a, b in zip(TEXTS, made, strict=True)]) > 0.8  # some texts contain a word twice
    assert changed(augmentation.Swap(1.0), ["one", "", "two one"]) == ["one", "", "one two"]


def test_replace_takes_the_published_number_of_words_out_of_the_table():
    for before, after in zip(TEXTS, changed(augmentation.Replace(CANDIDATES, 0.2)), strict=True):
        words, others = words_of(before), words_of(after)
        known = sum(word.lower() in TABLE for word in words)
        places = [i for i, (a, b) in enumerate(zip(words, others, strict=True)) if a != b]
        assert len(places) == min(known, max(1, int(0.2 * len(words)))) and skeleton(before) == skeleton(after)
        for i in places:
            assert others[i].lower() in TABLE[words[i].lower()] and others[i][0].isupper() == words[i][0].isupper()
    assert changed(augmentation.Replace({"loan": ["Credit"]}), ["A LOAN", "a Loan", "a loan"]) == [
        "A CREDIT",
        "a Credit",
        "a Credit",
    ]
    drawn = collections.Counter(changed(augmentation.Replace(CANDIDATES), ["card"] * 400))
    assert set(drawn) == {"cards", "visa"} and min(drawn.values()) > 150


def test_insert_adds_candidates_of_words_of_the_text():
    for before, after in zip(TEXTS, changed(augmentation.Insert(CANDIDATES, 0.2)), strict=True):
        words, others = words_of(before), words_of(after)
        added = collections.Counter(others) - collections.Counter(words)
        allowed = {each for word in words for each in TABLE.get(word.lower(), [])}
        assert sum(added.values()) == (max(1, int(0.2 * len(words))) if allowed else 0) and set(added) <= allowed
        rest = iter(others)
        assert all(word in rest for word in words)


def one_edit(before, after):
    """Whether two words differ by at most one letter inserted, deleted, replaced or swapped with its neighbor."""
    a, b = before, after
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    rests = (a[start:], b[start:])
    return (
        rests[0][1:] == rests[1][1:]
        or rests[0][1:] == rests[1]
        or rests[0] == rests[1][1:]
        or (rests[0][:2] == rests[1][:2][::-1] and rests[0][2:] == rests[1][2:])
    )


def test_typos_are_one_edit_in_the_share_of_words_that_are_long_enough():
    made = changed(augmentation.Typos(0.4))
    long = hits = 0
    for before, after in zip(TEXTS, made, strict=True):
        assert skeleton(before) == skeleton(after)
        for word, other in zip(words_of(before), words_of(after), strict=True):
            assert one_edit(word, other) and (len(word) >= 4 or word == other)
            long, hits = long + (len(word) >= 4), hits + (word != other)
    assert hits / long == pytest.approx(0.4, abs=0.06)


def test_each_kind_of_typo_is_what_it_says():
    near = {"w": "qe", "o": "ip", "r": "et", "d": "sf"}
    options = {"layout": near, "min_length": 2}
    texts = ["word", "WORD", "Word", "wordy", "or", "x1d"] * 30

    def kinds(kind):
        found = changed(augmentation.Typos(1.0, kind, **options), texts)
        return {text: {found[i] for i in range(len(texts)) if texts[i] == text} for text in texts}

    assert kinds("swap")["word"] == {"wrod"} and kinds("swap")["or"] == {"ro"}
    assert kinds("delete")["word"] == {"ord", "wrd", "wod", "wor"}
    replaced = {"qord", "eord", "wird", "wprd", "woed", "wotd", "wors", "worf"}
    assert kinds("keyboard")["word"] == replaced
    assert kinds("keyboard")["WORD"] == {word.upper() for word in replaced}
    assert kinds("insert")["or"] == {"oir", "opr", "ore", "ort"}
    for kind in ("swap", "delete", "keyboard", "insert"):
        assert kinds(kind)["wordy"] == {"wordy"} and kinds(kind)["x1d"] == {"x1d"}  # characters not on the keyboard


def test_case_and_probability_take_the_share_of_the_rows():
    made = changed(augmentation.Case(("lower", "upper"), probability=0.6), ["A mixed Case!"] * 1000)
    counts = collections.Counter(made)
    assert set(counts) == {"A mixed Case!", "a mixed case!", "A MIXED CASE!"}
    assert counts["A mixed Case!"] == pytest.approx(400, abs=50)
    assert counts["a mixed case!"] == pytest.approx(300, abs=50)
    made = augmentation.OneOf([augmentation.Case("lower", probability=1.0), augmentation.Delete(0.0)], [3.0, 1.0])
    assert changed(made, ["A"] * 1000).count("a") == pytest.approx(750, abs=50)


def test_punctuation_is_put_before_words_as_published():
    counts = []
    for before, after in zip(TEXTS, changed(augmentation.Punctuation(0.3, ("@",))), strict=True):
        assert after.replace("@ ", "") == before
        counts.append(after.count("@"))
        assert 1 <= counts[-1] <= int(0.3 * len(words_of(before))) + 1
    assert len(set(counts)) > 2


def test_context_proposals_are_asked_once_and_found_by_the_text():
    asked = []

    class Model:
        def propose_words(self, texts, places, k):
            asked.extend(text[start:end] for text, (start, end) in zip(texts, places, strict=True))
            return [["two words", text[start:end], "Fine", "good"][:k] for text, (start, end) in zip(texts, places)]  # noqa: B905

    rows = ["Where is my card?", "Where is my card?", "\u6211\u7231", "?!"]
    made = augmentation.ReplaceInContext.from_model(Model(), rows, k=3, places=9, rate=1.0)
    assert asked == ["Where", "is", "my", "card", "\u6211", "\u7231"]  # each text once
    assert changed(made, rows) == ["Fine Fine Fine Fine?", "Fine Fine Fine Fine?", "FineFine", "?!"]
    assert changed(made, ["Where is my Card?"]) == ["Where is my Card?"]
    words = augmentation.ReplaceInContext.from_model(Model(), [["St.", "Ives", "is"]], places=3, rate=1.0)
    assert words.tagged([["St.", "Ives", "is"]], [["B-L", "I-L", "O"]])[0] in (
        [["St.", "Ives", "Fine"]],
        [["St.", "Ives", "good"]],
    )
    with pytest.raises(ValueError, match=r"`model`.*2 lists"):
        augmentation.ReplaceInContext.from_model(lambda texts, places, k: [], ["a b"])


def test_a_model_that_fills_masks_is_asked_with_the_word_masked(folder):
    preprocessor, asked = tiny.preprocessor(folder, sequence_length=20), []
    answers = [("card", 0.3), ("##s", 0.2), ("[UNK]", 0.1), ("?", 0.1), ("loan", 0.1), ("money", 0.1), ("bank", 0.1)]

    class Model:
        def __init__(self):
            self.preprocessor = preprocessor

        def fill_mask(self, texts, k):
            asked.extend(texts)
            return [[answers[:k]] for _ in texts]

    long = " ".join(["the card was lost"] * 8)
    made = augmentation.ReplaceInContext.from_model(Model(), ["Where is my Card?"], k=2, places=9)
    assert asked == ["[MASK] is my Card?", "Where [MASK] my Card?", "Where is [MASK] Card?", "Where is my [MASK]?"]
    assert made.proposals["Where is my Card?"][0] == (0, ("card", "loan"))
    assert made.proposals["Where is my Card?"][3] == (3, ("loan", "money"))
    asked.clear()
    augmentation.ReplaceInContext.from_model(Model(), [long], places=32)
    assert len(asked) == 32 and all("[MASK]" in text for text in asked)
    assert asked[0] == long.replace("the", "[MASK]", 1) and asked[-1] == "d was [MASK]"


# === Candidates ===


def test_candidates_by_embeddings_are_the_nearest_words(tmp_path):
    embedder = tiny.embedder(tmp_path)
    words = ["card", "loan", "money", "bank", "cards", "zzz"]
    vectors = {
        "encode": embedder.encode(words),
        "tokens": np.zeros((len(words), 8), "float32"),
    }
    table = keras.ops.convert_to_numpy(embedder.backbone.token_embedding.embeddings)
    tokenizer = embedder.preprocessor.tokenizer
    for i, ids in enumerate(tokenizer(words).to_list()):
        ids = [each for each in ids if each != tokenizer.unk_token_id]
        if ids:
            vectors["tokens"][i] = table[ids].mean(axis=0)
    for by, found in vectors.items():
        expected = {}
        for i, word in enumerate(words):
            lengths = np.linalg.norm(found[i]), np.linalg.norm(found, axis=1)
            cosines = found @ found[i] / np.maximum(lengths[0] * lengths[1], 1e-9)
            near = sorted((j for j in range(len(words)) if j != i), key=lambda j: -cosines[j])[:2]
            expected[word] = tuple(words[j] for j in near if cosines[j] >= 0.1)
        made = augmentation.Candidates.from_embeddings(embedder, words, k=2, min_similarity=0.1, by=by)
        assert made.table == {word: near for word, near in expected.items() if near}
    assert "zzz" not in made.table
    with pytest.raises(ValueError, match="`min_similarity`"):
        augmentation.Candidates.from_embeddings(embedder, ["card", "zzz"], by="tokens")


def test_candidates_by_wordnet_are_the_single_words_of_all_senses(monkeypatch):
    with pytest.raises(ImportError, match=r"tfxfer\[wordnet\]"):
        monkeypatch.setitem(sys.modules, "nltk.corpus", None)
        augmentation.Candidates.from_wordnet(["car"])
    senses = {"car": [["car", "auto", "motor_car"], ["car", "Railcar"]], "of": []}

    class Sense:
        def __init__(self, names):
            self._names = names

        def lemma_names(self, lang):
            assert lang == "eng"
            return self._names

    wordnet = types.SimpleNamespace(synsets=lambda word, lang: [Sense(names) for names in senses[word]])
    monkeypatch.setitem(sys.modules, "nltk", types.ModuleType("nltk"))
    monkeypatch.setitem(sys.modules, "nltk.corpus", types.SimpleNamespace(wordnet=wordnet))
    assert augmentation.Candidates.from_wordnet(["car", "of"]).table == {"car": ("auto", "Railcar")}
    assert augmentation.Candidates.from_wordnet(["car", "of"], k=1).table == {"car": ("auto",)}

    def missing(word, lang):
        raise LookupError("Resource wordnet not found")

    wordnet.synsets = missing
    with pytest.raises(LookupError, match=r"nltk\.downloader"):
        augmentation.Candidates.from_wordnet(["car"])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: augmentation.Delete(1.5), "`rate`"),
        (lambda: augmentation.Swap(probability=-0.1), "`probability`"),
        (lambda: augmentation.Candidates({"card": ["debit card"]}), "`table`.*without whitespace"),
        (lambda: augmentation.Candidates({"card": ["Card"]}), "`table`"),
        (lambda: augmentation.Replace("card"), "`candidates`"),
        (lambda: augmentation.Typos(kinds="slip"), "`kinds`.*'keyboard'"),
        (lambda: augmentation.Typos(layout="dvorak"), "`layout`.*'qwerty'"),
        (lambda: augmentation.Case("camel"), "`cases`"),
        (lambda: augmentation.Punctuation(marks=(" ",)), "`marks`"),
        (lambda: augmentation.Compose([]), "`augmentations`"),
        (lambda: augmentation.Compose([augmentation.Delete]), r"Pass an instance: `Delete\(\.\.\.\)`"),
        (lambda: augmentation.OneOf([augmentation.Delete()], [1.0, 2.0]), "`weights`"),
        (lambda: augmentation.ReplaceMentions({"P": ["Ada"]}), "`mentions`.*list"),
        (lambda: augmentation.ReplaceInContext({"a": []}), "`proposals`"),
        (lambda: augmentation.Delete()("one text"), "`texts`"),
        (lambda: augmentation.Delete()(["one", None]), "`texts`.*row 1"),
        (lambda: augmentation.Insert(TABLE).tagged([["card"]], [["NOUN"]], None), "'O'"),
        (lambda: augmentation.Delete().tagged([["card"]], [["O", "O"]]), "`tags`.*row 0"),
    ],
)
def test_arguments_are_checked_where_they_come_in(make, said):
    with pytest.raises(ValueError, match=said):
        make()


# === Tags ===

PEOPLE = [
    ["Ada", "Byron", "met", "Alan", "Turing", "Grace", "in", "the", "London", "fog", "."],
    ["O", "Paris", "!"],
    ["nothing", "here", "at", "all"],
    ["Ada"],
]
MARKS = [
    ["B-P", "I-P", "O", "B-P", "I-P", "B-P", "O", "O", "B-L", "O", "O"],
    ["O", "B-L", "O"],
    ["O", "O", "O", "O"],
    ["B-P"],
]
NEAR = {"met": ["saw"], "the": ["this"], "fog": ["mist"], "nothing": ["naught"], "all": ["every"], "Ada": ["Eve"]}


def entities(words, tags, scheme):
    """The entities of each row: type and words."""
    tags = tx.data.convert_tags(tags, scheme, "IOB2")  # raises for tags that the scheme forbids
    found = []
    for row, theirs in zip(words, tags, strict=True):
        found.append([])
        for word, tag in zip(row, theirs, strict=True):
            if tag.startswith("B"):
                found[-1].append((tag[2:], [word]))
            elif tag.startswith("I"):
                found[-1][-1][1].append(word)
    return found


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BILOU"])
def test_words_and_tags_keep_in_step_and_entities_whole(scheme):
    tags = tx.data.convert_tags(MARKS, "IOB2", scheme)
    before = entities(PEOPLE, tags, scheme)
    for made in (
        augmentation.Delete(0.7),
        augmentation.Compose([augmentation.EasyData(NEAR, 0.4), augmentation.Punctuation()]),
        augmentation.DropPunctuation(probability=1.0),
    ):
        for seed in range(2):
            words, found = made.tagged(PEOPLE, tags, scheme, seed)
            assert entities(words, found, scheme) == before and words != PEOPLE
    mentions = augmentation.ReplaceMentions.from_rows(PEOPLE, tags, scheme, rate=0.6)
    assert mentions.mentions == {
        "P": (("Ada", "Byron"), ("Alan", "Turing"), ("Grace",), ("Ada",)),
        "L": (("London",), ("Paris",)),
    }
    for seed in range(3):
        words, found = mentions.tagged(PEOPLE, tags, scheme, seed)
        after = entities(words, found, scheme)
        assert [[kind for kind, _ in row] for row in after] == [[kind for kind, _ in row] for row in before]
        assert all(tuple(each) in mentions.mentions[kind] for row in after for kind, each in row)
        outside = lambda rows, tags: [[w for w, t in zip(*row, strict=True) if t == "O"] for row in zip(rows, tags)]  # noqa: B905, E731
        assert outside(words, found) == outside(PEOPLE, tags) and words != PEOPLE


def test_mentions_are_replaced_at_their_rate_by_all_of_their_type():
    rows, tags = [["Ada", "in", "Rome"]] * 1000, [["B-P", "O", "B-L"]] * 1000
    made = augmentation.ReplaceMentions({"P": [["Eve"], ["Al", "Li"]]}, rate=0.4)
    counts = collections.Counter(" ".join(row) for row in made.tagged(rows, tags)[0])
    assert set(counts) == {"Ada in Rome", "Eve in Rome", "Al Li in Rome"}
    assert counts["Ada in Rome"] == pytest.approx(600, abs=50) and counts["Eve in Rome"] == pytest.approx(200, abs=40)


def test_tags_that_mark_no_entities_go_along_with_their_words():
    rows, tags = [["one", "two", "three", "four"]] * 20, [["A", "B", "C", "D"]] * 20
    of = dict(zip(rows[0], tags[0], strict=True))
    for made in (augmentation.Swap(0.5), augmentation.Delete(0.4)):
        words, found = made.tagged(rows, tags, None)
        assert found == [[of[word] for word in row] for row in words] and words != rows


# === In batches ===


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def preprocessor(folder):
    return tiny.preprocessor(folder, sequence_length=48)


def by_row(batches, key="token_ids"):
    """The ids of each row of an epoch, without padding, keyed by the row's number, which is its target."""
    found = {}
    for x, y in batches.as_numpy_iterator():
        for ids, mask, number in zip(x[key], x["padding_mask"], y, strict=True):
            found[int(number)] = ids[mask > 0].tolist()
    return found


def ids_of(preprocessor, texts):
    packed = preprocessor.pack(preprocessor.tokenizer(texts))
    masks = packed["padding_mask"].numpy() > 0
    return {i: ids[mask].tolist() for i, (ids, mask) in enumerate(zip(packed["token_ids"].numpy(), masks, strict=True))}


@pytest.mark.parametrize(("cache", "batch_size"), [(True, 7), (False, 4)])
def test_batches_hold_what_the_augmentation_gives_and_go_on_in_mid_epoch(preprocessor, cache, batch_size):
    made = augmentation.Delete(0.3, probability=0.8)
    rows = (TEXTS[:50], np.arange(50))
    batches = tx.data.batches(rows, preprocessor, batch_size, seed=3, cache=cache, augment=made, window=3)
    whole = tx.data.batches(rows, preprocessor, batch_size, seed=3, cache=cache, window=3)
    assert by_row(batches) == ids_of(preprocessor, made(TEXTS[:50], 3))
    expected, rest = ids_of(preprocessor, made(TEXTS[:50], 3, epoch=1)), by_row(batches.rest(1, 5))
    if cache:  # the order is the same as without augmentation
        assert list(rest) == [number for _, y in whole.rest(1, 5).as_numpy_iterator() for number in y.tolist()]
    assert rest == {number: expected[number] for number in rest} and len(rest) == 50 - 5 * batch_size
    assert whole.plain() is whole and whole.augmentation is None and batches.augmentation.startswith("Delete (")
    if not cache:
        return
    for (x, y), (x_plain, y_plain) in zip(whole.rest(0), batches.plain().rest(0), strict=True):
        np.testing.assert_array_equal(x["token_ids"], x_plain["token_ids"])
        np.testing.assert_array_equal(y, y_plain)


def test_texts_of_a_row_are_changed_each_by_itself(preprocessor):
    column, texts = tx.data.TextColumn(preprocessor, "separate"), TEXTS[:20]
    rows, seeds = column.read((texts, texts, texts), "x"), augmentation.row_seeds(1, 0, tf.range(20))
    made = [augmentation.Delete(0.3), None, augmentation.Swap(0.3)]
    for given in ({0: made[0], 2: made[2]}, made[0]):
        found, tags = column.augment(column.split(rows, given), given, seeds)
        expected = made if isinstance(given, dict) else [given] * 3
        for i, (text, change) in enumerate(zip(found, expected, strict=True)):
            after = texts if change is None else changed(change, texts, 1, text=i)
            assert [each.decode() for each in text.numpy()] == after
    assert tags == () and found[0].numpy().tolist() != found[1].numpy().tolist()


@pytest.mark.slow
def test_mixes_unique_texts_and_other_columns_are_changed_too(preprocessor):
    made = augmentation.Swap(0.3)
    options = {"unique_texts": True, "seed": 0}
    mixed = tx.data.mix(
        [
            tx.data.batches((TEXTS[:16], np.arange(16)), preprocessor, 4, augment=made, **options),
            tx.data.batches((TEXTS[:16], np.arange(16)), preprocessor, 4, **options),
        ],
        seed=0,
    )
    assert "Swap" in mixed.augmentation and mixed.plain().augmentation is None
    first = [x["token_ids"] for x, _ in mixed.as_numpy_iterator()]
    plain = [x["token_ids"] for x, _ in mixed.plain().as_numpy_iterator()]
    differ = [a.shape != b.shape or (a != b).any() for a, b in zip(first, plain, strict=True)]
    assert 1 <= sum(differ) <= 4  # batches of the other source do not change
    pairs = ((TEXTS[:8], TEXTS[8:16]), np.arange(8.0))
    options = {"columns": "separate", "shuffle": False, "seed": 1}
    [(x, y)] = tx.data.batches(pairs, preprocessor, 8, augment={1: made}, **options).as_numpy_iterator()
    for i, texts in enumerate((TEXTS[:8], made(TEXTS[8:16], 1, text=1))):
        ids = [
            each[mask > 0].tolist() for each, mask in zip(x["token_ids"][:, i], x["padding_mask"][:, i], strict=True)
        ]
        assert ids == list(ids_of(preprocessor, texts).values())
    np.testing.assert_array_equal(y, np.arange(8.0))
    lists = {"list": [TEXTS[:3], [], TEXTS[3:4]], "name": ["where", "card", "bank"]}
    columns = {"list": tx.data.TextListColumn(preprocessor), "name": tx.data.CategoryColumn(["where", "card", "bank"])}
    rows = tx.data.examples(lists, columns)
    x, x_plain = (
        next(iter(tx.data.batches(rows, columns, 3, shuffle=False, seed=0, augment=each))) for each in (made, None)
    )
    assert (x["token_ids"].numpy() != x_plain["token_ids"].numpy()).any()
    np.testing.assert_array_equal(x["list_mask"], x_plain["list_mask"])
    np.testing.assert_array_equal(x["name"], x_plain["name"])


def test_tagged_rows_give_what_tagged_gives(folder):
    tagger = tiny.tagger(folder)
    rows = tx.data.tagged(
        [{"words": words, "tags": tags} for words, tags in zip(tiny.WORD_ROWS, tiny.TAG_ROWS, strict=True)],
        labels=tagger.tags,
    )
    made = augmentation.Compose(
        [
            augmentation.ReplaceMentions.from_rows(tiny.WORD_ROWS, tiny.TAG_ROWS, rate=0.8),
            augmentation.Delete(0.3),
            augmentation.Punctuation(),
        ]
    )
    [(x, y)] = tx.data.batches(rows, tagger, 6, shuffle=False, seed=4, augment=made).as_numpy_iterator()
    words, tags = made.tagged(tiny.WORD_ROWS, tiny.TAG_ROWS, seed=4)
    assert words != tiny.WORD_ROWS
    for row, theirs in zip(y, tags, strict=True):
        assert [tagger.tags[i] for i in row if i >= 0] == theirs
    expected = tagger.preprocessor.pack(
        tagger.input_columns()["words"].encode(tf.ragged.constant(words)).merge_dims(1, 2)
    )
    np.testing.assert_array_equal(x["token_ids"], expected["token_ids"])
    raw = tf.data.Dataset.from_tensors((tf.constant(["my", "card"]), tf.constant(["O", "O"])))
    with pytest.raises(ValueError, match=r"`dataset`.*data\.tagged"):
        tx.data.batches(raw, tagger, 1, augment=made)


# === In training ===


def test_fit_trains_on_changed_texts_and_evaluates_as_before(folder, capfd):
    texts, labels, seen = tiny.TEXTS * 2, tiny.LABELS * 2, []
    made = augmentation.Delete(0.5)
    model = tiny.classifier(folder)
    model.compile(keras.optimizers.SGD(0.5), run_eagerly=True)
    model.train_step = lambda data: seen.append(data) or {"loss": 0.0}
    fitted = model.fit(texts, labels, 4, 2, verbose=0, seed=2, augment=made, validation_data=(texts, labels))
    targets = model.read_targets(labels).tolist()
    for epoch, part in enumerate((seen[:4], seen[4:])):
        expected = list(ids_of(model.preprocessor, made(texts, 2, epoch=epoch)).values())
        found = []
        for x, y in part:
            for ids, mask, label in zip(x["token_ids"].numpy(), x["padding_mask"].numpy(), y.numpy(), strict=True):
                found.append((ids[mask > 0].tolist(), int(label)))
        assert sorted(found) == sorted(zip(expected, targets, strict=True))
    assert fitted.history["val_loss"][-1] == pytest.approx(model.evaluate(texts, labels, verbose=0)[0], abs=1e-6)
    batches = tx.data.batches((texts, model.read_targets(labels)), model, 4, seed=2, augment=made)
    assert batches.kept_targets().numpy().tolist() == targets
    for refused in (
        lambda: model.evaluate(batches),
        lambda: model.predict(batches),
        lambda: model.fit(texts, labels, validation_data=batches),
    ):
        with pytest.raises(ValueError, match=r"without augmentation.*batches\.plain\(\)"):
            refused()
    with pytest.raises(ValueError, match=r"`augment`.*batches already"):
        model.fit(batches.plain(), augment=made)
    with pytest.raises(ValueError, match=r"`dataset`.*keep ids"):
        tx.data.batches(batches.plain(), model, augment=made)
    with pytest.raises(ValueError, match=r"`augment`.*texts < 1"):
        model.fit(texts, labels, augment={1: made})
    tx.freezing.freeze(model, below=1)
    above = tx.freezing.AboveFrozen(model)
    for arguments, options in (((texts, labels), {"augment": made}), ((batches,), {})):
        with pytest.raises(ValueError, match="no fixed features"):
            above.fit(*arguments, **options)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_head_starts_from_the_texts_as_they_are(folder):
    model = tiny.classifier(folder, head="probe")
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    model.fit(tiny.TEXTS * 3, tiny.LABELS * 3, epochs=0, verbose=0, augment=augmentation.Delete(0.9))
    started, head = model.head_probe, model.head.get_weights()
    tx.freezing.probe(model, tiny.TEXTS * 3, tiny.LABELS * 3, penalties=[10 * started.penalty])
    for one, other in zip(head, model.head.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=5e-3)  # two runs of the solver


@pytest.mark.slow
def test_a_run_that_was_stopped_in_mid_epoch_goes_on_with_the_same_texts(folder, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 6:
                raise KeyboardInterrupt

    def train(path, made, callbacks=()):
        keras.utils.set_random_seed(0)
        model = tiny.classifier(folder, dropout=0.0, mixup=0.3)
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        resume = tx.callbacks.Resume(path, every=1)
        options = {"epochs": 2, "verbose": 0, "seed": 1, "callbacks": [*callbacks, resume], "augment": made}
        model.fit(tiny.TEXTS * 2, tiny.LABELS * 2, 4, **options)
        return model.get_weights(), resume.resumed_at

    made = augmentation.Delete(0.5)
    expected, _ = train(tmp_path / "whole", made)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "two", made, [Stop()])
    with pytest.raises(ValueError, match="augmentation of the data"):
        train(tmp_path / "two", augmentation.Delete(0.4))
    found, at = train(tmp_path / "two", made)
    assert at[0] == 1 and at[1] in (1, 2)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


# === Mixup ===


def test_mixup_is_the_loss_of_mixed_features_with_the_weights_of_each_row(folder):
    keras.utils.set_random_seed(0)
    model = tiny.classifier(folder, mixup=0.7, dropout=0.0)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, 8)).astype("float32")
    y, weights = np.array([0, 2, 1, 1, 2]), np.array([0.5, 2.0, 1.0, 0.0, 3.0], "float32")
    logits = model.head(features)
    dense = model.head.denses[-1]
    kernel, bias = (keras.ops.convert_to_numpy(each) for each in (dense.kernel, dense.bias))

    def value(share, step):
        partners = (np.arange(5) + step) % 5
        mixed = share * features + (1 - share) * features[partners]  # the features, not the logits
        z = mixed @ kernel + bias
        log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        losses = share * weights * -log_p[np.arange(5), y]
        losses = losses + (1 - share) * weights[partners] * -log_p[np.arange(5), y[partners]]
        return losses.mean()

    shares = np.linspace(0, 1, 2001)
    for _ in range(4):
        found = float(model.compute_loss(None, y, logits, weights, training=True))
        assert min(abs(value(share, step) - found) for share in shares for step in range(1, 5)) < 1e-3
    plain = float(model.compute_loss(None, y, logits, weights, training=False))
    assert plain == pytest.approx(value(1.0, 1), rel=1e-5)
    one = float(model.compute_loss(None, y[:1], logits[:1], weights[:1], training=True))  # a row alone: unmixed
    assert one == pytest.approx(float(model.compute_loss(None, y[:1], logits[:1], weights[:1], training=False)))
    model.mixup = 0.0
    assert float(model.compute_loss(None, y, logits, weights)) == plain


def test_mixup_is_saved_trains_above_frozen_layers_and_refuses_other_heads(folder, tmp_path):
    model = tiny.classifier(folder, mixup=0.4, multi_label=True)
    model.compile(keras.optimizers.SGD(0.1))
    model.save_to_preset(tmp_path / "saved")
    again = tx.models.TextClassifier.from_preset(tmp_path / "saved")
    assert again.mixup == 0.4 and len(again.get_weights()) == len(model.get_weights())
    assert tx.models.TextClassifier.from_preset(tmp_path / "saved", mixup=0.1).mixup == 0.1
    with pytest.raises(ValueError, match=r"`mixup`.*linear"):
        tiny.classifier(folder, mixup=0.4, head=keras.layers.Dense(3, activation="tanh"))
    tx.freezing.freeze(again, below=1)
    again.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    above = tx.freezing.AboveFrozen(again)
    calls = []
    mixed = again.training_loss
    again.training_loss = lambda *args, **kwargs: calls.append(1) or mixed(*args, **kwargs)
    above.fit(tiny.TEXTS, [[label] for label in tiny.LABELS], 4, epochs=1, verbose=0)
    assert len(calls) == 2


@pytest.mark.slow
def test_augmentation_and_mixup_train_on_jax(tmp_path):
    from test_contracts import run_afresh

    run_afresh(f"""
        import os, pathlib
        os.environ["KERAS_BACKEND"] = "jax"
        import keras, numpy as np, tiny, tfxfer as tx
        folder = pathlib.Path({str(tmp_path)!r})
        keras.utils.set_random_seed(0)
        model = tiny.classifier(folder, mixup=0.4)
        model.compile(tx.optimizers.AdamW(1e-2))
        seed = np.asarray(model.mixup_seed.state)
        before = model.evaluate(tiny.TEXTS, tiny.LABELS, verbose=0)[0]
        model.fit(tiny.TEXTS, tiny.LABELS, 4, 20, verbose=0, seed=0, augment=tx.augmentation.Typos())
        assert model.evaluate(tiny.TEXTS, tiny.LABELS, verbose=0)[0] < 0.9 * before
        assert (np.asarray(model.mixup_seed.state) != seed).any()
        tx.freezing.freeze(model, below=1)
        model.compile(tx.optimizers.AdamW(1e-2))
        tx.freezing.AboveFrozen(model).fit(tiny.TEXTS, tiny.LABELS, 4, epochs=2, verbose=0)
    """)
