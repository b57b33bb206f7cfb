# %% [markdown]
# # Find entities in texts
#
# A tagger trains on words with tags and finds entities in raw texts, with offsets and the probability of each entity.
# The rows here come from templates, so that nothing is downloaded; `examples/tag_entities.py` trains on WNUT17.

# %%
import random

import tfxfer as tx

# isort: split
import keras

keras.utils.set_random_seed(0)
draw = random.Random(0)
PEOPLE = ["Anna Berg", "Ole Lund", "Mary Smith", "Jun Ito", "Carla Rossi", "Peter"]
PLACES = ["Oslo", "New York", "Rome", "Kyoto", "Bergen", "Paris"]
FORMS = [
    "{person} lives in {place} .",
    "Is {place} far from {place} ?",
    "{person} met {person} .",
    "Send it to {place} !",
]


def row():
    """Words of a sentence with a tag each, in the scheme IOB2."""
    words, tags = [], []
    for part in draw.choice(FORMS).split():
        kind = part.strip("{}")
        chosen = draw.choice(PEOPLE if kind == "person" else PLACES).split() if part != kind else [part]
        words += chosen
        tags += ["O"] if part == kind else [f"B-{kind}", *[f"I-{kind}"] * (len(chosen) - 1)]
    return words, tags


words, tags = zip(*[row() for _ in range(60)])
print(words[0], tags[0])

# %% [markdown]
# With `head="crf"` a sequence that the scheme forbids (an inside tag after no begin) is impossible, in training and in
# decoding.

# %%
names = tx.data.tag_names({"tags": tags})
tagger = tx.models.TokenTagger.from_preset("all_minilm_l6_v2", tags=names, head="crf", sequence_length=32)
tagger.compile()
history = tagger.fit(list(words), list(tags), batch_size=16, epochs=4, seed=0, verbose=0)

# %% [markdown]
# The tagger reads raw texts: it splits them into words, and its offsets point into your string.

# %%
text = "Yesterday Maria Jensen flew from Berlin to Tokyo."
for entity in tagger.extract([text])[0]:
    assert text[entity.start : entity.end] == entity.text
    print(entity.label, entity.text, round(entity.probability, 2))

# %% [markdown]
# `evaluation.entities` scores whole entities, as seqeval does. (These rows come from the same templates as the training
# rows, so the score says little about other texts.)

# %%
words, tags = zip(*[row() for _ in range(20)])
scores = tx.evaluation.entities(tagger, list(words), list(tags))
print({name: round(scores[f"micro_{name}"], 3) for name in ("precision", "recall", "f1")})
