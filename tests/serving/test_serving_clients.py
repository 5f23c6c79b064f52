"""The sample clients, as they are, against gRPC and REST on loopback: base64 JPEG in, numbers and pictures out.

What answers is the exported SavedModel through TensorFlow alone, with TF Serving's batching; see loopback.py.
Minutes long, so `make test-slow` runs it; test_rest_client.py is the short one.
"""

import http.server
import importlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
import soak
from PIL import Image
from soak import as_text, compare_row
from web_servers import Quiet, answering

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]
pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api: pip install -e '.[dev]'")


# Numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["row", "column", "grpc"])
@pytest.mark.parametrize("signature", ["serve_bytes", "serve_rle"])
def test_every_way_gives_the_signatures_own_numbers(way, signature, clients, signatures, photo):
    files = [photo.read_bytes(), soak.good_files()["PNG 96x128"], b"no image"]
    answer = clients[way].predict(signature, {"image_bytes": files})
    expected = signatures[signature](image_bytes=np.array(files, object))
    counts = [compare_row(answer, i, expected, i) for i in range(3)]
    assert min(counts[:2]) > 1 and counts[2] == 0
    assert as_text(answer["problems"])[:2] == ["", ""] and as_text(answer["problems"])[2]
    np.testing.assert_array_equal(answer["image_sizes"], [[70, 150], [96, 128], [0, 0]])  # turned as a viewer shows it
    assert set(as_text(answer["class_names"])) <= {"cat", "dog", "bird", ""}


@pytest.mark.parametrize("way", ["row", "column", "grpc"])
def test_arrays_go_to_serving_default(way, clients, signatures):
    images = np.stack([soak.noise(i, (30, 40)) for i in range(2)])
    answer = clients[way].predict("serving_default", {"images": images})
    expected = signatures["serving_default"](images=images)
    assert min(compare_row(answer, i, expected, i) for i in range(2)) > 0


def test_versions_and_labels_are_those_asked_for(server, samples):
    from grpc_client import GrpcModel
    from rest_client import RestModel

    inputs = {"image_bytes": [soak.good_files()["PNG 64x64"]]}
    for model, address in ((RestModel, server.rest), (GrpcModel, server.grpc)):
        for version in (1, 2, "stable"):
            assert model(address, "maskrcnn", version).predict("serve_bytes", inputs)["valid"].any()
        for version, said in ((3, "Servable not found"), ("beta", "version label: beta")):
            with pytest.raises(ValueError, match=said):
                model(address, "maskrcnn", version).predict("serve_bytes", inputs)


def test_metadata_and_status_have_tf_servings_form(server):
    import grpc
    from tensorflow_serving.apis import get_model_metadata_pb2, prediction_service_pb2_grpc

    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "maskrcnn"
    with grpc.insecure_channel(server.grpc) as channel:
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(request, timeout=20)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    (files,) = signatures.signature_def["serve_bytes"].inputs.values()
    assert files.dtype == 7 and [dim.size for dim in files.tensor_shape.dim] == [-1]  # DT_STRING (B,)
    shown = json.load(urllib.request.urlopen(f"{server.rest}/v1/models/maskrcnn/metadata", timeout=20))
    shown = shown["metadata"]["signature_def"]["signature_def"]
    assert set(shown) == set(signatures.signature_def) and "serve_rle" in shown
    status = json.load(urllib.request.urlopen(f"{server.rest}/v1/models/maskrcnn", timeout=20))
    assert [(s["version"], s["state"]) for s in status["model_version_status"]] == [
        ("2", "AVAILABLE"),
        ("1", "AVAILABLE"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"signature_name": "serve_bytes"}',
        b'{"signature_name": "serve_bytes", "instances": []}',
        b'{"signature_name": "serve_bytes", "instances": [{"image": {"b64": "AA=="}}]}',
        b'{"signature_name": "serve_bytes", "instances": [{"image_bytes": {"b64": "*"}}]}',
        b'{"signature_name": "serve_bytes", "inputs": {}}',
        b'{"signature_name": "none", "instances": [1]}',
        b'{"instances": [[[[1, 2, 3]], [[1, 2]]]]}',
    ],
)
def test_requests_that_tf_serving_refuses_get_400_and_an_error(server, body):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{server.rest}/v1/models/maskrcnn:predict", body, timeout=20)
    assert caught.value.code == 400
    assert list(json.load(caught.value)) == ["error"]


# Programs ----------------------------------------------------------------------------------------------------------


def expected_picture(signatures, photo, min_score):
    """What the clients must draw, from the signature's own answer in this process."""
    from drawing_client import found_in

    from keras_maskrcnn import draw_instances
    from keras_maskrcnn.data import read_image

    found = found_in(signatures["serve_bytes"](image_bytes=np.array([photo.read_bytes()], object)), 0)
    image = read_image(photo)
    picture = draw_instances(image, found, min_score)
    assert (picture != image).any(axis=-1).mean() > 0.05  # something was drawn
    return picture


def test_the_rest_client_as_a_script_draws_what_the_signature_found(samples, server, signatures, photo, tmp_path):
    command = [sys.executable, samples / "rest_client.py", photo, "--url", server.rest, "--score", "0.2"]
    run = subprocess.run([*map(str, command), "--output", str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    picture = np.asarray(Image.open(tmp_path / "0000-photo.png"))
    assert (picture == expected_picture(signatures, photo, 0.2)).all(axis=-1).mean() > 0.999
    assert "instances in" in run.stdout and "cat 0." in run.stdout + "cat 0."


@pytest.mark.parametrize("program", ["rest_client", "grpc_client"])
@pytest.mark.parametrize("signature", ["serve_bytes", "serve_rle", "serving_default"])
def test_every_signature_gives_the_same_picture(program, signature, samples, server, signatures, photo, tmp_path):
    module = importlib.import_module(program)
    address = ["--url", server.rest] if program == "rest_client" else ["--server", server.grpc]
    arguments = [str(photo), *address, "--signature", signature, "--score", "0.2", "--output", str(tmp_path)]
    assert module.main(arguments) == 0
    picture = np.asarray(Image.open(tmp_path / "0000-photo.png"))
    expected = expected_picture(signatures, photo, 0.2)
    # Arrays were decoded by Pillow, whose JPEG reader rounds a little differently.
    assert (picture == expected).all(axis=-1).mean() > (0.97 if signature == "serving_default" else 0.999)
    assert [path.name for path in tmp_path.iterdir()] == ["0000-photo.png"]


def test_load_measures_a_served_model_and_writes_its_figures(samples, server, photo, tmp_path, capsys):
    import load

    for url in (server.rest, f"grpc://{server.grpc}"):
        arguments = ["--requests", "4", "--batch-sizes", "1", "3", "--json", str(tmp_path / "figures.json")]
        assert load.main([str(photo), "--url", url, *arguments]) == 0
        results = json.loads((tmp_path / "figures.json").read_text())
        assert [(r["batch_size"], r["requests"], r["errors"], r["unread"]) for r in results] == [
            (1, 4, 0, 0),
            (3, 4, 0, 0),
        ]
        assert all(0 < r["p50_ms"] <= r["p99_ms"] and r["images_per_second"] > 0 for r in results)
        assert len(capsys.readouterr().out.splitlines()) == 4


# Mistakes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def other_server():
    """Something that listens but is not TF Serving: it says hello to every POST."""

    class Hello(Quiet, http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

    with answering(Hello) as address:
        yield address


@pytest.fixture
def silent_port():
    """A port that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def complaint(program, arguments, capsys):
    assert importlib.import_module(program).main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


def test_mistakes_are_named_with_their_remedy(samples, server, photo, tmp_path, other_server, silent_port, capsys):
    shutil.copy(photo, tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes(photo.read_bytes()[:400])
    rest, grpc = ["--url", server.rest], ["--server", server.grpc]
    nobody = free_port()
    for program, arguments, said in (
        ("rest_client", [tmp_path / "none.jpg", *rest], "must exist. Received .*none.jpg"),
        ("grpc_client", [tmp_path / "cut.jpg", *grpc], "must be complete"),
        ("rest_client", [photo, "--url", f"http://127.0.0.1:{nobody}"], "must listen .* Start it"),
        ("grpc_client", [photo, "--server", f"127.0.0.1:{nobody}"], "must listen .* Start it"),
        ("rest_client", [photo, "--url", f"http://127.0.0.1:{silent_port}", "--timeout", "0.3"], "within 0.3 s"),
        ("grpc_client", [photo, "--server", f"127.0.0.1:{silent_port}", "--timeout", "0.3"], "within 0.3 s|listen"),
        ("rest_client", [photo, *rest, "--model", "yolo"], "status 404 .*Servable not found"),
        ("grpc_client", [photo, *grpc, "--model", "yolo"], "NOT_FOUND .*Servable not found"),
        ("rest_client", [photo, "--url", other_server], "Received .*hello.*Check that TF Serving"),
        ("rest_client", [photo, "--url", "127.0.0.1:8501"], "must be http://HOST:PORT"),
        ("grpc_client", [photo, "--server", server.rest], "without a scheme"),
    ):
        text = complaint(program, [*arguments, "--output", tmp_path / "found"], capsys)
        assert re.search(said, text), f"{program} {arguments}: {text}"
        assert "Traceback" not in text
    assert not list((tmp_path / "found").glob("*"))


# Many at once ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def singly(signatures):
    """The answer to every file of the soak, asked alone. They differ, so that a swap of images shows."""
    good, damaged = soak.good_files(), soak.damaged_files()
    answers = {
        name: signatures["serve_bytes"](image_bytes=np.array([data], object)) for name, data in (good | damaged).items()
    }
    assert len({answers[name]["boxes"].round(1).tobytes() for name in good}) == len(good)
    assert all(answers[name]["num_detections"] > 0 for name in good)
    assert all(answers[name]["num_detections"] == 0 and answers[name]["problems"][0] for name in damaged)
    return answers


def run_soak(models, singly, process, requests, most_files, first):
    """Ask with all clients at once, check every answer, and compare the memory after `first` answers and after all."""
    good, damaged = soak.good_files(), soak.damaged_files()
    lists = [soak.requests(seed, requests, most_files, good, damaged) for seed in range(len(models))]
    memory = {}

    def after_request(number):
        if number in (first, requests * len(models)):
            memory[number] = soak.resident(process)

    answers = soak.run_clients(models, lists, good | damaged, "serve_bytes", after_request)
    files = [name for names_of_requests in lists for names in names_of_requests for name in names]
    assert soak.check_answers(lists, answers, singly) == len(files)
    assert 0.02 < sum(name in damaged for name in files) / len(files) < 0.1
    before, after = memory[first], memory[requests * len(models)]
    assert after < 1.05 * before, f"{before / 2**20:.0f} MiB after {first} requests, {after / 2**20:.0f} MiB after all"
    return memory


needs_proc = pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="memory is read from /proc")


@needs_proc
def test_two_clients_at_once_get_the_answers_of_their_own_images(clients, servable, singly):
    before = len(servable.calls)
    run_soak([clients["row"], clients["grpc"]], singly, os.getpid(), requests=40, most_files=1, first=20)
    assert sum(requests > 1 for requests, _ in servable.calls[before:]) > 10  # of both clients in one call


@needs_proc
@pytest.mark.slow
def test_two_clients_of_200_requests_to_a_server_of_its_own(export, samples, singly):
    from grpc_client import GrpcModel
    from rest_client import RestModel

    server = soak.ServerProcess(export, "--max-batch-size", 4, "--batch-timeout-micros", 5000)
    models = [RestModel(server.rest, "maskrcnn", layout="column"), GrpcModel(server.grpc, "maskrcnn")]
    memory = run_soak(models, singly, server.process.pid, requests=200, most_files=3, first=50)
    calls = server.stop()
    print(f"{len(calls)} calls, at most {max(rows for _, rows in calls)} files; memory {memory}")
    assert sum(requests > 1 for requests, _ in calls) > 50 and max(rows for _, rows in calls) == 4
