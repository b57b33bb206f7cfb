"""How to use a saved model in this package and others: the Python code of its model card."""

import json

from tfxfer.backbones.families import FAMILIES

_TEXTS = '["Where is my card?", "My card has not arrived"]'


def location(repo_id, prefix=""):
    """Returns the argument of a loader: the repository on the hub, if known, otherwise this folder."""
    return json.dumps(f"{prefix}{repo_id}" if repo_id else ".")


def embedder(model, format, repo_id):
    """Returns the code blocks of an embedder by library."""
    found = {"tfxfer": _EMBEDDER.format(where=location(repo_id, "hf://"), texts=_TEXTS)}
    if format == "sentence-transformers":
        found["sentence-transformers"] = _SENTENCE_TRANSFORMER.format(where=location(repo_id), texts=_TEXTS)
    if format == "huggingface":
        found["transformers"] = _encoder(model, repo_id)
    return found


def classifier(model, format, repo_id):
    """Returns the code blocks of a classifier or regressor by library."""
    call = f"model.classify({_TEXTS}).labels" if hasattr(model, "classify") else f"model.predict({_TEXTS})"
    if model.reads_pairs():
        call = 'model.rank("Where is my card?", ["My card has not arrived", "What is a loan?"])'
    kind, where = type(model).__name__, location(repo_id, "hf://")
    found = {"tfxfer": f"import tfxfer\n\nmodel = tfxfer.models.{kind}.from_preset({where})\n{call}"}
    if format == "sentence-transformers":
        found["sentence-transformers"] = _CROSS_ENCODER.format(where=location(repo_id), texts=_TEXTS)
    if format == "huggingface":
        found["transformers"] = _PIPELINE.format(where=location(repo_id), texts=_TEXTS)
    return found


def tagger(model, format, repo_id):
    """Returns the code blocks of a tagger by library."""
    text = '["Anna Berg lives in Oslo."]'
    call = f"extract({text})" if model.scheme else 'tag([["Anna", "Berg", "lives", "in", "Oslo", "."]])'
    where = location(repo_id, "hf://")
    found = {"tfxfer": f"import tfxfer\n\ntagger = tfxfer.models.TokenTagger.from_preset({where})\ntagger.{call}"}
    if format == "huggingface":
        found["transformers"] = _TAGS.format(where=location(repo_id), text=text)
    return found


_EMBEDDER = """
import tfxfer

embedder = tfxfer.models.TextEmbedder.from_preset({where})
vectors = embedder.encode({texts})
"""
_SENTENCE_TRANSFORMER = """
from sentence_transformers import SentenceTransformer

embedder = SentenceTransformer({where})
vectors = embedder.encode({texts})
"""
_CROSS_ENCODER = """
from sentence_transformers import CrossEncoder

model = CrossEncoder({where})
scores = model.predict([{texts}])  # one pair of texts
features = model.preprocess({texts})  # single texts
logits = model(features)["scores"]
"""
_PIPELINE = """
from transformers import pipeline

classify = pipeline("text-classification", model={where}, top_k=None)
classify({texts})
"""
_TAGS = """
from transformers import pipeline

tag = pipeline("token-classification", model={where}, aggregation_strategy="first")
tag({text})
"""
_TRANSFORMERS = """
import torch
from transformers import {architecture}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({where})
model = {architecture}.from_pretrained({where}).eval()
inputs = tokenizer({texts}, padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    tokens = model(**inputs).last_hidden_state
{pooling}
"""
# Code from token vectors to a text's vector, for poolings that take a line or two.
_POOLINGS = {
    "mean": 'mask = inputs["attention_mask"].unsqueeze(-1)\nvectors = (tokens * mask).sum(dim=1) / mask.sum(dim=1)',
    "cls": 'first = inputs["attention_mask"].argmax(dim=1)\nvectors = tokens[torch.arange(len(tokens)), first]',
    "last": 'places = torch.arange(tokens.shape[1])\nlast = (inputs["attention_mask"] * places).argmax(dim=1)\n'
    "vectors = tokens[torch.arange(len(tokens)), last]",
}


def _encoder(model, repo_id):
    spec = model.embedding_spec()
    lines = '# Only format="sentence-transformers" writes the layers that pool tokens into one vector.'
    if len(spec.pooling) == 1 and spec.pooling[0] in _POOLINGS and spec.layer_start is None:
        kinds = [module["class"] for module in spec.modules if module["class"] != "Dropout"]
        if kinds in ([], ["Normalize"]):
            lines = _POOLINGS[spec.pooling[0]]
        if kinds == ["Normalize"]:
            lines += "\nvectors = torch.nn.functional.normalize(vectors)"
    return _TRANSFORMERS.format(
        architecture=FAMILIES[model.backbone.family].architecture,
        where=location(repo_id),
        texts=_TEXTS,
        pooling=lines,
    )
