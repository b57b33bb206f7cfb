"""The hypermodel of classifiers."""

from tfxfer import data, layers, models
from tfxfer.models._classifier import HEADS
from tfxfer.tuning import _entries
from tfxfer.tuning._hypermodel import HyperModel
from tfxfer.tuning._space import Entry


class ClassifierHyperModel(HyperModel):
    """The search for a classifier: which encoder, how much of it trains and how fast, which head.

    | entry of the space | by default | where |
    |---|---|---|
    | `preset` | `presets` | |
    | `frozen`: blocks frozen from below, with the embeddings; 0 freezes nothing | 0, half, all | |
    | `unfreezing`: `"gradual"` thaws what is frozen, from above, epoch by epoch | none, gradual | frozen > 0 |
    | `layer_decay`: factor on the rate from group to group downwards | 0.7 to 1 | |
    | `pooling`: a mode or a tuple of modes of `layers.Pooling` | the presets', mean, cls, max | |
    | `head`: `"linear"` or `"mlp"` | both | |
    | `hidden_dim`: of the MLP | 128, 256, 512 | head mlp |
    | `dropout`: before the dense layers of the head | 0 to 0.4 | |
    | `head_multiplier`: of the head's rate, over that of the topmost block | 1 to 30, log | |
    | `learning_rate`: peak of warm-up and cosine | 1e-5 to 1e-3, log | |
    | `warmup`: part of the steps | 0 to 0.2 | |
    | `batch_size` | 16, 32, 64 | |
    | `epochs` | not searched: `search(epochs=...)`, or Hyperband | |

    `space` changes entries: a list is a choice, a dict a range (arguments of `hp.Float` and `hp.Int`), one value is
    fixed, and `None` takes the entry out (then nothing is frozen or decays, and so on: the model's defaults). What a
    tuner's `hyperparameters=` already has under these names goes before.

    **Data** go into `search` as rows, what `data.labelled` makes or texts and labels, not as batches, since their size
    is searched: `tuner.search(train, validation_data=dev, epochs=3)`. They are tokenised once for each preset, whatever
    the number of trials; so are validation data. Callbacks that evaluate read their texts anew each time.

    **Objective**: `val_loss` and `val_accuracy` need `validation_data`; any evaluation of `callbacks` writes its own,
    e.g. `keras_tuner.Objective("val_macro_f1", "max")` with `callbacks.EvaluateClassification`.

    **Hyperband** decides the epochs, and a trial may go on where another stopped: with its weights, the moments of its
    optimizer, the schedule at that epoch of a training that long, and the next order of the rows.

    **Memory** stays flat from trial to trial; the weights of the presets are in it once.

    Args:
        presets: name or path of a pretrained encoder, or a list of them; see `backbones.load`.
        labels: sequence of the class names, in the order of the outputs.
        multi_label: bool. Whether a text may have any number of labels.
        space: dict of entry to what may be chosen, see above.
        sequence_length: int. Tokens a text is cut at. Defaults to the presets'.
        dtype: dtype policy of the models, e.g. `"mixed_bfloat16"`. Defaults to the global one of now (which Keras Tuner
            clears between trials, and each trial sets again).
        optimizer: function of the learning rate to a Keras optimizer, made anew for each trial. Defaults to
            `optimizers.AdamW` with weight decay 0.01 and `clipnorm=1`. It is wrapped into `optimizers.Layerwise`; one
            with a schedule of its own keeps it.
        batches: dict of further options of `data.batches` for the training rows.
        seed: int. Fixes initial weights, dropout and the order of rows: the same in each trial, so that trials differ
            by their values alone. By default they are drawn anew; leave it so with `executions_per_trial`.
        **kwargs: `name`, `tunable` of `keras_tuner.HyperModel`.

    Raises:
        ImportError: where Keras Tuner is not installed.
        ValueError: at once for an unknown preset, entry, pooling or head, no choices, or values out of range; when
            `search` starts for rows that do not fit, or an objective that nothing writes.

    Example:

    ```python
    hypermodel = tx.tuning.ClassifierHyperModel(
        ["all_minilm_l6_v2", "bert_base_en"],
        labels=labels,
        space={"frozen": [0, 3, 6], "learning_rate": {"min_value": 2e-5, "max_value": 2e-4, "sampling": "log"}},
        sequence_length=64,
    )
    objective = keras_tuner.Objective("val_macro_f1", "max")
    tuner = keras_tuner.BayesianOptimization(hypermodel, objective, max_trials=20, num_initial_points=8)
    tuner.search(train, epochs=3, callbacks=[tx.callbacks.EvaluateClassification(dev)])
    print(tx.tuning.trials(tuner))
    ```
    """

    _metrics = ("accuracy",)

    def __init__(
        self,
        presets,
        labels,
        *,
        multi_label=False,
        space=None,
        sequence_length=None,
        dtype=None,
        optimizer=None,
        batches=None,
        seed=None,
        **kwargs,
    ):
        self.labels = data.LabelColumn(labels, multi_label).labels
        self.multi_label = bool(multi_label)
        options = {"sequence_length": sequence_length, "dtype": dtype, "optimizer": optimizer, "batches": batches}
        super().__init__(presets, space=space, seed=seed, **options, **kwargs)

    def _entries(self):
        most = min(preset.depth for preset in self._presets.values())
        return {
            "preset": _entries.preset_entry(self._presets),
            **_entries.freezing_entries(self._presets, most),
            "pooling": _entries.pooling_entry(self._presets),
            "head": Entry(list(HEADS), _entries.one_of(HEADS), "linear"),
            "hidden_dim": Entry(
                [128, 256, 512],
                _entries.whole(),
                None,
                parent="head",
                when=lambda head: head == "mlp",
                is_whole=True,
            ),
            "dropout": Entry({"min_value": 0.0, "max_value": 0.4, "step": 0.1}, _entries.share, 0.1),
            "head_multiplier": Entry(
                {"min_value": 1.0, "max_value": 30.0, "sampling": "log"}, _entries.number(above=0.0), 1.0
            ),
            **_entries.training_entries(1e-5, 1e-3, 1e-4),
        }

    def _model(self, preset, values):
        head = values["head"]
        if head == "mlp" and values["hidden_dim"] is not None:
            head = layers.Head(len(self.labels), (values["hidden_dim"],), dropout=values["dropout"], name="head")
        return models.TextClassifier(
            preset.backbone(),
            preset.preprocessor,
            labels=self.labels,
            multi_label=self.multi_label,
            pooling=_entries.modes_of(values["pooling"]) or preset.embedding.pooling,
            dropout=values["dropout"],
            head=head,
        )

    def _compile(self, model, values):
        model.compile(self._layerwise(values, {"head": values["head_multiplier"]}))
