"""Send images to TF Serving over gRPC and draw the detections. See the README beside this file."""

import sys

from drawing_client import nobody_there, refused, run_client, too_late

UNLIMITED = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]  # gRPC's default limit is 4 MB


class GrpcModel:
    """A model behind TF Serving's gRPC port. Its calls may come from several threads.

    Args:
        server: HOST:PORT of the server.
        name: the model's name there.
        version: int, or the label of a version; None for the newest.
        timeout: largest duration of a call, seconds.
    """

    def __init__(self, server, name, version=None, timeout=60.0):
        try:
            import grpc
            import tensorflow as tf
            from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
        except ImportError as error:
            raise ValueError(
                f"The gRPC client needs tensorflow-serving-api. Received: {error}. "
                "Install it: pip install 'keras-maskrcnn[serving]', or use the REST client, which does not need it."
            ) from error
        if "://" in server or ":" not in server:
            raise ValueError(
                f"The server's address must be HOST:PORT, without a scheme. Received: {server}. "
                "TF Serving's gRPC port is 8500 unless --port changes it."
            )
        self.grpc, self.tf = grpc, tf
        self.server, self.timeout = server, timeout
        self.request_of, self.spec = predict_pb2.PredictRequest, {"name": name}
        if isinstance(version, int):
            self.spec["version"] = {"value": version}
        elif version is not None:
            self.spec["version_label"] = version
        self.stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(server, UNLIMITED))

    def predict(self, signature, inputs):
        """Call a signature.

        Args:
            signature: its name.
            inputs: dict from an input's name to B values: bytes objects, or an array.

        Returns:
            Dict from an output's name to an array of B rows; strings as str.

        Raises:
            ConnectionError: no server responds. TimeoutError: the call took too long.
            ValueError: the server rejects the request.
        """
        request = self.request_of(model_spec={**self.spec, "signature_name": signature})
        for name, values in inputs.items():
            request.inputs[name].CopyFrom(self.tf.make_tensor_proto(values))
        try:
            response = self.stub.Predict(request, timeout=self.timeout)
        except self.grpc.RpcError as error:
            raise self._explained(error) from error
        return {name: self.tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}

    def _explained(self, error):
        code = error.code()
        if code == self.grpc.StatusCode.UNAVAILABLE:  # a server with a full queue returns this too
            return nobody_there(self.server, error.details(), "--server")
        if code == self.grpc.StatusCode.DEADLINE_EXCEEDED:
            return too_late(self.server, self.timeout)
        return refused(self.server, code.name, error.details())


def add_connection(parser):
    """Arguments of this client for the server."""
    parser.add_argument("--server", default="127.0.0.1:8500", help="TF Serving's gRPC address")


def main(argv=None):
    """Run the client. Returns its exit status."""
    return run_client(
        __doc__, add_connection, lambda args: GrpcModel(args.server, args.model, args.version, args.timeout), argv
    )


if __name__ == "__main__":
    sys.exit(main())
