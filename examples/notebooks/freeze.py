# %% [markdown]
# # Choose which layers train
#
# Freezing saves time and keeps what the encoder knows. Four ways on the same 100 reviews: the head alone, the head on a
# cached encoder, the upper layers, and low-rank adapters.

# %%
import time

import tfxfer as tx

# isort: split
import keras

rows = list(tx.data.read("../data/clothing_reviews/train.tsv"))[:100]
x, y = [row["review"] for row in rows], [row["recommended"] for row in rows]
test = list(tx.data.read("../data/clothing_reviews/test.tsv"))[:200]
test = [row["review"] for row in test], [row["recommended"] for row in test]


def load():
    """A classifier with a new head."""
    keras.utils.set_random_seed(0)
    return tx.models.TextClassifier.from_preset("all_minilm_l6_v2", labels=["no", "yes"], sequence_length=48)


def report(name, model, start):
    """Prints seconds of training, macro-F1 and the number of weights that train."""
    seconds = time.perf_counter() - start
    trained = sum(weight.numpy().size for weight in model.trainable_weights)
    score = tx.evaluation.classification(model, *test)["macro_f1"]
    print(f"{name:24} {trained:>10,} weights, {seconds:4.0f} s, macro-F1 {score:.3f}")


# %% [markdown]
# The head alone: a regression on the frozen features.

# %%
model, start = load(), time.perf_counter()
tx.freezing.probe(model, x, y)
model.set_trainable(["head"])
report("probe", model, start)

# %% [markdown]
# Layer groups have the same names in every family.

# %%
model = load()
tx.freezing.freeze(model, below=4)
groups = tx.freezing.summary(model)

# %% [markdown]
# The upper two blocks and the head; the output of the frozen layers is computed once and cached.

# %%
start = time.perf_counter()
model.compile()
tx.freezing.AboveFrozen(model).fit(x, y, batch_size=16, epochs=4, seed=0, verbose=0)
report("upper blocks, cached", model, start)

# %% [markdown]
# Low-rank adapters (LoRA): every block changes, through a few weights.

# %%
model, start = load(), time.perf_counter()
tx.freezing.add_lora(model, rank=8)
model.compile(tx.optimizers.AdamW(1e-3))
model.fit(x, y, batch_size=16, epochs=4, seed=0, verbose=0)
report("LoRA", model, start)

# %% [markdown]
# All layers, with the default recipe.

# %%
model, start = load(), time.perf_counter()
model.compile()
model.fit(x, y, batch_size=16, epochs=4, seed=0, verbose=0)
report("all layers", model, start)
