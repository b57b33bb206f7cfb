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
    """Writes the vectors of some texts for TensorBoard's projector: `evaluation.projector` as training goes on.

    Before the first epoch and after each the vectors are written under a name of their own, `start`, `epoch_001`,
    `epoch_002`..., so that one can see how the points move. `tensorboard --logdir folder` shows them; beside
    `keras.callbacks.TensorBoard(folder)` they stand in one place with the curves. (What that callback has for the
    projector shows the rows of an `Embedding` layer, and no layer inside another model.)

    Args:
        folder: string or path. Made if need be.
        texts: list of strings. Some hundreds to some thousands: all are encoded and written each time.
        labels: as in `evaluation.projector`.
        every: int. Writes after every so many epochs; the last epoch's vectors are written in any case.
        model: what encodes, where it is not what is trained, but a part of it.
        batch_size: int. Texts computed at a time.

    Raises:
        ValueError: at once for texts and labels that do not fit; when `fit` starts, for a model that does not encode.

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
        """Takes the model that is trained, and checks that it fits; Keras calls it."""
        super().set_model(model)
        subject = self._subject()
        if _texts.embedder_of(subject) is None:
            remedy = "Where the embedder is a part of what is trained: `model=embedder`."
            raise _check.invalid("model", "a `models.Siamese` or `models.TextEmbedder`", subject, remedy)

    def _subject(self):
        trained = self.model  # on JAX, reading this brings the weights up to date, those of a part as well
        return trained if self._encoder is None else self._encoder

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the points before the first epoch; Keras calls it."""
        if epoch == 0:
            self._write("start")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the points after every `every` epochs and the last one; Keras calls it."""
        done = epoch + 1
        if done % self._every == 0 or done == self.params["epochs"] or self.model.stop_training:
            self._write(f"epoch_{done:03}")

    def _write(self, name):
        options = {"name": name, "batch_size": self._batch_size, "progress": False}
        # Processes that train together compute together; one of them writes.
        with contextlib.ExitStack() as stack:
            is_first = _processes.is_first()
            folder = self._folder if is_first else stack.enter_context(tempfile.TemporaryDirectory())
            evaluation.projector(folder, self._subject(), *self._points, **options)
