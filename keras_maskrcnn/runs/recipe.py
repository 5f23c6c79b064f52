"""Chooses an optimizer and its schedule from the sizes of batch and data. `keras-maskrcnn train` compiles with it.

In: sizes. Out: a `Recipe` of plain numbers, whose `make_optimizer` builds the Keras optimizer. Called by the command
line and by users (`km.choose_recipe`).

A step passes one batch through the network. An update changes the weights; with gradient accumulation it takes several
steps. Schedules count steps, because Keras calls them with the number of the step.
"""

import dataclasses

import keras

from keras_maskrcnn.runs.schedules import paper_momentum

# Peak learning rate, and the batch (images per update) that it belongs to.
#   sgd: the paper's rate, for a pre-trained backbone (section 3.1; Goyal et al. 2017). A tenth of it for a pre-trained
#     detector, as in Detectron2's balloon tutorial (2.5e-4 for a batch of 2).
#   adamw: our own. 5e-4 learns shapes and nuclei from random weights. Swin (Liu et al. 2021), a published Mask R-CNN
#     with AdamW, uses 1e-4 for a batch of 16, which the rule below scales to 5e-5 for a batch of 4.
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
OPTIMIZERS = ("adamw", "sgd")
STARTS = ("random", "backbone", "detector")
WARMUP_SHARE = 0.1  # of all steps
LONGEST_WARMUP = 1000  # updates, as in Detectron2 and torchvision
WARMUP_WITHIN_MINUTES = 100  # updates, if a time budget ends the run and their number is unknown
CLIP_NORM = 5.0  # of all gradients together, for AdamW, whose second moments stay large for long after one bad batch


@dataclasses.dataclass(frozen=True)
class Recipe:
    """An optimizer recipe: the optimizer of a training run, its learning rate schedule and its regularisation.

    It says nothing about the model. Architectures are chosen by `MaskRCNNConfig` or the builders.

    Args:
        optimizer: "adamw" or "sgd".
        learning_rate: peak rate.
        rule: str, where that rate comes from.
        batch_size: images per step.
        accumulate: steps per update.
        steps: int, of the whole run; None if minutes end it, because `TimeBudget` sets the rate then.
        warmup_steps: steps of the linear warm-up, as `train_model` and `TimeBudget` count them.
        weight_decay: how much the weights shrink in a step, in multiples of the rate.
        ema: momentum of the averaged weights per update; None keeps no average.
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
        """Build the Keras optimizer with its schedule. Under a time budget its rate is the constant peak."""
        options = {"gradient_accumulation_steps": self.accumulate if self.accumulate > 1 else None}
        if self.ema is not None:
            # Keras averages after every step, but the weights change only once per update.
            options |= {"use_ema": True, "ema_momentum": self.ema ** (1 / self.accumulate)}
        if self.optimizer == "sgd":
            return keras.optimizers.SGD(self._rate(), **paper_momentum(self.weight_decay), **options)
        return keras.optimizers.AdamW(
            self._rate(), weight_decay=self.weight_decay, global_clipnorm=CLIP_NORM, **options
        )

    def describe(self):
        """Describe the chosen numbers in one line."""
        batch = f"batch {self.batch_size}" + (f" x {self.accumulate} accumulated" if self.accumulate > 1 else "")
        length = "the time budget" if self.steps is None else f"{self.steps} steps"
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
    """Choose an optimizer recipe: peak learning rate from the batch, schedule and warm-up from the data's size.

    SGD's rate is proportional to the batch (Goyal et al. 2017, section 2.1). AdamW's is proportional to its square
    root (Malladi et al. 2022), because the step of an adaptive optimizer does not shrink with the gradient's noise.
    The warm-up takes a tenth of all steps, at most 1000 updates. A half cosine to zero follows (Loshchilov and Hutter
    2017).

    Args:
        batch_size: images per step over all replicas.
        steps_per_epoch: `len(loader)`.
        epochs: int, or None if minutes end the run.
        optimizer: "adamw" or "sgd" (the paper's momentum and decay).
        start: the weights that the model begins with: "random", "backbone" (pre-trained on ImageNet) or "detector".
        learning_rate: peak rate, which replaces the one computed from the batch.
        weight_decay: the paper's 1e-4.
        accumulate: steps whose gradients are averaged into one update. The rate is chosen for this many batches.
        ema: momentum of the averaged weights, in (0, 1); 0.999 averages about the last thousand updates.

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
            raise ValueError(f"{name} must be one of {choices}. Received: {value!r}. The default is {choices[0]!r}.")
    if not (isinstance(accumulate, int) and accumulate >= 1):
        raise ValueError(
            f"accumulate is a number of steps, at least 1. Received: {accumulate!r}. 1 updates at every step."
        )
    if ema is not None and not 0 < ema < 1:
        raise ValueError(
            f"ema, the momentum of the averaged weights, lies between 0 and 1. Received: {ema}. Try 0.99 to 0.9999."
        )
