"""The files that start TF Serving parse as the messages it reads, and name what is there."""

import pathlib
import re

import pytest
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,  # noqa: F401 (registers Int64Value)
)

SAMPLE = pathlib.Path(__file__).parents[2] / "samples" / "serving"

pytestmark = pytest.mark.tensorflow
pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api: pip install -e '.[dev]'")


def batching_parameters_type():
    """tensorflow.serving.BatchingParameters, which no Python package ships.

    Field names, numbers and types as in tensorflow_serving/servables/tensorflow/session_bundle_config.proto.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name="session_bundle_config_for_tests.proto",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    message = file.message_type.add(name="BatchingParameters")
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    for number, name in enumerate(names, start=1):
        message.field.add(
            name=name, number=number, type=11, label=1, type_name=".google.protobuf.Int64Value"
        )  # 11: message
    message.field.add(name="thread_pool_name", number=5, type=11, label=1, type_name=".google.protobuf.StringValue")
    message.field.add(name="allowed_batch_sizes", number=6, type=3, label=3)  # int64, repeated
    message.field.add(name="pad_variable_length_inputs", number=7, type=8, label=1)  # bool
    pool = descriptor_pool.Default()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.BatchingParameters"))


def test_the_batching_parameters_are_a_message_that_never_pads_images():
    parsed = text_format.Parse((SAMPLE / "batching_parameters.txt").read_text(), batching_parameters_type()())
    assert parsed.max_batch_size.value == 4
    assert parsed.batch_timeout_micros.value == 5000
    assert parsed.num_batch_threads.value == 1
    assert parsed.max_enqueued_batches.value == 16
    assert not parsed.pad_variable_length_inputs


def test_the_model_config_serves_two_versions_of_the_name_that_the_clients_ask_for():
    from tensorflow_serving.config import model_server_config_pb2

    text = (SAMPLE / "models.config").read_text()
    (model,) = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    assert (model.name, model.model_platform, model.base_path) == ("maskrcnn", "tensorflow", "/models/maskrcnn")
    assert list(model.model_version_policy.specific.versions) == [1, 2]
    assert dict(model.version_labels) == {"stable": 1, "canary": 2}


def test_compose_mounts_files_that_exist_where_its_flags_look():
    text = (SAMPLE / "docker-compose.yml").read_text()
    mounts = dict(re.findall(r'- "(\./[^:"]+):([^:"]+):ro"', text))
    assert len(mounts) == 2
    for source in mounts:
        assert (SAMPLE / source).is_file()
    flags = dict(re.findall(r'- "--(\w+)=([^"]+)"', text))
    assert flags["model_config_file"] == mounts["./models.config"]
    assert flags["batching_parameters_file"] == mounts["./batching_parameters.txt"]
    assert ":/models/maskrcnn:ro" in text  # the base path of models.config
    assert all(port.startswith("127.0.0.1:") for port in re.findall(r'- "([\d.:]+)" #', text))
