"""The optimisers of the experiments, each as PyTorch defines it."""

from dataclasses import dataclass

import optax


@dataclass(frozen=True)
class RMSprop:
    """RMSprop without momentum: epsilon outside the root, and no bias correction.

    Attributes:
        learning_rate: step size; 1e-4 in the MNIST experiments.
        decay: of the running mean of squared gradients (PyTorch's alpha).
        epsilon: added to its root.
    """

    learning_rate: float = 1e-4
    decay: float = 0.99
    epsilon: float = 1e-8

    def transformation(self) -> optax.GradientTransformation:
        """The optimiser as optax has it."""
        return optax.rmsprop(self.learning_rate, decay=self.decay, eps=self.epsilon, eps_in_sqrt=False)


@dataclass(frozen=True)
class Adam:
    """Adam, to whose gradient the weight decay is added (L2).

    Attributes:
        learning_rate: step size.
        weight_decay: times what is trained, scores included; 1e-4 in the original's experiments.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-4

    def transformation(self) -> optax.GradientTransformation:
        """The optimiser as optax has it."""
        return optax.chain(optax.add_decayed_weights(self.weight_decay), optax.adam(self.learning_rate))


@dataclass(frozen=True)
class SGD:
    """Gradient descent with momentum, to whose gradient the weight decay is added (L2).

    Attributes:
        learning_rate: step size.
        momentum: what remains of the last update.
        weight_decay: times what is trained, scores included; 1e-4 in the original's experiments.
    """

    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def transformation(self) -> optax.GradientTransformation:
        """The optimiser as optax has it."""
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay), optax.sgd(self.learning_rate, momentum=self.momentum)
        )


Optimizer = RMSprop | Adam | SGD
