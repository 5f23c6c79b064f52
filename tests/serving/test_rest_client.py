"""The REST client as a program, against one answer written by hand: what it sends, what it draws, what it prints."""

import base64
import http.server
import json

import numpy as np
import pytest
from PIL import Image
from soak import encode, noise
from web_servers import Quiet, answering

pytestmark = pytest.mark.tensorflow

# One image of 40 x 60 pixels: a cat whose mask fills its box, a bird below the score, a row of padding.
ANSWER = {
    "num_detections": 2,
    "image_sizes": [40, 60],
    "boxes": [[10.0, 8.0, 30.0, 28.0], [40.0, 30.0, 55.0, 39.0], [0.0] * 4],
    "scores": [0.9, 0.3, 0.0],
    "labels": [0, 2, 0],
    "valid": [True, True, False],
    "class_names": ["cat", "bird", ""],
    "masks": [[[1.0] * 28] * 28, [[1.0] * 28] * 28, [[0.0] * 28] * 28],
    "problems": "",
}


@pytest.fixture
def server():
    """Answers every POST with ANSWER; `asked` holds (path, body)."""
    asked = []

    class Handler(Quiet, http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            data = json.dumps({"predictions": [ANSWER]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with answering(Handler) as address:
        yield address, asked


def test_the_rest_client_sends_a_file_and_draws_the_answer(samples, server, tmp_path, capsys):
    import rest_client

    url, asked = server
    image, photo = noise(1, (40, 60)), tmp_path / "photo.png"
    photo.write_bytes(encode(image, "PNG"))
    assert rest_client.main([str(photo), "--url", url, "--output", str(tmp_path / "found")]) == 0
    body = {"image_bytes": {"b64": base64.b64encode(photo.read_bytes()).decode()}}
    assert asked == [("/v1/models/maskrcnn:predict", {"signature_name": "serve_bytes", "instances": [body]})]
    changed = (np.asarray(Image.open(tmp_path / "found" / "0000-photo.png")) != image).any(axis=-1)
    assert changed[10:26, 12:28].all()  # the cat's mask
    assert not changed[30:].any()  # the bird's box
    assert "1 instances in" in (told := capsys.readouterr().out) and "cat 0.90" in told and "bird" not in told


def test_an_image_that_the_server_saw_in_another_size_is_refused(samples, server, tmp_path, capsys):
    import rest_client

    photo = tmp_path / "photo.png"
    photo.write_bytes(encode(noise(1, (60, 40)), "PNG"))
    assert rest_client.main([str(photo), "--url", server[0], "--output", str(tmp_path / "found")]) == 2
    assert "must read the same image. Received a response for (height, width) (40, 60)" in capsys.readouterr().err
    assert not list((tmp_path / "found").glob("*"))
