"""Write torchvision's detections for the fixed model of `keras-maskrcnn doctor` to keras_maskrcnn/cli/fingerprint.json.

In two steps, because torch and TensorFlow may be in different environments:

    python benchmarks/torchvision_fingerprint.py export state.npz              # with keras_maskrcnn
    python benchmarks/torchvision_fingerprint.py answer state.npz OUT.json     # with torch and torchvision
"""

import json
import sys

import numpy as np


def export(path):
    """Write the fixed model's torchvision state dict and the fixed image."""
    import keras_maskrcnn as km
    from keras_maskrcnn.cli import doctor

    np.savez(path, image=doctor.known_image(), **km.torchvision_state_dict(doctor.known_model()))


def answer(path, target):
    """Load them into torchvision, strictly, and write what it detects."""
    import torch
    import torchvision
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    arrays = dict(np.load(path))
    image = torch.from_numpy(arrays.pop("image")).permute(2, 0, 1).float() / 255
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=torch.nn.BatchNorm2d)
    settings = {"min_size": 160, "max_size": 320, "box_score_thresh": 0.55}
    model = MaskRCNN(backbone, num_classes=4, **settings).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=True)
    with torch.no_grad():
        found = model([image])[0]
    content = {
        "torchvision": torchvision.__version__,
        "boxes": np.round(found["boxes"].numpy().astype(float), 5).tolist(),
        "scores": np.round(found["scores"].numpy().astype(float), 7).tolist(),
        "labels": (found["labels"].numpy() - 1).tolist(),
        "mask_pixels": (found["masks"][:, 0] > 0.5).sum(dim=(1, 2)).tolist(),
    }
    with open(target, "w", encoding="utf-8") as file:
        json.dump(content, file)
        file.write("\n")
    print(len(content["boxes"]), "detections, scores", content["scores"][:5], "labels", content["labels"][:20])


if __name__ == "__main__":
    {"export": export, "answer": answer}[sys.argv[1]](*sys.argv[2:])
