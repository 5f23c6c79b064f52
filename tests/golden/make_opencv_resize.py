"""Makes opencv_resize.json: what OpenCV's own resize gives for random 8-bit images, as checksums and one small table.

    python -m venv venv && venv/bin/pip install opencv-python-headless
    venv/bin/python tests/golden/make_opencv_resize.py

OpenCV is needed for nothing else.
"""

import json
import pathlib
import zlib

import cv2
import numpy as np

SIZES = (1, 2, 3, 7, 16, 31, 64, 97, 150, 333)


def main():
    """Draw sizes, resize by INTER_LINEAR, write the checksums of the bytes."""
    rng, rows = np.random.default_rng(0), []
    for seed in range(120):
        height, width, new_height, new_width = (int(side) for side in rng.choice(SIZES, 4) + rng.integers(0, 5, 4))
        if seed % 8 == 0:  # halves and doubles have ways of their own in OpenCV
            new_height, new_width = (2 * height, 2 * width) if seed % 16 else (max(1, height // 2), max(1, width // 2))
        channels = int(rng.choice([1, 3, 3, 4]))
        image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
        resized = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        rows.append([seed, height, width, channels, new_height, new_width, zlib.crc32(resized.tobytes())])
    small = np.random.default_rng(1000).integers(0, 256, (5, 7, 1), np.uint8)
    table = cv2.resize(small, (11, 4), interpolation=cv2.INTER_LINEAR).tolist()
    content = {"opencv": cv2.__version__, "rows": rows, "small": table}
    path = pathlib.Path(__file__).parent / "opencv_resize.json"
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
