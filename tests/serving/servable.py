"""The versions of one SavedModel, and TF Serving's batching: rows of several requests in one call of a signature.

The batching follows tensorflow_serving/batching/batching_session.cc: requests of one signature are concatenated along
their first axis in order of arrival, and the outputs are split by the same counts. As there, an error of the call is
the error of all requests in it, and inputs of different shapes beyond the first axis fail the batch.
"""

import pathlib
import queue
import threading
import time
from concurrent.futures import Future

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

STATUS_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}  # TensorFlow numbers its errors as gRPC does


class Refusal(Exception):
    """An error answer: the name of a gRPC status and what it says."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


class Servable:
    """All versions in a folder. `calls` records (requests, rows) of every call of a signature."""

    def __init__(self, directory, name, max_batch_size=0, batch_timeout_micros=0, labels=None):
        folders = {int(path.name): path for path in pathlib.Path(directory).iterdir() if path.name.isdigit()}
        self.name, self.labels = name, labels or {}
        self.calls = []
        self.batching = (max_batch_size, batch_timeout_micros / 1e6)
        real = {version: path.resolve() for version, path in folders.items()}  # a link to a version costs nothing
        self._models = {path: tf.saved_model.load(str(path)) for path in set(real.values())}
        self.signatures = {version: dict(self._models[path].signatures) for version, path in real.items()}
        self.signature_defs = {version: read_signature_defs(path) for version, path in folders.items()}
        self._queues, self._lock = {}, threading.Lock()

    def find(self, name, version=None, label=""):
        """The version asked for; the latest where none is named."""
        if label:
            if label not in self.labels:
                raise Refusal("INVALID_ARGUMENT", f"Unrecognized servable version label: {label}")
            version = self.labels[label]
        version = max(self.signatures) if version is None else version
        if name != self.name or version not in self.signatures:
            raise Refusal("NOT_FOUND", f"Servable not found for request: Specific({name}, {version})")
        return version

    def specs(self, version, signature):
        """Input name -> TensorSpec."""
        return self._signature(version, signature).structured_input_signature[1]

    def predict(self, version, signature, inputs):
        """Dict of arrays -> dict of arrays, alone or in a batch with other requests."""
        specs = self.specs(version, signature)
        if set(inputs) != set(specs):
            raise Refusal("INVALID_ARGUMENT", f"inputs must be {sorted(specs)}, received {sorted(inputs)}")
        if not self.batching[0]:
            return self._call(version, signature, [inputs])[0]
        with self._lock:
            key = (version, signature)
            if key not in self._queues:
                self._queues[key] = Batcher(lambda tasks: self._call(version, signature, tasks), *self.batching)
        return self._queues[key].run(inputs)

    def _signature(self, version, signature):
        if signature not in self.signatures[version]:
            raise Refusal("INVALID_ARGUMENT", f'Serving signature name: "{signature}" not found in signature def')
        return self.signatures[version][signature]

    def _call(self, version, signature, tasks):
        """Concatenate, call, split. Returns one dict of outputs for each task."""
        counts = [count_rows(inputs) for inputs in tasks]
        merged = {name: merge(name, [inputs[name] for inputs in tasks]) for name in tasks[0]}
        self.calls.append((len(tasks), sum(counts)))
        specs = self.specs(version, signature)
        try:
            tensors = {name: tf.constant(value, specs[name].dtype) for name, value in merged.items()}
            outputs = {name: value.numpy() for name, value in self._signature(version, signature)(**tensors).items()}
        except tf.errors.OpError as error:
            raise Refusal(STATUS_NAMES[error.error_code], error.message) from error
        for name, value in outputs.items():
            if value.ndim == 0 or len(value) != sum(counts):
                raise Refusal(
                    "FAILED_PRECONDITION",
                    f"Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                    f"input tensors: {name} {value.shape}, {sum(counts)} rows",
                )
        ends = np.cumsum(counts)
        return [{name: value[end - n : end] for name, value in outputs.items()} for n, end in zip(counts, ends)]


class Batcher:
    """One queue and one thread: waits for up to `max_rows` rows, or until the oldest request has waited long enough."""

    def __init__(self, call, max_rows, timeout_s):
        self.call, self.max_rows, self.timeout_s = call, max_rows, timeout_s
        self.tasks = queue.Queue()
        threading.Thread(target=self._work, daemon=True).start()

    def run(self, inputs):
        return self.submit(inputs).result()

    def submit(self, inputs):
        count_rows(inputs)  # refused before it can harm others
        future = Future()
        self.tasks.put((inputs, future))
        return future

    def _work(self):
        waiting = None
        while True:
            batch = [waiting or self.tasks.get()]
            waiting = self._fill(batch, time.monotonic() + self.timeout_s)
            try:
                for (_, future), outputs in zip(batch, self.call([inputs for inputs, _ in batch]), strict=True):
                    future.set_result(outputs)
            except Exception as error:  # whatever it is, each caller must hear of it
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)

    def _fill(self, batch, deadline):
        """Add requests while they fit; returns the one that came and does not."""
        rows = count_rows(batch[0][0])
        while rows < self.max_rows:
            try:
                task = self.tasks.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            rows += count_rows(task[0])
            if rows > self.max_rows:
                return task
            batch.append(task)
        return None


def count_rows(inputs):
    sizes = {value.shape[0] if value.ndim else None for value in inputs.values()}
    if len(sizes) != 1 or None in sizes:
        raise Refusal(
            "INVALID_ARGUMENT", "Batching Run() input tensors must have at least one dimension, and equal ones"
        )
    return sizes.pop()


def merge(name, values):
    if len({value.shape[1:] for value in values}) > 1:
        raise Refusal(
            "FAILED_PRECONDITION",
            f"Tensors with name '{name}' from different tasks have different shapes and padding is turned off.",
        )
    return np.concatenate(values)


def read_signature_defs(folder):
    message = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    hidden = "__saved_model_init_op"  # TensorFlow's own bookkeeping
    return {key: value for key, value in message.meta_graphs[0].signature_def.items() if key != hidden}
