"""Several tasks on one backbone."""

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
    """Trains several tasks on one backbone, each with a head, a data set, a loss and metrics of its own.

    The tasks are ordinary models, built on the same backbone object: what trains here trains them. Each answers for
    itself, during and after the training: `multi["intent"].classify(...)`. The layer groups are those of the backbone,
    and `"head"`, which holds the heads of all tasks. Freezing, gradual unfreezing, rates by group, adapters, mixed
    precision and `callbacks.Resume` work as on one task.

    Copy it by `copy.deepcopy`; `keras.models.clone_model` would give each task a backbone of its own.

    A task trains by the loss and metrics that it was compiled with; `compile` here gives it others. What is logged:

    | log | value |
    |---|---|
    | `<task>_loss`, `<task>_<metric>` | mean loss of the task's rows, and its metrics |
    | `loss` | the sum of the tasks' mean losses, each times the task's weight |
    | `val_...` | the same on the validation data |

    Args:
        tasks: dict of name to task model, at least two, all on one backbone object. Names are letters, digits, `_`, `-`
            and `.`: they come before the names of logs and of signatures. The models themselves have different `name`s.
        trainable: which layer groups train; see `set_trainable`. By default the tasks' flags stay.
        **kwargs: `name`; `compile=False` leaves it uncompiled, as it is where a task has no loss yet.

    Input: dict of task to the dict of that task's inputs. Output: dict of task to that task's output.

    Raises:
        ValueError: for fewer than two tasks, tasks on different backbones, names that clash, tasks that share a head.

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

    Reference: Caruana, 1997, https://doi.org/10.1023/A:1007379606734; on one encoder with a head for each task: Liu et
    al., 2019, https://arxiv.org/abs/1901.11504.
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
        """The task models by name, in the order in which they were given."""
        return dict(self._tasks)

    def __getitem__(self, name: str) -> Any:
        """Returns the task model of a name; during a training, with its weights as they are now."""
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
        """Returns the one embedder among the tasks; this model where there is none, or several."""
        found = {id(task.tower()): task.tower() for task in self._tasks.values() if task.tower().keeps_embedding}
        return next(iter(found.values())) if len(found) == 1 else self

    def boundary(self) -> NoReturn:
        """Refuses: the tasks end the encoder each in their own way."""
        remedy = "Use it on a task, `multi[name]`; or train all of them with frozen groups."
        raise _check.invalid("model", "a model of one task", type(self).__name__, remedy)

    def linear_head(self) -> None:
        """Returns `None`: each task has its own, and starts as a probe where it can; see `compile`."""

    def input_columns(self) -> NoReturn:
        """Refuses: each task has columns of its own."""
        raise _check.invalid("model", "a model of one task, `multi[name]`", type(self).__name__)

    target_columns = input_columns

    def with_added_tokens(self, tokens: Sequence[str], *, special: bool = False) -> NoReturn:
        """Refuses: add the tokens to a task's model before the tasks are made on its backbone."""
        remedy = "Make the tasks on the backbone and preprocessor of `model.with_added_tokens(tokens)`."
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
            x: dict of task to rows or batches, as the task's own `predict` takes them; tasks may be left out.
            batch_size: int, for rows. Defaults to 32.
            verbose: as `keras.Model.predict` has it.
            steps: as `keras.Model.predict` has it, for batches.
            callbacks: as the task's own `predict` has them.

        Returns:
            A dict of task to what its own `predict` returns.
        """
        self._check_names("x", x, some=True)
        return {name: self[name].predict(rows, batch_size, verbose, steps, callbacks) for name, rows in x.items()}

    def answer(self, x: Any, batch_size: int = 32, *, verbose: int | str = 0) -> Any:
        """Returns a dict of task to what its own `answer` returns, for a dict of task to rows."""
        self._check_names("x", x, some=True)
        return {name: self[name].answer(rows, batch_size, verbose=verbose) for name, rows in x.items()}

    def decode(self, outputs: Any) -> Any:
        """Turns outputs by task, as `predict` gives them, into what people read, by task."""
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
        """Refuses: the tree goes by the names of variables, which tasks have in common."""
        raise NotImplementedError(
            "Heads of several tasks have variables of one name: use `get_weights`, or `multi[name]`."
        )

    def served_parts(self) -> dict[str, Any]:
        """Returns what an export holds of each task, by name."""
        return {name: task.served_model() for name, task in self._tasks.items()}

    def signatures(self, pairs: bool | Sequence[str] = False) -> list[Signature]:
        """Returns the signatures of all tasks, `<task>_<signature>`; see `DescribesItself.signatures`.

        Args:
            pairs: bool, or the names of the tasks that were trained on two texts a row.
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
        """Returns the tasks for the model card."""
        return {f"Task `{name}`": f"`{type(task).__name__}`" for name, task in self._tasks.items()}

    def usage(self, format: str, repo_id: str) -> dict[str, str]:
        """Returns the code of the model card: how the model is loaded and asked."""
        name = next(iter(self._tasks))
        return {
            "tfxfer": f'import tfxfer as tx\n\nmulti = tx.models.MultiTask.from_preset("{repo_id or "folder"}")\n'
            f'multi["{name}"].answer(rows)'
        }

    def write_checkpoint(self, folder: Any, format: str, dtype: Any) -> NoReturn:
        """Refuses: other libraries have no such form; each task has its own."""
        remedy = f"Write the tasks one by one: `multi[name].save_to_preset(folder, {format!r})`"
        raise _check.invalid("format", "'tfxfer' for a `MultiTask`", format, remedy)

    @classmethod
    def _from_pretrained(cls, pretrained, arguments, backbone_only):
        if backbone_only or not isinstance(pretrained.task, cls):
            kind = pretrained.trained_task or "backbone"
            remedy = f"Make the tasks on its backbone, and from them `{cls.__name__}(tasks)`."
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
    """Returns a dict of tasks that fit together."""
    if not isinstance(tasks, Mapping) or len(tasks) < 2:
        raise _check.invalid("tasks", "a dict of name to task model, with at least two of them", tasks)
    for name, task in tasks.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise _check.invalid("tasks", "names of letters, digits, '_', '-' and '.'", name)
        where = f"tasks[{name!r}]"
        _check.instance(where, task, TextTask, "a task model of `tfxfer.models`, or a subclass of yours")
        if isinstance(task, MultiTask):
            raise _check.invalid(where, "a model of one task", task, "Give its tasks: `{**multi.tasks, ...}`.")
    first, backbone = next((name, task.backbone) for name, task in tasks.items())
    models: dict[str, str] = {}
    heads: dict[int, str] = {}
    for name, task in tasks.items():
        where = f"tasks[{name!r}]"
        if task.backbone is not backbone:
            remedy = f"Make it of the same object: `{type(task).__name__}(tasks[{first!r}].backbone, ...)`."
            raise _check.invalid(where, f"a model on the backbone of tasks[{first!r}]", task.name, remedy)
        if task.name in models:
            remedy = "Give `name=` to one where it is made."
            expected = f"a model named otherwise than tasks[{models[task.name]!r}]"
            raise _check.invalid(where, expected, task.name, remedy)
        models[task.name] = name
        if f"val_{name}" in tasks:
            raise _check.invalid("tasks", f"no {'val_' + name!r} beside {name!r}: their logs clash", list(tasks))
        tower = task.tower()
        lent = {id(weight) for weight in tower.weights} if tower.keeps_embedding else set()
        for layer in task.layer_groups().get(_HEAD, ()):
            for weight in layer.weights:
                other = heads.setdefault(id(weight), name)
                if id(weight) not in lent and other != name:
                    expected = f"a head of its own: it shares a layer with tasks[{other!r}]"
                    raise _check.invalid(where, expected, layer.name, "Make a head for each task.")
    return dict(tasks)
