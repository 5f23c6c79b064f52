"""Convolutions and dense layers of an ONNX graph in int8: static, in QuantizeLinear/DequantizeLinear pairs.

onnxruntime's quantiser writes the graph, which onnxruntime and OpenVINO both read. Weights are symmetric, with a scale
for each output channel and 7 bits: processors without VNNI add two products in 16 bits, which 8 bits overflow.
Activations have 8 bits and a scale for each tensor, from their smallest and largest value in all calibration images.
Called by `onnx.py`.

What stays in float: the last layers (scores, deltas, mask logits, of the RPN as well), boxes, NMS and RoIAlign.
"""

import itertools

import numpy as np

from keras_maskrcnn.data.images.reading import read_image
from keras_maskrcnn.serving.converting import INPUT, need

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
BETWEEN = ("Add", "AveragePool", "Clip", "MaxPool", "Relu", "Resize")  # in int8 as well, between such layers
# What may stand between two layers of one network. Whatever else a value goes through, it is no feature afterwards.
PASSES = {
    *LAYERS,
    *BETWEEN,
    *("BatchNormalization", "Cast", "Concat", "Div", "Elu", "Erf", "Expand", "GlobalAveragePool", "HardSigmoid"),
    *("HardSwish", "Identity", "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Mul", "Pad", "Pow"),
    *("PRelu", "ReduceMean", "Reciprocal", "Reshape", "Selu", "Sigmoid", "Slice", "Softplus", "Split", "Sqrt"),
    *("Squeeze", "Sub", "Sum", "Tanh", "Transpose", "Unsqueeze"),
}


def quantize(proto, config, images):
    """Compute the layers of a graph in int8.

    Args:
        proto: onnx.ModelProto of `onnx.py`, without defaults of the limits. config: MaskRCNNConfig.
        images: iterable of images as `Predictor` takes them, of any sizes, at least one. One is in memory at a time.

    Returns:
        onnx.ModelProto; names and metadata may differ from `proto`'s.

    Raises:
        ValueError: there is no image, one cannot be read, or a layer has no range after all of them.
        ImportError: onnxruntime is not installed.
    """
    need("onnxruntime", "onnx")
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

    nodes = quantizable(proto.graph)
    shaped = onnx.shape_inference.infer_shapes(proto)  # the quantiser asks for the types of all tensors
    quantizer = QDQQuantizer(
        shaped,
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, _ranges(shaped, nodes, _inputs(shaped, config, images))),
        nodes_to_quantize=[node.name for node in nodes],
        nodes_to_exclude=[],
        op_types_to_quantize=sorted({node.op_type for node in nodes}),
        extra_options={
            "WeightSymmetric": True,
            "MatMulConstBOnly": True,
            "OpTypesToExcludeOutputQuantization": ["MatMul"],  # the bias follows, in float
            "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model


def quantizable(graph):
    """The nodes of an onnx.GraphProto that are computed in int8, list of NodeProto.

    Those are the layers with constant weights that feed another layer, and what stands between two layers. A layer
    without a successor is a last one: behind it scores and boxes are made.
    """
    constants = {tensor.name for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type in LAYERS]
    readers = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    before = _reached(layers, lambda node: [makers[name] for name in node.input if name in makers])
    behind = _reached(layers, lambda node: itertools.chain(*(readers.get(name, ()) for name in node.output)))

    def computes_features(node):
        own = [name for name in node.input if name not in constants]
        return node.op_type in BETWEEN and id(node) in behind and (node.op_type != "Add" or len(own) == 2)

    wanted = [node for node in layers if node.input[1] in constants]
    wanted += [node for node in graph.node if computes_features(node)]
    return [node for node in wanted if id(node) in before]


def _reached(starts, step):
    """The ids of all nodes that the steps from these lead to, through `PASSES`; of a start itself if others do."""
    reached, todo = set(), list(starts)
    while todo:
        for node in step(todo.pop()):
            if node.op_type in PASSES and id(node) not in reached:
                reached.add(id(node))
                if node.op_type not in LAYERS:
                    todo.append(node)
    return reached


def _inputs(proto, config, images):
    """The inputs of the graph for each image. Every score passes, so that the heads see as many boxes as they can."""
    import onnx

    kinds = {value.name: value.type.tensor_type.elem_type for value in proto.graph.input}
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kinds[INPUT])
    limits = {
        "score_threshold": np.array(0, np.float32),
        "nms_threshold": np.array(-1, np.float32),  # the model's
        "max_detections": np.array(100, np.int32),  # at most the model's; more take long and tell no more
    }
    for image in images:
        pixels = read_image(image, config.num_channels, config.image_dtype)
        yield {INPUT: pixels[None].astype(dtype), **limits}


def _ranges(proto, nodes, inputs):
    """How low and how high the tensors of some nodes go in all inputs.

    The mean of the extremes of single images would cut the largest values of half of them, which costs a trained model
    a point of AP more.

    The graph itself computes the extremes, so that no feature map is kept.

    Returns:
        dict from name to (lowest, highest), float32 ().

    Raises:
        ValueError: there is no input, or a tensor had no number in any of them.
    """
    import onnx
    import onnxruntime

    measured = onnx.ModelProto()
    measured.CopyFrom(proto)
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*proto.graph.value_info, *proto.graph.output)}
    names = {name for node in nodes for name in (*node.input, *node.output)}
    names = sorted(name for name in names if kinds.get(name) == onnx.TensorProto.FLOAT)
    outputs = [f"{name} {rule}" for name in names for rule in ("ReduceMin", "ReduceMax")]
    for output in outputs:
        name, rule = output.rsplit(" ", 1)
        measured.graph.node.append(onnx.helper.make_node(rule, [name], [output], keepdims=1))
        measured.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # images differ in size: blocks of all would stay
    session = onnxruntime.InferenceSession(measured.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = [[_number(value) for value in session.run(outputs, each)] for each in inputs]
    if not found:
        raise ValueError("int8 needs images, for the ranges of its layers. Received: none. A hundred are enough.")
    numbers = np.ma.masked_invalid(np.array(found, np.float32).reshape(len(found), -1, 2))
    table = np.ma.stack([numbers[..., 0].min(axis=0), numbers[..., 1].max(axis=0)], axis=-1).filled(np.nan)
    for name, extremes in zip(names, table):
        if not np.isfinite(extremes).all():
            raise ValueError(
                f"The calibration images must give every layer numbers to work on. Received images with which {name} "
                "has none. Calibrate with other images: of usual sizes, with objects in them."
            )
    return {name: (low, high) for name, (low, high) in zip(names, table)}


def _number(value):
    """What is in an array of one number; NaN for an empty one."""
    return value.item() if value.size == 1 else np.nan
