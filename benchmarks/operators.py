"""Times RoIAlign (forward, and a training step's forward and gradient) and NMS on this machine.

    KERAS_BACKEND=tensorflow python benchmarks/operators.py
    KERAS_BACKEND=jax python benchmarks/operators.py

The times in the comments of `keras_maskrcnn/backend/` come from this script. Wall and CPU time are the
minima of several runs; the CPU time of all threads is meaningful even on a shared machine.
"""

import argparse
import time

import keras
import numpy as np

from keras_maskrcnn import backend
from keras_maskrcnn.network.roi_align import MultiLevelRoIAlign
from keras_maskrcnn.ops import non_max_suppression

# images, side of the image in pixels, channels, boxes an image, bins.
CROPS = [(4, 256, 128, 128, 7), (4, 256, 256, 512, 7), (4, 256, 256, 128, 14), (1, 1024, 256, 1000, 7)]
# images, boxes, classes, threshold, outputs.
SUPPRESSIONS = [(2, 2000, 1, 0.7, 1000), (4, 4500, 5, 0.7, 1000), (1, 1000, 80, 0.5, 100)]


def compiled(function):
    """A graph on TensorFlow, jitted on JAX."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, autograph=False)


def gradient_of(function):
    """Gradient of the sum of squares of function(pyramid, boxes) with respect to the pyramid."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(lambda pyramid, boxes: (function(pyramid, boxes) ** 2).sum())
    import tensorflow as tf

    def gradient(pyramid, boxes):
        with tf.GradientTape() as tape:
            tape.watch(pyramid)
            loss = tf.nn.l2_loss(function(pyramid, boxes))
        return tape.gradient(loss, pyramid)

    return gradient


def measure(name, function, *inputs, runs):
    """Print the least wall and CPU time of a compiled function, in milliseconds."""
    function = compiled(function)
    wall, cpu = [], []
    for _ in range(runs + 1):
        began, used = time.perf_counter(), time.process_time()
        result = function(*inputs)
        if keras.backend.backend() == "jax":
            import jax

            jax.block_until_ready(result)
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    print(f"{name:58s} {1e3 * min(wall[1:]):8.1f} {1e3 * min(cpu[1:]):8.1f}", flush=True)


def random_boxes(rng, num_images, num_boxes, side, largest):
    """Boxes from 10 px to `largest` px, float32 (B, N, 4), inside the image."""
    sizes = np.exp(rng.uniform(np.log(10), np.log(largest), (num_images, num_boxes, 2)))
    centres = rng.uniform(0, side, (num_images, num_boxes, 2))
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=-1)
    return keras.ops.convert_to_tensor(boxes.clip(0, side), "float32")


def main():
    """Run every workload."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    rng = np.random.default_rng(0)
    print(f"{keras.backend.backend() + ', milliseconds':58s} {'wall':>8s} {'CPU':>8s}")
    for num_images, side, channels, num_boxes, bins in CROPS:
        shapes = [(num_images, side // s, side // s, channels) for s in (4, 8, 16, 32)]
        pyramid = [keras.ops.convert_to_tensor(rng.standard_normal(s), "float32") for s in shapes]
        boxes = random_boxes(rng, num_images, num_boxes, side, 0.4 * side)
        layer = MultiLevelRoIAlign(bins)
        name = f"RoIAlign {num_images} x {num_boxes} boxes, {bins}x{bins}, {side} px, C={channels}"
        measure(name, layer, pyramid, boxes, runs=runs)
        step = gradient_of(lambda *args, layer=layer: layer(*args, training=True))
        measure("  forward and gradient", step, pyramid, boxes, runs=runs)
    for num_images, num_boxes, num_classes, threshold, count in SUPPRESSIONS:
        boxes = random_boxes(rng, num_images, num_boxes, 1000, 150)
        scores = keras.ops.convert_to_tensor(rng.random((num_images, num_boxes)), "float32")
        classes = rng.integers(0, num_classes, (num_images, num_boxes)).astype("int32")
        classes = keras.ops.convert_to_tensor(classes)
        options = {"max_outputs": count, "classes": None if num_classes == 1 else classes}
        name = f"NMS {num_images} x {num_boxes} boxes, {num_classes} classes"
        measure(name, lambda *a, o=options, t=threshold: non_max_suppression(*a, t, **o), boxes, scores, runs=runs)
        if backend.non_max_suppression is not backend.generic.non_max_suppression:
            rest = (threshold, count, options["classes"], None)
            measure(
                "  the same by keras.ops",
                lambda *a, r=rest: backend.generic.non_max_suppression(*a, *r),
                boxes,
                scores,
                runs=runs,
            )


if __name__ == "__main__":
    main()
