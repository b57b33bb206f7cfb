"""Training embedders on unlabeled texts: the same text twice, with different dropout."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfxfer import _check, data, losses
from tfxfer._freezable import Freezable, layers_within
from tfxfer.models._embedder import TextEmbedder
from tfxfer.models._siamese import Siamese


def simcse(
    embedder: TextEmbedder,
    texts: Sequence[str],
    *,
    epochs: int = 1,
    batch_size: int = 64,
    temperature: float = 0.05,
    optimizer: Any = "auto",
    chunk_size: int | None = None,
    seed: int | None = None,
    verbose: int | str = "auto",
    callbacks: Any = None,
) -> keras.callbacks.History:
    """Trains an embedder on unlabeled texts with unsupervised SimCSE.

    Each text goes through the encoder twice. Dropout makes the two vectors differ, and the loss pulls them closer to
    each other than to the vectors of the other texts in the batch:

        -log exp(cos(a_i, b_i) / temperature) / sum_j exp(cos(a_i, b_j) / temperature)

    No two rows of a batch have the same text. The function trains `Siamese(embedder)` with
    `losses.MultipleNegativesRankingLoss` on `(texts, texts)`, and checks that dropout is active. If you have pairs,
    made by people or rules, training on them works better.

    Args:
        embedder: `TextEmbedder`, trained in place.
        texts: sequence of strings, at least two different ones.
        epochs: int. Passes over the texts. Defaults to 1, as in the paper.
        batch_size: int. Defaults to 64. With `chunk_size`, it may exceed what fits into memory in one pass.
        temperature: float > 0. Defaults to 0.05.
        optimizer: as in `keras.Model.compile`. Defaults to `optimizers.Auto(2e-5)`.
        chunk_size: int. The number of texts per pass; see `Siamese`.
        seed: int >= 0. Makes the order of texts reproducible; dropout follows `keras.utils.set_random_seed`.
        verbose: as in `keras.Model.fit`.
        callbacks: list of Keras callbacks, for example `callbacks.EvaluateSimilarity` on a few scored pairs.

    Returns:
        The `keras.callbacks.History` of the training.

    Raises:
        ValueError: if the encoder has no dropout or all its layers with dropout are frozen, as both passes would return
            the same vectors; if a text is missing or is not a string (the error names the row); if an argument is out
            of range.

    Example:

    ```python
    embedder = tx.models.TextEmbedder.from_preset("all_minilm_l6_v2")
    tx.models.simcse(embedder, texts, epochs=1, seed=0)
    embedder.encode(["Where is my card?"])
    ```

    Reference: Gao et al., 2021, https://arxiv.org/abs/2104.08821.
    """
    _check.instance("embedder", embedder, TextEmbedder, "a `models.TextEmbedder`")
    if embedder.preprocessor is None:
        raise _check.invalid("embedder", "an embedder with a preprocessor", embedder.name)
    temperature = _check.number("temperature", temperature, above=0.0)
    found = data.read_list("texts", texts)
    if len(set(found)) < 2:
        raise _check.invalid("texts", "at least two different texts", found)
    if not _drops_out(embedder):
        remedy = (
            "Create the encoder with a rate, `Backbone.from_config({**backbone.get_config(), 'dropout': 0.1})`, set "
            "its weights; or unfreeze its layers, or set `embedder.frozen_dropout = True`."
        )
        raise _check.invalid("embedder", "an encoder with dropout, without which both passes are the same", 0.0, remedy)
    towers = Siamese(embedder, chunk_size=chunk_size)
    towers.compile(optimizer, loss=losses.MultipleNegativesRankingLoss(scale=1.0 / temperature))
    rows = ((found, found), np.zeros(len(found), "float32"))
    batches = data.batches(rows, towers, batch_size, unique_texts=True, seed=seed)
    return towers.fit(batches, epochs=epochs, verbose=verbose, callbacks=callbacks)


def _drops_out(embedder):
    """Whether any dropout is active in training."""

    def is_on(layer, parent_is_on):
        flag = layer.is_training(True) if isinstance(layer, Freezable) else parent_is_on
        return bool(flag)

    for group in embedder.layer_groups().values():
        for top in group:
            outer = is_on(top, True)
            for layer in layers_within(top):
                if isinstance(layer, keras.layers.Dropout) and layer.rate > 0 and is_on(layer, outer):
                    return True
    return False
