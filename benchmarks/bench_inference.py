"""R50-FPN inference, pixels to masks, against torchvision with the same weights.

python benchmarks/bench_inference.py --torch-python VENV/bin/python
"""

import sys

import twins
from pairs import main

CASES = {
    "model, 800x1056, 100 detections": {},
    "model, 800x1056, 5 detections": {"detections": 5},
    "exported SavedModel, 800x1056, 100 detections": {"exported": "float32"},
    "exported SavedModel in bfloat16, the same": {"exported": "bfloat16"},
    "model, 512x672": {"image": (512, 672)},
    "model, 1024x1344": {"image": (1024, 1344)},
    "model, 1333x1760": {"image": (1333, 1760)},
    "model, 800x1056, 300 detections": {"detections": 300},
    "model, 800x1056, 1000 detections": {"detections": 1000},
    "model, 4 images of 512x672": {"image": (512, 672), "batch": 4},
    "model, 8 images of 512x672": {"image": (512, 672), "batch": 8},
    "in bfloat16, 800x1056, 100 detections": {"dtype": "mixed_bfloat16"},
    "in bfloat16, 8 images of 512x672": {"dtype": "mixed_bfloat16", "image": (512, 672), "batch": 8},
}
DEFAULTS = {"image": (800, 1056), "batch": 1, "detections": 100, "exported": None, "dtype": "float32"}
CASES = {name: DEFAULTS | case for name, case in CASES.items()}


def ours(case):
    """`predict_on_batch`, or the export's signature, without resizing."""
    import keras

    keras.config.set_dtype_policy(case["dtype"])
    height, width = case["image"]
    images = twins.make_images(case["batch"], height, width)
    model = twins.our_model(
        image_scale=1.0, score_threshold=0.02, max_detections=case["detections"], detection_candidates=8192
    )
    if not case["exported"]:
        return lambda: model.predict_on_batch(images)
    import tempfile

    import tensorflow as tf

    import keras_maskrcnn as km

    version = km.export_saved_model(model, tempfile.mkdtemp(), dtype=case["exported"])
    loaded = tf.saved_model.load(str(version))
    signature = loaded.signatures["serving_default"]
    tensor = tf.constant(images)
    return lambda: (loaded, {name: each.numpy() for name, each in signature(images=tensor).items()})


def theirs(case):
    """Torchvision's model, without pasting masks into whole images, which our model does only on request.

    bfloat16 is torch's autocast.
    """
    import torch

    height, width = case["image"]
    images = twins.make_images(case["batch"], height, width)
    settings = {"min_size": min(height, width), "max_size": 10000, "box_detections_per_img": case["detections"]}
    model = twins.their_model(box_score_thresh=0.02, **settings).eval()
    model.transform.postprocess = lambda result, image_shapes, original_image_sizes: result
    tensors = [torch.from_numpy(image.transpose(2, 0, 1).astype("float32") / 255) for image in images]
    device, low = twins.their_device(), case["dtype"] != "float32"

    def run():
        with torch.inference_mode(), torch.autocast(str(device), torch.bfloat16, enabled=low):
            found = model([tensor.to(device) for tensor in tensors])
        found = [{name: values.cpu() for name, values in image.items()} for image in found]  # as in our outputs
        assert len(found[0]["boxes"]) == case["detections"], len(found[0]["boxes"])

    return run


if __name__ == "__main__":
    if "--worker" not in sys.argv:
        twins.write_state()
    main(__file__, CASES, ours, theirs, __doc__)
