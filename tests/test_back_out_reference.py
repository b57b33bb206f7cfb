"""transformers, sentence-transformers and PEFT give the same results with the files that this package writes.

They run in the benchmark environment (`make .venv-bench/.installed`), in one process for all tests. Written with
torch 2.13.0, transformers 5.24.0, sentence-transformers 6.2.0, peft 0.21.2.

Differences are relative to the largest value. Measured: hidden states at most 0.74e-6, Llama 1.02e-6 (compared with
float64, ours differ by 0.78e-6 and transformers' by 0.56e-6); embeddings 0.89e-6, all-MiniLM-L6-v2's 2.1e-7; logits and
scores 0.80e-6, ALBERT's 1.17e-6; with adapters 0.75e-6.
"""

import json
import pathlib
import subprocess

import keras
import numpy as np
import pytest
import test_back_out as back_out
import test_peft
import tiny

import tfxfer as tx
from tfxfer.backbones.families import FAMILIES

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv-bench" / "bin" / "python"
STATES, VECTORS = 2e-6, 1e-6
# Families without a folder of reference numbers.
OTHERS = ("camembert", "qwen2")
# Models whose cards have code for transformers to compare: mean, last token, an encoder with its own class.
CARDS = ("families/gpt2", "families2/bert_unigram", "families2/t5", "cls")
ADAPTED = (
    "families/gpt2",
    "families2/bert_unigram",
    "families2/modernbert",
    "families2/nomic_bert",
    "families2/t5_gated",
)
HEADS = {"linear": "linear", "mlp": "mlp"}
# `AutoTokenizer` builds Qwen2's own tokenizer for this family, whatever tokenizer.json says.
OWN_TOKENIZER = ("qwen2",)
CLASSIFIERS = [name for name in back_out.CLASSIFIERS if name not in OWN_TOKENIZER]


def close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


class Jobs:
    """Writes models to a folder and records this package's outputs for them."""

    def __init__(self, folder, texts):
        self.folder, self.texts, self.jobs, self.own = folder, texts, [], {}

    def add(self, kind, name, folder, **more):
        texts = more.pop("texts", self.texts)
        seconds = [*texts[1:], texts[0]]
        name = f"{kind}-{name.replace('/', '-')}"
        self.jobs.append(
            {"kind": kind, "name": name, "folder": str(folder), "texts": texts, "seconds": seconds, **more}
        )
        return name

    def encoder(self, name, model, adapters=None):
        folder = self.folder / name.replace("/", "-")
        if not folder.exists():
            model.save_to_preset(folder, format="huggingface")
        texts = tiny.TEXTS if name in (*OTHERS, "cls") else self.texts
        kind = {"tokenizer": "PreTrainedTokenizerFast" if name in OWN_TOKENIZER else "AutoTokenizer"}
        if adapters is not None:
            kind["adapters"] = str(adapters)
        job = self.add("encoder", name if adapters is None else f"{name}-adapted", folder, texts=texts, **kind)
        packed = {key: keras.ops.convert_to_numpy(value) for key, value in model.preprocessor(texts).items()}
        states = keras.ops.convert_to_numpy(model.backbone(packed))
        self.own[job] = {"states": states, "mask": packed["padding_mask"], "ids": packed["token_ids"]}
        if name in CARDS and adapters is None:
            card = self.add("card", f"encoder-{name}", folder)
            self.own[card] = {"vectors": model.encode(["Where is my card?", "My card has not arrived"])}

    def sentence(self, name, model):
        model.save_to_preset(self.folder / name, format="sentence-transformers")
        job = self.add("sentence", name, self.folder / name)
        names = ("encode", "encode_query", "encode_document")
        self.own[job] = {key: getattr(model, key)(self.texts) for key in names}
        self.own[job]["similarity"] = model.similarity(self.own[job]["encode"], self.own[job]["encode"])
        self.own[job]["longest"] = model.preprocessor.sequence_length
        self.add("card", name, self.folder / name)

    def classifier(self, name, model, kinds=("classifier", "cross"), texts=tiny.TEXTS):
        seconds = [*texts[1:], texts[0]]
        labels = getattr(model, "labels", ["LABEL_0"])
        own = {
            "single": model.predict(texts, verbose=0),
            "pair": model.predict((texts, seconds), verbose=0),
            "labels": labels,
        }
        for kind in kinds:
            folder = self.folder / f"{kind}-{name}"
            model.save_to_preset(folder, format={"classifier": "huggingface"}.get(kind, "sentence-transformers"))
            job = self.add(kind, name, folder, texts=list(texts))
            self.own[job] = own
            self.add("card", f"{kind}-{name}", folder)

    def scores(self, name, model):
        """Adds a regressor in transformers' format, which a CrossEncoder also reads."""
        model.save_to_preset(self.folder / name, format="huggingface")
        job = self.add("cross", name, self.folder / name, texts=list(tiny.TEXTS))
        self.own[job] = {"pair": model.scores((tiny.TEXTS, [*tiny.TEXTS[1:], tiny.TEXTS[0]]))}


@pytest.fixture(scope="module")
def answers(golden, tmp_path_factory):
    """The folder with the reference's outputs, and the jobs with this package's outputs, both by job name."""
    if not PYTHON.exists():
        pytest.skip("no benchmark environment: make .venv-bench/.installed")
    folder = tmp_path_factory.mktemp("back_out")
    texts = json.loads((golden / "families2" / "texts.json").read_text(encoding="utf-8"))["texts"]
    texts = [text for text in texts if text]  # GPT-2 has no token for an empty text
    jobs = Jobs(folder, texts)
    for name in back_out.FOLDERS:
        model = tx.models.TextEmbedder.from_preset(golden / name, sequence_length=48)
        jobs.encoder(name, model)
        if name in ADAPTED:
            tx.freezing.add_lora(model, rank=3, alpha=2, targets=["query", "value", "output"])
            test_peft.fill(model)
            adapters = folder / f"{name.replace('/', '-')}-adapters"
            tx.freezing.save_adapters(model, adapters, format="peft")
            jobs.encoder(name, model, adapters)
    for name in OTHERS:
        (folder / "tokenizer").mkdir(exist_ok=True)
        jobs.encoder(name, back_out.embedder_of(folder / "tokenizer", name))
    jobs.encoder("cls", back_out.embedder_of(folder / "tokenizer", pooling="cls"))
    for name in back_out.SENTENCE_FOLDERS:
        jobs.sentence(name, tx.models.TextEmbedder.from_preset(golden / "families2" / name))
    modules = [{"class": "LayerNorm"}, {"class": "Dense", "units": 8, "use_residual": True, "activation": "gelu"}]
    modules = [*modules, {"class": "Truncate", "units": 5}, {"class": "Normalize"}]
    made = {"modules": modules, "pooling": ("max", "cls"), "layer_start": 1, "prompts": {"query": "the "}}
    jobs.sentence("modules", back_out.embedder_of(folder / "tokenizer", **made))
    jobs.sentence("static", tx.models.TextEmbedder.from_preset(back_out.STATIC))
    for family in CLASSIFIERS:
        (folder / f"tokenizer-{family}").mkdir()
        jobs.classifier(family, back_out.with_a_reference_head(folder / f"tokenizer-{family}", family))
    for name, head in HEADS.items():
        arguments = {"labels": ["a", "b"], "multi_label": True, "head": head, "pooling": ("mean", "last")}
        preprocessor = tiny.preprocessor(folder / "tokenizer", segment_ids=False)
        model = tx.models.TextClassifier(back_out.backbone_of("t5"), preprocessor, **arguments)
        jobs.classifier(name, back_out.randomize(model), ["cross"])
    regressor = tx.models.TextRegressor(back_out.backbone_of("bert"), tiny.preprocessor(folder / "tokenizer"))
    jobs.classifier("regressor", back_out.randomize(regressor), ["cross"])
    for activation in (None, "sigmoid"):
        head = {"pooling": "cls", "head": tx.layers.Head(1, (8,), "tanh"), "score_activation": activation}
        model = tx.models.TextRegressor(back_out.backbone_of("bert"), tiny.preprocessor(folder / "tokenizer"), **head)
        jobs.scores(f"score-{activation}", back_out.randomize(model))
    (folder / "jobs.json").write_text(json.dumps(jobs.jobs), encoding="utf-8")
    script = pathlib.Path(__file__).with_name("reference_reader.py")
    subprocess.run([PYTHON, script, folder], check=True, capture_output=True, timeout=3600)
    return folder, jobs


def answer(answers, name):
    folder, jobs = answers
    failed = folder / f"{name}.txt"
    if failed.exists():
        text = failed.read_text(encoding="utf-8")
        if text == "no peft":
            pytest.skip("no peft in the benchmark environment")
        pytest.fail(text)
    return jobs.own.get(name), np.load(folder / f"{name}.npz")


@pytest.mark.parametrize("name", [*back_out.FOLDERS, *OTHERS])
def test_transformers_gives_the_same_hidden_states(answers, name):
    own, found = answer(answers, f"encoder-{name.replace('/', '-')}")
    np.testing.assert_array_equal(found["mask"], own["mask"])
    np.testing.assert_array_equal(found["ids"] * own["mask"], own["ids"] * own["mask"])
    real = own["mask"] == 1
    close(found["states"][real], own["states"][real], STATES)


@pytest.mark.parametrize("name", ADAPTED)
def test_peft_gives_the_same_hidden_states(answers, name):
    own, found = answer(answers, f"encoder-{name.replace('/', '-')}-adapted")
    plain, _ = answer(answers, f"encoder-{name.replace('/', '-')}")
    real = own["mask"] == 1
    close(found["states"][real], own["states"][real], STATES)
    assert np.abs(own["states"][real] - plain["states"][real]).max() > 0.1


@pytest.mark.parametrize("name", [*back_out.SENTENCE_FOLDERS, "modules", "static"])
def test_sentence_transformers_gives_the_same_embeddings(answers, name):
    own, found = answer(answers, f"sentence-{name}")
    for key in ("encode", "encode_query", "encode_document"):
        close(found[key], own[key], VECTORS)
    close(found["similarity"], own["similarity"], VECTORS)
    assert found["longest"] == own["longest"] or name == "static"  # which never truncates
    _, card = answer(answers, f"card-{name}")
    assert card["blocks"] == 1 and len(card["vectors"]) == 2


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_transformers_gives_the_same_logits(answers, family):
    own, found = answer(answers, f"classifier-{family}")
    for key in ("single", "pair"):
        close(found[key], own[key], STATES)
    assert list(found["labels"]) == [own["labels"][i] for i in own["single"].argmax(axis=1)]
    _, card = answer(answers, f"card-classifier-{family}")
    assert card["blocks"] == 1


@pytest.mark.parametrize("name", [*CLASSIFIERS, *HEADS, "regressor"])
def test_a_cross_encoder_gives_the_same_scores(answers, name):
    own, found = answer(answers, f"cross-{name}")
    close(found["single"], own["single"], STATES)
    close(found["pair"].reshape(own["pair"].shape), own["pair"], STATES)
    assert list(found["labels"]) == list(map(str, own["labels"]))
    _, card = answer(answers, f"card-cross-{name}")
    assert card["blocks"] == 1


@pytest.mark.parametrize("name", CARDS)
def test_the_code_of_a_card_gives_the_same_vectors(answers, name):
    own, found = answer(answers, f"card-encoder-{name.replace('/', '-')}")
    assert found["blocks"] == 1
    close(found["vectors"], own["vectors"], VECTORS)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_a_cross_encoder_reads_transformers_format_with_its_activation(answers, activation):
    own, found = answer(answers, f"cross-score-{activation}")
    close(found["pair"], own["pair"], STATES)


def test_the_real_model_comes_back_out(answers, minilm_folder, tmp_path):
    folder, _ = answers
    embedder = tx.models.TextEmbedder.from_preset(minilm_folder)
    jobs = Jobs(tmp_path, json.loads((folder / "jobs.json").read_text(encoding="utf-8"))[0]["texts"])
    jobs.sentence("minilm", embedder)
    (tmp_path / "jobs.json").write_text(json.dumps(jobs.jobs), encoding="utf-8")
    script = pathlib.Path(__file__).with_name("reference_reader.py")
    subprocess.run([PYTHON, script, tmp_path], check=True, capture_output=True, timeout=600)
    own, found = answer((tmp_path, jobs), "sentence-minilm")
    assert np.abs(found["encode"] - own["encode"]).max() < 1e-6


def test_every_family_is_among_them():
    named = {name.rpartition("/")[2] for name in back_out.FOLDERS} | set(OTHERS)
    covered = {"bert_cased": "bert", "gemma3": "gemma3_text", "llama_both_ways": "llama"}
    named |= {covered[name] for name in named if name in covered}
    assert set(FAMILIES) == {*named & set(FAMILIES), "static", "separable_conv"}  # only this package has the last
