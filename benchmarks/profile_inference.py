"""Time of each stage of an inference, compared with the peak rate of matrix products on this machine.

python benchmarks/profile_inference.py                     # the model, as `predict_on_batch` runs it
python benchmarks/profile_inference.py --export bfloat16   # an exported SavedModel

R50-FPN, one 800x1056 image, 100 detections. TensorFlow runs one operator at a time here, on all cores, so that times
add up. "GFLOP" counts the direct sums of convolutions and matrix products (a multiplication and an addition are two);
"at peak" is their time at the rate of a large matrix product on this machine in the same precision. The second table
has the kinds of operators that take most of the time, and the share of each stage.
"""

import argparse
import collections
import math
import tempfile
import time

import twins

STAGES = ("backbone", "fpn", "rpn", "box_align", "box_head", "mask_align", "mask_head")
REST = "proposals, NMS, rest"


def main():
    """Profile the model or its export; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", choices=["float32", "bfloat16"], help="profile a SavedModel of this precision")
    parser.add_argument("--runs", type=int, default=5, help="timed runs after two untimed; the fastest counts")
    args = parser.parse_args()
    import tensorflow as tf

    twins.write_state()
    images = twins.make_images(1, 800, 1056)
    model = twins.our_model(image_scale=1.0, score_threshold=0.02, max_detections=100, detection_candidates=8192)
    graph, feed, fetches = _freeze(model, images, args.export)
    config = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=1)
    with tf.Graph().as_default() as frozen:
        tf.import_graph_def(graph, name="")
        with tf.compat.v1.Session(graph=frozen, config=config) as session:
            session.run(fetches, {feed: images})
            session.run(fetches, {feed: images})
            seconds = min(_timed(lambda: session.run(fetches, {feed: images})) for _ in range(args.runs))
            record = tf.compat.v1.RunMetadata()
            options = tf.compat.v1.RunOptions(trace_level=3, output_partition_graphs=True)  # 3: everything
            session.run(fetches, {feed: images}, options=options, run_metadata=record)
    peak = _peak(args.export or "float32")
    times, flops = _by_stage(record)
    print(f"{'stage':22} {'ms':>8} {'GFLOP':>8} {'at peak, ms':>12}")
    for stage in (*STAGES, REST):
        print(f"{stage:22} {times[stage]:8.0f} {flops[stage]:8.1f} {flops[stage] / peak * 1e3:12.0f}")
    total = sum(flops.values())
    print(f"{'together':22} {sum(times.values()):8.0f} {total:8.1f} {total / peak * 1e3:12.0f}")
    print(f"untraced: {seconds * 1e3:.0f} ms; peak: {peak:.0f} GFLOP/s (a matrix product of 3072)")
    _print_operators(record)


def _freeze(model, images, export):
    """(GraphDef with constant weights, name of the input, names of the outputs)."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    import keras_maskrcnn as km

    if export:
        loaded = tf.saved_model.load(str(km.export_saved_model(model, tempfile.mkdtemp(), dtype=export)))
        function = loaded.signatures["serving_default"]
    else:
        run = tf.function(lambda images: model(images, training=False))
        function = run.get_concrete_function(tf.TensorSpec(images.shape, tf.uint8))
    frozen = convert_variables_to_constants_v2(function)
    return frozen.graph.as_graph_def(), frozen.inputs[0].name, [output.name for output in frozen.outputs]


def _by_stage(record):
    """Milliseconds and GFLOP of each stage, as two Counters."""
    nodes = {node.name: node for graph in record.partition_graphs for node in graph.node}  # as optimized
    times, flops = collections.Counter(), collections.Counter()
    for device in record.step_stats.dev_stats:
        for run in device.node_stats:
            stage = _stage(run)
            times[stage] += (run.op_end_rel_micros - run.op_start_rel_micros) / 1e3
            flops[stage] += 2e-9 * _reduction(nodes.get(run.node_name), nodes) * _elements(run)
    return times, flops


def _print_operators(record, most=14):
    """Print the kinds of operators that take most of the time: milliseconds, calls, and milliseconds of each stage."""
    nodes = {node.name: node.op for graph in record.partition_graphs for node in graph.node}
    times, calls = collections.defaultdict(collections.Counter), collections.Counter()
    for device in record.step_stats.dev_stats:
        for run in device.node_stats:
            kind = nodes.get(run.node_name, "?")
            times[kind][_stage(run)] += (run.op_end_rel_micros - run.op_start_rel_micros) / 1e3
            calls[kind] += 1
    print(f"\n{'operator':32} {'ms':>8} {'calls':>6}  of them in")
    for kind in sorted(times, key=lambda kind: -times[kind].total())[:most]:
        stages = ", ".join(f"{stage} {ms:.0f}" for stage, ms in times[kind].most_common(4))
        print(f"{kind:32} {times[kind].total():8.0f} {calls[kind]:6}  {stages}")


def _stage(run):
    return next((stage for stage in STAGES if f"/{stage}" in run.node_name), REST)


def _elements(run):
    """Numbers in a node's outputs that are maps or rows of vectors."""
    shapes = [[d.size for d in output.tensor_description.shape.dim] for output in run.output]
    return sum(math.prod(shape) for shape in shapes if len(shape) in (2, 4))


def _reduction(node, nodes):
    """Number of products per output of a convolution or matrix product with constant weights; else 0."""
    if node is None or not any(part in node.op for part in ("Conv", "MatMul")) or "Grad" in node.op:
        return 0
    for name in node.input:
        weights = nodes.get(name.split(":")[0].lstrip("^"))
        while weights is not None and weights.op in ("Identity", "Cast", "ReadVariableOp", "Reshape"):
            weights = nodes.get(weights.input[0].split(":")[0])
        if weights is not None and weights.op == "Const":
            shape = [d.size for d in weights.attr["value"].tensor.tensor_shape.dim]
            if len(shape) in (2, 4):  # not a bias
                return math.prod(shape[:-1])
    return 0


def _peak(dtype):
    """GFLOP/s of a large matrix product."""
    import tensorflow as tf

    side = 3072
    factors = [tf.cast(tf.random.normal((side, side)), dtype) for _ in range(2)]
    product = tf.function(tf.matmul)
    product(*factors)
    return 2e-9 * side**3 / min(_timed(lambda: product(*factors).numpy()) for _ in range(7))


def _timed(run):
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
