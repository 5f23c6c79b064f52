"""Convolution with norm and ReLU: the building block of backbone, pyramid and heads.

The weights have the usual names (kernel, bias, gamma, beta, moving_mean, moving_variance), by which `weights/` finds
them when it reads the checkpoints of other frameworks.
"""

import keras
from keras import ops

from keras_maskrcnn import backend

EPSILON = 1e-5  # torchvision's and Detectron2's batch norm; Keras' default is 1e-3.
MOMENTUM = 0.9  # weight of the old moving statistics; torchvision's momentum of 0.1 is the weight of the new ones
GROUPS = 32  # Wu and He 2018, section 4.


@keras.saving.register_keras_serializable("keras_maskrcnn")
class FrozenBatchNorm(keras.layers.Layer):
    """Batch norm with constant statistics and affine weights (paper section 3.1): y = x * scale + shift.

    Unlike `BatchNormalization(trainable=False)` it stays frozen when the user sets `model.trainable = True`.

    Args:
        scale: initial gamma.
        epsilon: added to the variance.
    """

    def __init__(self, scale=1.0, epsilon=EPSILON, **kwargs):
        super().__init__(**kwargs)
        self.scale, self.epsilon = scale, epsilon

    def build(self, input_shape):
        """Create the four weight vectors of length input_shape[-1]."""
        shape = (input_shape[-1],)
        add = lambda name, start: self.add_weight(  # noqa: E731
            name=name, shape=shape, initializer=start, trainable=False, autocast=False
        )
        self.gamma = add("gamma", keras.initializers.Constant(self.scale))
        self.beta = add("beta", "zeros")
        self.moving_mean = add("moving_mean", "zeros")
        self.moving_variance = add("moving_variance", "ones")

    def affine(self):
        """Scale and shift, float32 (C,)."""
        return _affine(self)

    def uses_batch(self, training):
        """False: the statistics never change."""
        return False

    def call(self, inputs):
        """Apply the frozen affine map to float (..., C)."""
        scale, shift = self.affine()
        return inputs * ops.cast(scale, inputs.dtype) + ops.cast(shift, inputs.dtype)

    def get_config(self):
        """Keras serialisation."""
        return {**super().get_config(), "scale": self.scale, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable("keras_maskrcnn")
class BatchNorm(keras.layers.BatchNormalization):
    """Keras' batch norm with torchvision's constants, and with TensorFlow's fused kernel on that backend."""

    def __init__(self, momentum=MOMENTUM, epsilon=EPSILON, **kwargs):
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)

    def affine(self):
        """Scale and shift from the moving statistics, float32 (C,)."""
        return _affine(self)

    def uses_batch(self, training):
        """Whether it normalises by the statistics of the batch."""
        return bool(training) and self.trainable

    def call(self, inputs, training=None):
        """Normalise float (B, h, w, C): by the batch's statistics in training, else by the moving ones."""
        if not (self.uses_batch(training) and backend.HAS_FUSED_BATCH_NORM):
            return super().call(inputs, training=training)
        outputs, mean, variance = backend.fused_batch_norm(inputs, self.gamma, self.beta, self.epsilon)
        keep = self.momentum
        self.moving_mean.assign(self.moving_mean * keep + mean * (1.0 - keep))
        self.moving_variance.assign(self.moving_variance * keep + variance * (1.0 - keep))
        return outputs


def _affine(norm):
    scale = norm.gamma * ops.rsqrt(norm.moving_variance + norm.epsilon)
    return scale, norm.beta - norm.moving_mean * scale


def make_norm(norm, name, dtype=None, frozen_scale=1.0, epsilon=EPSILON):
    """Make a norm layer: "frozen_batch" (with `frozen_scale` as its initial gamma), "batch" or "group"."""
    if norm == "group":
        return keras.layers.GroupNormalization(groups=GROUPS, epsilon=epsilon, name=name, dtype=dtype)
    if norm == "frozen_batch":
        return FrozenBatchNorm(frozen_scale, epsilon, name=name, dtype=dtype)
    return BatchNorm(epsilon=epsilon, name=name, dtype=dtype)


@keras.saving.register_keras_serializable("keras_maskrcnn")
class KernelAndBias(keras.layers.Layer):
    """Kernel and bias of a 1x1 convolution, float32 under any policy. It has no `call`: the head computes with them.

    Args:
        filters: output channels.
        kernel_initializer: a Keras initializer.
        axes: of the convolution: 2 of maps, 1 of points.
    """

    def __init__(self, filters, kernel_initializer="he_normal", axes=2, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.filters, self.kernel_initializer = filters, keras.initializers.get(kernel_initializer)
        self.axes = axes

    def build(self, input_shape):
        """Create kernel (1, 1, C, filters), or (1, C, filters) with one axis, and bias (filters,) for (..., C)."""
        shape = (*[1] * self.axes, input_shape[-1], self.filters)
        # autocast=False: a head under a bfloat16 policy would read them rounded.
        initializer = backend.initial_values(self.kernel_initializer)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=initializer, autocast=False)
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros", autocast=False)

    def get_config(self):
        """Keras serialisation."""
        initializer = keras.initializers.serialize(self.kernel_initializer)
        config = {key: value for key, value in super().get_config().items() if key != "dtype"}
        return {**config, "filters": self.filters, "kernel_initializer": initializer, "axes": self.axes}


@keras.saving.register_keras_serializable("keras_maskrcnn")
class ConvNorm(keras.layers.Layer):
    """Convolution, norm and ReLU, with padding k // 2 on every side (`backend.generic.convolve` explains why).

    Args:
        filters: output channels.
        kernel_size: side of the square kernel, odd.
        strides: 1 or 2.
        norm: None or "none" (the convolution gets a bias instead), "frozen_batch", "batch" or "group".
        relu: whether ReLU follows.
        kernel_initializer: a Keras initializer.
        frozen_scale: initial gamma of a frozen norm.
        norm_epsilon: added to the norm's variance.
        groups: groups of channels that do not mix.
        norm_place: "before_relu": convolution, norm, ReLU. "after_relu": convolution with bias, ReLU, norm.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        strides=1,
        norm=None,
        relu=True,
        kernel_initializer="he_normal",
        frozen_scale=1.0,
        norm_epsilon=EPSILON,
        groups=1,
        norm_place="before_relu",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.groups, self.norm_place = groups, norm_place
        norm = None if norm == "none" else norm
        self.filters, self.kernel_size, self.strides = filters, kernel_size, strides
        self.norm_name, self.relu = norm, relu
        self.frozen_scale, self.norm_epsilon = frozen_scale, norm_epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.conv = keras.layers.Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding="same" if strides == 1 else "valid",
            groups=groups,
            use_bias=norm is None or norm_place == "after_relu",
            kernel_initializer=backend.initial_values(self.kernel_initializer),
            name="conv",
            dtype=self.dtype_policy,
        )
        self.norm = make_norm(norm, "norm", self.dtype_policy, frozen_scale, norm_epsilon) if norm else None

    def build(self, input_shape):
        """Build the convolution and its norm for (B, h, w, C)."""
        self.conv.build(input_shape)
        if self.norm is not None:
            self.norm.build((*input_shape[:-1], self.filters))

    def call(self, inputs, training=None, cells=None):
        """Convolve one map, or a list of maps with the same weights.

        A norm before ReLU that does not depend on the batch is an affine map. It is multiplied into kernel and bias,
        which saves its passes over the features.

        Args:
            inputs: float (B, h, w, C), or a list of them.
            training: whether trainable batch norm uses the batch's statistics.
            cells: float (B, ceil(h / strides), ceil(w / strides), 1), 1 or 0, of a layer that ends with ReLU: where the
                result is to be 0. None: nowhere.

        Returns:
            float (B, ceil(h / strides), ceil(w / strides), filters), or a list of them.
        """
        maps = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        kernel, bias, normalizes = self.conv.kernel, self.conv.bias, self.norm is not None
        last = self.norm_place == "after_relu"
        affine = None if last else getattr(self.norm, "affine", None)
        if backend.FOLDS_NORMS and affine is not None and not self.norm.uses_batch(training):
            scale, shift = affine()
            kernel, bias = kernel * ops.cast(scale, kernel.dtype), ops.cast(shift, kernel.dtype)
            normalizes = False
        relu_follows = self.relu and not last and (normalizes or cells is not None)
        outputs = backend.convolve(maps, kernel, bias, self.strides, self.relu and not relu_follows, self.groups)
        if normalizes:
            outputs = [self._normalize(features, training) for features in outputs]
        if relu_follows:
            outputs = [backend.apply_relu(features, cells) for features in outputs]
        return outputs if maps is inputs else outputs[0]

    def _normalize(self, features, training):
        options = {"training": training} if self.norm_name == "batch" else {}
        return self.norm(features, **options)

    def get_config(self):
        """Keras serialisation."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "norm": self.norm_name,
            "relu": self.relu,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "frozen_scale": self.frozen_scale,
            "norm_epsilon": self.norm_epsilon,
            "groups": self.groups,
            "norm_place": self.norm_place,
        }
