"""What tests need of the backend and Keras does not give: gradients and compiled functions, or none."""

import contextlib
import functools
import unittest.mock

import keras
import numpy as np


@contextlib.contextmanager
def without_graphs():
    """Run what TensorFlow would trace eagerly: one step takes a small part of the time. Elsewhere, do nothing."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    kept = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(kept)


@contextlib.contextmanager
def graph_optimiser(used):
    """Run with TensorFlow's graph optimiser, or without it. On other backends, do nothing."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    kept = tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer", False)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not used})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": kept})


def without_stacks():
    """From now on TensorFlow notes the same lines of code for each operator of a graph: a tenth of the tracing time.

    Its errors show them, and no test looks at them.
    """
    from tensorflow.python.util import tf_stack

    somewhere = tf_stack.extract_stack()
    tf_stack.extract_stack = lambda stacklevel=1: somewhere


@functools.cache
def _once(function, seed):
    function(seed)


def seed_keras(seed):
    """As `keras.utils.set_random_seed`, which lets TensorFlow forget the graphs that it has prepared, but once.

    The next call of each takes seconds, of an export's signature for example. Keras draws from seeds of its own, so no
    state of TensorFlow's random operators is in a test.
    """
    if keras.backend.backend() != "tensorflow":
        keras.utils.set_random_seed(seed)
        return
    import tensorflow as tf

    with unittest.mock.patch.object(tf.random, "set_seed", functools.partial(_once, tf.random.set_seed)):
        keras.utils.set_random_seed(seed)


def compiled(function, variables=()):
    """The function as a graph (TensorFlow) or jitted (JAX); on PyTorch itself, without gradients.

    `variables` of a model that it reads are arguments for JAX: as constants, XLA would compute with them for seconds.
    """
    if keras.backend.backend() == "torch":
        return functools.partial(_run_in_torch, function)
    if keras.backend.backend() == "jax":
        import jax

        def with_values(values, *args):
            with keras.StatelessScope(state_mapping=list(zip(variables, values))):
                return function(*args)

        if not variables:
            return jax.jit(function)
        return functools.partial(jax.jit(with_values), [variable.value for variable in variables])
    import tensorflow as tf

    return tf.function(function, autograph=False)


def jitted(function):
    """The function jitted on JAX, which else compiles each of its operators by itself; elsewhere the function."""
    return compiled(function) if keras.backend.backend() == "jax" else function


def _run_in_torch(function, *args):
    import torch

    with torch.no_grad():
        return function(*keras.tree.map_structure(keras.ops.convert_to_tensor, args))


def pull_back_function(function):
    """Make a compiled function of (inputs, upstream) that gives result and gradients.

    Args:
        function: of tensors, to one tensor.

    Returns:
        function of (list of arrays, array of the shape of the result), which returns the result and
        the list of gradients of sum(result * upstream): float32 numpy arrays.
    """
    if keras.backend.backend() == "jax":
        import jax

        def run(inputs, upstream):
            result, back = jax.vjp(function, *inputs)
            return result, back(upstream.astype(result.dtype))

        run = compiled(run)
    elif keras.backend.backend() == "torch":
        import torch

        def run(inputs, upstream):
            inputs = [each.requires_grad_(each.is_floating_point()) for each in inputs]
            result = function(*inputs)
            return result, torch.autograd.grad(result, inputs, upstream.to(result.dtype), materialize_grads=True)
    else:
        import tensorflow as tf

        def run(inputs, upstream):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                result = function(*inputs)
            seed = tf.cast(upstream, result.dtype)
            kept = tape.gradient(result, inputs, seed, unconnected_gradients="zero")
            return result, [tf.convert_to_tensor(each) for each in kept]

        run = compiled(run)

    def pull(inputs, upstream):
        tensors = [keras.ops.convert_to_tensor(each) for each in (*inputs, upstream)]
        result, gradients = run(tensors[:-1], tensors[-1])
        result, *gradients = (keras.ops.cast(each, "float32") for each in (result, *gradients))
        return to_numpy(result), to_numpy(gradients)

    return pull


def pull_back(function, inputs, upstream):
    """A result, and the gradients of sum(result * upstream), compiled."""
    return pull_back_function(function)(inputs, upstream)


def losses_and_gradients(model, batch, weights):
    """The losses of one training step with norms in inference mode, and the gradients of their sum, compiled.

    Args:
        model: MaskRCNN. batch: with ground truth. weights: list of trainable variables of the model.

    Returns:
        dict of the named losses, floats, and the list of gradients, numpy arrays.
    """

    def forward(batch):
        total = model.compute_loss(batch, None, model(batch, training=False))
        return total, {name: tracker.result() for name, tracker in model.loss_trackers.items()}

    if keras.backend.backend() == "jax":
        import jax

        chosen = {id(weight) for weight in weights}
        others = [variable for variable in model.variables if id(variable) not in chosen]

        def step(values, fixed, batch):
            with keras.StatelessScope(state_mapping=list(zip([*weights, *others], [*values, *fixed]))):
                return forward(batch)

        arrays = [[variable.value for variable in group] for group in (weights, others)]
        gradients, named = jax.jit(jax.grad(step, has_aux=True))(*arrays, batch)
    elif keras.backend.backend() == "torch":
        import torch

        total, named = forward(keras.tree.map_structure(keras.ops.convert_to_tensor, batch))
        gradients = torch.autograd.grad(total, [weight.value for weight in weights])
    else:
        import tensorflow as tf

        @tf.function(autograph=False)
        def step(batch):
            with tf.GradientTape() as tape:
                total, named = forward(batch)
            return tape.gradient(total, [weight.value for weight in weights]), named

        gradients, named = step(batch)
    return {name: float(value) for name, value in named.items()}, to_numpy(list(gradients))


def to_numpy(values):
    """Tensors to numpy, in any nesting of tuples and lists."""
    if isinstance(values, list | tuple):
        return [to_numpy(each) for each in values]
    return np.asarray(keras.ops.convert_to_numpy(values))
