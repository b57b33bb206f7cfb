# %% [markdown]
# # Classify texts with a few labels per class
#
# From 102 labeled questions to a classifier that knows when not to answer, and an export. The data are questions to the
# support desk of a made-up outdoor shop, in six intents.

# %%
import tfxfer as tx

# isort: split
import keras
import numpy as np

keras.utils.set_random_seed(0)
train, dev, test = (tx.data.read(f"../data/support_questions/{part}.tsv") for part in ("train", "dev", "test"))
labels = tx.data.labels(train, "label")
print(len(train), "rows to train on:", labels)

# %% [markdown]
# `compile()` without arguments selects the default recipe. The head starts as a logistic regression on the frozen
# features, so that training never starts below a frozen probe; `fit` plans the learning rate.

# %%
classifier = tx.models.TextClassifier.from_preset("all_minilm_l6_v2", labels=labels, sequence_length=64)
classifier.compile()
history = classifier.fit(train["text"], train["label"], batch_size=16, epochs=4, seed=0, verbose=0)
print("frozen probe on held-out rows:", round(classifier.head_probe.scores["accuracy"], 3))
print("training loss:", [round(loss, 3) for loss in history.history["loss"]])

# %% [markdown]
# With 30 test rows, the interval around the accuracy is wide. `intervals=0.95` shows it.

# %%
scores = tx.evaluation.classification(classifier, test["text"], test["label"], intervals=0.95)
low, high = scores["intervals"]["accuracy"]
print(f"accuracy {scores['accuracy']:.3f} ({low:.3f} to {high:.3f}), macro-F1 {scores['macro_f1']:.3f}")

# %% [markdown]
# `calibrate` scales the probabilities on rows the model has not seen. A threshold then rejects texts that belong to no
# class: the label is `None`.

# %%
classifier.calibrate(dev["text"], dev["label"])
classifier.threshold = 0.55
answer = classifier.classify(["How do I get my money back?", "What is the capital of Norway?"])
print(answer.labels, np.round(answer.probabilities.max(axis=-1), 2))

# %% [markdown]
# Which words decide? `explain` attributes the answer to them.

# %%
print(classifier.explain(["How do I get my money back for these boots?"])[0].to_terminal(color=False))

# %% [markdown]
# The export takes strings and returns labels. Loading it needs TensorFlow and TensorFlow Text only.

# %%
import tempfile

import tensorflow as tf

folder = tempfile.mkdtemp()
served = tf.saved_model.load(tx.export.saved_model(classifier, folder)).signatures["serving_default"]
print(served(text=tf.constant(["Can I pay by invoice?"]))["labels"][:, 0].numpy())
