"""Pipelines that a tf.data service runs on other machines."""

from typing import Any, Literal

import tensorflow as tf

from tfxfer import _check

# The members of `tf.data.experimental.service.ShardingPolicy`.
_POLICIES = {"dynamic": "DYNAMIC", "off": "OFF", "files": "FILE"}
# Operations that call back into the Python process that made the pipeline.
_PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "GeneratorDataset"}


def distribute(
    dataset: Any,
    service: str,
    *,
    sharding: Literal["dynamic", "off", "files"] = "dynamic",
    job_name: str | None = None,
) -> Any:
    r"""Runs a pipeline on a tf.data service: its workers read and tokenize.

    A pipeline can run there if TensorFlow can serialize it as a graph: reading files (`tf.data.TextLineDataset`,
    `TFRecordDataset`), parsing with TensorFlow operations, `batch`, and a task model's tokenization
    (`model.preprocess_samples`). Anything that calls back into this process raises: generators, `tf.py_function`,
    `tf.numpy_function`, and therefore `data.batches`, which plans the order of rows in Python. So there are no epochs
    by (seed, epoch), no `bucket`, and no `callbacks.Resume` within an epoch; shuffle with `Dataset.shuffle`, and bucket
    with `Dataset.bucket_by_sequence_length`.

    The workers are TensorFlow processes that have imported `tensorflow_text`; see docs/scale.md.

    Args:
        dataset: `tf.data.Dataset`.
        service: string. The address of the dispatcher, `"grpc://host:port"`.
        sharding: `"dynamic"`, every row once per epoch, on any worker, in no fixed order; `"files"`, different files on
            each worker; or `"off"`, all rows on each worker.
        job_name: string. Consumers of a job with the same name share its batches: each gets some of them.

    Returns:
        A `tf.data.Dataset` of the same elements.

    Raises:
        ValueError: if the pipeline calls Python, or the address has another form.

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
            "stay here. Read and parse with TensorFlow operations, and tokenize with `model.preprocess_samples`."
        )
        raise _check.invalid("dataset", "a pipeline of TensorFlow operations only", found, remedy)
    return dataset.apply(tf.data.experimental.service.distribute(policy, service, job_name=job_name))


def _python_in(dataset):
    """The names of the operations in a pipeline that call Python."""
    variant = tf.data.experimental.to_variant(dataset)
    written = tf.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=1, strip_device_assignment=True)
    graph = tf.compat.v1.GraphDef.FromString(written.numpy())
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return sorted({node.op for node in nodes} & _PYTHON)
