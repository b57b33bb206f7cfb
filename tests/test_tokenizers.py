"""Every kind of tokenizer gives the ids of Hugging Face's `tokenizers`; patterns, added tokens, settings, bad files."""

import copy
import json
import random
import shutil

import families
import keras
import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from test_preprocessing import HORRORS, ids_of, reference

# Private: the parts of a tokenizer, against those of the reference. A whole tokenizer for each pattern or class would
# need a vocabulary in which every difference shows.
from tfxfer.preprocessing import TextPreprocessor, Tokenizer, _added, _merges, _patterns, _splits, _unicode

KINDS = ("mpnet", "modernbert", "bert_unigram", "openai_gpt", "qwen3", "gemma3", "t5", "eurobert")
ST_FOLDERS = (
    "st_bert_cls_dense_tanh",
    "st_e5",
    "st_gemma3",
    "st_mpnet_prompt_not_pooled",
    "st_nomic_default_prompt",
    "st_qwen3",
    "st_t5",
)
HOSTILE = [
    *HORRORS,
    *("a\r\n\r\nb  \n c", "a\n\n\nb", "!\n\nb", "! \n\n b", "!\n \nb", "\n\n a", "  \n\n  a\n\n ", "\t\tx = 1\n\t\ty"),
    *("a\tb\tc \x01", "a\tb  \tc", "123456 1234567 12 1", "a1b22c333d4444", "DON'T I'LL WE'VE I'D you'RE", "'ſ 'S"),
    *("x  y   z" + " " * 24 + "w" + " " * 25 + "v", " " * 60, "\n" * 40, "▁▁a ▁b", "a▁b", "<0x41>", "٣٤٥ ½ Ⅷ ²"),
    *(
        "\u037e \u212a \u212b",
        "e\u0301 e\u0323",
        "🏳️‍🌈",
        "\ue000",
        "a\x1cb",
        "\x7f",
        "\ufffd\uffff",
        "\u08d9",
        "\u2047 a\u2047",
    ),
    *("a|||IP_ADDRESS|||b <|padding|>", "<table><tr>x</tr></table>", "K\u0301\ud55c\u1100"),
]


@pytest.fixture(scope="module")
def pairs(golden):
    """For each kind: our tokenizer and the reference."""
    return families.each(golden, "families2", KINDS, lambda folder: (Tokenizer.from_folder(folder), reference(folder)))


def assert_same(ours, theirs, texts):
    expected = ids_of(theirs, texts)
    got = ours(texts).to_list()
    assert [(t, a, b) for t, a, b in zip(texts, got, expected, strict=True) if a != b] == []


def written(tokenizer, folder):
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return Tokenizer.from_folder(folder), tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("kind", KINDS)
def test_hard_texts_equal_the_reference(pairs, kind):
    ours, theirs = pairs[kind]
    texts = HOSTILE
    if kind in ("bert_unigram", "t5"):  # a mark after a changed character, and special tokens in texts: see `Tokenizer`
        texts = [text for text in texts if text not in ("e\u0301 e\u0323", "K\u0301\ud55c\u1100")]
    theirs.encode_special_tokens = True
    assert_same(ours, theirs, texts)
    assert ours(texts).to_list() == [ours(text).to_list()[0] for text in texts]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_many_languages_equal_the_reference(pairs, kind, real_data):
    lines = (real_data / "tatoeba" / "test.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    texts = [field for line in lines[::5] for field in line.split("\t")[1:]]
    assert_same(*pairs[kind], texts)
    assert_same(*pairs[kind], [text.replace(" ", "\n\t", 1) for text in texts[:500]])


CHARACTERS = st.one_of(
    st.sampled_from("abcdeABC 'stmdvlr!.,  \n\t\r1234-_é中…\u00a0\0\x01▁<>"),
    st.characters(exclude_categories=["Cs", "Cn"]),
)


@pytest.mark.parametrize("kind", ["openai_gpt", "gemma3", "eurobert", "mpnet"])
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(CHARACTERS, max_size=30), min_size=1, max_size=20))
def test_any_unicode_equals_the_reference(pairs, kind, texts):
    assert_same(*pairs[kind], texts)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_that_is_set_later_leaves_a_tokenizer_as_it_is(pairs, kind):
    tokenizer, _ = pairs[kind]
    texts = ["Where is my parcel?", "naïve café"]
    traced = tf.function(tokenizer, input_signature=[tf.TensorSpec([None], tf.string)])
    expected = [tokenizer(texts).to_list(), traced(texts).to_list()]
    keras.utils.set_random_seed(7)  # clears the cache of TensorFlow's kernels
    dataset = tf.data.Dataset.from_tensors(tf.constant(texts)).map(tokenizer)
    later = tf.function(lambda strings: tokenizer(strings))
    assert [tokenizer(texts).to_list(), traced(texts).to_list()] == expected
    assert [later(tf.constant(texts)).to_list(), next(iter(dataset)).to_list()] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_strings_can_be_switched_at_any_time(pairs, kind):
    ours, theirs = pairs[kind]
    names = [token for token in ours.special_tokens if token not in ("<unk>", "[UNK]")][:6]
    texts = [f"a {token} b{token}c  {token}\n" for token in names] + ["".join(names), "x".join(names), " ", ""]
    before = ours(texts).to_list()
    try:
        ours.special_tokens_in_strings = True
        theirs.encode_special_tokens = False
        assert_same(ours, theirs, texts)
        assert ours.get_config()["special_tokens_in_strings"] is True
    finally:
        ours.special_tokens_in_strings = False
        theirs.encode_special_tokens = True
    assert ours(texts).to_list() == before
    with pytest.raises(ValueError, match="`special_tokens_in_strings`"):
        ours.special_tokens_in_strings = 1


@pytest.mark.parametrize("folder", ST_FOLDERS)
def test_folders_of_sentence_transformers_give_their_golden_ids(golden, folder):
    expected = np.load(golden / "families2" / folder / "expected_st.npz")["input_ids_encode"]
    texts = json.loads((golden / "families2" / "texts.json").read_text(encoding="utf-8"))["texts"]
    config = json.loads(
        (golden / "families2" / folder / "config_sentence_transformers.json").read_text(encoding="utf-8")
    )
    prompt = config["prompts"].get(config.get("default_prompt_name"), "")
    texts = [prompt + text for text in texts]
    tokenizer = Tokenizer.from_folder(golden / "families2" / folder)
    features = TextPreprocessor(tokenizer, expected.shape[1])(texts)
    keep = features["padding_mask"].numpy().astype(bool)
    assert [row[row >= 0].tolist() for row in expected] == [
        ids[kept].tolist() for ids, kept in zip(features["token_ids"].numpy(), keep, strict=True)
    ]


PATTERNS = {
    "gpt2": _patterns.GPT2,
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+",
    "tiktoken": r"(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|"
    r"\s+(?!\S)|\s+",
    "marks": r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "digits": r"\p{N}",
    "no look-ahead": r" ?\d+|\S+|\s",
}
SPLIT_ALPHABET = [*"aB1!'/ \n\r\tsT", "é", "中", "\u0301", "\u00a0", "\u3000", "ll", "  ", "²"]


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_cut_where_the_reference_cuts(name):
    rng = random.Random(len(name))
    texts = ["".join(rng.choices(SPLIT_ALPHABET, k=rng.randint(0, 12))) for _ in range(3000)] + HOSTILE
    theirs = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERNS[name]), "isolated")
    expected = [[piece for piece, _ in theirs.pre_tokenize_str(text)] for text in texts]
    splitter = _splits.Splitter([["isolated", PATTERNS[name]]])
    assert splitter.is_local == (name not in ("o200k", "digits", "no look-ahead"))
    for batch in (slice(0, 3000), slice(3000, None)):  # a text with \x01 makes the whole batch take the slower path
        words = tf.constant(texts[batch])
        assert pieces(splitter.finely(words)) == expected[batch]
        if splitter.is_local:
            coarse = splitter.split(words)
            fine = splitter.finely(splitter.restore(coarse.values))
            rows = tf.RaggedTensor.from_row_splits(fine.values, tf.gather(fine.row_splits, coarse.row_splits))
            assert pieces(rows) == expected[batch]


def pieces(rows):
    return [[piece.decode() for piece in row if piece] for row in rows.to_list()]


@pytest.mark.parametrize(
    ("behavior", "invert", "ours"),
    [("isolated", False, "isolated"), ("removed", False, "removed"), ("removed", True, "matches")],
)
def test_behaviors_of_a_split_are_those_of_the_reference(behavior, invert, ours):
    texts = ["", "a1 22b", "12", "a", "1a1", " é٣x"]
    theirs = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"\p{N}+"), behavior, invert)
    expected = [[piece for piece, _ in theirs.pre_tokenize_str(text)] for text in texts]
    assert pieces(_splits.Splitter([[ours, r"\p{N}+"]]).finely(tf.constant(texts))) == expected


@pytest.mark.parametrize(
    "pattern",
    [r"(?<=a)b", r"a(?!b)|\s+", r"\w+", r"[a[bc]]", r"[a&&b]", r"a++", r"\bx", r"[^x]+|\s+(?!\S)|\s+", "(", r"(a)\1"],
)
def test_patterns_that_re2_cannot_do_are_refused(pattern):
    with pytest.raises(_patterns.Unsupported):
        _patterns.translate(pattern)


def test_classes_of_patterns_are_those_of_the_reference():
    # All planes that contain characters with a class.
    codes = [chr(code) for code in (*range(0xD800), *range(0xE000, 0x32400), *range(0xE0000, 0xE0200))]
    for name in (
        r"\p{L}",
        r"\p{N}",
        r"\p{M}",
        r"\p{Lu}",
        r"\p{Ll}",
        r"\p{Lt}",
        r"\p{Lm}",
        r"\p{Lo}",
        r"\p{P}",
        r"\s",
        r"\d",
    ):
        remove = tokenizers.normalizers.Replace(tokenizers.Regex(name), "")
        expected = [remove.normalize_str(code) == "" for code in codes]
        got = tf.strings.regex_full_match(codes, _patterns.translate(name).regex).numpy()
        assert [code for code, a, b in zip(codes, got, expected, strict=True) if a != b] == [], name


def test_character_classes_are_those_of_the_reference():
    codes = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    clean = tokenizers.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False
    )
    assert {c for c in codes if clean.normalize_str(c) == ""} == _unicode.characters(_unicode.CONTROL)
    accents = tokenizers.normalizers.StripAccents()
    assert {c for c in codes if accents.normalize_str(c) == ""} == _unicode.characters(_unicode.MARKS)
    splitter = tokenizers.pre_tokenizers.BertPreTokenizer()
    apart = {c for c in codes if len(splitter.pre_tokenize_str(f"a{c}b")) == 3}
    assert apart == _unicode.characters(_unicode.PUNCTUATION)


def test_ranks_leave_out_what_its_own_bytes_do_not_lead_to():
    tokens = ["a", "b", "c", "bc", "ab", "abc", "<s>"]
    # "bc" is merged before "ab" can be, so "ab" + "c" never occurs.
    assert _merges.ranks(tokens, [["b", "c"], ["a", "b"], ["ab", "c"]]) == [-1, -1, -1, 0, 1, None, None]


def test_the_longest_of_several_tokens_is_matched():
    strings = ["ab", "abcd", "ax", "\n", "\n\n", "<a>", "<ab>", "é"]
    pattern = _added.trie_pattern(strings)
    found = tf.strings.regex_replace("abcabcdax\n\n\n<ab><a>xé", pattern, r"[\0]").numpy().decode()
    assert found == "[ab]c[abcd][ax][\n\n][\n][<ab>][<a>]x[é]"


ADDED = [
    "foo",
    "Foo bar",
    "中",
    "<tag>",
    "a",
    "ab",
    "abc",
    "FOO",
    "don't",
    "x y",
    "İ",
    "ß",
    "[A]",
    "12",
    "_",
    "a b",
    "foo.",
]
PARTS = [
    *ADDED,
    "Foo",
    "bar",
    " ",
    "  ",
    "\n",
    "x",
    "é",
    "e\u0301",
    "文",
    "b",
    "c",
    "1",
    "2",
    ".",
    "-",
    "\u00a0",
    "\t",
    "z",
]


@pytest.mark.parametrize(
    "kind", ["bert", "bert_cased", "roberta", "modernbert", "gemma3", "openai_gpt", "deberta_v3", "t5"]
)
@pytest.mark.parametrize("seed", range(2))
def test_added_tokens_are_found_as_the_reference_finds_them(golden, tmp_path, kind, seed):
    rng = random.Random(f"{kind} {seed}")
    folder = golden / ("families2" if (golden / "families2" / kind).is_dir() else "families") / kind
    theirs = reference(folder)
    for content in rng.sample(ADDED, 5):
        names = ("single_word", "lstrip", "rstrip", "normalized")
        token = tokenizers.AddedToken(content, **{name: rng.random() < 0.4 for name in names})
        # Only in the reference's Unigram models, a special token that is also a piece remains usable as a piece.
        is_piece = kind in ("deberta_v3", "t5") and len(content) < 3
        (theirs.add_special_tokens if rng.random() < 0.4 and not is_piece else theirs.add_tokens)([token])
    ours, theirs = written(theirs, tmp_path)
    texts = ["".join(rng.choices(PARTS, k=rng.randint(1, 12))) for _ in range(400)]
    for special in (False, True):
        ours.special_tokens_in_strings, theirs.encode_special_tokens = special, not special
        assert_same(ours, theirs, texts)
    ours.to_folder(tmp_path / "again")
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    again.no_padding()
    assert ids_of(again, texts) == ids_of(theirs, texts)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_added_later_are_found_counted_and_saved(golden, tmp_path, kind):
    ours, theirs = Tokenizer.from_folder(golden / "families2" / kind), reference(golden / "families2" / kind)
    count = ours.vocabulary_size()
    old = ours.vocabulary[5]
    assert ours.add_tokens(["Iban", "my token", "Iban", old]) == 2
    assert ours.add_tokens(["Iban"]) == 0
    assert ours.add_tokens(["<ask>"], special=True) == 1
    assert theirs.add_tokens(["Iban", "my token"]) == 2
    theirs.add_special_tokens(["<ask>"])
    assert ours.vocabulary[count:] == ["Iban", "my token", "<ask>"] and ours.token_to_id("<ask>") == count + 2
    texts = ["An Iban, an iban", "xIbanx my token", "<ask>Iban <ask>", "my  token", "MY TOKEN"]
    theirs.encode_special_tokens = True
    assert_same(ours, theirs, texts)
    ours.special_tokens_in_strings, theirs.encode_special_tokens = True, False
    assert_same(ours, theirs, texts)
    ours.save_assets(tmp_path)
    again = Tokenizer.from_config(ours.get_config())
    again.load_assets(tmp_path)
    assert again(texts).to_list() == copy.deepcopy(ours)(texts).to_list() == ours(texts).to_list()
    ours.to_folder(tmp_path / "new")
    assert (
        Tokenizer.from_folder(tmp_path / "new", special_tokens_in_strings=True)(texts).to_list()
        == ours(texts).to_list()
    )


@pytest.mark.parametrize("bad", ["abc", [""], [1], [None], ["a", b"b"]])
def test_tokens_that_are_no_strings_are_not_added(golden, bad):
    tokenizer = Tokenizer.from_folder(golden / "families" / "bert")
    with pytest.raises(ValueError, match="`tokens`"):
        tokenizer.add_tokens(bad)


@pytest.mark.parametrize("kind", ["gemma3", "openai_gpt", "modernbert", "bert_unigram", "mpnet"])
def test_lowercase_comes_before_the_normalizer_of_the_folder(golden, tmp_path, kind):
    folder = golden / "families2" / kind
    lower, theirs = Tokenizer.from_folder(folder, lowercase=True), reference(folder)
    steps = [tokenizers.normalizers.Lowercase(), *([theirs.normalizer] if theirs.normalizer else [])]
    theirs.normalizer = tokenizers.normalizers.Sequence(steps)
    texts = ["  Where IS it?\n", "ÀÉÎ ΟΔΟΣ İ ẞ", "\x1f\u3000X\x85", "A\0B", "Ａ ①", ""]
    assert_same(lower, theirs, texts)
    assert lower(texts).to_list() != Tokenizer.from_folder(folder)(texts).to_list() or kind in ("openai_gpt", "mpnet")
    lower.save_assets(tmp_path)
    again = Tokenizer()
    again.load_assets(tmp_path)
    assert again(texts).to_list() == lower(texts).to_list()
    lower.to_folder(tmp_path / "files")
    assert_same(Tokenizer.from_folder(tmp_path / "files"), reference(tmp_path / "files"), texts)
    assert_same(lower, reference(tmp_path / "files"), texts)


@pytest.mark.parametrize(
    "order",
    [["Lowercase", "BertNormalizer"], ["BertNormalizer", "Lowercase"], ["Strip", "Lowercase", "NFC", "BertNormalizer"]],
)
def test_sequences_of_a_bert_normalizer_and_others_load(golden, tmp_path, order):
    data = json.loads((golden / "families" / "bert_cased" / "tokenizer.json").read_text(encoding="utf-8"))
    bert = data["normalizer"]
    steps = {"BertNormalizer": bert, "Strip": {"type": "Strip", "strip_left": True, "strip_right": True}}
    data["normalizer"] = {"type": "Sequence", "normalizers": [steps.get(name, {"type": name}) for name in order]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    assert_same(Tokenizer.from_folder(tmp_path), reference(tmp_path), HOSTILE)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_by_the_reference_as_the_checkpoint_is(golden, pairs, tmp_path, kind):
    ours, theirs = pairs[kind]
    ours.to_folder(tmp_path, sequence_length=32)
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = [*HOSTILE, *json.loads((golden / "families2" / "texts.json").read_text(encoding="utf-8"))["texts"]]
    theirs = copy.deepcopy(theirs)
    theirs.encode_special_tokens = False
    theirs.enable_truncation(32)
    for row, own in zip(again.encode_batch(texts), theirs.encode_batch(texts), strict=True):
        real = sum(row.attention_mask)
        assert row.ids[:real] == own.ids
    pair = ("Is it? " * 5, "a card")
    assert again.encode(*pair).ids == theirs.encode(*pair).ids
    ours = Tokenizer.from_folder(tmp_path)
    assert ours(texts).to_list() == pairs[kind][0](texts).to_list()


def test_a_keras_file_keeps_added_tokens_and_the_lower_case(golden, tmp_path):
    tokenizer = Tokenizer.from_folder(golden / "families2" / "gemma3", lowercase=True)
    tokenizer.add_tokens(["iban"])
    tokenizer.special_tokens_in_strings = True
    model = keras.Sequential([TextPreprocessor(tokenizer, 12)])
    model.built = True
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").layers[0].tokenizer
    assert again.special_tokens_in_strings
    assert again(["My IBAN <mask>"]).to_list() == tokenizer(["My IBAN <mask>"]).to_list()


def sentencepiece_model(texts, **options):
    sentencepiece = pytest.importorskip("sentencepiece")
    import io

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, minloglevel=2, hard_vocab_limit=False, **options
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()), model.getvalue()


@pytest.mark.parametrize(("name", "start"), [("Llama", "<s>"), ("Gemma", "<bos>")])
def test_a_sentencepiece_model_of_merges_gives_sentencepiece_s_ids(golden, tmp_path, name, start):
    texts = json.loads((golden / "families2" / "texts.json").read_text(encoding="utf-8"))["texts"]
    theirs, proto = sentencepiece_model(
        texts * 3, model_type="bpe", vocab_size=450, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=name == "Llama", bos_piece=start, pad_id=3,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(proto)
    ours = Tokenizer.from_folder(tmp_path)
    assert [ours.bos_token_id, *ours(["naïve  ☃ card"]).to_list()[0]] == [1, *theirs.encode("naïve  ☃ card")]
    texts = [text for text in [*texts, *HOSTILE] if "\0" not in text and "<0x" not in text]
    assert ours(texts).to_list() == theirs.encode(texts)
    ours.to_folder(tmp_path / "new")
    assert ids_of(reference(tmp_path / "new"), texts) == ours(texts).to_list()


def test_camembert_has_ids_of_its_own(golden, tmp_path):
    texts = json.loads((golden / "families2" / "texts.json").read_text(encoding="utf-8"))["texts"]
    theirs, proto = sentencepiece_model(texts * 3, vocab_size=120)
    (tmp_path / "sentencepiece.bpe.model").write_bytes(proto)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CamembertTokenizer"}')
    ours = Tokenizer.from_folder(tmp_path)
    assert ours.vocabulary[:7] == ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
    assert (ours.pad_token_id, ours.unk_token_id, ours.cls_token_id, ours.sep_token_id) == (1, 3, 5, 6)
    assert ours.mask_token_id == ours.vocabulary_size() - 1
    assert ours(["the card"]).to_list() == [[i + 4 for i in theirs.encode("the card")]]
    assert ours.spec.pair == [[5, 0], ["A", 0], [6, 0], [6, 0], ["B", 0], [6, 0]]
    ours.to_folder(tmp_path / "new")
    assert ids_of(reference(tmp_path / "new"), texts) == ours(texts).to_list()


def test_the_tokens_of_t5_are_numbered_from_the_end(golden, tmp_path):
    shutil.copyfile(golden / "families2" / "t5" / "spiece.model", tmp_path / "spiece.model")
    tokenizer = Tokenizer.from_folder(tmp_path, convention="T5")
    assert tokenizer.vocabulary_size() == 600
    assert (tokenizer.token_to_id("<extra_id_0>"), tokenizer.token_to_id("<extra_id_99>")) == (599, 500)


@pytest.mark.parametrize(
    ("family", "file", "content", "message"),
    [
        ("families/bert", "tokenizer.json", b"{", r"valid JSON in tokenizer\.json"),
        ("families/bert", "tokenizer.json", b"[]", r"a JSON object in tokenizer\.json"),
        ("families/bert", "tokenizer.json", b"{}", r"a complete tokenizer\.json"),
        ("families/bert", "tokenizer.json", b'{"model": {"type": "WordPiece"}}', "a tokenizer whose normalizer"),
        ("families/bert", "tokenizer.json", b'{"model": {"type": "BPE"}}', r"a complete tokenizer\.json"),
        ("families/bert", "tokenizer.json", b'{"model": 1}', r"a complete tokenizer\.json"),
        ("families/bert", "tokenizer.json", b'{"\xff"', r"valid UTF-8 in tokenizer\.json"),
        ("families/bert", "tokenizer_config.json", b"{,}", r"valid JSON in tokenizer_config\.json"),
        ("families/bert", "vocab.txt", b"[PAD]\n\xff\n", r"valid UTF-8 in vocab\.txt"),
        ("families/bert", "vocab.txt", b"", r"tokens in vocab\.txt"),
        ("families/gpt2", "vocab.json", b'{"a": "b"}', r"a complete vocab\.json"),
        ("families/gpt2", "vocab.json", b'{"a": 0', r"valid JSON in vocab\.json"),
        ("families/gpt2", "merges.txt", b"a \xff", r"valid UTF-8 in merges\.txt"),
        ("families/gpt2", "merges.txt", b"#version\na b c\n", r"two tokens in each line of merges\.txt"),
        ("families/albert", "spiece.model", b"\x0a\xff\xff", r"a complete SentencePiece model in spiece\.model"),
        ("families/albert", "spiece.model", b"", r"a complete SentencePiece model in spiece\.model"),
        ("families2/gte", "tokenizer.json", None, r"valid JSON in tokenizer\.json"),
        ("families2/bert_unigram", "sentencepiece.bpe.model", None, r"complete SentencePiece model in sentencep"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(golden, tmp_path, family, file, content, message):
    for path in (golden / family).iterdir():
        if path.suffix in (".txt", ".model", ".json") and (path.name != "tokenizer.json" or file == path.name):
            shutil.copyfile(path, tmp_path / path.name)
    data = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(data[: len(data) // 2] if content is None else content)
    with pytest.raises(ValueError, match=message) as error:
        Tokenizer.from_folder(tmp_path)
    assert str(error.value).startswith("Invalid value for argument `folder`")
