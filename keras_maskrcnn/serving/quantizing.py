"""Convolutions and dense layers of an ONNX graph in int8: static, in QuantizeLinear/DequantizeLinear pairs.

onnxruntime's quantiser writes the graph, which onnxruntime and OpenVINO both read. Weights are symmetric, with a scale
for each output channel and 7 bits: processors without VNNI add two products in 16 bits, which 8 bits overflow.
Activations have 8 bits and a scale for each tensor, from the mean over the calibration images of their smallest and
largest value. Called by `onnx.py`.

What stays in float: the last layers (scores, deltas, mask logits, of the RPN as well), boxes, NMS and RoIAlign.
"""

import itertools
import pathlib
import tempfile

import numpy as np

from keras_maskrcnn.data.images.reading import read_image
from keras_maskrcnn.serving.converting import INPUT, need

_PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}  # else it asks for optimisations that tf2onnx has done
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
    from onnxruntime import quantization

    nodes = quantizable(proto.graph)
    onnx.helper.set_model_props(proto, _PREPARED)
    # Of tensors that are not quantised it computes ranges, too; some hold infinities.
    with tempfile.TemporaryDirectory() as scratch, np.errstate(all="ignore"):
        target = pathlib.Path(scratch) / "int8.onnx"
        quantization.quantize_static(
            proto,
            target,
            Images(images, config, onnx.helper.tensor_dtype_to_np_dtype(_element_type(proto.graph))),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=sorted({node.op_type for node in nodes}),
            nodes_to_quantize=[node.name for node in nodes],
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={
                "WeightSymmetric": True,
                "CalibMovingAverage": True,  # in one turn over all images this is their mean
                "MatMulConstBOnly": True,
                "OpTypesToExcludeOutputQuantization": ["MatMul"],  # the bias follows, in float
                "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
            },
        )
        written = onnx.load(target)
    _check_scales(written.graph)
    return written


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


# Every score passes; the others are the model's.
_LIMITS = {
    "score_threshold": np.array(0, np.float32),
    "nms_threshold": np.array(-1, np.float32),
    "max_detections": np.array(-1, np.int32),
}


class Images:
    """onnxruntime's `CalibrationDataReader`: the inputs of the graph, image by image.

    Every score passes, so that the heads see as many boxes as they can, also in images in which nothing is found.

    Args:
        sources: iterable of images. config: MaskRCNNConfig. dtype: NumPy dtype of the graph's images.
    """

    def __init__(self, sources, config, dtype):
        self._sources, self._config, self._dtype = iter(sources), config, dtype
        self._count = 0

    def get_next(self):
        """The next image's inputs, or None after the last."""
        for source in self._sources:
            self._count += 1
            image = read_image(source, self._config.num_channels, self._config.image_dtype)
            return {INPUT: image[None].astype(self._dtype), **_LIMITS}
        if not self._count:
            raise ValueError(
                "int8 needs images to find the ranges of its layers. Received: none. A hundred are enough."
            )
        return None


def _element_type(graph):
    return next(value for value in graph.input if value.name == INPUT).type.tensor_type.elem_type


def _check_scales(graph):
    """Refuse a graph in which a layer saw no number: its scale would make NaN of whatever comes in."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    scales = {node.input[1] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    for name in sorted(scales):
        values = numpy_helper.to_array(tensors[name])
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise ValueError(
                f"The calibration images must give every layer numbers to work on. Received images with which {name} "
                "has no range. Calibrate with other images: of usual sizes, with objects in them."
            )
