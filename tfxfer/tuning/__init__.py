"""A hypermodel for Keras Tuner.

Which texts need which model, how much of it to train and how fast is a search. `HyperModel` holds the space of such
choices, as a task describes it; any tuner of Keras Tuner (`RandomSearch`, `Hyperband`, `BayesianOptimization`) goes
through it. It needs the extra `tune`: `pip install tfxfer[tune]`.

```python
hypermodel = tx.tuning.HyperModel(tx.models.TextClassifier, "all_minilm_l6_v2", labels=labels)
objective = keras_tuner.Objective("val_macro_f1", "max")
tuner = keras_tuner.RandomSearch(hypermodel, objective, max_trials=10, directory="runs")
tuner.search(train, epochs=3, callbacks=[tx.callbacks.EvaluateClassification(dev)])
print(tx.tuning.trials(tuner))
tx.export.saved_model(tx.tuning.best_model(tuner), "serving/intents")
```

Several processes share a search where the same script runs in each, with the environment variables
`KERASTUNER_ORACLE_IP`, `KERASTUNER_ORACLE_PORT` and `KERASTUNER_TUNER_ID`, which is `"chief"` in one, a name of its own
in each other, and with one `directory` for all. The chief trains nothing; it has the table and the best model in the
end. It waits for its workers indefinitely, including any that have died.
"""

from tfxfer.models._search_space import Entry
from tfxfer.tuning import _keras_tuner
from tfxfer.tuning._results import best_model, trials

__all__ = ["Entry", "HyperModel", "best_model", "trials"]


def __getattr__(name):
    # Keras Tuner is an optional part, and this is a subclass of its `HyperModel`: it is made when first asked for.
    if name != "HyperModel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _keras_tuner.hypermodel(f"{__name__}._hypermodel", name)


def __dir__():
    return sorted({*globals(), *__all__})
