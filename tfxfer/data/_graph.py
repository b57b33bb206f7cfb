"""How functions become graphs in a pipeline."""

import tensorflow as tf

# What a pipeline calls is written for graphs already. AutoGraph would rewrite the source of every function that it
# meets, the tokenizer's included: a third of the time before the first step of a training.
as_it_is = tf.autograph.experimental.do_not_convert
