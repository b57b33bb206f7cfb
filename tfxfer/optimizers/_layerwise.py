"""Learning rates by layer group, for any optimizer."""

import contextlib
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
from keras import ops

from tfxfer import _check
from tfxfer.optimizers._subset import Subset

_NO_DECAY = ("bias", "beta", "gamma", "scale")


@keras.saving.register_keras_serializable("tfxfer")
class Layerwise(Subset):
    """Gives each layer group of a model its own learning rate, with any optimizer and schedule.

    The rate of a variable in group `g` is

        rate(g) = learning_rate * multipliers[g] * decay ** (groups with weights above g)

    where the groups are those of `model.layer_groups()`, from `"embeddings"` and `"block_0"` up to `"head"`. With
    `decay=0.9`, the head trains at the optimizer's rate, the top block at 0.9 of it, the block below at 0.81. Layers
    near the input are more general and need to change less (Howard & Ruder, 2018, divide by 2.6 from layer to layer;
    ELECTRA fine-tunes with 0.8 for its base and 0.9 for its large model).

    The multiplier applies to the rate, and so to decoupled weight decay as well. Scaling gradients instead has no
    effect in Adam, whose steps don't depend on the gradients' scale. Weight decay excludes biases and the weights of
    normalization layers, as in the fine-tuning of BERT.

    The optimizer gets the groups when a model of `tfxfer.models` is compiled with it. For another Keras model, call
    `optimizer.bind(model)` after compiling or loading the model; each of its layers is then a group, by name. The
    wrapped optimizer provides everything else: state and iterations, `learning_rate` (read and set as usual),
    clipping, moving averages, gradient accumulation. `keras.optimizers.LossScaleOptimizer`, which `mixed_float16`
    uses, wraps this optimizer.

    Args:
        optimizer: `keras.optimizers.Optimizer`, built-in or custom, that makes its steps in `update_step` and takes
            the rate from its argument. This object then owns it.
        multipliers: dict of layer group, or `fnmatch` pattern (`"block_*"`), to float > 0. A group's own name takes
            precedence over a pattern; groups not named keep 1.
        decay: float in `(0, 1]`. The factor from each group to the one below. By default, there is no decay.
        exclude_from_weight_decay: names or patterns of variables without weight decay. Defaults to biases and the
            weights of normalization layers. `()` decays everything.
        name: string.

    Raises:
        ValueError: on construction, if a multiplier is not positive, `decay` is out of range, or the optimizer cannot
            be wrapped; when the model is compiled, if it does not have a group, a pattern matches no group, or two
            patterns match the same group; in training, if the optimizer is not bound to the model.

    Example:

    ```python
    schedule = tx.schedules.warmup_cosine(2e-5, steps=720)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.01)
    model.compile(tx.optimizers.Layerwise(optimizer, {"head": 10.0}, decay=0.9))
    ```

    References:
        - [Howard & Ruder, 2018](https://arxiv.org/abs/1801.06146), discriminative fine-tuning
        - [Clark et al., 2020](https://arxiv.org/abs/2003.10555), layer-wise decay
        - [Zhang et al., 2021](https://arxiv.org/abs/2006.05987), its benefit on few samples
    """

    def __init__(
        self,
        optimizer: Any,
        multipliers: Mapping[str, float] | None = None,
        *,
        decay: float | None = None,
        exclude_from_weight_decay: Sequence[str] = _NO_DECAY,
        name: str = "layerwise",
    ) -> None:
        multipliers = _check.instance("multipliers", multipliers or {}, dict, "a dict of layer group to float")
        multipliers = {
            _check.instance("multipliers", group, str, "the name of a layer group"): _check_multiplier(factor)
            for group, factor in multipliers.items()
        }
        if decay is not None:
            decay = _check.number("decay", decay, above=0.0, maximum=1.0)
        if isinstance(exclude_from_weight_decay, str):
            exclude_from_weight_decay = (exclude_from_weight_decay,)
        super().__init__(optimizer, name=name)
        # Bypasses Keras's tracking, which would save the model's layers as parts of the optimizer.
        object.__setattr__(self, "_rates", _Rates(multipliers, decay, tuple(exclude_from_weight_decay)))

    # === Groups ===

    def bind(self, model: Any) -> Self:
        """Sets the layer groups to those of a model; models of `tfxfer.models` call it in `compile`.

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
            self._rates.resolve(self._var_key, self._trainable_variables)
        return self

    @property
    def group_multipliers(self) -> dict[str, float]:
        """The factor of each layer group that has weights, decay included: a dict in the model's order."""
        self._check_bound()
        return self._rates.group_factors()

    def _check_bound(self):
        if not self._rates.groups:
            remedy = "Compile a model of `tfxfer.models` with it, or call `optimizer.bind(model)` for another one."
            raise _check.invalid("optimizer", "an optimizer that is bound to a model's layer groups", self, remedy)

    # === Steps ===

    def build(self, variables: Any) -> None:
        super().build(variables)
        self._rates.resolve(self._var_key, self._trainable_variables)

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        """Applies gradients at each group's rate; raises if no model is bound."""
        self._check_bound()
        super().apply(grads, trainable_variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable at its group's multiple of `learning_rate`."""
        factor = self._rates.factors[self._var_key(variable)]
        super().update_step(gradient, variable, learning_rate if factor == 1.0 else ops.multiply(learning_rate, factor))

    def _apply_weight_decay(self, variables):
        parts = {}
        for variable in variables:
            key = self._var_key(variable)
            if key not in self._rates.not_decayed:
                parts.setdefault(self._rates.factors[key], []).append(variable)
        with self._rates.decaying(self.inner_optimizer) as set_factor:
            for factor, part in parts.items():
                # Decoupled decay is the product of rate and weight decay, so the factor can apply to either.
                set_factor(factor)
                super()._apply_weight_decay(part)

    # === Saving ===

    def get_config(self) -> dict[str, Any]:
        rates = self._rates
        return {
            "optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "multipliers": dict(rates.multipliers),
            "decay": rates.decay,
            "exclude_from_weight_decay": list(rates.excluded),
            "name": self.name,
        }


class _Rates:
    """The factors of groups and variables."""

    def __init__(self, multipliers, decay, excluded):
        self.multipliers = multipliers
        self.decay = decay
        self.excluded = excluded
        self.groups = {}
        self.factors = {}
        self.not_decayed = set()
        self._decaying = 0
        self._decays = {}

    @contextlib.contextmanager
    def decaying(self, optimizer):
        """Yields a function that multiplies the weight decay of an optimizer (for Muon, both of them) by a factor.

        Replicas are threads that take turns in this context: the first one saves the values, and all multiply those.
        """
        if not self._decaying:
            names = ("weight_decay", "adam_weight_decay")
            self._decays = {name: getattr(optimizer, name) for name in names if getattr(optimizer, name, None)}
        self._decaying += 1
        decays = self._decays

        def set_factor(factor):
            for name, value in decays.items():
                setattr(optimizer, name, value * factor)

        try:
            yield set_factor
        except BaseException:
            self._decaying = 0  # the other threads end, too
            raise
        finally:
            set_factor(1.0)
            self._decaying = max(self._decaying - 1, 0)

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

    def resolve(self, key_of, variables):
        """Finds the factor of each variable; a variable in no group keeps 1."""
        self.factors = dict.fromkeys(map(key_of, variables), 1.0)
        # From the input up: of two groups that share a weight, the lower one, which uses it first, sets its factor.
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


def _check_multiplier(factor):
    remedy = "To stop a group altogether, freeze it."
    try:
        return _check.number("multipliers", factor, above=0.0)
    except ValueError as error:
        raise ValueError(f"{error}. {remedy}") from None
