"""Multi-task models: several tasks on one backbone."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, Self

import keras

from tfxfer import _check, _tracing, data
from tfxfer.models import _shared_parts
from tfxfer.models._multi_training import TrainsTasks
from tfxfer.models._signatures import Signature
from tfxfer.models._task import TextTask

_HEAD = "head"


@keras.saving.register_keras_serializable("tfxfer")
class MultiTask(TrainsTasks, TextTask):
    """Trains several tasks on one backbone, each with its own head, data set, loss and metrics.

    The tasks are ordinary models on the same backbone object, and training here trains them. Use each of them during
    and after training: `multi["intent"].classify(...)`. The layer groups are those of the backbone, and `"head"` with
    the heads of all tasks. Freezing, gradual unfreezing, rates by group, adapters, mixed precision and
    `callbacks.Resume` work as on one task.

    Copy the model with `copy.deepcopy`; `keras.models.clone_model` would give each task a separate backbone.

    A task trains with the loss and metrics that it was compiled with, unless `compile` of this model sets others. Logs:

    | log | value |
    |---|---|
    | `<task>_loss`, `<task>_<metric>` | mean loss of the task's rows, and its metrics |
    | `loss` | sum of the tasks' mean losses, each multiplied by the task's weight |
    | `val_...` | the same on the validation data |

    Args:
        tasks: dict of name to task model: at least two, all on the same backbone object. Names consist of letters,
            digits, `_`, `-` and `.`, and become prefixes of logs and signatures. The models need different `name`s.
        trainable: which layer groups train; see `set_trainable`. By default the tasks keep their flags.
        **kwargs: `name`; `compile=False` leaves the model uncompiled. It is also uncompiled if a task has no loss yet.

    Input: dict of task to the dict of that task's inputs. Output: dict of task to that task's output.

    Raises:
        ValueError: if there are fewer than two tasks, tasks have different backbones, names clash, or tasks share a
            head.

    Example:

    ```python
    embedder = tx.models.TextEmbedder.from_preset("all_minilm_l6_v2")
    parts = (embedder.backbone, embedder.preprocessor)
    multi = tx.models.MultiTask(
        {
            "intent": tx.models.TextClassifier(*parts, labels=["card", "loan"]),
            "similarity": tx.models.Siamese(embedder),
        }
    )
    multi.compile(loss={"similarity": tx.losses.CoSENTLoss()}, loss_weights={"similarity": 0.5})
    multi.fit(
        {"intent": (texts, labels), "similarity": ((firsts, seconds), scores)},
        epochs=3,
        validation_data={"intent": (dev_texts, dev_labels)},
        callbacks=[keras.callbacks.EarlyStopping("val_intent_accuracy", mode="max")],
    )
    multi["intent"].classify(["My card is gone"])
    tx.export.saved_model(multi, "serving/support")  # intent_classify, similarity_embed, ...
    ```

    References:
        - [Caruana, 1997](https://doi.org/10.1023/A:1007379606734), multi-task learning
        - [Liu et al., 2019](https://arxiv.org/abs/1901.11504), one encoder with a head for each task
    """

    def __init__(
        self,
        tasks: Mapping[str, Any],
        *,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        tasks = _checked(tasks)
        first = next(iter(tasks.values()))
        self.backbone = first.backbone  # before the other layers, as in the tasks
        self._start(tasks)

        # === Functional Model ===
        inputs = {
            name: {
                key: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=f"{name}_{key}")
                for key, tensor in task.input.items()
            }
            for name, task in tasks.items()
        }
        outputs = {name: task(inputs[name]) for name, task in tasks.items()}
        top: dict[int, Any] = {}
        for task in tasks.values():
            top |= {id(layer): layer for layer in task.layer_groups().get(_HEAD, ())}
        kwargs.setdefault("compile", all(task.compiled and task.loss is not None for task in tasks.values()))
        super().__init__(
            inputs,
            outputs,
            backbone=first.backbone,
            preprocessor=first.preprocessor,
            top=list(top.values()),
            trainable=trainable,
            **kwargs,
        )

    # === Tasks ===

    @property
    def tasks(self) -> dict[str, Any]:
        """Dict of name to task model, in the order of the argument `tasks`."""
        return dict(self._tasks)

    def __getitem__(self, name: str) -> Any:
        """Returns the task model with that name; during training, with its current weights."""
        if hasattr(self, "jax_state_sync"):
            self.jax_state_sync()
        return self._tasks[_check.one_of("task", name, self._tasks)]

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names of the tasks."""
        return iter(self._tasks)

    def __len__(self) -> int:
        """Returns the number of tasks."""
        return len(self._tasks)

    def __bool__(self) -> bool:
        return True

    def tower(self) -> Any:
        """Returns the embedder among the tasks, or this model if there is none or more than one."""
        found = {id(task.tower()): task.tower() for task in self._tasks.values() if task.tower().keeps_embedding}
        return next(iter(found.values())) if len(found) == 1 else self

    def boundary(self) -> NoReturn:
        """Not supported: each task has its own end of the encoder."""
        remedy = "Use it on one task, `multi[name]`, or train all tasks with frozen groups."
        raise _check.invalid("model", "a model of one task", type(self).__name__, remedy)

    def linear_head(self) -> None:
        """Returns `None`: each task has its own head, which starts as a probe if possible; see `compile`."""

    def input_columns(self) -> NoReturn:
        """Not supported: each task has its own columns."""
        raise _check.invalid("model", "a model of one task, `multi[name]`", type(self).__name__)

    target_columns = input_columns

    def with_added_tokens(self, tokens: Sequence[str], *, special: bool = False) -> NoReturn:
        """Not supported: add the `tokens`, `special` or not, to a model first, and create the tasks on its backbone."""
        remedy = "Create the tasks on the backbone and preprocessor of `model.with_added_tokens(tokens)`."
        raise _check.invalid("tokens", "a model of one task", type(self).__name__, remedy)

    # === Answers ===

    def predict(
        self,
        x: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """Returns the outputs of tasks for their rows.

        Args:
            x: dict of task to rows or batches, as in the task's own `predict`; tasks may be omitted.
            batch_size: int, for rows. Defaults to 32.
            verbose: as in `keras.Model.predict`.
            steps: as in `keras.Model.predict`, for batches.
            callbacks: as in the task's own `predict`.

        Returns:
            A dict of task to the result of its own `predict`.
        """
        self._check_names("x", x, some=True)
        return {name: self[name].predict(rows, batch_size, verbose, steps, callbacks) for name, rows in x.items()}

    def answer(self, x: Any, batch_size: int = 32, *, verbose: int | str = 0) -> Any:
        """Returns a dict of task to the result of its own `answer`, for a dict of task to rows."""
        self._check_names("x", x, some=True)
        return {name: self[name].answer(rows, batch_size, verbose=verbose) for name, rows in x.items()}

    def decode(self, outputs: Any) -> Any:
        """Converts the outputs of `predict`, a dict by task, with each task's own `decode`."""
        return {name: self._tasks[name].decode(values) for name, values in outputs.items()}

    def preprocess_samples(self, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Tokenizes a batch of raw inputs and encodes targets, both by task, in a pipeline."""
        xs, ys = {}, {}
        for name, given in x.items():
            found = self._tasks[name].preprocess_samples(given, None if y is None else y.get(name))
            xs[name], ys[name] = found if y is not None and name in y else (found, None)
        ys = {name: value for name, value in ys.items() if value is not None}
        return keras.utils.pack_x_y_sample_weight(xs, ys or None, sample_weight)

    def _one_batch(self, x, y=None, asks=False):
        self._check_names("x", x, some=True)
        self._check_names("y", {} if y is None else y)
        xs, ys = {}, {}
        for name, task in self._tasks.items():
            if name not in x:
                xs[name] = data.no_rows(task.input)
                continue
            xs[name], found = task._one_batch(x[name], None if y is None else y.get(name), asks)
            if found is not None:
                ys[name] = found
                if self.compiled:
                    _tracing.build_metrics(task, found)
        return xs, ys or None

    # === Export and saving ===

    def get_state_tree(self, value_format: str = "backend_tensor") -> NoReturn:
        """Not supported: the tree is keyed by the names of variables, which tasks share."""
        raise NotImplementedError(
            "Heads of different tasks have variables of the same name: use `get_weights`, or `multi[name]`."
        )

    def served_parts(self) -> dict[str, Any]:
        """Returns a dict of task to the model that an export contains."""
        return {name: task.served_model() for name, task in self._tasks.items()}

    def signatures(self, pairs: bool | Sequence[str] = False) -> list[Signature]:
        """Returns the signatures of all tasks, `<task>_<signature>`; see `DescribesItself.signatures`.

        Args:
            pairs: bool, or the names of the tasks that were trained on two texts per row.
        """
        found = []
        for name, served in self.served_parts().items():
            is_pairs = served.reads_pairs() or (pairs if isinstance(pairs, bool) else name in pairs)
            for each in served.signatures(is_pairs):
                own = {"model": each.model or served, "pairs": is_pairs if each.pairs is None else each.pairs}
                found.append(dataclasses.replace(each, name=f"{name}_{each.name}", **own))
        names = [each.name for each in found]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise _check.invalid("tasks", "names that make different signatures", double, "Rename a task.")
        return found

    def card_rows(self) -> dict[str, str]:
        """Returns the rows of the model card for the tasks."""
        return {f"Task `{name}`": f"`{type(task).__name__}`" for name, task in self._tasks.items()}

    def usage(self, format: str, repo_id: str) -> dict[str, str]:
        """Returns the code of the model card: how to load and call the model."""
        name = next(iter(self._tasks))
        return {
            "tfxfer": f'import tfxfer as tx\n\nmulti = tx.models.MultiTask.from_preset("{repo_id or "folder"}")\n'
            f'multi["{name}"].answer(rows)'
        }

    def write_checkpoint(self, folder: Any, format: str, dtype: Any) -> NoReturn:
        """Not supported: other libraries have no format for several tasks, only for each task."""
        remedy = f"Save the tasks one by one: `multi[name].save_to_preset(folder, {format!r})`"
        raise _check.invalid("format", "'tfxfer' for a `MultiTask`", format, remedy)

    @classmethod
    def _from_pretrained(cls, pretrained, arguments, backbone_only):
        if backbone_only or not isinstance(pretrained.task, cls):
            kind = pretrained.trained_task or "backbone"
            remedy = f"Create the tasks on its backbone, and combine them with `{cls.__name__}(tasks)`."
            raise _check.invalid("preset", f"a saved `{cls.__name__}`", kind, remedy)
        return pretrained.task._with(arguments), None

    def get_config(self) -> dict[str, Any]:
        shared, configs = _shared_parts.shared_configs(list(self._tasks.values()), self.backbone)
        return {
            "tasks": dict(zip(self._tasks, configs, strict=True)),
            "shared": shared,
            "trainable": self._trainable_config(),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = dict(config)
        tasks, shared = config.pop("tasks"), config.pop("shared", [])
        made = _shared_parts.from_shared(shared, list(tasks.values()))
        return cls(dict(zip(tasks, made, strict=True)), **config)


def _checked(tasks):
    """Checks that tasks fit together, and returns them as a dict."""
    if not isinstance(tasks, Mapping) or len(tasks) < 2:
        raise _check.invalid("tasks", "a dict of name to task model, with at least two of them", tasks)
    for name, task in tasks.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise _check.invalid("tasks", "names of letters, digits, '_', '-' and '.'", name)
        where = f"tasks[{name!r}]"
        _check.instance(where, task, TextTask, "a task model of `tfxfer.models`, or a subclass")
        if isinstance(task, MultiTask):
            raise _check.invalid(where, "a model of one task", task, "Pass its tasks: `{**multi.tasks, ...}`.")
    first, backbone = next((name, task.backbone) for name, task in tasks.items())
    models: dict[str, str] = {}
    heads: dict[int, str] = {}
    for name, task in tasks.items():
        where = f"tasks[{name!r}]"
        if task.backbone is not backbone:
            remedy = f"Create it on the same object: `{type(task).__name__}(tasks[{first!r}].backbone, ...)`."
            raise _check.invalid(where, f"a model on the backbone of tasks[{first!r}]", task.name, remedy)
        if task.name in models:
            remedy = "Pass `name=` when you create one of them."
            expected = f"a model with another name than tasks[{models[task.name]!r}]"
            raise _check.invalid(where, expected, task.name, remedy)
        models[task.name] = name
        if f"val_{name}" in tasks:
            raise _check.invalid("tasks", f"no {'val_' + name!r} together with {name!r}: logs clash", list(tasks))
        tower = task.tower()
        lent = {id(weight) for weight in tower.weights} if tower.keeps_embedding else set()
        for layer in task.layer_groups().get(_HEAD, ()):
            for weight in layer.weights:
                other = heads.setdefault(id(weight), name)
                if id(weight) not in lent and other != name:
                    expected = f"a head of its own: it shares a layer with tasks[{other!r}]"
                    raise _check.invalid(where, expected, layer.name, "Create a head for each task.")
    return dict(tasks)
