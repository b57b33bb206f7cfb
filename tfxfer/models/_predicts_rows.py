"""Tasks that pretrain: outputs for as many tokens as a row has, of texts that training changes at random."""

from typing import Any

import keras

from tfxfer import _check, data

_Mixin: Any = object  # what is mixed in here has the methods of a Keras model


class PredictsRows(_Mixin):
    """`predict` of tasks whose rows differ in the number of outputs; a mixin."""

    def _count_rows(self, flags):
        """Takes note of how many outputs rows have; a constructor calls it.

        Args:
            flags: int Keras tensor `(batch, outputs)`, 1 at outputs that count, which come first.
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
        """Returns the outputs for texts as they are, in which nothing is hidden or left out.

        Args:
            x: rows of texts, or batches, as `fit` takes them. For a generator of rows the answers come as a generator
                of parts.
            batch_size: int. Texts computed at a time. Defaults to 32.
            verbose: 0, 1 or `"auto"`: whether to show a progress bar.
            steps: int. Batches to read, for batches.
            callbacks: `None`; rows differ in shape, and are computed without Keras's loop.

        Returns:
            A list with a float32 array `(outputs, vocabulary_size)` for each row.

        Raises:
            ValueError: as `fit`, and for callbacks.
        """
        if callbacks:
            raise _check.invalid("callbacks", "None for this model", callbacks, "Read progress by `verbose=1`.")
        return self._answers(x, batch_size or 32, verbose, lambda rows: rows, steps)

    def _predicted(self, form, found, batch_size, verbose, steps=None, callbacks=None, part=None):
        if form == "rows":
            progress = keras.config.is_interactive_logging_enabled() if verbose == "auto" else bool(verbose)

            def make():
                columns, multiples = self.prediction_columns(), (self._length_multiple(), None, self._row_multiple())
                return data.Runner(self._counted(), columns, *multiples)

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
