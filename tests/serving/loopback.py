"""A stand-in for TF Serving on loopback, for tests: one SavedModel folder behind gRPC and REST.

Comes in: `<directory>/<version>/` as an export writes it. What answers is TensorFlow alone: neither Keras nor this
package is imported. Requests, answers and errors have TF Serving's own forms, from its sources and its REST guide:

    servable.py     versions, signatures, and its batching of several requests into one call
    rest_format.py  JSON <-> arrays (json_tensor.cc)
    loopback.py     the gRPC PredictionService and the HTTP endpoints

Run as a script it prints one line of JSON with its ports, and ends when its standard input does.
"""

import argparse
import json
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import rest_format
import tensorflow as tf
from google.protobuf import json_format
from servable import Refusal, Servable
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

# http_server.cc: ToHTTPStatusCode
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
PATH = re.compile(r"(?i)/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?(:predict|/metadata)?")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; the other calls stay unimplemented, as for any detector."""

    def __init__(self, servable):
        self.servable = servable

    def Predict(self, request, context):
        try:
            return self._predict(request)
        except Refusal as refusal:
            context.abort(grpc.StatusCode[refusal.code], refusal.message)

    def _predict(self, request):
        spec = request.model_spec
        version = self.servable.find(spec.name, spec.version.value or None, spec.version_label)
        signature = spec.signature_name or "serving_default"
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        outputs = self.servable.predict(version, signature, inputs)
        wanted = request.output_filter or outputs
        response = predict_pb2.PredictResponse()
        response.model_spec.name, response.model_spec.signature_name = spec.name, signature
        response.model_spec.version.value = version
        for name in wanted:
            if name not in outputs:
                raise Refusal("INVALID_ARGUMENT", f"output tensor alias not found in signature: {name}")
            response.outputs[name].CopyFrom(tf.make_tensor_proto(outputs[name]))
        return response

    def GetModelMetadata(self, request, context):
        try:
            return metadata(self.servable, request.model_spec.name, request.model_spec.version.value or None)
        except Refusal as refusal:
            context.abort(grpc.StatusCode[refusal.code], refusal.message)


def metadata(servable, name, version, label=""):
    version = servable.find(name, version, label)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name, response.model_spec.version.value = name, version
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for key, signature in servable.signature_defs[version].items():
        signatures.signature_def[key].CopyFrom(signature)
    response.metadata["signature_def"].Pack(signatures)
    return response


def status(servable, name, version):
    servable.find(name, version)
    response = get_model_status_pb2.GetModelStatusResponse()
    for number in sorted(servable.signatures, reverse=True) if version is None else [version]:
        response.model_version_status.add(version=number, state=get_model_status_pb2.ModelVersionStatus.AVAILABLE)
    return response


class RestHandler(BaseHTTPRequestHandler):
    """/v1/models/NAME[/versions/N|/labels/L]: POST :predict, GET its status or /metadata."""

    protocol_version = "HTTP/1.1"
    servable = None

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._reply(lambda match: self._predict(match, body), method="POST")

    def do_GET(self):
        self._reply(self._describe, method="GET")

    def _predict(self, match, body):
        name, version, label, verb = match.groups()
        if verb != ":predict":
            raise Refusal("INVALID_ARGUMENT", f"Malformed request: POST {self.path}")
        version = self.servable.find(name, int(version) if version else None, label or "")
        signature, inputs, row_format = rest_format.read_request(body, lambda key: self.servable.specs(version, key))
        return rest_format.write_answer(self.servable.predict(version, signature, inputs), row_format)

    def _describe(self, match):
        name, version, label, verb = match.groups()
        if verb == ":predict":
            raise Refusal("INVALID_ARGUMENT", f"Malformed request: GET {self.path}")
        number = int(version) if version else None
        described = metadata(self.servable, name, number, label or "") if verb else status(self.servable, name, number)
        return json_format.MessageToJson(described, preserving_proto_field_name=True)

    def _reply(self, answer, method):
        match = PATH.fullmatch(self.path)
        try:
            if match is None:
                raise Refusal("INVALID_ARGUMENT", f"Malformed request: {method} {self.path}")
            code, text = 200, answer(match)
        except Refusal as refusal:
            code, text = HTTP_STATUS.get(refusal.code, 500), json.dumps({"error": refusal.message})
        data = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Quiet: a test has no use for an access log."""


def start(servable):
    """Both servers on free ports of 127.0.0.1. Returns (gRPC server, its port, HTTP server)."""
    service = grpc.server(
        ThreadPoolExecutor(8),
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(servable), service)
    port = service.add_insecure_port("127.0.0.1:0")
    service.start()
    handler = type("Handler", (RestHandler,), {"servable": servable})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    return service, port, http


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory")
    parser.add_argument("--name", default="maskrcnn")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VERSION")
    parser.add_argument("--max-batch-size", type=int, default=0, help="0: no batching")
    parser.add_argument("--batch-timeout-micros", type=int, default=0)
    args = parser.parse_args()
    labels = {name: int(version) for name, version in (label.split("=") for label in args.label)}
    servable = Servable(args.directory, args.name, args.max_batch_size, args.batch_timeout_micros, labels)
    service, port, http = start(servable)
    print(json.dumps({"grpc": f"127.0.0.1:{port}", "rest": f"http://127.0.0.1:{http.server_port}"}), flush=True)
    sys.stdin.read()
    print(json.dumps({"calls": np.array(servable.calls, int).reshape(-1, 2).tolist()}), flush=True)
    http.shutdown()
    service.stop(None)


if __name__ == "__main__":
    main()
