"""HAT: tasks learn hard attention on units, and what they attend to is protected from later tasks."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from supsup_jax.checks import check_number
from supsup_jax.errors import UserError
from supsup_jax.methods.base import Adapter, Carry, Moment, Params
from supsup_jax.methods.heads import HeadMethod
from supsup_jax.networks import Network, Weights, draw, pytorch_default
from supsup_jax.system import numerics

_SMALLEST = 0.01
"""Gates below this value at the end of a task become 0; units with larger gates count as used."""


@dataclass(frozen=True)
class HAT(HeadMethod):
    """Hard attention to the task (Serrà et al., ICML 2018): gates a = σ(s e) multiply the outputs of layers.

    Weights, gates and a head per task are trained together. The scale s grows from 1/s_max to s_max over the training
    of a task, which makes gates almost binary; those below 0.01 become 0. Weights between two units that earlier tasks
    use are frozen. Gates are factors of the kernel's outputs, which is the same for layers without biases. Gradients of
    e are compensated as in the paper, which however anneals s in every epoch.

    The network must be a chain: the inputs of each layer are the outputs of the layer before, in the order of names.

    Attributes:
        s_max: largest scale.
        capacity_penalty: factor c of the term that penalises new units (equation 5).
    """

    s_max: float = 400.0
    capacity_penalty: float = 0.75

    stores: ClassVar[str] = "gates and heads"

    def __post_init__(self) -> None:
        check_number("s_max", self.s_max)
        check_number("capacity_penalty", self.capacity_penalty, allow_zero=True)

    def check(self, net: Network) -> None:
        """Check that the network has a named last layer, and that its layers form a chain."""
        super().check(net)
        weights, _ = jax.eval_shape(lambda: net.init(numerics.key(0)))  # declaring an experiment uses no device
        kernels = _kernels(weights)
        outputs = [kernel.shape[-1] for kernel in kernels.values()][:-1]
        inputs = [kernel.shape[-2] for kernel in kernels.values()][1:]
        fits = [*kernels][-1] == net.head and len(kernels) == sum(leaf.ndim > 1 for leaf in jax.tree.leaves(weights))
        if not fits or any(after % before for before, after in zip(outputs, inputs, strict=True)):
            raise UserError(
                f"HAT needs layers that form a chain, unlike {type(net).__name__}'s; choose LeNet or FC1024"
            )

    def trains_weights(self, task: int) -> bool:
        """Return true: every task trains the weights, as far as they are free."""
        return True

    def first_carry(self, weights: Weights) -> Carry:
        """Return gates of 0: no unit is used."""
        return {name: jnp.zeros(kernel.shape[-1]) for name, kernel in _kernels(self.shared(weights)).items()}

    def next_carry(self, carry: Any, params: Any) -> Carry:
        """Return for each unit whether this task or an earlier one uses it."""
        return jax.tree.map(lambda used, gate: jnp.maximum(used, gate > 0), carry, self._final(params["gates"]))

    def init(self, key: Key[Array, ""], weights: Weights, carry: Carry | None = None) -> Params:
        """Return normal values e, a head, and the units that earlier tasks use, which are not trained."""
        used = self.first_carry(weights) if carry is None else carry
        gates = draw(key, used, jax.nn.initializers.normal(1.0))
        return {"gates": gates, "head": draw(key, weights[self.head], pytorch_default), "used": used}

    def is_trained(self, params: Any) -> Any:
        """Return true for gates and head."""
        return {"gates": True, "head": True, "used": False}

    def finalize(self, params: Any, weights: Weights) -> Adapter:
        """Return the gates, with 0 in place of small ones, and the head."""
        return {"gates": self._final(params["gates"]), "head": params["head"]}

    def effective_weights(self, weights: Weights, adapter: Any) -> Weights:
        """Return the gated weights with the head of the task."""
        gated = {
            name: jax.tree.map(lambda leaf, name=name: leaf * adapter["gates"][name], layer)
            for name, layer in self.shared(weights).items()
        }
        return {**gated, self.head: adapter["head"]}

    def weights_at(self, weights: Weights, params: Any, moment: Moment) -> Weights:
        """Return the weights with gates σ(s e), whose scale grows with the share of the updates."""
        gates = self._gates(params["gates"], moment)
        return self.effective_weights(weights, {"gates": gates, "head": params["head"]})

    def penalty(self, weights: Weights, params: Any, moment: Moment) -> Float[Array, ""]:
        """Return the mean gate of units that no earlier task uses, times `capacity_penalty` (equation 5)."""
        gates = jax.tree.leaves(self._gates(params["gates"], moment))
        free = [1 - used for used in jax.tree.leaves(params["used"])]
        gated = sum(((gate * unit).sum() for gate, unit in zip(gates, free, strict=True)), jnp.float32(0))
        units = sum((unit.sum() for unit in free), jnp.float32(0))
        return self.capacity_penalty * gated / jnp.maximum(units, 1)

    def update_share(self, weights: Weights, params: Any, phase: int) -> Weights:
        """Return 0 for the weight between two units that earlier tasks use, otherwise 1."""
        before, shares = jnp.ones(1), {}
        for name, kernel in _kernels(weights).items():
            used = params["used"].get(name, jnp.zeros(kernel.shape[-1]))
            inputs = jnp.tile(before, kernel.shape[-2] // before.size)
            protected = jnp.minimum(inputs[:, None], used)
            shares[name] = jax.tree.map(
                lambda leaf, both=protected, used=used: (
                    1 - jnp.broadcast_to(both if leaf.ndim > 1 else used, leaf.shape)
                ),
                weights[name],
            )
            before = used
        return shares

    def _final(self, values: Any) -> Any:
        return jax.tree.map(lambda gate: jnp.where(gate < _SMALLEST, 0.0, gate), self._gates(values, Moment()))

    def _gates(self, values: Any, moment: Moment) -> Any:
        scale = jnp.asarray(1 / self.s_max + (self.s_max - 1 / self.s_max) * moment.share, jnp.float32)
        return jax.tree.map(lambda e: _gate(e, scale, self.s_max), values)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _gate(e: Array, scale: Array, s_max: float) -> Array:
    """Return σ(s e), with the derivative s_max σ'(e), which does not vanish for large s.

    This is what the compensation of gradients amounts to: s σ'(s e) (s_max / s) (cosh(s e) + 1) / (cosh(e) + 1).
    """
    return jax.nn.sigmoid(scale * e)


@_gate.defjvp
def _compensated(s_max: float, primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    e, scale = primals
    plain = jax.nn.sigmoid(e)
    return _gate(e, scale, s_max), s_max * plain * (1 - plain) * tangents[0]


def _kernels(weights: Any) -> dict[str, Any]:
    """Return the kernel of each layer, in the order of their names."""
    return {name: next(leaf for leaf in jax.tree.leaves(weights[name]) if leaf.ndim > 1) for name in sorted(weights)}
