"""Truncation and padding as in Hugging Face; saving, exporting, loading from KerasHub; errors."""

import copy
import io
import json
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
import tokenizers

from tfxfer.preprocessing import TextPreprocessor, Tokenizer

KINDS = ("bert", "albert", "xlm_roberta", "deberta_v3", "roberta", "gpt2")
TEXTS = ["hello world", "a b c d e f g h i j k", "x", "", "lorem ipsum dolor sit amet " * 3]
PAIRS = [(a, b) for a in TEXTS for b in TEXTS]


@pytest.fixture(scope="module")
def families(golden):
    return golden / "families"


@pytest.fixture(scope="module")
def bert(families):
    return Tokenizer.from_folder(families / "bert")


def rows(features, key="token_ids"):
    mask = features["padding_mask"].numpy().astype(bool)
    return [row[keep].tolist() for row, keep in zip(features[key].numpy(), mask, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [5, 8, 9, 16])
def test_single_texts_and_pairs_are_cut_as_the_reference_cuts_them(families, kind, length):
    tokenizer = Tokenizer.from_folder(families / kind)
    reference = tokenizers.Tokenizer.from_file(str(families / kind / "tokenizer.json"))
    reference.enable_truncation(length)
    first, second = [a for a, _ in PAIRS], [b for _, b in PAIRS]
    for side in ("right", "left"):
        preprocessor = TextPreprocessor(tokenizer, length, padding_side=side)
        single, pair = preprocessor(TEXTS), preprocessor((first, second))
        assert rows(single) == [encoding.ids for encoding in reference.encode_batch(TEXTS)]
        expected = reference.encode_batch(PAIRS)
        assert rows(pair) == [encoding.ids for encoding in expected]
        if "segment_ids" in pair:
            assert rows(pair, "segment_ids") == [encoding.type_ids for encoding in expected]
        ids = tokenizer(first), tokenizer(second)
        np.testing.assert_array_equal(preprocessor.lengths(ids), pair["padding_mask"].numpy().sum(1))
        np.testing.assert_array_equal(preprocessor.lengths(tokenizer(TEXTS)), single["padding_mask"].numpy().sum(1))
        assert pair["token_ids"].shape[1] == max(len(row) for row in rows(pair))


def test_padding_stands_on_the_side_asked_for_and_is_the_pad_token(bert):
    left = TextPreprocessor(bert, 16, padding_side="left")(["a b", "a"])
    right = TextPreprocessor(bert, 16)(["a b", "a"])
    assert right["padding_mask"].numpy().tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert left["padding_mask"].numpy().tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]
    assert left["token_ids"].numpy()[1, 0] == right["token_ids"].numpy()[1, -1] == bert.pad_token_id
    assert all(value.dtype == tf.int32 for value in right.values())


@pytest.mark.parametrize(("multiple", "limit", "expected"), [(1, 64, 5), (8, 64, 8), (3, 64, 6), (8, 6, 6)])
def test_length_is_rounded_up_but_never_beyond_the_sequence_length(bert, multiple, limit, expected):
    features = TextPreprocessor(bert, limit, pad_to_multiple_of=multiple)(["a b c"])
    assert features["token_ids"].shape == (1, expected)


def test_gpt2_makes_padding_of_an_empty_text(families):
    features = TextPreprocessor(Tokenizer.from_folder(families / "gpt2"), 8)(["", ""])
    assert features["padding_mask"].numpy().tolist() == [[0], [0]]


def test_targets_pass_and_a_tuple_alone_is_a_pair(bert):
    preprocessor = TextPreprocessor(bert, 16)
    x, y, weight = preprocessor(["a", "b"], [0, 1], [1.0, 2.0])
    assert (x["token_ids"].shape, y, weight) == ((2, 3), [0, 1], [1.0, 2.0])
    assert preprocessor((["a"], ["b"]))["segment_ids"].numpy().tolist() == [[0, 0, 0, 1, 1]]
    dataset = tf.data.Dataset.from_tensor_slices(((TEXTS, TEXTS[::-1]), range(5))).batch(2).map(preprocessor)
    assert [y.shape[0] for _, y in dataset] == [2, 2, 1]


def test_segment_ids_are_there_when_asked_for(families, bert):
    assert "segment_ids" not in TextPreprocessor(bert, 8, segment_ids=False)(["a"])
    roberta = TextPreprocessor(Tokenizer.from_folder(families / "roberta"), 8, segment_ids=True)
    assert not roberta(["a"])["segment_ids"].numpy().any()


def test_keras_files_bring_everything_back_in_a_fresh_process(families, tmp_path):
    texts, configs, expected = [*TEXTS, "[MASK] <mask> é"], {}, {}
    for kind in ("bert", "xlm_roberta", "gpt2"):
        tokenizer = Tokenizer.from_folder(families / kind, special_tokens_in_strings=True)
        preprocessor = TextPreprocessor(tokenizer, 12, padding_side="left", pad_to_multiple_of=4, segment_ids=False)
        config = configs[kind] = preprocessor.get_config()
        assert len(json.dumps(config, default=str)) < 2000  # without the vocabulary
        assert TextPreprocessor.from_config(copy.deepcopy(config)).get_config() == config
        model = keras.Sequential([preprocessor])
        model.built = True
        model.save(tmp_path / f"{kind}.keras")
        expected[kind] = preprocessor(texts)["token_ids"].numpy().tolist()
    code = (
        "import keras, tfxfer.preprocessing, json\n"
        f"for kind, config in {configs!r}.items():\n"
        f"    layer = keras.saving.load_model({str(tmp_path)!r} + f'/{{kind}}.keras').layers[0]\n"
        "    assert layer.get_config() == config, layer.get_config()\n"
        f"    ids = layer(json.loads({json.dumps(texts)!r}))['token_ids'].numpy().tolist()\n"
        f"    assert ids == {expected!r}[kind], kind\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


class Served(tf.Module):
    def __init__(self, kinds):
        super().__init__()
        self.resources = [tokenizer.trackables for tokenizer in kinds.values()]
        self.tokenize = {kind: tokenizer.tokenize for kind, tokenizer in kinds.items()}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def ids(self, text):
        return {kind: tokenize(text).to_tensor(-1) for kind, tokenize in self.tokenize.items()}


def test_an_export_needs_only_tensorflow_and_its_text_operations(families, tmp_path):
    """Runs one export of several tokenizers without tfxfer; some add tokens or read special tokens in strings."""
    kinds = {kind: Tokenizer.from_folder(families / kind) for kind in ("bert", "xlm_roberta", "roberta")}
    newer = ("openai_gpt", "gemma3", "modernbert", "eurobert", "t5", "bert_unigram")
    kinds |= {kind: Tokenizer.from_folder(families.parent / "families2" / kind) for kind in newer}
    for kind in newer:
        kinds[kind].add_tokens(["Iban"])
    for kind, tokenizer in kinds.items():
        tokenizer.special_tokens_in_strings = kind == "roberta" or (kind in newer and kind != "gemma3")
    module = Served(kinds)
    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": module.ids})
    texts = [*TEXTS, "naïve\u3000Σ <mask>[MASK] \x01  x", "\0", "", "my Iban  1234", "the Card №"]
    code = (
        "import json, tensorflow as tf, tensorflow_text\n"
        f"serve = tf.saved_model.load({str(tmp_path / '1')!r}).signatures['serving_default']\n"
        f"ids = serve(text=tf.constant(json.loads({json.dumps(texts)!r})))\n"
        "operations = {node.op for function in serve.graph.as_graph_def().library.function"
        " for node in function.node_def} | {node.op for node in serve.graph.as_graph_def().node}\n"
        "ids = {kind: value.numpy().tolist() for kind, value in ids.items()}\n"
        "print(json.dumps([ids, sorted(operations)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ids, operations = json.loads(done.stdout)
    assert ids == {kind: tokenizer(texts).to_tensor(-1).numpy().tolist() for kind, tokenizer in kinds.items()}
    assert not set(operations) & {"PyFunc", "EagerPyFunc", "MutableHashTableV2"}


def test_a_copy_has_its_own_resources(bert):
    preprocessor = copy.deepcopy(TextPreprocessor(bert, 16))
    assert preprocessor.tokenizer is not bert
    assert preprocessor.tokenizer(TEXTS).to_list() == bert(TEXTS).to_list()


@pytest.mark.parametrize("family", ["bert", "bert_cased", "distil_bert", "electra"])
def test_wordpiece_from_keras_hub_follows_the_family(families, family):
    expected = Tokenizer.from_folder(families / family)
    name = {"distil_bert": "DistilBertTokenizer", "electra": "ElectraTokenizer"}.get(family, "BertTokenizer")
    hub = getattr(keras_hub.tokenizers, name)(expected.vocabulary, lowercase=family != "bert_cased")
    _same(Tokenizer.from_keras_hub(hub), expected)


@pytest.mark.parametrize("family", ["roberta", "gpt2"])
def test_byte_pair_from_keras_hub_follows_the_family(families, family):
    expected = Tokenizer.from_folder(families / family)
    kind = keras_hub.tokenizers.RobertaTokenizer if family == "roberta" else keras_hub.tokenizers.GPT2Tokenizer
    vocabulary = json.loads((families / family / "vocab.json").read_text(encoding="utf-8"))
    merges = (families / family / "merges.txt").read_text(encoding="utf-8").split("\n")
    hub = kind(vocabulary, [merge for merge in merges if merge and not merge.startswith("#")])
    _same(Tokenizer.from_keras_hub(hub), expected)


@pytest.mark.parametrize("family", ["xlm_roberta", "albert"])
def test_sentencepiece_from_keras_hub_follows_the_family(families, family):
    expected = Tokenizer.from_folder(families / family)
    name, file = {
        "xlm_roberta": ("XLMRobertaTokenizer", "sentencepiece.bpe.model"),
        "albert": ("AlbertTokenizer", "spiece.model"),
    }[family]
    hub = getattr(keras_hub.tokenizers, name)((families / family / file).read_bytes())
    _same(Tokenizer.from_keras_hub(hub), expected)


def test_deberta_from_keras_hub_appends_the_mask(families):
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 3), model_writer=model, vocab_size=40, pad_id=0, bos_id=1, eos_id=2, unk_id=3,
        pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]", hard_vocab_limit=False,
        minloglevel=2,
    )  # fmt: skip
    hub = keras_hub.tokenizers.DebertaV3Tokenizer(model.getvalue())
    ours = Tokenizer.from_keras_hub(hub)
    assert ours.vocabulary == hub.get_vocabulary()
    assert (ours.pad_token_id, ours.cls_token_id, ours.mask_token_id) == (0, 1, hub.mask_token_id)
    assert [row for row in ours(TEXTS).to_list() if row] == [list(hub(text)) for text in TEXTS if text]


def _same(ours, expected):
    texts = [*TEXTS, "Héllo Wörld's  ÀÉ", "日本", "ＡＢ ① ``x''"]
    assert ours(texts).to_list() == expected(texts).to_list()
    assert ours.vocabulary == expected.vocabulary
    assert {k: ours.spec.special[k] for k in ("pad", "unk")} == {k: expected.spec.special[k] for k in ("pad", "unk")}
    template = [item[0] for item in expected.spec.pair]
    assert [item[0] for item in ours.spec.pair] == template


def test_ids_and_tokens_translate_both_ways(families):
    for kind in KINDS:
        tokenizer = Tokenizer.from_folder(families / kind)
        assert len(tokenizer.vocabulary) == tokenizer.vocabulary_size()
        for i in (0, 7, tokenizer.vocabulary_size() - 1):
            assert tokenizer.token_to_id(tokenizer.id_to_token(i)) == i
    with pytest.raises(ValueError, match="`token`"):
        tokenizer.token_to_id("no such token")
    with pytest.raises(ValueError, match="`id`"):
        tokenizer.id_to_token(10**6)


@pytest.mark.parametrize("bad", [[1, 2], [["a", "b"]], [None], 3.5, np.array([1.0])])
def test_texts_that_are_no_strings_are_refused(bert, bad):
    with pytest.raises(ValueError, match=r"Invalid value for argument `(x|texts)`"):
        bert(bad)
    with pytest.raises(ValueError, match="Invalid value for argument `x`"):
        TextPreprocessor(bert, 8)(bad)


def test_a_folder_without_a_tokenizer_is_named_with_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer\.json, vocab\.txt.*spiece\.model.*" + tmp_path.name):
        Tokenizer.from_folder(tmp_path)
    with pytest.raises(ValueError, match="a folder that exists"):
        Tokenizer.from_folder(tmp_path / "missing")
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"valid JSON in tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("kind", "part", "value"),
    [
        ("bert", "normalizer", {"type": "NFKC"}),
        ("bert", "normalizer", {"type": "BertNormalizer", "clean_text": False, "lowercase": True}),
        ("bert", "pre_tokenizer", {"type": "Whitespace"}),
        ("bert", "post_processor", {"type": "Unheard"}),
        ("roberta", "normalizer", {"type": "Nmt"}),
        ("roberta", "pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": False, "unheard": 1}),
        (
            "roberta",
            "pre_tokenizer",
            {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": "(?<=a)b|\\s+"}, "behavior": "Isolated", "invert": False},
                    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
                ],
            },
        ),
        ("albert", "normalizer", {"type": "Prepend", "prepend": "x"}),
        ("albert", "pre_tokenizer", {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always"}),
        ("albert", "model", {"type": "WordLevel"}),
    ],
)
def test_parts_of_a_tokenizer_that_are_not_supported_are_named(families, tmp_path, kind, part, value):
    data = json.loads((families / kind / "tokenizer.json").read_text(encoding="utf-8"))
    data[part] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match=f"a tokenizer whose {part}"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"sequence_length": 0}, "sequence_length"),
        ({"padding_side": "top"}, "padding_side"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of"),
        ({"segment_ids": 1}, "segment_ids"),
        ({"tokenizer": "bert"}, "tokenizer"),
    ],
)
def test_bad_arguments_are_named(bert, arguments, name):
    with pytest.raises(ValueError, match=f"Invalid value for argument `{name}`"):
        TextPreprocessor(**{"tokenizer": bert, **arguments})


def test_a_sequence_length_without_room_for_text_is_refused(bert):
    with pytest.raises(ValueError, match="an int > 2, the number of special tokens"):
        TextPreprocessor(bert, 2)(["a"])
    with pytest.raises(ValueError, match="an int > 3"):
        TextPreprocessor(bert, 3)((["a"], ["b"]))


def test_a_tokenizer_without_vocabulary_says_where_to_get_one():
    with pytest.raises(ValueError, match=r"Tokenizer\.from_folder"):
        Tokenizer()(["a"])


@pytest.mark.parametrize("options", [{}, {"padding_side": "left"}, {"drop_unknown_tokens": True}])
def test_each_place_knows_its_token(bert, options):
    preprocessor = TextPreprocessor(bert, sequence_length=9, **options)
    single = bert([*TEXTS, "hello \U0001f600 world"])
    pairs = tuple(bert([pair[side] for pair in PAIRS]) for side in (0, 1))
    for ids in (single, pairs):
        found = preprocessor.pack_with_places(ids)
        plain = preprocessor.pack(ids)
        parts = [part.to_list() for part in (ids if isinstance(ids, tuple) else (ids,))]
        for key, value in plain.items():
            np.testing.assert_array_equal(found[key], value)
        texts, tokens = found["texts"].numpy(), found["tokens"].numpy()
        assert ((texts >= 0) == (tokens >= 0)).all()
        special = np.isin(plain["token_ids"], [bert.cls_token_id, bert.sep_token_id])
        np.testing.assert_array_equal(texts >= 0, (plain["padding_mask"].numpy() == 1) & ~special)
        for row, place in np.argwhere(texts >= 0):
            assert parts[texts[row, place]][row][tokens[row, place]] == plain["token_ids"].numpy()[row, place]
        for row in range(len(tokens)):  # in order, each token once
            order = [(t, k) for t, k in zip(texts[row], tokens[row], strict=True) if t >= 0]
            assert order == sorted(set(order))


def test_words_are_not_read_without_their_unknown_tokens(bert):
    from tfxfer import data

    column = data.WordsColumn(TextPreprocessor(bert, drop_unknown_tokens=True))
    kept = column.encode(column.read([["hello", "world"]], "x"))
    with pytest.raises(ValueError, match=r"`preprocessor`.*unknown tokens"):
        column.batch(kept, "words")
