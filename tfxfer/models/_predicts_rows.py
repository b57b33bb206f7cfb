"""Pretraining tasks, whose rows differ in the number of outputs and whose texts training changes at random."""

from typing import Any

import keras

from tfxfer import _check, data

_Mixin: Any = object  # classes that use the mixin have the methods of a Keras model


class PredictsRows(_Mixin):
    """`predict` of tasks whose rows differ in the number of outputs; a mixin."""

    def _count_rows(self, flags):
        """Records the number of outputs of rows; a constructor calls it.

        Args:
            flags: int Keras tensor `(batch, outputs)`, 1 at valid outputs, which come first.
        """
        counts = keras.ops.sum(flags, axis=1)
        made = keras.Model(self.input, {"outputs": self.output, "counts": counts})
        made.jit_compile = False
        self._counted = lambda: made  # hidden from Keras, which would track it

    def predict(
        self,
        x: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """Returns the outputs for unchanged texts: nothing is masked or removed.

        Args:
            x: rows of texts, or batches, as `fit` takes them. For a generator of rows, the outputs come as a
                generator of parts.
            batch_size: int. Texts per batch. Defaults to 32.
            verbose: 0, 1 or `"auto"`: whether to show a progress bar.
            steps: int. The number of batches to read, if `x` contains batches.
            callbacks: `None`; rows differ in shape and are computed without Keras's loop.

        Returns:
            A list with a float32 array `(outputs, vocabulary_size)` for each row.

        Raises:
            ValueError: as `fit`, and if callbacks are given.
        """
        if callbacks:
            raise _check.invalid("callbacks", "None for this model", callbacks, "Use `verbose=1` to see the progress.")
        return self._answers(x, batch_size or 32, verbose, lambda rows: rows, steps)

    def _predicted(self, form, found, batch_size, verbose, steps=None, callbacks=None, part=None):
        if form == "rows":
            progress = keras.config.is_interactive_logging_enabled() if verbose == "auto" else bool(verbose)

            def make():
                columns, multiple = self.prediction_columns(), self._length_multiple()
                return data.Runner(self._counted(), columns, multiple, rows_multiple_of=self._row_multiple())

            return self._made_once("rows", 1, make)(found.x, batch_size, progress=progress, finish=_rows)
        if form == "arrays":
            starts = range(0, len(found[0]["token_ids"]), batch_size)
            batches: Any = ({name: value[i : i + batch_size] for name, value in found[0].items()} for i in starts)
        else:
            options = {} if form == "batches" else self._batch_options(shuffle=False, bucket=False)
            gate = data.Gate(self, asks=True)
            batches = gate.ready(gate.batches(form, found, batch_size, **options))
        rows: list = []
        for number, batch in enumerate(batches):
            if steps is not None and number == steps:
                break
            x = batch[0] if isinstance(batch, tuple) else batch
            outputs = self._counted()({name: x[name] for name in self.input}, training=False)
            rows += _rows(keras.tree.map_structure(keras.ops.convert_to_numpy, outputs))
        return rows


def _rows(outputs):
    return [row[:count] for row, count in zip(outputs["outputs"], outputs["counts"], strict=True)]
