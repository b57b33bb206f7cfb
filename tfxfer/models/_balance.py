"""Balance between the losses of several tasks: learned weights and conflicting gradients."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from tfxfer._gradients import custom_gradient


@keras.saving.register_keras_serializable("tfxfer")
class UncertaintyWeights(keras.layers.Layer):
    """Weights the loss of each task by a learned variance.

        loss of a step = sum over its tasks of  exp(-s) L + s / 2,    s = log(sigma^2)

    This is the likelihood of Kendall et al. for a cross-entropy L. For squared errors they use exp(-s) L / 2, which
    differs only in its start: s is shifted by log 2. All s start at 0, a weight of 1.

    Args:
        names: sequence of strings. The names of the tasks.
        **kwargs: passed to `keras.layers.Layer`.

    Attributes:
        log_variances: float32 variable `(tasks,)`: s.

    Reference: Kendall, Gal and Cipolla, 2018, https://arxiv.org/abs/1705.07115.
    """

    def __init__(self, names: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.names = list(names)
        self.log_variances = self.add_weight(
            shape=(len(self.names),), initializer="zeros", dtype="float32", name="log_variances"
        )
        self.built = True

    def call(self, losses: Mapping[str, Any]) -> Any:
        """Returns the weighted sum over a dict of task to loss, each a scalar."""
        return sum(self.weigh(name, loss) for name, loss in losses.items())

    def weigh(self, name: str, loss: Any) -> Any:
        """Returns the weighted loss of one task, a float32 scalar."""
        variance = ops.convert_to_tensor(self.log_variances)[self.names.index(name)]
        return ops.exp(-variance) * ops.cast(loss, "float32") + variance / 2

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "names": self.names}


def projected(gram: Any, orders: Any) -> Any:
    """Returns the coefficient of each task's gradient in the sum after PCGrad.

    PCGrad removes from the gradient of each task, one after another, its component along every conflicting gradient of
    another task:

        g_i := g_i - (g_i . g_j) / (g_j . g_j) g_j    if g_i . g_j < 0

    g_j is the original gradient. The result lies in the span of the gradients, so their inner products suffice to
    compute it.

    Args:
        gram: float `(tasks, tasks)`. The inner products of the gradients.
        orders: int `(tasks, tasks)`. Row i lists all tasks in the order in which task i is projected; i itself is
            skipped.

    Returns:
        A float tensor `(tasks,)`.

    Example:

    >>> [round(float(part), 2) for part in projected(np.array([[1.0, -0.5], [-0.5, 2.0]]), np.array([[0, 1], [0, 1]]))]
    [1.5, 1.25]

    Reference: Yu et al., 2020, Gradient surgery for multi-task learning, https://arxiv.org/abs/2001.06782, algorithm 1.
    """
    gram = ops.convert_to_tensor(gram)
    count = gram.shape[0]
    own = ops.arange(count, dtype="int32")
    norms = ops.diagonal(gram)
    weights = ops.eye(count, dtype=gram.dtype)
    for place in range(count):
        others = ops.cast(orders[:, place], "int32")
        onto = ops.one_hot(others, count, dtype=gram.dtype)
        products = ops.sum(ops.matmul(weights, gram) * onto, axis=1)
        squares = ops.take(norms, others)
        conflicts = ops.logical_and(ops.logical_and(products < 0, squares > 0), ops.not_equal(others, own))
        parts = ops.where(conflicts, products / ops.where(squares > 0, squares, ops.ones_like(squares)), 0.0)
        weights = weights - ops.expand_dims(ops.cast(parts, gram.dtype), 1) * onto
    return ops.sum(weights, axis=0)


class ProjectsConflicts(keras.layers.Layer):
    """Runs the tasks of a step on copies of their shared weights and combines the gradients by PCGrad.

    The forward pass is unchanged. In the backward pass, `projected` replaces the plain sum of the gradients for weights
    that at least two tasks share. This works on every backend without a custom training step. Gradients of weights that
    only one task uses are unchanged.

    Args:
        tasks: dict of name to model.
        **kwargs: passed to `keras.layers.Layer`.
    """

    def __init__(self, tasks: Mapping[str, Any], **kwargs: Any) -> None:
        # Always float32, whatever dtype the tasks compute in: gradients are compared in the precision of the weights.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self._hidden_tasks = lambda: tasks  # Keras would track them as parts of this layer
        self.seed_generator = keras.random.SeedGenerator()
        self.built = True

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> dict[str, Any]:
        """Returns a dict of task to output, for a dict of task to inputs."""
        tasks = {name: self._hidden_tasks()[name] for name in inputs}
        users: dict[int, list] = {}
        for task in tasks.values():
            for variable in task.trainable_variables:
                users.setdefault(id(variable), [variable, 0])[1] += 1
        shared = [variable for variable, count in users.values() if count > 1]
        copies = self._copies(shared, len(tasks))
        outputs = {}
        for (name, task), own in zip(tasks.items(), copies, strict=True):
            values = {id(variable): value for variable, value in zip(shared, own, strict=True)}
            trainable = [values.get(id(variable), variable.value) for variable in task.trainable_variables]
            others = task.non_trainable_variables
            before = [variable.value for variable in others]
            outputs[name], after = task.stateless_call(trainable, before, inputs[name], training=training)
            for variable, old, new in zip(others, before, after, strict=True):
                if new is not old:  # the seeds of dropout
                    variable.assign(new)
        return outputs

    def _copies(self, variables, count):
        """Returns, for each task, a list of copies of the variables' values."""
        scores = keras.random.uniform((count, count), seed=self.seed_generator)
        size = len(variables)

        @custom_gradient
        def copy(scores, *values):
            def grad(*arguments, upstream=None):
                found = keras.tree.flatten([list(arguments), [] if upstream is None else upstream])
                # TensorFlow returns only the used rows of an embedding table; adding a number makes it dense.
                found = [ops.add(each, 0.0) if hasattr(each, "indices") else each for each in found]
                gradients = [found[k * size : (k + 1) * size] for k in range(count)]
                weights = ops.unstack(projected(_gram(gradients), ops.argsort(scores, axis=1)))
                sums = [
                    sum(ops.cast(weight, each.dtype) * each for weight, each in zip(weights, parts, strict=True))
                    for parts in zip(*gradients, strict=True)
                ]
                return (ops.zeros_like(scores), *sums)

            return tuple(ops.copy(value) for _ in range(count) for value in values), grad

        found = copy(scores, *(ops.copy(variable.value) for variable in variables))
        return [found[k * size : (k + 1) * size] for k in range(count)]


def _gram(gradients):
    """Returns the inner products `(tasks, tasks)`, float32, of the tasks' gradients, each a list of tensors."""
    gradients = [[ops.cast(each, "float32") for each in parts] for parts in gradients]
    products: dict[tuple, Any] = {}
    for i, one in enumerate(gradients):
        for j, other in enumerate(gradients[: i + 1]):
            products[i, j] = products[j, i] = sum(ops.sum(a * b) for a, b in zip(one, other, strict=True))
    count = len(gradients)
    return ops.stack([ops.stack([products[i, j] for j in range(count)]) for i in range(count)])
