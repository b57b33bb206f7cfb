"""Points for TensorBoard's projector during training."""

import contextlib
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import keras

from tfxfer import _check, _disk, _processes, _texts, evaluation
from tfxfer.evaluation import _tensorboard


class Projector(keras.callbacks.Callback):
    """Writes the vectors of some texts for TensorBoard's projector: `evaluation.projector` during training.

    Before the first epoch and after each epoch, it writes the vectors under a separate name, `start`, `epoch_001`,
    `epoch_002`..., to show how the points move. View them with `tensorboard --logdir folder`; with
    `keras.callbacks.TensorBoard(folder)`, they share a directory with the curves. (The projector option of that
    callback shows only the rows of an `Embedding` layer, and no layer inside another model.)

    Args:
        folder: string or path. Created if missing.
        texts: list of strings. A few hundred to a few thousand: all are encoded and written each time.
        labels: as in `evaluation.projector`.
        every: int. Writes every `every` epochs; the vectors of the last epoch are always written.
        model: the model that encodes, if it is only a part of the model being trained.
        batch_size: int. Texts per batch.

    Raises:
        ValueError: on construction, if texts and labels do not fit; when `fit` starts, if the model does not encode
            texts.

    Example:

    ```python
    model.fit(train, epochs=3, callbacks=[tx.callbacks.Projector("logs/faq", questions, topics)])
    ```
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        texts: Sequence[str],
        labels: Any = None,
        *,
        every: int = 1,
        model: Any = None,
        batch_size: int = 32,
    ) -> None:
        super().__init__()
        self._folder = _disk.local_path("folder", folder, kind="folder")
        _tensorboard.point_columns(texts, labels)
        self._points = (texts, labels)
        self._every = _check.integer("every", every)
        self._batch_size = _check.integer("batch_size", batch_size)
        self._encoder = model

    def set_model(self, model: Any) -> None:
        """Sets the model to train and checks that it encodes texts; Keras calls it."""
        super().set_model(model)
        subject = self._subject()
        if _texts.embedder_of(subject) is None:
            remedy = "If the embedder is part of the trained model, pass `model=embedder`."
            raise _check.invalid("model", "a `models.Siamese` or `models.TextEmbedder`", subject, remedy)

    def _subject(self):
        trained = self.model  # on JAX, reading this updates the weights, including those of a part
        return trained if self._encoder is None else self._encoder

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the points before the first epoch; Keras calls it."""
        if epoch == 0:
            self._write("start")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the points every `every` epochs and after the last one; Keras calls it."""
        done = epoch + 1
        if done % self._every == 0 or done == self.params["epochs"] or self.model.stop_training:
            self._write(f"epoch_{done:03}")

    def _write(self, name):
        options = {"name": name, "batch_size": self._batch_size, "progress": False}
        # Processes that train together encode together; only the first one writes.
        with contextlib.ExitStack() as stack:
            is_first = _processes.is_first()
            folder = self._folder if is_first else stack.enter_context(tempfile.TemporaryDirectory())
            evaluation.projector(folder, self._subject(), *self._points, **options)
