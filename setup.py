"""Packaging of keras-maskrcnn: `pip install .` for users, `pip install -e .[dev]` for work on it."""

import pathlib
import re

from setuptools import Extension, find_packages, setup

HERE = pathlib.Path(__file__).parent
NATIVE = "keras_maskrcnn/backend/native"
HOST = "keras_maskrcnn/geometry/native"


def read_version():
    """The version stands once, in `_version.py`."""
    text = (HERE / "keras_maskrcnn" / "_version.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if found is None:
        raise ValueError('Expected a line `__version__ = "..."` in keras_maskrcnn/_version.py.')
    return found.group(1)


setup(
    name="keras-maskrcnn",
    version=read_version(),
    description="Mask R-CNN for Keras 3: train, measure COCO AP, export, serve",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    py_modules=["keras_maskrcnn_launcher"],
    package_data={
        "keras_maskrcnn.cli": ["fingerprint.json"],
        "keras_maskrcnn.pages": ["templates/*.html"],
        "keras_maskrcnn.serving": ["browser/*"],
        "keras_maskrcnn.viewers": ["napari.yaml"],
    },
    packages=find_packages(include=["keras_maskrcnn", "keras_maskrcnn.*"]),
    # RoIAlign and 3x3 convolutions for CPUs. Not linked to TensorFlow, so one build serves all versions; without a
    # compiler pip installs the package without them, and stock operators compute the same.
    ext_modules=[
        Extension(
            "keras_maskrcnn.backend.native._operators",
            [
                f"{NATIVE}/{name}.cc"
                for name in ("operators", "roi_align", "convolution", "direct", "winograd", "add_maps")
            ],
            depends=[
                f"{NATIVE}/{name}"
                for name in (
                    *("combine.inc", "direct.inc", "winograd.inc", "vectors.inc", "widths.inc", "routines.inc"),
                    *("convolution.h", "operators.h", "threads.h", "numbers.h", "tensorflow_c_api.h"),
                )
            ],
            extra_compile_args=["-O3", "-g0", "-std=c++17", "-Wno-psabi", "-fvisibility=hidden"],
            libraries=["dl"],
            optional=True,
        ),
        # The loader's pixels, run lengths of detections, annotations. Without it numpy, Pillow and orjson do the same.
        # -ffp-contract=off: no product is fused with a sum, so that the bits are those of numpy and Pillow.
        Extension(
            "keras_maskrcnn.geometry.native._host",
            [f"{HOST}/{name}.c" for name in ("pixels", "codes", "runs", "annotations")],
            depends=[f"{HOST}/host.h"],
            extra_compile_args=["-O3", "-g0", "-Wno-psabi", "-ffp-contract=off", "-fvisibility=hidden"],
            optional=True,
        ),
    ],
    python_requires=">=3.10",
    install_requires=[
        "tensorflow>=2.18",
        # Older ones can be made to execute code by a .keras file, or to read other files. The last fixes are in 3.12.4,
        # the series for Python 3.10, and in 3.15.1. docs/formats_weights.md has the list.
        "keras>=3.12.4,!=3.13.*,!=3.14.*,!=3.15.0",
        "h5py>=3.11",  # Keras writes .weights.h5 with it; the first that visits links
        "numpy>=1.26",
        "orjson>=3.9",  # COCO's annotations in a third of the time
        "pycocotools>=2.0.8",
        "faster-coco-eval>=1.8",  # COCO AP: pycocotools' figures in less time
        "scikit-image>=0.22",
        "tifffile>=2022.8.12",  # scikit-image's own; images of any channels are read with it
        "pillow>=10.1",  # the first with a scalable built-in font, which draw_instances uses
        "pyyaml>=6.0",  # reads data.yaml of YOLO datasets; one small wheel without dependencies
        "matplotlib>=3.8",  # every run folder holds the plot of its losses and AP
        "jinja2>=3.1",  # the pages on runs and datasets; escapes every name
        "filelock>=3.21",  # one process at a time writes a run folder; the first that notices a removed lock file
        "rich>=13.0",  # progress bars and tables; Keras needs it anyway
        "scipy>=1.12",  # connected components, isotonic regression; scikit-image brings it
    ],
    extras_require={
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",  # tests/fuzz
            "ruff>=0.6",
            "jax>=0.4.34",
            "safetensors>=0.4",
            "tensorflow-serving-api>=2.18",
            "tf2onnx>=1.17",
            "onnx>=1.17",
            "onnxruntime>=1.20",
            "openvino>=2024.4",
            "ai-edge-litert>=1.2",
            "tensorboardX>=2.6",
            "keras-hub>=0.20",
            "fsspec[http]>=2024.3",
            "pyarrow>=15",
            "zarr>=3.1.6; python_version >= '3.11'",
            "shapely>=2.0",
            "npe2>=0.7",  # napari's plugin engine, without napari
            "av>=12",
            "openslide-python>=1.4",
            "openslide-bin>=4.0",
        ],
        "openvino": ["openvino>=2024.4"],  # runs .onnx files on Intel's processors
        "onnx": ["tf2onnx>=1.17", "onnx>=1.17", "onnxruntime>=1.20"],  # writes .onnx files and runs them
        "litert": ["ai-edge-litert>=1.2"],  # runs .tflite files; TensorFlow alone writes them
        "tiff": ["imagecodecs>=2023.1.23"],  # multi-channel TIFFs in LZW, JPEG and other compressions than deflate
        "tensorboard": ["tensorboardX>=2.6"],  # writes event files on any backend; small, needs no TensorFlow
        "keras-hub": ["keras-hub>=0.20"],  # more backbones: km.backbones.from_keras
        "torch": ["torch>=2.4", "torchvision>=0.19"],  # the backend torch; torchvision's NMS, and its RoIAlign on GPUs
        "safetensors": ["safetensors>=0.4"],  # reads and writes .safetensors files of weights
        # Images larger than the memory: zarr, TIFF, and with OpenSlide what slide scanners write. This zarr writes its
        # blocks atomically (Python 3.11 or newer), and older tifffile does not open TIFF as arrays of zarr 3.
        "wsi": ["zarr>=3.1.6", "tifffile>=2025.5.21", "openslide-python>=1.4", "openslide-bin>=4.0"],
        "video": ["av>=12"],  # predict VIDEO; 40 MB with FFmpeg's libraries
        "parquet": ["pyarrow>=15"],  # predict --measure FILE.parquet
        "ray": ["ray[data]>=2.51"],  # predict --engine ray; 150 MB of wheels, so not among the test tools
        # Data at s3://, gs://, http:// and other addresses; fsspec alone reads memory:// and many more.
        "remote": ["fsspec[http]>=2024.3", "s3fs>=2024.3", "gcsfs>=2024.3"],
        "serving": ["tensorflow-serving-api>=2.18"],  # the gRPC client of samples/serving; brings grpcio
    },
    entry_points={
        "console_scripts": ["keras-maskrcnn = keras_maskrcnn_launcher:main"],
        "napari.manifest": ["keras-maskrcnn = keras_maskrcnn.viewers:napari.yaml"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
