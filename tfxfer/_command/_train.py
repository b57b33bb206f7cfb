"""`tfxfer train`."""

import inspect
import os
import tomllib

from tfxfer._command import _arguments

HELP = "fine-tune a model with the settings in a TOML file"
DESCRIPTION = """\
Fine-tunes a model with the settings in a TOML file. Its tables are calls of the library, its keys their arguments:

  # intents.toml
  output = "intents.keras"           # or a folder, for save_to_preset
  seed = 0                           # for keras.utils.set_random_seed; optional
  [model]                            # TextClassifier.from_preset(...)
  class = "TextClassifier"
  preset = "all_minilm_l6_v2"
  [data]                             # data.read(...), then data.labelled(...)
  path = "train.csv"
  text = "question"
  label = "intent"
  [validation]                       # optional; like [data]
  path = "dev.csv"
  text = "question"
  label = "intent"
  [compile]                          # optional; model.compile(...)
  optimizer = { class = "AdamW", learning_rate = 1e-4 }
  [fit]                              # optional; model.fit(...)
  epochs = 5
  batch_size = 32

  tfxfer train intents.toml

Without labels, a classifier takes them from the data. Paths are relative to the TOML file. An unknown key is an error.
"""
_TOP = ("output", "seed", "model", "data", "validation", "compile", "fit")
# The function of `data` that makes rows for a task, by the kind of its answers and whether a target is given.
_MAKERS = ("labelled", "regression", "pairs", "triplets", "tagged")


def add_arguments(parser):
    """Adds the command's arguments."""
    parser.add_argument("config", metavar="FILE.toml", help="the model, the data and the training settings")
    parser.add_argument("--output", metavar="PATH", help="replaces the output in the file")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")


def run(given):
    """Trains and saves the model; returns the path and the last epoch's metrics."""
    with open(given.config, "rb") as file:
        try:
            settings = tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{given.config}: {error}") from error
    folder = os.path.dirname(os.path.abspath(given.config))
    _check_names(given.config, settings, _TOP)
    for table in ("model", "data", "validation", "compile", "fit"):
        if not isinstance(settings.get(table, {}), dict):
            raise ValueError(f"{given.config}: {table} should be a table, [{table}].")
    for table in ("model", "data"):
        if table not in settings:
            raise ValueError(f"{given.config}: the table [{table}] is missing.")
    output = given.output or os.path.join(folder, _needed(given.config, settings, "output"))
    if os.path.exists(output) and not given.overwrite:
        raise FileExistsError(f"{output} exists: pass --overwrite, or name another --output.")
    return _Training(given.config, folder, settings).run(output, given.quiet)


class _Training:
    """The calls that a file describes; all names are checked before the first call."""

    def __init__(self, config, folder, settings):
        import tfxfer as tx

        self._config, self._folder, self._settings, self._tx = config, folder, settings, tx
        model = dict(settings["model"])
        self._class = _arguments.task_class(_needed(f"{config} [model]", model, "class"))
        model.pop("class")
        self._preset = _needed(f"{config} [model]", model, "preset")
        model.pop("preset")
        self._model = self._checked("model", model, self._class.from_preset)
        self._data = self._rows("data")
        self._validation = self._rows("validation") if "validation" in settings else None
        found = self._checked("compile", settings.get("compile", {}), self._class.compile, _LATER)
        self._compile = {name: self._made(name, value) for name, value in found.items()}
        self._fit = self._checked("fit", settings.get("fit", {}), self._class.fit, _GIVEN)

    def run(self, output, quiet):
        """Trains and saves the model; returns the result to print."""
        import keras

        if "seed" in self._settings:
            keras.utils.set_random_seed(self._settings["seed"])
        rows = self._read(self._data)
        if "labels" in inspect.signature(self._class.from_preset).parameters and "labels" not in self._model:
            _, make, arguments = self._data
            if make == "labelled":
                self._model["labels"] = self._tx.data.labels(rows, arguments["label"], arguments.get("separator"))
        preset = os.path.join(self._folder, self._preset)
        model = self._class.from_preset(preset if os.path.isdir(preset) else self._preset, **self._model)
        model.compile(**self._compile)
        validation = None if self._validation is None else self._dataset(self._validation)
        history = model.fit(
            self._dataset(self._data, rows),
            validation_data=validation,
            **{"verbose": 0, **self._fit, **({"callbacks": []} if quiet else {"callbacks": [_shown()]})},
        )
        if output.endswith(".keras"):
            model.save(output)
        else:
            model.save_to_preset(output)
        return {"output": output, "epochs": len(history.epoch), **{k: float(v[-1]) for k, v in history.history.items()}}

    def _rows(self, table):
        """Splits the keys of a table into those of `data.read` and of the function that makes a data set."""
        given, data = dict(self._settings[table]), self._tx.data
        make = given.pop("rows", None) or self._maker(given)
        _arguments.known(f"value of rows in [{table}]", make, _MAKERS)
        reader = data.read_conll if make == "tagged" else data.read
        reads, makes = _parameters(reader), _parameters(getattr(data, make), skip=("rows",))
        _check_names(f"{self._config} [{table}]", given, ["rows", *reads, *makes])
        read = {name: given[name] for name in given if name in reads}
        read["path"] = os.path.join(self._folder, _needed(f"{self._config} [{table}]", read, "path"))
        found = {name: given[name] for name in given if name in makes and name not in reads}
        found.update({"on_error": given["on_error"]} if "on_error" in given else {})
        for name in ("text", "texts"):
            if isinstance(found.get(name), list):
                found[name] = tuple(found[name])
        signature = inspect.signature(getattr(data, make))
        for name, each in signature.parameters.items():
            if name != "rows" and each.default is each.empty and name not in found:
                _needed(f"{self._config} [{table}]", found, name)
        return (reader, read), make, found

    def _maker(self, given):
        """Returns the function of `data` that the keys belong to."""
        if "texts" in given:
            return "pairs" if len(given["texts"]) == 2 else "triplets"
        if "target" in given:
            return "regression"
        return "labelled" if "label" in given or "text" in given else "tagged"

    def _read(self, what):
        (reader, read), _, _ = what
        return reader(**read)

    def _dataset(self, what, rows=None):
        _, make, arguments = what
        return getattr(self._tx.data, make)(self._read(what) if rows is None else rows, **arguments)

    def _checked(self, table, given, function, left_out=()):
        names = _parameters(function, skip=("self", "cls", "preset", *left_out))
        names += list(_LATER) if function is self._class.compile else []
        _check_names(f"{self._config} [{table}]", given, names)
        return dict(given)

    def _made(self, name, value):
        """Creates a loss, a metric or an optimizer from its class and arguments."""
        import keras

        if isinstance(value, list):
            return [self._made(name, each) for each in value]
        if not isinstance(value, dict) or "class" not in value:
            return value
        modules = {
            "optimizer": (self._tx.optimizers, keras.optimizers),
            "loss": (self._tx.losses, keras.losses),
            "metrics": (self._tx.metrics, keras.metrics),
        }[name]
        names = {n: getattr(module, n) for module in reversed(modules) for n in dir(module) if n[:1].isupper()}
        kind = names[_arguments.known(f"{name} in {self._config} [compile]", value["class"], names)]
        arguments = {n: each for n, each in value.items() if n != "class"}
        _check_names(f"{self._config} [compile] {name}", arguments, _parameters(kind))
        return kind(**arguments)


# Arguments of `fit` that other tables set, or that TOML cannot represent.
_GIVEN = ("x", "y", "validation_data", "callbacks", "augment", "sample_weight")
_LATER = ("loss", "metrics", "loss_weights", "weighted_metrics", "run_eagerly", "steps_per_execution", "jit_compile")


def _shown():
    """Returns a callback that writes a line for each epoch to standard error."""
    import sys

    import keras

    def line(epoch, logs):
        numbers = ", ".join(f"{name} {value:.4f}" for name, value in (logs or {}).items())
        sys.stderr.write(f"epoch {epoch + 1}: {numbers}\n")

    return keras.callbacks.LambdaCallback(on_epoch_end=line)


def _parameters(function, skip=("self", "cls")):
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(function).parameters
    return [name for name, each in found.items() if each.kind in kinds and name not in skip]


def _check_names(where, given, names):
    for name in given:
        try:
            _arguments.known("key", name, names)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


def _needed(where, table, name):
    if name not in table:
        raise ValueError(f"{where}: the key {name} is missing.")
    return table[name]
