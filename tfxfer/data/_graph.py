"""Conversion of functions to graphs in a pipeline."""

import tensorflow as tf

# The functions of a pipeline are already written for graphs. AutoGraph would rewrite the source of every function that
# it reaches, including the tokenizer's: a third of the time before the first training step.
as_it_is = tf.autograph.experimental.do_not_convert
