"""The graph of a functional keras.Model: which layer ends a stage, and which layers lie before it.

Node: one call of one operation (a layer, or an addition written as `a + b`). A stage is the part of the network
whose maps have one stride. The output that represents it comes from the deepest layer that all data passes through:
the end of a block, not the inside of one branch.
"""

import keras

from keras_maskrcnn.geometry.strides import BACKBONE_STRIDES

PROBE = (128, 192)  # a canvas, network pixels; the sides differ so that a swapped axis shows
NORMS_AND_ACTIVATIONS = (
    "Activation",
    "BatchNormalization",
    "ELU",
    "GroupNormalization",
    "LayerNormalization",
    "LeakyReLU",
    "PReLU",
    "ReLU",
)


def ordered_nodes(outputs):
    """All nodes behind some tensors, inputs before consumers.

    Args:
        outputs: list of KerasTensor.

    Returns:
        dict from (operation id, node index) to (operation, list of the keys it reads, list of its output tensors).
    """
    nodes, waiting = {}, [(_key(tensor), False) for tensor in reversed(outputs)]
    operations = {_key(tensor): tensor._keras_history.operation for tensor in outputs}
    while waiting:
        key, ready = waiting.pop()
        if key in nodes:
            continue
        operation = operations[key]
        node = operation._inbound_nodes[key[1]]
        sources = [_key(tensor) for tensor in node.input_tensors]
        if ready:
            nodes[key] = (operation, sources, list(node.output_tensors))
            continue
        operations.update({_key(tensor): tensor._keras_history.operation for tensor in node.input_tensors})
        waiting.append((key, True))
        waiting.extend((source, False) for source in reversed(sources) if source not in nodes)
    return nodes


def _key(tensor):
    history = tensor._keras_history
    return id(history.operation), history.node_index


def node_strides(inputs, nodes):
    """Stride of every node's first output on a canvas of `PROBE`, None where it is no map of a whole stride.

    Args:
        inputs: the model's input, KerasTensor (B, None, None, C). nodes: from `ordered_nodes`.

    Returns:
        dict from node key to int or None.
    """
    maps = {key: tensors[0] for key, (_, _, tensors) in nodes.items() if len(tensors[0].shape) == 4}
    return dict(zip(maps, tensor_strides(inputs, list(maps.values()))))


def tensor_strides(inputs, maps):
    """Stride of every map on a canvas of `PROBE`, None where it is no whole number.

    Args:
        inputs: the model's input, KerasTensor (B, None, None, C). maps: list of KerasTensor (B, h, w, c).

    Returns:
        List of int or None.

    Raises:
        ValueError: for a model that does not run on that canvas.
    """
    probe = keras.Model(inputs, maps)
    try:
        shapes = probe.compute_output_spec(keras.KerasTensor((1, *PROBE, inputs.shape[-1])))
    except ValueError as error:
        raise ValueError(
            "A backbone takes images of any size whose sides are multiples of 32. "
            f"Received a model that fails on {PROBE}: {error}. Choose another model."
        ) from error
    return [stride_of(spec.shape[1:3]) for spec in shapes]


def stride_of(sides):
    """Stride of a map of `sides` (rows, columns) on `PROBE`; None if no whole number, the same for both axes."""
    if any(not cells or side % cells for side, cells in zip(PROBE, sides)):
        return None
    rows, columns = (side // cells for side, cells in zip(PROBE, sides))
    return rows if rows == columns else None


def stage_ends(nodes, strides):
    """The node that represents each stride: the deepest one on every path, with the norm and activation behind it.

    A node is on every path if no connection skips it: in any order of the graph, no arrow starts before it and ends
    behind it. Linear convolutions at a stage's end are passed over: DenseNet halves its channels in one before it
    pools.

    Args:
        nodes: from `ordered_nodes`, of the model's last output. strides: from `node_strides`.

    Returns:
        dict from stride to node key; strides that the model does not have are missing.
    """
    order = {key: place for place, key in enumerate(nodes)}
    consumers = {key: [] for key in nodes}
    for key, (_, sources, _) in nodes.items():
        for source in sources:
            consumers[source].append(key)
    ends, reach = {}, 0
    for key in nodes:
        if reach <= order[key] and not _is_linear_convolution(nodes[key][0]):
            ends[strides.get(key)] = key
        reach = max([reach, *(order[consumer] for consumer in consumers[key])])
    ends = {stride: key for stride, key in ends.items() if stride in BACKBONE_STRIDES}
    return {stride: _follow(key, nodes, consumers) for stride, key in ends.items()}


def _is_linear_convolution(operation):
    return "Conv" in type(operation).__name__ and getattr(operation, "activation", None) is keras.activations.linear


def _follow(key, nodes, consumers):
    """The last of the norms and activations that read this node, one after the other."""
    while True:
        following = [c for c in consumers[key] if type(nodes[c][0]).__name__ in NORMS_AND_ACTIVATIONS]
        if not following:
            return key
        key = following[0]


def stage_layers(model):
    """The layers of stem and four stages.

    The stem is what the first map of stride 4 needs. A stage is what its own map needs and the map before does not.

    Args:
        model: functional keras.Model whose outputs are four maps of strides 4, 8, 16, 32.

    Returns:
        List of five lists of keras.layers.Layer.

    Raises:
        ValueError: if one nested model computes several of the maps.
    """
    sources = {_key(output) for output in model.outputs}
    if len(sources) < len(model.outputs):
        names = sorted({output._keras_history.operation.name for output in model.outputs})
        raise ValueError(
            "Stages can be frozen where every map comes from a layer of its own. "
            f"Received maps of the nested model {', '.join(names)}. Freeze 'backbone', or wrap the nested model itself."
        )
    nodes = ordered_nodes(model.outputs[:1])
    strides = node_strides(model.inputs[0], nodes)
    first = next(key for key in nodes if strides.get(key) == BACKBONE_STRIDES[0])
    stem = ordered_nodes(nodes[first][2])
    parts, seen = [], set()
    for reached in (stem, *(ordered_nodes([output]) for output in model.outputs)):
        new = [operation for key, (operation, _, _) in reached.items() if key not in seen]
        parts.append([operation for operation in new if isinstance(operation, keras.layers.Layer)])
        seen.update(reached)
    return parts
