"""Send images to TF Serving over REST and draw the detections. See the README beside this file."""

import base64
import json
import sys
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
from drawing_client import nobody_there, refused, run_client, too_late


class RestModel:
    """A model behind TF Serving's REST endpoint. Its calls may come from several threads.

    Args:
        url: http://HOST:PORT of the server.
        name: the model's name there.
        version: int, or the label of a version; None for the newest.
        timeout: largest duration of a call, seconds.
        layout: "row" sends and receives one object per image, "column" one list per input and output.
    """

    def __init__(self, url, name, version=None, timeout=60.0, layout="row"):
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(
                f"The server's address must be http://HOST:PORT or https://HOST:PORT. Received: {url}. "
                "TF Serving's REST port is 8501 unless --rest_api_port changes it."
            )
        if version is not None:
            name += f"/versions/{version}" if isinstance(version, int) else f"/labels/{version}"
        self.url = f"{url.rstrip('/')}/v1/models/{name}:predict"
        self.timeout = timeout
        self.encode = {"row": encode_rows, "column": encode_columns}[layout]

    def predict(self, signature, inputs):
        """Call a signature.

        Args:
            signature: its name.
            inputs: dict from an input's name to B values: bytes objects, or an array.

        Returns:
            Dict from an output's name to an array of B rows.

        Raises:
            ConnectionError: no server responds. TimeoutError: the call took too long.
            ValueError: the server rejects the request, or is not TF Serving.
        """
        body = json.dumps({"signature_name": signature} | self.encode(inputs)).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            raise refused(self.url, f"status {error.code}", error_message(error.read())) from error
        except TimeoutError as error:
            raise too_late(self.url, self.timeout) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise too_late(self.url, self.timeout) from error
            raise nobody_there(self.url, error.reason, "--url") from error
        return decode_answer(parse(text, self.url))


def error_message(text):
    """The message in an error body: TF Serving's {"error": ...}, or the start of the body."""
    try:
        return json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        return text[:200].decode("utf-8", "replace")


def encode_rows(inputs):
    """Row format: one object for each image, {"instances": [{name: value}, ...]}."""
    columns = {name: encode_values(values) for name, values in inputs.items()}
    return {"instances": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}


def encode_columns(inputs):
    """Column format: one list for each input, {"inputs": {name: [value, ...]}}."""
    return {"inputs": {name: encode_values(values) for name, values in inputs.items()}}


def encode_values(values):
    """Convert B values to JSON: bytes to {"b64": ...}, arrays to nested lists."""
    if isinstance(values, np.ndarray):
        return values.tolist()
    return [{"b64": base64.b64encode(value).decode("ascii")} for value in values]


def parse(text, url):
    """The JSON object of a response."""
    try:
        answer = json.loads(text)
        if "predictions" in answer or "outputs" in answer:
            return answer
    except (ValueError, TypeError):
        pass  # reported below, with the response
    raise ValueError(
        f'TF Serving must return a JSON object with "predictions" or "outputs". Received from {url}: '
        f"{text[:200].decode('utf-8', 'replace')!r}. Check that TF Serving listens at this address."
    )


def decode_answer(answer):
    """Row ("predictions") or column ("outputs") format to a dict from an output's name to an array of B rows."""
    columns = answer.get("outputs")
    if columns is None:
        rows = answer["predictions"]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {name: decode_values(values) for name, values in columns.items()}


def decode_values(values):
    """Nested lists to an array: numbers as float32 or int64, bool, text as str, {"b64": ...} as bytes."""
    array = np.array(values)
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.dtype == object:
        flat = [base64.b64decode(value["b64"]) for value in array.ravel()]
        decoded = np.empty(array.size, object)
        decoded[:] = flat
        return decoded.reshape(array.shape)
    return array


def add_connection(parser):
    """Arguments of this client for the server."""
    parser.add_argument("--url", default="http://127.0.0.1:8501", help="TF Serving's REST address")
    parser.add_argument(
        "--layout", choices=("row", "column"), default="row", help="JSON format of requests and responses"
    )


def main(argv=None):
    """Run the client. Returns its exit status."""
    return run_client(
        __doc__,
        add_connection,
        lambda args: RestModel(args.url, args.model, args.version, args.timeout, args.layout),
        argv,
    )


if __name__ == "__main__":
    sys.exit(main())
