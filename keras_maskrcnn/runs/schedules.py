"""The paper's optimizer: SGD with momentum, weight decay, warm-up and steps (Mask R-CNN section 3.1; Goyal 2017)."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_maskrcnn")
class WarmupMultiStep(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to the base rate, which is multiplied by `gamma` at each milestone.

    Args:
        learning_rate: base rate.
        milestones: steps at which the rate is multiplied by `gamma`.
        warmup_steps: steps of the linear warm-up.
        warmup_factor: the rate at step 0 as a share of the base rate.
        gamma: factor at each milestone, a tenth by default.
    """

    def __init__(self, learning_rate, milestones=(), warmup_steps=1000, warmup_factor=0.001, gamma=0.1):
        super().__init__()
        self.learning_rate, self.milestones = float(learning_rate), tuple(milestones)
        self.warmup_steps, self.warmup_factor, self.gamma = warmup_steps, warmup_factor, gamma

    def __call__(self, step):
        """Compute the rate at a step: float32 scalar."""
        step = ops.cast(step, "float32")
        progress = ops.minimum(step / max(self.warmup_steps, 1), 1.0)
        rate = self.learning_rate * (self.warmup_factor + (1.0 - self.warmup_factor) * progress)
        for milestone in self.milestones:
            rate = ops.where(step >= milestone, rate * self.gamma, rate)
        return rate

    def get_config(self):
        """Return the constructor's arguments, for Keras."""
        return {
            "learning_rate": self.learning_rate,
            "milestones": list(self.milestones),
            "warmup_steps": self.warmup_steps,
            "warmup_factor": self.warmup_factor,
            "gamma": self.gamma,
        }


def sgd(batch_size, milestones=(), learning_rate=None, weight_decay=1e-4, momentum=0.9, warmup_steps=1000, **kwargs):
    """Build the paper's SGD: rate 0.02 for a batch of 16, linear in the batch size, after a linear warm-up.

    Args:
        batch_size: images per step over all replicas.
        milestones: steps at which the rate falls to a tenth (paper: 120 000 of 160 000).
        learning_rate: replaces 0.02 * batch_size / 16.
        weight_decay: the paper's 1e-4.
        momentum: the paper's 0.9.
        warmup_steps: 0 for no warm-up.
        **kwargs: further arguments of `keras.optimizers.SGD`, for example `clipnorm`.

    Returns:
        keras.optimizers.SGD.
    """
    rate = 0.02 * batch_size / 16 if learning_rate is None else learning_rate
    schedule = WarmupMultiStep(rate, milestones, warmup_steps)
    return keras.optimizers.SGD(schedule, **paper_momentum(weight_decay, momentum), **kwargs)


def paper_momentum(weight_decay=1e-4, momentum=0.9):
    """Compute the arguments of `keras.optimizers.SGD` for the paper's momentum and weight decay.

    In the paper and in PyTorch the decay passes through the momentum, which amplifies it 1 / (1 - momentum) times.
    Keras applies `weight_decay` without the momentum, so it must be that much larger.

    Args:
        weight_decay: the paper's 1e-4.
        momentum: 0.9.

    Returns:
        dict of momentum and weight_decay.
    """
    return {"momentum": momentum, "weight_decay": weight_decay / (1.0 - momentum)}
