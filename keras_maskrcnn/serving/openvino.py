"""Export to OpenVINO's own form (IR): a folder that loads faster than the .onnx file and says how to compute.

    model.xml     the graph, with the metadata of the .onnx file under `rt_info/framework`
    model.bin     the weights

OpenVINO makes it of the graph of `onnx.py`; `openvino_predictor.py` runs it. Called by users and by the command line.
"""

import pathlib
import tempfile

from keras_maskrcnn.host.files import write_folder
from keras_maskrcnn.host.locks import locked_file
from keras_maskrcnn.serving.converting import check_dtype, check_graph_arguments, check_new_folder, need
from keras_maskrcnn.serving.onnx import make_onnx

MODEL = "model.xml"


def export_openvino(model, directory, input_dtype=None, overwrite=False, dtype=None, calibration=None):
    """Write a model as a folder for OpenVINO, for images of any size. Boxes are in pixels of these images.

    Input `images` and outputs as of `export_onnx`. The thresholds are the model's: OpenVINO has no optional inputs.

    Args:
        model: MaskRCNN, on the TensorFlow backend. Not changed; the files contain it with folded batch norm.
        directory: folder to write.
        input_dtype: as for `export_onnx`.
        overwrite: replace an existing folder.
        dtype: None or "float32". "bfloat16": OpenVINO computes in bfloat16 on processors that have it, else in float32;
            weights stay float32. "float16": weights are stored in float16, half the size, and computed in float32.
        calibration: images, for int8, as for `export_onnx`; with dtype "bfloat16" the other layers are in bfloat16.

    Returns:
        The folder as a pathlib.Path.

    Raises:
        ValueError: the backend is not TensorFlow, an argument is invalid, or the folder exists and may not be replaced.
        ImportError: tf2onnx or openvino is not installed.
    """
    directory = pathlib.Path(directory)
    input_dtype = check_graph_arguments(directory, "openvino", input_dtype, model.config)
    check_dtype(dtype, (None, "float32", "bfloat16", "float16"), calibration)
    need("tf2onnx", "onnx"), need("openvino", "openvino")
    check_new_folder(directory, MODEL, overwrite)
    with locked_file(directory):
        check_new_folder(directory, MODEL, overwrite)
        computed = "bfloat16" if dtype == "bfloat16" else "float32"
        proto = make_onnx(model, input_dtype, calibration=calibration, computed_in=computed)
        write_folder(directory, lambda folder: _write(proto, folder, small=dtype == "float16"))
    return directory


def _write(proto, folder, small):
    """Convert a graph and write it into a folder; `small`: weights in float16."""
    import onnx
    import openvino

    with tempfile.TemporaryDirectory() as scratch:
        source = pathlib.Path(scratch) / "model.onnx"
        onnx.save_model(proto, source)
        openvino.save_model(openvino.convert_model(source), folder / MODEL, compress_to_fp16=small)
