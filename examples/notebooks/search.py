# %% [markdown]
# # Search by meaning and by words
#
# Vectors find texts that mean the same in other words, BM25 finds names and numbers, and the fusion of both is a strong
# start. The corpus is the 102 questions of the made-up outdoor shop.

# %%
import tfxfer as tx

rows = tx.data.read("../data/support_questions/train.tsv")
embedder = tx.models.TextEmbedder.from_preset("all_minilm_l6_v2", sequence_length=64)
index = tx.search.SemanticIndex(embedder, rows["text"], metadata={"intent": rows["label"]})
hits = index.search(["My order never arrived"], k=3)
for text, score in zip(hits.texts[0], hits.scores[0]):
    print(round(float(score), 3), text)

# %% [markdown]
# Metadata filter the search:

# %%
hits = index.search(["My order never arrived"], k=2, where={"intent": "payment"})
print(hits.texts[0])

# %% [markdown]
# The vectors take a quarter of the memory in int8, and a thirty-second in binary codes. A binary index re-scores its
# best candidates.

# %%
small = tx.search.SemanticIndex(embedder, rows["text"], precision="int8")
print(small.search(["My order never arrived"], k=2).texts[0])

# %% [markdown]
# Which questions repeat each other? `paraphrases` compares every text with every other.

# %%
found = tx.search.paraphrases(embedder, rows["text"], k=3)
for (first, second), score in zip(found.ids[:3], found.scores[:3]):
    print(round(float(score), 3), rows["text"][first], "|", rows["text"][second])

# %% [markdown]
# What is in the corpus? `clusters` groups the vectors and names each group by its words.

# %%
groups = tx.search.clusters(embedder, rows["text"], 6, stopwords="a and for i in is it me my of on the to you".split())
for cluster in groups.clusters:
    print(len(cluster.ids), "texts:", cluster.name)
