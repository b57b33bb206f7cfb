"""Images: files or arrays."""

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer.data._columns._base import Column, bad_value


@keras.saving.register_keras_serializable("tfxfer")
class ImageColumn(Column):
    """An image for each row, resized to one size.

    Args:
        size: (height, width) of a batch's images, in pixels.
        channels: int. 1 (gray) or 3 (color). Defaults to 3.

    Values: paths of JPEG, PNG, GIF or BMP files, which are read again for each batch; or arrays of 0 to 255 of shape
    `(height, width, channels)`, in any size. Batch: float32 `(batch, height, width, channels)` in `[0, 255]`, the
    input of KerasHub's image backbones before their own scaling.

    Raises:
        ValueError: if `size` or `channels` is invalid; in `read`, for a file that does not exist, or an array of
            another shape or range, with its row.

    Example:

    >>> column = ImageColumn((2, 2), channels=1)
    >>> column.read([np.full((4, 4, 1), 7)], "photo").shape
    (1, 2, 2, 1)
    """

    expected = "paths of image files, or arrays of shape (height, width, channels)"

    def __init__(self, size: tuple[int, int], *, channels: int = 3) -> None:
        if not isinstance(size, (list, tuple)) or len(size) != 2:
            raise _check.invalid("size", "(height, width)", size)
        self.size = tuple(_check.integer("size", each) for each in size)
        if channels not in (1, 3):
            raise _check.invalid("channels", "1 or 3", channels)
        self.channels = channels

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {"size": list(self.size), "channels": self.channels}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ImageColumn":
        """Makes the column from `config`, the result of `get_config`."""
        return cls(**config)

    def read(self, values: Any, argument: str) -> Any:
        """Returns paths, a string tensor `(rows,)`, or images, uint8 `(rows, height, width, channels)`."""
        rows = self.sequence(values, argument)
        if rows and all(isinstance(row, (str, os.PathLike)) for row in rows):
            for i, row in enumerate(rows):
                _check.text(argument, str(row), i)
                if not tf.io.gfile.exists(str(row)):
                    raise bad_value(argument, "files that exist", str(row), i)
            return tf.constant([str(row) for row in rows], tf.string)
        found = np.empty((len(rows), *self.size, self.channels), "uint8")
        for i, row in enumerate(rows):
            image = np.asarray(row)
            if image.ndim != 3 or image.shape[-1] != self.channels or image.dtype.kind not in "iuf" or not image.size:
                expected = f"an image of shape (height, width, {self.channels}) in every row"
                raise bad_value(argument, expected, getattr(row, "shape", row), i)
            if image.min() < 0 or image.max() > 255 or not np.isfinite(image).all():
                raise bad_value(argument, "images with values from 0 to 255", float(image.max()), i)
            resized = image if image.shape[:2] == self.size else tf.image.resize(image, self.size).numpy()
            found[i] = np.clip(np.rint(resized), 0, 255)
        return found

    def spec(self) -> Any:
        """Returns the spec of one row."""
        return tf.TensorSpec((*self.size, self.channels), tf.uint8)

    def batch(self, kept: Any, name: str, multiple: int = 1) -> Any:
        """Reads files if necessary; returns float32 `(batch, height, width, channels)`."""
        if kept.dtype == tf.string:
            kept = tf.map_fn(self._file, kept, fn_output_signature=tf.float32)
        return {name: tf.ensure_shape(tf.cast(kept, tf.float32), (None, *self.size, self.channels))}

    def _file(self, path):
        image = tf.io.decode_image(tf.io.read_file(path), channels=self.channels, expand_animations=False)
        return tf.ensure_shape(tf.image.resize(image, self.size), (*self.size, self.channels))
