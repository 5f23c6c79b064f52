"""An optimizer and its schedule from batch and data size: what `keras-maskrcnn train` compiles with.

Comes in: sizes. Goes out: a `Recipe`, plain numbers, whose `make_optimizer` gives the Keras optimizer. Called by the
command line and by users (`km.choose_recipe`).

A step is one batch through the network, an update one change of the weights: with accumulation it takes several steps.
Schedules count steps, because Keras asks them at the step's number, not the update's.
"""

import dataclasses

import keras

from keras_maskrcnn.runs.schedules import paper_momentum

# Peak rate and the images an update that it is for.
#   sgd: the paper's, whose backbone was pre-trained (section 3.1; Goyal et al. 2017); for a whole detector that is
#     trained further a tenth, as Detectron2's tutorial on balloons has it (2.5e-4 for a batch of 2).
#   adamw: ours. 5e-4 learns shapes and nuclei from nothing. Of published Mask R-CNNs with AdamW, Swin (Liu et al. 2021)
#     takes 1e-4 for a batch of 16: the rule below makes half as much of it for 4 as stands here.
REFERENCES = {
    ("sgd", "random"): (0.02, 16),
    ("sgd", "backbone"): (0.02, 16),
    ("sgd", "detector"): (0.002, 16),
    ("adamw", "random"): (5e-4, 4),
    ("adamw", "backbone"): (1e-4, 4),
    ("adamw", "detector"): (1e-4, 4),
}
RULES = {
    "sgd": (1.0, "linear in the batch, Goyal et al. 2017"),
    "adamw": (0.5, "root of the batch, Malladi et al. 2022"),
}
OPTIMIZERS = tuple(RULES)
STARTS = ("random", "backbone", "detector")
WARMUP_SHARE = 0.1  # of all steps
LONGEST_WARMUP = 1000  # updates, Detectron2's and torchvision's
WARMUP_WITHIN_MINUTES = 100  # updates, where nobody knows how many there will be
CLIP_NORM = 5.0  # of all gradients together, for AdamW: one bad batch leaves its second moments large for long


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a run optimises with.

    Args:
        optimizer: "adamw" or "sgd".
        learning_rate: peak rate.
        rule: str, where that rate comes from.
        batch_size: images a step.
        accumulate: steps an update.
        steps: int, of the whole run; None where minutes end it, and `TimeBudget` sets the rate.
        warmup_steps: steps of the linear warm-up, as `train_model` and `TimeBudget` count them.
        weight_decay: shrinkage of the weights a step, in multiples of the rate.
        ema: momentum of the averaged weights, an update; None averages nothing.
    """

    optimizer: str
    learning_rate: float
    rule: str
    batch_size: int
    accumulate: int
    steps: int | None
    warmup_steps: int
    weight_decay: float
    ema: float | None

    def make_optimizer(self):
        """The Keras optimizer with its schedule; under a time budget with the peak as its rate."""
        options = {"gradient_accumulation_steps": self.accumulate if self.accumulate > 1 else None}
        if self.ema is not None:
            # Keras averages at every step; over an update's steps the weights stand still.
            options |= {"use_ema": True, "ema_momentum": self.ema ** (1 / self.accumulate)}
        if self.optimizer == "sgd":
            return keras.optimizers.SGD(self._rate(), **paper_momentum(self.weight_decay), **options)
        return keras.optimizers.AdamW(
            self._rate(), weight_decay=self.weight_decay, global_clipnorm=CLIP_NORM, **options
        )

    def describe(self):
        """The chosen numbers in one line."""
        batch = f"batch {self.batch_size}" + (f" x {self.accumulate} accumulated" if self.accumulate > 1 else "")
        length = "the minutes given" if self.steps is None else f"{self.steps} steps"
        average = "" if self.ema is None else f", weights averaged with {self.ema:g}"
        return (
            f"{self.optimizer}, {batch}, peak learning rate {self.learning_rate:.3g} ({self.rule}), "
            f"warm-up over {self.warmup_steps} steps, cosine over {length}, weight decay {self.weight_decay:g}{average}"
        )

    def _rate(self):
        if self.steps is None:
            return self.learning_rate
        warmup = self.warmup_steps
        warm = {"warmup_target": self.learning_rate, "warmup_steps": warmup} if warmup else {}
        first = self.learning_rate / warmup if warmup else self.learning_rate
        return keras.optimizers.schedules.CosineDecay(first, max(1, self.steps - warmup), **warm)


def choose_recipe(
    batch_size,
    steps_per_epoch,
    epochs=None,
    optimizer="adamw",
    start="random",
    learning_rate=None,
    weight_decay=1e-4,
    accumulate=1,
    ema=None,
):
    """Choose what is not given: peak learning rate from the batch, schedule and warm-up from the data's size.

    SGD's rate grows with the batch (Goyal et al. 2017, section 2.1), AdamW's with its root (Malladi et al. 2022: an
    adaptive optimizer's step does not shrink with the gradient's noise). The warm-up is a tenth of all steps, at
    most 1000 updates, and a half cosine to zero follows (Loshchilov and Hutter 2017).

    Args:
        batch_size: images a step over all replicas.
        steps_per_epoch: `len(loader)`.
        epochs: int, or None where minutes end the run.
        optimizer: "adamw" or "sgd" (the paper's momentum and decay).
        start: what the model's weights are: "random", "backbone" (pre-trained on ImageNet) or "detector".
        learning_rate: peak, instead of the rule's.
        weight_decay: the paper's 1e-4.
        accumulate: steps whose gradients are averaged into one update; the batch that counts is so many times larger.
        ema: momentum of the averaged weights, in (0, 1); 0.999 is about the last thousand updates.

    Returns:
        Recipe.
    """
    _check(optimizer, start, accumulate, ema)
    power, rule = RULES[optimizer]
    reference, reference_batch = REFERENCES[optimizer, start]
    steps = None if epochs is None else epochs * steps_per_epoch
    warmup = WARMUP_WITHIN_MINUTES * accumulate
    if steps is not None:
        warmup = min(LONGEST_WARMUP * accumulate, int(WARMUP_SHARE * steps))
    if learning_rate is None:
        learning_rate = reference * (batch_size * accumulate / reference_batch) ** power
        rule = f"{reference:g} for {reference_batch} images, {rule}"
    else:
        rule = "as given"
    return Recipe(
        optimizer,
        float(learning_rate),
        rule,
        batch_size,
        accumulate,
        steps,
        warmup,
        weight_decay,
        ema,
    )


def _check(optimizer, start, accumulate, ema):
    for name, value, choices in (("optimizer", optimizer, OPTIMIZERS), ("start", start, STARTS)):
        if value not in choices:
            raise ValueError(f"{name} must be one of {choices}. Received: {value!r}.")
    if not (isinstance(accumulate, int) and accumulate >= 1):
        raise ValueError(f"accumulate counts steps, at least 1. Received: {accumulate!r}. 1 updates at every step.")
    if ema is not None and not 0 < ema < 1:
        raise ValueError(
            f"ema is the momentum of averaged weights, between 0 and 1. Received: {ema}. Usual: 0.99 to 0.9999."
        )
