"""Defines a task of your own: stars of a review from its text and its writer's age, with all that built-in tasks have.

    python examples/own_task.py --data data/clothing_reviews

`--data` is a directory of train.tsv and test.tsv with the columns review, age and rating (1 to 5).
"""

import argparse
import pathlib

import tfxfer as tx  # before Keras, so that TensorFlow starts quietly

# isort: split
import keras
import numpy as np
import tensorflow as tf


class StarsColumn(tx.data.Column):
    """Stars from 1 to 5 as four targets, 0 or 1: more than 1, more than 2, more than 3, more than 4."""

    def read(self, values, argument):
        stars = tx.data.NumberColumn().read(values, argument)
        return (stars[:, np.newaxis] > np.arange(1, 5)).astype("float32")


@keras.saving.register_keras_serializable("examples")
class StarRating(tx.models.TextTask):
    """Ordinal regression: four logits, one for each threshold between adjacent numbers of stars."""

    def __init__(self, backbone, preprocessor=None, *, trainable=None, **kwargs):
        inputs = {**backbone.input, "age": keras.Input((), name="age")}
        pooling = tx.layers.Pooling("mean", name="pooling")
        pooled = pooling(backbone(backbone.input), padding_mask=inputs["padding_mask"])
        age = keras.layers.Rescaling(0.01)(keras.layers.Reshape((1,))(inputs["age"]))
        head = keras.layers.Dense(4, name="head")
        outputs = head(keras.layers.Concatenate()([pooled, age]))
        parts = {"backbone": backbone, "preprocessor": preprocessor, "top": [head]}
        super().__init__(inputs, outputs, **parts, trainable=trainable, **kwargs)

    def input_columns(self):
        return {"review": tx.data.TextColumn(self.preprocessor), "age": tx.data.NumberColumn()}

    def target_columns(self):
        return StarsColumn()

    def decode(self, outputs):
        return 1 + (np.asarray(outputs) > 0).sum(axis=1)

    def signatures(self, pairs=False):
        finish = lambda logits: 1 + keras.ops.sum(keras.ops.cast(logits > 0, "float32"), axis=1)  # noqa: E731
        return [tx.models.Signature("rate", "values", "Stars, 1 to 5.", output="stars", finish=finish)]


def main():
    """Trains the layers above frozen ones with a checkpoint to resume from, exports the model and asks the export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="directory with train.tsv and test.tsv")
    parser.add_argument("--preset", default="all_minilm_l6_v2", help="pretrained encoder")
    parser.add_argument("--rows", type=int, default=2000, help="training rows; half as many for the test")
    parser.add_argument("--folder", default="runs/stars", help="directory for the checkpoint and the export")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(0)
    model = StarRating.from_preset(arguments.preset, sequence_length=128)
    train = tx.data.examples(tx.data.read(arguments.data / "train.tsv")[: arguments.rows], model, "rating")
    test = tx.data.read(arguments.data / "test.tsv")[: arguments.rows // 2]

    tx.freezing.freeze(model, below=4)
    model.compile(tx.optimizers.AdamW(2e-4), loss=keras.losses.BinaryCrossentropy(from_logits=True))
    resume = tx.callbacks.Resume(pathlib.Path(arguments.folder, "checkpoint"))
    tx.freezing.AboveFrozen(model).fit(tx.data.batches(train, model, seed=0), epochs=3, callbacks=[resume])

    stars = model.answer({"review": test["review"], "age": test["age"]})
    truth = np.array(test["rating"], "int64")
    print(f"mean error {np.abs(stars - truth).mean():.3f} stars; always 5 stars: {(5 - truth).mean():.3f}")

    path = tx.export.saved_model(model, pathlib.Path(arguments.folder, "export"), keep=1)
    served = tf.saved_model.load(path).signatures["serving_default"]
    answers = served(review=tf.constant(test["review"][:8]), age=tf.constant(np.array(test["age"][:8], "float32")))
    print("from the export:", answers["stars"].numpy().astype(int).tolist(), "truth:", truth[:8].tolist())


if __name__ == "__main__":
    main()
