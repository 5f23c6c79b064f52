"""What tests need of the chosen backend and Keras does not give: gradients and compiled functions."""

import keras
import numpy as np


def pull_back(function, inputs, upstream):
    """Gradient of sum(function(*inputs) * upstream) with respect to every input, compiled.

    Args:
        function: of tensors, to one tensor.
        inputs: list of arrays.
        upstream: array of the shape of the result.

    Returns:
        list of float32 numpy arrays.
    """
    if keras.backend.backend() == "jax":
        import jax

        @jax.jit
        def run(inputs):
            result, back = jax.vjp(function, *inputs)
            return back(jax.numpy.asarray(upstream, result.dtype))

        gradients = run([jax.numpy.asarray(each) for each in inputs])
    else:
        import tensorflow as tf

        @tf.function(autograph=False)
        def run(inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                result = function(*inputs)
            seed = tf.cast(upstream, result.dtype)
            kept = tape.gradient(result, inputs, seed, unconnected_gradients="zero")
            return [tf.convert_to_tensor(each) for each in kept]

        gradients = run([tf.convert_to_tensor(each) for each in inputs])
    return [np.asarray(keras.ops.cast(each, "float32")) for each in gradients]


def compiled(function):
    """The function as a graph (TensorFlow) or jitted (JAX)."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, autograph=False)


def to_numpy(values):
    """Tensors to numpy, in any nesting of tuples and lists."""
    if isinstance(values, list | tuple):
        return [to_numpy(each) for each in values]
    return np.asarray(keras.ops.convert_to_numpy(values))
