"""The JSON of TF Serving's REST API by hand-written examples, from both ends, and the load script's arithmetic."""

import json
import threading

import numpy as np
import pytest
import soak
from PIL import Image

pytestmark = pytest.mark.tensorflow
pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api: pip install -e '.[dev]'")

OUTPUTS = {
    "labels": np.array([[1, 0], [2, 2]], np.int32),
    "scores": np.array([[0.2, 1.0], [0.5, 1e-9]], np.float32),
    "valid": np.array([[True, False], [True, True]]),
    "class_names": np.array([[b"cat", b""], [b"\xc3\xa4", b"dog"]], object),
    "code_bytes": np.array([b"\x00\xff", b"a"], object),
}
ROWS = """{"predictions": [
    {"labels": [1, 0], "scores": [0.2, 1.0], "valid": [true, false], "class_names": ["cat", ""],
     "code_bytes": {"b64": "AP8="}},
    {"labels": [2, 2], "scores": [0.5, 1e-09], "valid": [true, true], "class_names": ["\\u00e4", "dog"],
     "code_bytes": {"b64": "YQ=="}}]}"""
COLUMNS = """{"outputs": {
    "labels": [[1, 0], [2, 2]], "scores": [[0.2, 1.0], [0.5, 1e-09]], "valid": [[true, false], [true, true]],
    "class_names": [["cat", ""], ["\\u00e4", "dog"]], "code_bytes": [{"b64": "AP8="}, {"b64": "YQ=="}]}}"""


@pytest.mark.parametrize(("text", "row_format"), [(ROWS, True), (COLUMNS, False)])
def test_the_server_writes_and_the_client_reads_tf_servings_answer(text, row_format, samples):
    import rest_format
    from rest_client import decode_answer

    assert json.loads(rest_format.write_answer(OUTPUTS, row_format)) == json.loads(text)
    decoded = decode_answer(json.loads(text))
    assert set(decoded) == set(OUTPUTS)
    for name in ("labels", "scores", "valid"):
        np.testing.assert_array_equal(decoded[name], OUTPUTS[name])
    assert decoded["scores"].dtype == np.float32 and decoded["valid"].dtype == bool
    assert decoded["class_names"].tolist() == [["cat", ""], ["ä", "dog"]]
    assert decoded["code_bytes"].tolist() == [b"\x00\xff", b"a"]


def test_an_only_output_goes_without_its_name():
    import rest_format

    only = {"num_detections": np.array([3, 4])}
    assert rest_format.write_answer(only, True) == '{"predictions": [3, 4]}'
    assert rest_format.write_answer(only, False) == '{"outputs": [3, 4]}'


def test_the_client_writes_and_the_server_reads_every_form_of_a_request(samples):
    import rest_format
    import tensorflow as tf
    from rest_client import encode_columns, encode_rows

    spec = {"image_bytes": tf.TensorSpec((None,), tf.string)}
    inputs = {"image_bytes": [b"\x89PNG", b"GIF8"]}
    assert encode_rows(inputs) == {
        "instances": [{"image_bytes": {"b64": "iVBORw=="}}, {"image_bytes": {"b64": "R0lGOA=="}}]
    }
    assert encode_columns(inputs) == {"inputs": {"image_bytes": [{"b64": "iVBORw=="}, {"b64": "R0lGOA=="}]}}
    unnamed = [
        {"instances": [{"b64": "iVBORw=="}, {"b64": "R0lGOA=="}]},
        {"inputs": [{"b64": "iVBORw=="}, {"b64": "R0lGOA=="}]},
    ]
    for body in (encode_rows(inputs), encode_columns(inputs), *unnamed):
        body = json.dumps({"signature_name": "serve_bytes"} | body).encode()
        signature, read, row_format = rest_format.read_request(body, lambda _: spec)
        assert signature == "serve_bytes" and row_format == (b"instances" in body)
        assert read["image_bytes"].tolist() == [b"\x89PNG", b"GIF8"]
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    for encode in (encode_rows, encode_columns):
        body = json.dumps(encode({"images": pixels})).encode()
        _, read, _ = rest_format.read_request(body, lambda _: {"images": tf.TensorSpec((None,) * 4, tf.uint8)})
        np.testing.assert_array_equal(read["images"], pixels)


def test_batching_joins_waiting_requests_splits_by_rows_and_shares_its_errors():
    from servable import Batcher, Refusal, merge

    sizes, begun, held = [], threading.Event(), threading.Event()

    def call(tasks):
        begun.set()
        assert held.wait(60)
        merged = merge("x", [task["x"] for task in tasks])
        sizes.append([len(task["x"]) for task in tasks])
        ends = np.cumsum(sizes[-1])
        return [{"y": merged[end - n : end] * 10} for n, end in zip(sizes[-1], ends)]

    batcher = Batcher(call, max_rows=4, timeout_s=0.0)
    with pytest.raises(Refusal, match="at least one dimension"):
        batcher.run({"x": np.array(1)})
    tasks = [np.array([1]), np.array([2, 3]), np.array([4]), np.array([5, 6, 7]), np.ones((1, 2))]
    answers = [batcher.submit({"x": tasks[0]})]
    assert begun.wait(60)  # the first is being called: the others queue in this order
    answers += [batcher.submit({"x": task}) for task in tasks[1:]]
    held.set()
    assert [answer.result(60)["y"].tolist() for answer in answers[:3]] == [[10], [20, 30], [40]]
    assert [answer.exception(60).code for answer in answers[3:]] == ["FAILED_PRECONDITION"] * 2
    assert sizes == [[1], [2, 1]]  # then [3, 1], whose shapes differ


# load.py -----------------------------------------------------------------------------------------------------------


class KnownModel:
    """The n-th call takes n milliseconds of a clock that stands still otherwise; every fifth call is refused."""

    def __init__(self, together=1):
        self.sizes, self.now, self.lock = [], 0.0, threading.Lock()
        self.together = threading.Barrier(together, timeout=60)

    def perf_counter(self):
        return self.now

    def predict(self, signature, inputs):
        self.together.wait()  # an error unless so many calls are under way at once
        with self.lock:
            self.sizes.append(len(inputs["image_bytes"]))
            self.now += len(self.sizes) / 1000
            refused = len(self.sizes) % 5 == 0
        if refused:
            raise ValueError("too much")
        return {"problems": np.array([b"" if data == b"a" else b"bad" for data in inputs["image_bytes"]], object)}


def measured(model, monkeypatch, concurrency):
    import load

    monkeypatch.setattr(load, "time", model)
    return load.measure(model, "serve_bytes", [b"a", b"b"], batch_size=2, num_requests=18, concurrency=concurrency)


def test_load_counts_requests_errors_and_times(samples, monkeypatch):
    from load import format_table

    model = KnownModel()
    result = measured(model, monkeypatch, concurrency=1)
    assert model.sizes == [2] * 19  # one to warm up
    assert result["requests"] == 18 and result["errors"] == 3 and result["first_error"] == "too much"
    assert result["unread"] == 15  # the second file of each answered request
    answered = [n for n in range(2, 20) if n % 5]  # and milliseconds
    for q in (50, 90, 99):
        assert result[f"p{q}_ms"] == pytest.approx(np.percentile(answered, q))
    assert result["seconds"] == pytest.approx(sum(range(2, 20)) / 1000)  # the refused took their time too
    assert result["images_per_second"] == pytest.approx(2 * 15 / 0.189)
    lines = format_table([result]).splitlines()
    assert lines[0].startswith("| batch size | concurrency | requests | errors | images per second | p50 ms |")
    assert lines[2].startswith("| 2 | 1 | 18 | 3 | 158.7 | 11 |")


def test_load_keeps_so_many_requests_under_way(samples, monkeypatch):
    model = KnownModel(together=2)
    result = measured(model, monkeypatch, concurrency=2)
    assert model.sizes == [2] * 20 and result["errors"] == 4  # two to warm up; no call waited for a second in vain


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--url", "http://192.0.2.1:8501"], "Add --my-own-server"),
        (["--url", "grpc://example.com:8500"], "Add --my-own-server"),
        (["--requests", "9000"], "between 1 and 10000"),
        (["--concurrency", "65"], "between 1 and 64"),
        (["--batch-sizes", "1", "0"], "between 1 and 64"),
        (["--url", "http://127.0.0.1:1", "--requests", "1", "--timeout", "1"], "must listen"),
    ],
)
def test_load_refuses_what_is_too_much_or_not_ones_own(arguments, said, samples, tmp_path, capsys):
    import load

    Image.fromarray(soak.noise(0, (8, 8))).save(tmp_path / "a.png")
    assert load.main([str(tmp_path / "a.png"), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_loopback_addresses_are_told_from_others(samples):
    from load import is_loopback

    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.9.9.9", "::1"]))
    assert not any(map(is_loopback, ["", "localhost.example.com", "127.0.0.1.example.com", "10.0.0.1", "0.0.0.0"]))
