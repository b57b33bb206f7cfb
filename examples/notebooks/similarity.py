# %% [markdown]
# # Train an embedder for your own notion of similarity
#
# Two questions are alike here if they have the same intent. The labels of the rows are enough to make pairs from, and a
# Siamese network trains the embedder on them.

# %%
import tfxfer as tx

# isort: split
import keras

keras.utils.set_random_seed(0)
train, test = (tx.data.read(f"../data/support_questions/{part}.tsv") for part in ("train", "test"))
embedder = tx.models.TextEmbedder.from_preset("all_minilm_l6_v2", sequence_length=64)

# %% [markdown]
# The measure: triplets of the test rows. How often is a question closer to one of its own intent than to another?

# %%
held_out = tx.data.triplets_from_labels(test, "text", "label", seed=0)
print("before:", round(tx.evaluation.triplets(embedder, held_out)["triplet_accuracy"], 3))

# %% [markdown]
# Pairs of the training rows, and a contrastive loss: it pulls pairs of one intent together and pushes others apart, up
# to a margin. [docs/losses.md](../../docs/losses.md) tells which loss fits which rows.

# %%
pairs = tx.data.pairs_from_labels(train, "text", "label", max_pairs=600, seed=0)
siamese = tx.models.Siamese(embedder)
siamese.compile(loss=tx.losses.ContrastiveLoss(margin=0.5))
history = siamese.fit(pairs, batch_size=32, epochs=2, seed=0, verbose=0)
print("after:", round(tx.evaluation.triplets(embedder, held_out)["triplet_accuracy"], 3))

# %% [markdown]
# The embedder was trained in place. It can be saved for this package, or for sentence-transformers.

# %%
import os
import tempfile

folder = os.path.join(tempfile.mkdtemp(), "intents")
embedder.save_to_preset(folder, format="sentence-transformers")
print(sorted(os.listdir(folder)))
