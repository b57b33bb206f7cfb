"""Hyperparameter search with Keras Tuner.

`HyperModel` defines the search space of a task: the encoder, the layers to train, the learning rate and more. Any tuner
of Keras Tuner (`RandomSearch`, `Hyperband`, `BayesianOptimization`) can search it. It needs the extra `tune`:
`pip install tfxfer[tune]`.

```python
hypermodel = tx.tuning.HyperModel(tx.models.TextClassifier, "all_minilm_l6_v2", labels=labels)
objective = keras_tuner.Objective("val_macro_f1", "max")
tuner = keras_tuner.RandomSearch(hypermodel, objective, max_trials=10, directory="runs")
tuner.search(train, epochs=3, callbacks=[tx.callbacks.EvaluateClassification(dev)])
print(tx.tuning.trials(tuner))
tx.export.saved_model(tx.tuning.best_model(tuner), "serving/intents")
```

Several processes can share a search. Run the same script in each, with the same `directory`, and set the environment
variables `KERASTUNER_ORACLE_IP`, `KERASTUNER_ORACLE_PORT` and `KERASTUNER_TUNER_ID`. The last one is `"chief"` in one
process and a unique name in each other. The chief does not train; at the end it has the table and the best model. It
waits for its workers indefinitely, including any that have died.
"""

from tfxfer.models._search_space import Entry
from tfxfer.tuning import _keras_tuner
from tfxfer.tuning._results import best_model, trials

__all__ = ["Entry", "HyperModel", "best_model", "trials"]


def __getattr__(name):
    # Keras Tuner is optional, and this is a subclass of its `HyperModel`: the class is created on first access.
    if name != "HyperModel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _keras_tuner.hypermodel(f"{__name__}._hypermodel", name)


def __dir__():
    return sorted({*globals(), *__all__})
