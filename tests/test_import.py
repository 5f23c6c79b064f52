"""What importing changes in a process: neither environment, output nor memory. Help and data commands: no framework.

Every case runs in a process of its own, where nothing is imported yet.
"""

import json
import subprocess
import sys

import pytest

import keras_maskrcnn as km
from keras_maskrcnn import cli
from keras_maskrcnn.data import generate_shapes

FRAMEWORKS = ("keras", "tensorflow", "jax", "torch")
HEAVY = (*FRAMEWORKS, "matplotlib", "skimage")
LAUNCH = """
import json, sys
import keras_maskrcnn_launcher
report, terminal, sys.argv = sys.argv[1], sys.argv[2] == "terminal", ["keras-maskrcnn", *sys.argv[3:]]
if terminal:
    sys.stdout.isatty = lambda: True
try:
    status = keras_maskrcnn_launcher.main()
except SystemExit as stop:
    status = stop.code
with open(report, "w") as file:
    json.dump({"status": status, "modules": sorted({name.split(".")[0] for name in sys.modules})}, file)
"""
PUBLIC_DATA = (  # names of km.data: those of a release stay
    "ArrayDataset CocoDataset ColorJitter CopyPaste CsvDataset DataLoader Dataset DsbDataset EpochSync Fault "
    "ImageError Instance InstanceFilesDataset LabelImageDataset LabelmeDataset LargeScaleJitter MaskWindow Polygons "
    "RandomApply RandomBlur RandomCrop RandomFlip RandomJpeg RandomNoise RandomRotate90 RandomRotation Record Resize "
    "ResizeByScale RunLengths Sample ScaleJitter Via3Dataset ViaDataset VocDataset YoloDataset generate_shapes "
    "from_matterport generate_figures open_dataset preset read_image"
).split()


def run(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def launch(tmp_path, *arguments, output="pipe"):
    """Run the command line. Returns its status, the top modules that it imported, and its output."""
    report = tmp_path / "report-of-modules.json"
    done = run(LAUNCH, report, output, *arguments)
    content = json.loads(report.read_text())
    return content["status"], set(content["modules"]), done


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    generate_shapes(folder, 4, image_size=64)
    return folder


def commands(shapes, output):
    data = [shapes / "annotations.json", "--images", shapes / "images"]
    return {
        "check-data": ["check-data", *data, "--output", output / "check"],
        "convert-data": ["convert-data", *data, output / "coco.json"],
        "split": ["split", *data, output / "parts"],
        "preview-augmentation": [
            "preview-augmentation", "--annotations", *data, "--output", output / "sheet.png", "--image-scale", "1",
            "--count", "1", "--variants", "1", "--crop", "32",
        ],
    }  # fmt: skip


IMPORT = """
import json, os, resource, sys
import keras  # TensorFlow itself sets variables
environment, keras_modules = dict(os.environ), set(sys.modules)
print("before", flush=True)
import keras_maskrcnn as km
print("after", flush=True)
changed = sorted(set(environment.items()) ^ set(os.environ.items()))
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // 2**20
if sys.platform.startswith("linux"):
    model = km.MaskRCNN(km.MaskRCNNConfig(num_classes=1, backbone="resnet10"))
    first = resident()
    block = bytearray(b"1") * 2**28
    full = resident()
    del block
    freed = full - resident()
else:
    first, full, freed = 0, 256, 256
registered = keras.saving.get_registered_object("keras_maskrcnn>MaskRCNN") is km.MaskRCNN
with open(sys.argv[1], "w") as file:
    json.dump({"environment": changed, "block": full - first, "freed": freed, "registered": registered}, file)
"""


def test_import_and_a_model_leave_environment_output_and_memory_as_they_were(tmp_path):
    done = run(IMPORT, tmp_path / "report.json")
    assert done.stdout == "before\nafter\n"
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["environment"] == [] and report["registered"] is True
    # Freed memory goes back to the kernel: the C library's settings are its own.
    assert report["block"] > 200 and report["freed"] > 200


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--batch-size", "0"], ["train", "--epochs", "1"], ["fly"]])
def test_help_and_mistakes_need_no_framework(tmp_path, arguments):
    status, modules, done = launch(tmp_path, *arguments)
    assert status == (cli.SUCCESS if arguments == ["--help"] else cli.MISTAKE)
    assert not modules & {*HEAVY, "numpy", "PIL"}
    assert "Traceback" not in done.stderr and (done.stdout if status == cli.SUCCESS else done.stderr)


def test_the_help_of_every_command_needs_no_framework(tmp_path):
    code = """
import contextlib, io, sys
import keras_maskrcnn_launcher
keras_maskrcnn_launcher.register_package()
from keras_maskrcnn import cli
for command in cli._COMMANDS:
    with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit):
        cli.main([command.name, "--help"])
    assert f"keras-maskrcnn {command.name}" in told.getvalue()
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""
    modules = set(run(code).stdout.split())
    assert "keras_maskrcnn" in modules and not modules & {*HEAVY, "numpy", "PIL"}


DATA_COMMANDS = ["check-data", "convert-data", "split", "preview-augmentation"]


@pytest.mark.parametrize("command", DATA_COMMANDS)
def test_data_commands_need_no_framework(tmp_path, shapes, command):
    status, modules, done = launch(tmp_path, *commands(shapes, tmp_path)[command])
    assert status == cli.SUCCESS, done.stderr
    assert "wrote" in done.stdout or "train: --images" in done.stdout
    assert "numpy" in modules and not modules & set(FRAMEWORKS)


def test_data_commands_on_a_terminal_need_no_framework(tmp_path, shapes):
    status, modules, done = launch(tmp_path, *commands(shapes, tmp_path)["check-data"], output="terminal")
    assert status == cli.SUCCESS, done.stderr
    assert "numpy" in modules and not modules & set(FRAMEWORKS)


def test_a_command_with_a_model_gets_the_whole_package_and_keeps_freed_memory():
    code = """
import sys
import keras_maskrcnn_launcher
keras_maskrcnn_launcher.register_package()
from keras_maskrcnn import cli
assert "keras" not in sys.modules
keras_maskrcnn_launcher.prepare_models()
keras_maskrcnn_launcher.prepare_models()
import keras_maskrcnn as km
from keras_maskrcnn.host import memory
assert km.cli is cli and km.data.DataLoader is km.DataLoader
print(km.__version__, memory.keep_for_models.cache_info().misses, "keras" in sys.modules)
"""
    done = run(code)
    assert done.stdout.split() == [km.__version__, "1", "True"]
    assert done.stderr == ""  # TensorFlow's messages are held back


def test_all_names_of_data_are_there_before_they_are_imported():
    assert sorted(km.data.__all__) == sorted(PUBLIC_DATA) and set(PUBLIC_DATA) <= set(dir(km.data))
    for name in PUBLIC_DATA:
        assert getattr(km.data, name).__name__ == name
    star = {}
    exec("from keras_maskrcnn.data import *", star)
    assert set(PUBLIC_DATA) <= set(star)
    with pytest.raises(AttributeError, match="no attribute 'JpegDataset'"):
        km.data.JpegDataset  # noqa: B018
