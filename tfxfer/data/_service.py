"""Pipelines that tf.data service runs on other machines."""

from typing import Any, Literal

import tensorflow as tf

from tfxfer import _check

# The members of `tf.data.experimental.service.ShardingPolicy`.
_POLICIES = {"dynamic": "DYNAMIC", "off": "OFF", "files": "FILE"}
# Operations that call back into the Python process which made the pipeline.
_PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "GeneratorDataset"}


def distribute(
    dataset: Any,
    service: str,
    *,
    sharding: Literal["dynamic", "off", "files"] = "dynamic",
    job_name: str | None = None,
) -> Any:
    r"""Has a tf.data service run a pipeline: reading and tokenizing take place on its workers.

    What can run there is what TensorFlow can write down as a graph: reading files (`tf.data.TextLineDataset`,
    `TFRecordDataset`), parsing with TensorFlow's operations, `batch`, and a task model's tokenizing
    (`model.preprocess_samples`). What calls back into this process cannot, and is refused: generators,
    `tf.py_function`, `tf.numpy_function`, and with them `data.batches`, whose order of rows is planned in Python. So
    there are no epochs by (seed, epoch), no `bucket` and no `callbacks.Resume` in mid-epoch; shuffle with
    `Dataset.shuffle`, and bucket with `Dataset.bucket_by_sequence_length`.

    The workers are processes of TensorFlow that have imported `tensorflow_text`; see docs/scale.md.

    Args:
        dataset: `tf.data.Dataset`.
        service: string. The dispatcher, `"grpc://host:port"`.
        sharding: `"dynamic"`, every row once an epoch, on any worker, in no fixed order; `"files"`, each worker its own
            files; or `"off"`, all rows on each worker.
        job_name: string. Those who ask for one job of this name share its batches: each gets some of them.

    Returns:
        A `tf.data.Dataset` of the same elements.

    Raises:
        ValueError: for a pipeline with Python in it, or an address of another form.

    Example:

    ```python
    lines = tf.data.TextLineDataset(files).shuffle(100_000)
    rows = lines.map(lambda line: tuple(tf.unstack(tf.strings.split(line, "\t"), num=2)))
    train = rows.batch(64, drop_remainder=True).map(lambda text, label: model.preprocess_samples(text, label))
    model.fit(tx.data.distribute(train, "grpc://tokenizers:5050"))
    ```

    Reference: Audibert et al., 2023, tf.data service, https://arxiv.org/abs/2210.14826.
    """
    _check.instance("dataset", dataset, tf.data.Dataset, "a `tf.data.Dataset`")
    if not isinstance(service, str) or not service.startswith("grpc://") or ":" not in service[len("grpc://") :]:
        raise _check.invalid("service", "an address such as 'grpc://host:5050'", service)
    policy = tf.data.experimental.service.ShardingPolicy[_POLICIES[_check.one_of("sharding", sharding, _POLICIES)]]
    found = _python_in(dataset)
    if found:
        remedy = (
            "Other machines cannot call functions of this process: generators, `tf.py_function`, and `data.batches` "
            "stay here. Read and parse with TensorFlow's operations, and tokenize by `model.preprocess_samples`."
        )
        raise _check.invalid("dataset", "a pipeline of TensorFlow's operations alone", found, remedy)
    return dataset.apply(tf.data.experimental.service.distribute(policy, service, job_name=job_name))


def _python_in(dataset):
    """The names of operations in a pipeline that call Python."""
    variant = tf.data.experimental.to_variant(dataset)
    written = tf.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=1, strip_device_assignment=True)
    graph = tf.compat.v1.GraphDef.FromString(written.numpy())
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return sorted({node.op for node in nodes} & _PYTHON)
