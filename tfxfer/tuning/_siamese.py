"""The hypermodel of embedders."""

import functools
import inspect
import operator

import keras

from tfxfer import _check, losses, models
from tfxfer.tuning import _entries
from tfxfer.tuning._hypermodel import HyperModel
from tfxfer.tuning._space import Entry

# The arguments of losses that are searched, within half and twice the loss's own default.
_ARGUMENTS = ("margin", "scale", "temperature", "student_temperature")
LOSSES = {
    name: value
    for name, value in vars(losses).items()
    if name.endswith("Loss") and "loss" not in inspect.signature(value).parameters
}


class SiameseHyperModel(HyperModel):
    """The search for an embedder, trained in Siamese towers: which encoder, which loss, how much trains and how fast.

    | entry of the space | by default | where |
    |---|---|---|
    | `preset` | `presets` | |
    | `frozen`: blocks frozen from below, with the embeddings; 0 freezes nothing | 0, half, all but one | |
    | `unfreezing`: `"gradual"` thaws what is frozen, from above, epoch by epoch | none, gradual | frozen > 0 |
    | `layer_decay`: factor on the rate from group to group downwards | 0.7 to 1 | |
    | `pooling`: a mode or a tuple of modes of `layers.Pooling` | the presets', mean, cls, max | |
    | `loss` | `losses` | |
    | `margin`, `scale`, `temperature`, `student_temperature` | half to twice the defaults, log | loss has it |
    | `learning_rate`: peak of warm-up and cosine | 5e-6 to 2e-4, log | |
    | `warmup`: part of the steps | 0 to 0.2 | |
    | `batch_size` | 16, 32, 64 | |
    | `epochs` | not searched: `search(epochs=...)`, or Hyperband | |

    All losses of a search read the same rows: choose such as fit them (`docs/losses.md`), and give what they ask of
    batches, `unique_texts=True` or `examples_per_class=4`, in `batches`. Values of different losses, and of those that
    compare the rows of a batch at different sizes, say nothing of one another: not `val_loss` but an evaluation is the
    objective, e.g. `keras_tuner.Objective("val_spearman", "max")` with `callbacks.EvaluateSimilarity`.

    Data, space, Hyperband and memory are as in `ClassifierHyperModel`. The model is a `models.Siamese`; what is to be
    saved or exported is its `embedder`.

    Args:
        presets: name or path of a pretrained encoder, or a list of them; see `backbones.load`.
        losses: names out of `tfxfer.losses` (`"CoSENTLoss"`), or a dict of name to a function that makes a loss; its
            arguments `margin`, `scale`, `temperature` and `student_temperature` are searched if their defaults are
            positive numbers.
        space: dict of entry to what may be chosen; see `ClassifierHyperModel`.
        sequence_length: int. Tokens a text is cut at. Defaults to the presets'.
        dtype: dtype policy of the models. Defaults to the global one of now.
        optimizer: function of the learning rate to a Keras optimizer; see `ClassifierHyperModel`.
        batches: dict of further options of `data.batches` for the training rows.
        chunk_size: int. Texts that go through the encoder at a time; see `models.Siamese`.
        seed: int. As `ClassifierHyperModel` has it.
        **kwargs: `name`, `tunable` of `keras_tuner.HyperModel`.

    Raises:
        ImportError: where Keras Tuner is not installed.
        ValueError: at once for an unknown preset, loss, entry or pooling, no choices, or values out of range; when
            `search` starts for rows that do not fit, or an objective that nothing writes.

    Example:

    ```python
    hypermodel = tx.tuning.SiameseHyperModel("all_minilm_l6_v2", ["CoSENTLoss", "AnglELoss"], space={"pooling": None})
    objective = keras_tuner.Objective("val_spearman", "max")
    tuner = keras_tuner.Hyperband(hypermodel, objective, max_epochs=4)
    tuner.search(train, callbacks=[tx.callbacks.EvaluateSimilarity(dev)])
    tx.export.saved_model(tx.tuning.best_model(tuner).embedder, "serving/sts")
    ```
    """

    def __init__(
        self,
        presets,
        losses,
        *,
        space=None,
        sequence_length=None,
        dtype=None,
        optimizer=None,
        batches=None,
        chunk_size=None,
        seed=None,
        **kwargs,
    ):
        self._losses = _checked(losses)
        self._chunk_size = _check.integer("chunk_size", chunk_size, optional=True)
        options = {"sequence_length": sequence_length, "dtype": dtype, "optimizer": optimizer, "batches": batches}
        super().__init__(presets, space=space, seed=seed, **options, **kwargs)

    def _entries(self):
        most = min(preset.depth for preset in self._presets.values()) - 1
        return {
            "preset": _entries.preset_entry(self._presets),
            **_entries.freezing_entries(self._presets, most),
            "pooling": _entries.pooling_entry(self._presets),
            "loss": Entry(list(self._losses), _entries.one_of(self._losses), next(iter(self._losses))),
            **self._loss_entries(),
            **_entries.training_entries(5e-6, 2e-4, 2e-5),
        }

    def _loss_entries(self):
        """The arguments of the losses, from half the least default among them to twice the greatest."""
        found = {}
        for argument in _ARGUMENTS:
            defaults = {name: _default(make, argument) for name, make in self._losses.items()}
            defaults = {name: value for name, value in defaults.items() if value}
            if defaults:
                low, high = min(defaults.values()) / 2, max(defaults.values()) * 2
                first = defaults.get(next(iter(self._losses)), low)
                spec = {"min_value": low, "max_value": high, "sampling": "log", "default": first}
                found[argument] = Entry(
                    spec, _entries.number(), parent="loss", when=functools.partial(operator.contains, list(defaults))
                )
        return found

    def _model(self, preset, values):
        arguments = {"pooling": _entries.modes_of(values["pooling"]) or preset.embedding.pooling}
        embedder = models.TextEmbedder(
            preset.backbone(),
            preset.preprocessor,
            **models.TextEmbedder._preset_arguments(preset.embedding, arguments),
        )
        return models.Siamese(embedder, chunk_size=self._chunk_size)

    def _compile(self, model, values):
        make = self._losses[values["loss"]]
        parameters = inspect.signature(make).parameters
        chosen = {name: values[name] for name in _ARGUMENTS if name in parameters and values.get(name) is not None}
        model.compile(self._layerwise(values), loss=make(**chosen))


def _default(make, argument):
    """The default of a loss's argument, where that is a number."""
    parameters = inspect.signature(make).parameters
    default = parameters[argument].default if argument in parameters else None
    return default if isinstance(default, (int, float)) and not isinstance(default, bool) else None


def _checked(given):
    """Losses as a dict of name to what makes them."""
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, (list, tuple, dict)) or not given:
        raise _check.invalid("losses", "names of losses, or a dict of name to a function that makes one", given)
    if not isinstance(given, dict):
        return {
            name: LOSSES[_check.one_of("losses", name, LOSSES, "Others: a dict of name to function.")] for name in given
        }
    for name, make in given.items():
        _check.instance("losses", name, str, "names that are strings")
        if not callable(make) or isinstance(make, keras.losses.Loss):
            remedy = "For example `{'matryoshka': lambda scale=20.0: MatryoshkaLoss(CoSENTLoss(scale), [64, 384])}`."
            raise _check.invalid("losses", "functions that make a loss", make, remedy)
    return dict(given)
