"""Reads files of this package with the libraries that they are written for; runs in the benchmark's environment.

    python reference_reader.py FOLDER

`FOLDER/jobs.json` lists jobs: dicts with `name`, `kind` and `folder`. The results are written to `FOLDER/NAME.npz`, an
error to `FOLDER/NAME.txt`.
"""

import importlib.util
import json
import os
import pathlib
import re
import sys
import traceback

import numpy as np
import torch
import transformers

transformers.logging.set_verbosity_error()


def tokens(model, tokenizer, *texts):
    """The outputs of a model for texts or pairs, and the inputs with the mask."""
    inputs = tokenizer(*texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs), inputs


def encoder(job):
    """Hidden states from the class that config.json names."""
    config = transformers.AutoConfig.from_pretrained(job["folder"])
    loader = getattr(transformers, config.architectures[0])
    model, found = loader.from_pretrained(job["folder"], output_loading_info=True)
    unexpected = [*found["unexpected_keys"], *found["mismatched_keys"]]
    missing = [name for name in found["missing_keys"] if "pooler" not in name]
    if unexpected or missing or model.dtype != torch.float32:
        raise ValueError(f"unexpected {unexpected}, missing {missing}, dtype {model.dtype}")
    if job.get("adapters"):
        import peft

        model = peft.PeftModel.from_pretrained(model, job["adapters"])
    tokenizer = getattr(transformers, job["tokenizer"]).from_pretrained(job["folder"])
    outputs, inputs = tokens(model.eval(), tokenizer, job["texts"])
    mask = inputs["attention_mask"].numpy()
    return {"states": outputs.last_hidden_state.numpy(), "mask": mask, "ids": inputs["input_ids"].numpy()}


def sentence(job):
    """Embeddings from sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(job["folder"], device="cpu")
    found = {name: getattr(model, name)(job["texts"]) for name in ("encode", "encode_query", "encode_document")}
    similarity = model.similarity(found["encode"], found["encode"]).numpy()
    return {**found, "similarity": similarity, "longest": model.max_seq_length}


def classifier(job):
    """Logits of texts and pairs from transformers, and the labels from its pipeline."""
    loader = transformers.AutoModelForSequenceClassification
    model, found = loader.from_pretrained(job["folder"], output_loading_info=True)
    left = [name for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in found[key]]
    if left:
        raise ValueError(f"not all tensors fit: {left}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["folder"])
    single, _ = tokens(model.eval(), tokenizer, job["texts"])
    pair, _ = tokens(model, tokenizer, job["texts"], job["seconds"])
    labels = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)(job["texts"])
    return {
        "single": single.logits.numpy(),
        "pair": pair.logits.numpy(),
        "labels": [answer["label"] for answer in labels],
    }


def tagger(job):
    """Logits of tokens from transformers, and the spans that its pipeline finds, as JSON."""
    loader = transformers.AutoModelForTokenClassification
    model, found = loader.from_pretrained(job["folder"], output_loading_info=True)
    left = [name for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in found[key]]
    if left:
        raise ValueError(f"not all tensors fit: {left}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["folder"])
    outputs, inputs = tokens(model.eval(), tokenizer, job["texts"])
    spans = {}
    for aggregation in ("none", "simple", "first", "average", "max"):
        pipeline = transformers.pipeline(
            "token-classification", model=model, tokenizer=tokenizer, aggregation_strategy=aggregation
        )
        spans[aggregation] = [pipeline(text) for text in job["texts"]]
    mask, ids = (inputs[name].numpy() for name in ("attention_mask", "input_ids"))
    return {"logits": outputs.logits.numpy(), "mask": mask, "ids": ids, "spans": json.dumps(spans, default=float)}


def masked(job):
    """Logits of every token from transformers; also saves the model again with transformers."""
    loader = transformers.AutoModelForMaskedLM
    model, found = loader.from_pretrained(job["folder"], output_loading_info=True)
    left = [name for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in found[key]]
    if left:
        raise ValueError(f"not all tensors fit: {left}")
    with torch.no_grad():
        outputs = model.eval()(input_ids=torch.tensor(job["ids"]), attention_mask=torch.tensor(job["mask"]))
    model.save_pretrained(job["again"])
    return {"logits": outputs.logits.numpy()}


def cross(job):
    """Scores of pairs and texts from sentence-transformers' CrossEncoder."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(job["folder"], device="cpu")
    pair = model.predict(list(zip(job["texts"], job["seconds"], strict=True)))
    with torch.no_grad():
        single = model(model.preprocess(job["texts"]))["scores"].numpy()
    return {"single": single, "pair": pair, "labels": list(model.config.id2label.values())}


def card(job):
    """Runs the code blocks of a model card that use neither this package nor the network."""
    os.chdir(job["folder"])
    text = pathlib.Path("README.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "tfxfer" not in block]
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    found = {name: np.asarray(names[name]) for name in ("vectors", "scores") if name in names}
    return {"blocks": len(blocks), **found}


KINDS = {
    "encoder": encoder,
    "sentence": sentence,
    "classifier": classifier,
    "tagger": tagger,
    "masked": masked,
    "cross": cross,
    "card": card,
}


def main(folder):
    for job in json.loads((folder / "jobs.json").read_text(encoding="utf-8")):
        target = folder / job["name"]
        if job.get("adapters") and importlib.util.find_spec("peft") is None:
            target.with_suffix(".txt").write_text("no peft")
            continue
        try:
            np.savez(target.with_suffix(".npz"), **KINDS[job["kind"]](job))
        except Exception:
            target.with_suffix(".txt").write_text(traceback.format_exc(), encoding="utf-8")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve())
