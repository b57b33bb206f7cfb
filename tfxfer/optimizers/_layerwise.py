"""Learning rates by layer group, around any optimizer."""

import contextlib
import fnmatch

import keras
from keras import ops

from tfxfer import _check
from tfxfer.optimizers._subset import allow_subsets

_NAME = "_tfxfer_rates"
_NO_DECAY = ("bias", "beta", "gamma", "scale")


def _delegated(name):
    """Makes a property that stands for the wrapped optimizer's attribute of the same name."""

    def get(self):
        return getattr(self.inner_optimizer, name)

    def set(self, value):
        # Keras's constructor sets its defaults before there is an optimizer to hand them to.
        if "inner_optimizer" in vars(self):
            setattr(self.inner_optimizer, name, value)

    return property(get, set)


@keras.saving.register_keras_serializable("tfxfer")
class Layerwise(keras.optimizers.Optimizer):
    """Gives each layer group of a model a learning rate of its own, whatever the optimizer and its schedule.

    The rate of a variable in group `g` is

        rate(g) = learning_rate * multipliers[g] * decay ** (groups with weights above g)

    where the groups are those of `model.layer_groups()`, from `"embeddings"` and `"block_0"` up to `"head"`: with
    `decay=0.9`, the head trains at the optimizer's rate, the top block at 0.9 of it, the block below at 0.81. Layers
    near the input hold what is general and need to move less (Howard & Ruder, 2018, who divide by 2.6 from layer to
    layer; ELECTRA fine-tunes with 0.8 for its base and 0.9 for its large model).

    It is the rate that is multiplied, and decoupled weight decay goes with it: to scale gradients instead does nothing
    in Adam, whose steps don't depend on the gradients' scale. Biases and the weights of normalisation layers are left
    out of weight decay, as in BERT's own fine-tuning.

    The optimizer learns of the groups when a model of `tfxfer.models` is compiled with it. For another Keras model,
    call `optimizer.bind(model)` after it is compiled or loaded; its groups are then its layers, by name. All else is
    the wrapped optimizer's: its state and iterations, `learning_rate` (to be read and set as ever), clipping, moving
    averages, gradient accumulation. `keras.optimizers.LossScaleOptimizer`, which `mixed_float16` brings, goes around
    it.

    Args:
        optimizer: `keras.optimizers.Optimizer`, built-in or custom, that makes its steps in `update_step` and takes
            the rate from there. It belongs to this object from now on.
        multipliers: dict of layer group, or pattern (`"block_*"`, as in `fnmatch`), to float > 0. A group's own name
            goes before a pattern; groups not named keep 1.
        decay: float in `(0, 1]`, the factor from group to group downwards. Defaults to none.
        exclude_from_weight_decay: names of variables, or patterns, that are not decayed: by default biases and the
            weights of normalisation layers. `()` decays everything.
        name: string.

    Raises:
        ValueError: for a rate that is not positive, `decay` out of range, or an optimizer that cannot be wrapped, at
            once; for a group that the model does not have, a pattern that matches none, or two that match the same
            group, when the model is compiled; for use on a model that it was not bound to.

    Example:

    ```python
    schedule = tx.schedules.warmup_cosine(2e-5, steps=720)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.01)
    model.compile(tx.optimizers.Layerwise(optimizer, {"head": 10.0}, decay=0.9))
    ```

    References:
        - [Howard & Ruder, 2018](https://arxiv.org/abs/1801.06146), discriminative fine-tuning
        - [Clark et al., 2020](https://arxiv.org/abs/2003.10555), layer-wise decay
        - [Zhang et al., 2021](https://arxiv.org/abs/2006.05987), what it brings on few samples
    """

    built = _delegated("built")
    clipnorm = _delegated("clipnorm")
    clipvalue = _delegated("clipvalue")
    ema_momentum = _delegated("ema_momentum")
    ema_overwrite_frequency = _delegated("ema_overwrite_frequency")
    global_clipnorm = _delegated("global_clipnorm")
    gradient_accumulation_steps = _delegated("gradient_accumulation_steps")
    loss_scale_factor = _delegated("loss_scale_factor")
    use_ema = _delegated("use_ema")
    weight_decay = _delegated("weight_decay")
    _accumulated_gradients = _delegated("_accumulated_gradients")
    _iterations = _delegated("_iterations")
    _learning_rate = _delegated("_learning_rate")
    _model_variables_moving_average = _delegated("_model_variables_moving_average")
    _trainable_variables = _delegated("_trainable_variables")
    _trainable_variables_indices = _delegated("_trainable_variables_indices")

    def __init__(
        self, optimizer, multipliers=None, *, decay=None, exclude_from_weight_decay=_NO_DECAY, name="layerwise"
    ):
        _check_optimizer(optimizer)
        multipliers = _check.instance("multipliers", multipliers or {}, dict, "a dict of layer group to float")
        multipliers = {
            _check.instance("multipliers", group, str, "the name of a layer group"): _check_multiplier(factor)
            for group, factor in multipliers.items()
        }
        if decay is not None:
            decay = _check.number("decay", decay, above=0.0, maximum=1.0)
        if isinstance(exclude_from_weight_decay, str):
            exclude_from_weight_decay = (exclude_from_weight_decay,)
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = allow_subsets(optimizer)
        # Past Keras's tracking, which would save the model's layers as parts of the optimizer.
        object.__setattr__(self, "_rates", _Rates(optimizer, multipliers, decay, tuple(exclude_from_weight_decay)))

    # === Groups ===

    def bind(self, model):
        """Takes the layer groups of a model; models of `tfxfer.models` call it in `compile`.

        Args:
            model: a model with `layer_groups()`, or any `keras.Model`, whose layers are then the groups.

        Returns:
            This optimizer.

        Raises:
            ValueError: if `multipliers` don't fit the model's groups.
        """
        if hasattr(model, "layer_groups"):
            groups = model.layer_groups()
        else:
            groups = {layer.name: [layer] for layer in model.layers}
        self._rates.bind(groups)
        if self.built:
            self._rates.resolve(self._trainable_variables)
        return self

    @property
    def group_multipliers(self):
        """The factor of each layer group that has weights, decay included: a dict in the model's order."""
        self._check_bound()
        return self._rates.group_factors()

    def _check_bound(self):
        if not self._rates.groups:
            remedy = "Compile a model of `tfxfer.models` with it, or call `optimizer.bind(model)` for another one."
            raise _check.invalid("optimizer", "an optimizer that is bound to a model's layer groups", self, remedy)

    # === What is handed on ===

    def build(self, variables):
        if not self.built:
            self.inner_optimizer.build(variables)
            self.built = True
        self._rates.resolve(self._trainable_variables)

    @contextlib.contextmanager
    def _watch(self, grads):
        self._check_bound()
        self._rates.is_used = False
        yield
        # Under accumulation, a batch may pass without an update.
        if len(grads) and not self._rates.is_used and not self.gradient_accumulation_steps:
            raise _check.invalid(
                "optimizer", "an optimizer that makes its steps in `update_step`", self.inner_optimizer
            )

    def apply(self, grads, trainable_variables=None):
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            if not self.built:
                self.build(trainable_variables)
        with self._watch(grads):
            self.inner_optimizer.apply(grads, trainable_variables)

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        with self._watch(grads):
            return self.inner_optimizer.stateless_apply(optimizer_variables, grads, trainable_variables)

    @property
    def variables(self):
        return self.inner_optimizer.variables

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def finalize_variable_values(self, var_list):
        self.inner_optimizer.finalize_variable_values(var_list)

    # === Saving ===

    def set_weights(self, weights):
        self.inner_optimizer.set_weights(weights)

    def save_own_variables(self, store):
        # Keras saves the wrapped optimizer by itself, being an attribute: moments once, not twice.
        pass

    def load_own_variables(self, store):
        pass

    def get_config(self):
        rates = self._rates
        return {
            "optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "multipliers": dict(rates.multipliers),
            "decay": rates.decay,
            "exclude_from_weight_decay": list(rates.excluded),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        optimizer = keras.saving.deserialize_keras_object(config["optimizer"], custom_objects=custom_objects)
        return cls(**{**config, "optimizer": optimizer})


class _Rates:
    """The factors of the variables, and what replaces the methods of the wrapped optimizer to apply them.

    The methods are replaced on the instance: a subclass would be saved under a name that nobody can load.
    """

    _METHODS = ("update_step", "_apply_weight_decay", "_use_weight_decay", "_get_current_learning_rate")

    def __init__(self, optimizer, multipliers, decay, excluded):
        self.optimizer = optimizer
        self.multipliers = multipliers
        self.decay = decay
        self.excluded = excluded
        self.groups = {}
        self.factors = {}
        self.not_decayed = set()
        self.factor = 1.0
        self.is_used = False
        self.originals = {name: getattr(optimizer, name) for name in self._METHODS}
        vars(optimizer).update({name: getattr(self, name) for name in self._METHODS})
        vars(optimizer)[_NAME] = self

    def bind(self, groups):
        for key in self.multipliers:
            layers = [layer for name in _check.some_of("multipliers", key, groups) for layer in groups[name]]
            if all(layer.built for layer in layers) and not any(layer.weights for layer in layers):
                raise _check.invalid("multipliers", "layer groups that have weights", key)
        for name in groups:
            self._multiplier(name)
        self.groups = groups

    def _multiplier(self, name):
        if name in self.multipliers:
            return self.multipliers[name]
        matched = [key for key in self.multipliers if fnmatch.fnmatchcase(name, key)]
        if len(matched) > 1:
            raise _check.invalid("multipliers", f"at most one pattern that matches group {name!r}", matched)
        return self.multipliers[matched[0]] if matched else 1.0

    def group_factors(self):
        names = [name for name, layers in self.groups.items() if any(layer.weights for layer in layers)]
        decay = 1.0 if self.decay is None else self.decay
        return {
            name: self._multiplier(name) * decay**above
            for name, above in zip(names, reversed(range(len(names))), strict=True)
        }

    def resolve(self, variables):
        """Finds the factor of each variable; one that is in no group keeps 1."""
        key_of = self.optimizer._var_key
        self.factors = dict.fromkeys(map(key_of, variables), 1.0)
        # Upwards, and the first group keeps a weight that two share: it is used from there on.
        owners = {}
        for name, factor in self.group_factors().items():
            for layer in self.groups[name]:
                for weight in layer.weights:
                    owners.setdefault(id(weight), factor)
        self.factors.update({key_of(each): owners[id(each)] for each in variables if id(each) in owners})
        self.not_decayed = {
            key_of(each)
            for each in variables
            if any(fnmatch.fnmatchcase(each.name, pattern) for pattern in self.excluded)
        }

    @contextlib.contextmanager
    def _at(self, factor):
        self.factor = factor
        try:
            yield
        finally:
            self.factor = 1.0

    def _get_current_learning_rate(self):
        rate = self.originals["_get_current_learning_rate"]()
        return rate if self.factor == 1.0 else ops.multiply(rate, self.factor)

    def update_step(self, gradient, variable, learning_rate):
        self.is_used = True
        factor = self.factors[self.optimizer._var_key(variable)]
        if factor != 1.0:
            learning_rate = ops.multiply(learning_rate, factor)
        with self._at(factor):
            return self.originals["update_step"](gradient, variable, learning_rate)

    def _apply_weight_decay(self, variables):
        parts = {}
        for variable in variables:
            parts.setdefault(self.factors[self.optimizer._var_key(variable)], []).append(variable)
        for factor, part in parts.items():
            with self._at(factor):
                self.originals["_apply_weight_decay"](part)

    def _use_weight_decay(self, variable):
        if self.optimizer._var_key(variable) in self.not_decayed:
            return False
        return self.originals["_use_weight_decay"](variable)


def _check_multiplier(factor):
    remedy = "To stop a group altogether, freeze it."
    try:
        return _check.number("multipliers", factor, above=0.0)
    except ValueError as error:
        raise ValueError(f"{error}. {remedy}") from None


def _check_optimizer(optimizer):
    _check.instance("optimizer", optimizer, keras.optimizers.Optimizer, "a Keras optimizer, e.g. `AdamW(2e-5)`")
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        remedy = "Loss scaling goes around it: `LossScaleOptimizer(Layerwise(optimizer))`."
        raise _check.invalid("optimizer", "an optimizer without loss scaling", optimizer, remedy)
    if isinstance(optimizer, (Layerwise, keras.optimizers.MultiOptimizer)):
        raise _check.invalid("optimizer", "an optimizer with one learning rate", optimizer)
    if _NAME in vars(optimizer):
        raise _check.invalid("optimizer", "an optimizer of its own for each `Layerwise`", optimizer)
