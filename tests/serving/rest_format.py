"""TF Serving's JSON: requests in row ("instances") or column ("inputs") format to arrays, and outputs back.

Follows tensorflow_serving/util/json_tensor.cc: binary strings are {"b64": ...}; on the way out only outputs whose name
ends in `_bytes` are written so, other strings as they are; one output alone goes without its name.
"""

import base64
import binascii
import json

import numpy as np
from servable import Refusal


def read_request(body, specs_of):
    """Bytes -> (signature name, dict of arrays, whether in row format).

    Args:
        body: the HTTP request's body.
        specs_of: function from a signature's name to its inputs' TensorSpecs by name.
    """
    try:
        request = json.loads(body)
    except ValueError as error:
        raise Refusal("INVALID_ARGUMENT", f"JSON Parse error: {error}") from error
    if not isinstance(request, dict):
        raise Refusal("INVALID_ARGUMENT", "JSON Value: is not object")
    if ("instances" in request) == ("inputs" in request):
        raise Refusal(
            "INVALID_ARGUMENT", "Not formatted correctly expecting one of 'inputs' or 'instances' keys to exist"
        )
    signature = request.get("signature_name", "serving_default")
    specs = specs_of(signature)
    if "inputs" in request:
        return signature, read_columns(request["inputs"], specs), False
    return signature, read_rows(request["instances"], specs), True


def read_columns(value, specs):
    if not isinstance(value, dict) or is_binary(value):
        value = {only_name(specs): value}
    missing = sorted(set(specs) - set(value))
    if missing:
        raise Refusal("INVALID_ARGUMENT", f"Missing named input: {missing[0]} in 'inputs' object.")
    return {name: to_array(value[name], spec) for name, spec in specs.items()}


def read_rows(rows, specs):
    if not isinstance(rows, list) or not rows:
        raise Refusal("INVALID_ARGUMENT", "Expecting 'instances' to be a list with values")
    named = [isinstance(row, dict) and not is_binary(row) for row in rows]
    if len(set(named)) > 1:
        raise Refusal("INVALID_ARGUMENT", "Expecting objects only, or values only, in 'instances'")
    rows = rows if named[0] else [{only_name(specs): row} for row in rows]
    for i, row in enumerate(rows):
        if set(row) != set(specs):
            raise Refusal(
                "INVALID_ARGUMENT",
                f"Failed to process element: {i} of 'instances' list. keys must be equal to: {','.join(sorted(specs))}",
            )
    columns = {name: [to_array(row[name], spec) for row in rows] for name, spec in specs.items()}
    for i in range(len(rows)):
        for values in columns.values():
            if values[i].shape != values[0].shape:
                raise Refusal(
                    "INVALID_ARGUMENT",
                    f"Failed to process element: {i} of 'instances' list. Error: Expecting shape "
                    f"{list(values[0].shape)} but got: {list(values[i].shape)}",
                )
    return {name: np.stack(values) for name, values in columns.items()}


def only_name(specs):
    if len(specs) != 1:
        raise Refusal("INVALID_ARGUMENT", "expecting an object as multiple input tensors required")
    return next(iter(specs))


def is_binary(value):
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def to_array(value, spec):
    """A JSON value of any depth as an array of the spec's dtype; strings as bytes objects."""
    dtype = spec.dtype.as_numpy_dtype
    if spec.dtype.name == "string":
        return np.array(decode_strings(value), object)
    try:
        array = np.array(value)
    except ValueError as error:
        raise Refusal("INVALID_ARGUMENT", f"Encountered list at unexpected size: {error}") from error
    if array.size and (array.dtype.kind != np.dtype(dtype).kind and array.dtype.kind not in "iu"):
        raise Refusal("INVALID_ARGUMENT", f"JSON Value: is not of expected type: {spec.dtype.name}")
    return array.astype(dtype)


def decode_strings(value):
    if isinstance(value, list):
        return [decode_strings(item) for item in value]
    if isinstance(value, str):
        return value.encode()
    if not is_binary(value):
        raise Refusal("INVALID_ARGUMENT", "JSON Value: not formatted correctly for base64 data")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except binascii.Error as error:
        raise Refusal("INVALID_ARGUMENT", "Unable to base64 decode") from error


def write_answer(outputs, row_format):
    """Dict of arrays -> JSON text: {"predictions": [...]} by rows or {"outputs": {...}} by columns."""
    columns = {name: to_json(value, name) for name, value in outputs.items()}
    if not row_format:
        return json.dumps({"outputs": columns if len(columns) > 1 else next(iter(columns.values()))})
    if len(columns) == 1:
        return json.dumps({"predictions": next(iter(columns.values()))})
    count = len(next(iter(columns.values())))
    return json.dumps({"predictions": [{name: value[i] for name, value in columns.items()} for i in range(count)]})


def to_json(value, name):
    if value.dtype == np.float32:  # the fewest digits that name the number: 0.2, not 0.20000000298
        value = value.astype(str).astype(np.float64)
    if value.dtype != object:
        return value.tolist()
    return encode_strings(value.tolist(), name.endswith("_bytes"))


def encode_strings(value, binary):
    if isinstance(value, list):
        return [encode_strings(item, binary) for item in value]
    if binary:
        return {"b64": base64.b64encode(value).decode("ascii")}
    # TF Serving writes the bytes into the JSON as they are; text of another encoding would break it for the reader.
    return value.decode("utf-8")
