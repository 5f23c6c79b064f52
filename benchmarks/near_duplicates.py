"""How well perceptual hashes separate copies of an image from other images: differing bits of pHash (ours) and dHash.

python benchmarks/near_duplicates.py nuclei/*/images coco/val2017
"""

import argparse
import io

import numpy as np
from PIL import Image, ImageEnhance

from keras_maskrcnn.data import read_image
from keras_maskrcnn.data.duplicates import perceptual_hash
from keras_maskrcnn.data.readers.folders import image_files


def difference_hash(image, side=16):
    gray = Image.fromarray(image).convert("L").resize((side + 1, side), Image.Resampling.BILINEAR)
    gray = np.asarray(gray, np.int16)
    return (gray[:, 1:] > gray[:, :-1]).ravel()


def as_jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def scaled(image, factor):
    return image.resize(tuple(max(1, round(side * factor)) for side in image.size), Image.Resampling.BICUBIC)


def cropped(image, share):
    return image.crop((round(image.width * share), round(image.height * share), image.width, image.height))


COPIES = {
    "JPEG 30": lambda image: as_jpeg(image, 30),
    "JPEG 75": lambda image: as_jpeg(image, 75),
    "half size": lambda image: scaled(image, 0.5),
    "half size, JPEG 50": lambda image: as_jpeg(scaled(image, 0.5), 50),
    "1.3 times the size": lambda image: scaled(image, 1.3),
    "20 % brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "20 % more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.2),
    "cropped by 2 %": lambda image: cropped(image, 0.02),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    images = [
        Image.fromarray(read_image(file)) for folder in parser.parse_args().folders for file in image_files(folder)
    ]
    print(f"{len(images)} images; bits that differ")
    for name, hashed in (("pHash, 255 bits", perceptual_hash), ("dHash, 256 bits", difference_hash)):
        own = np.stack([hashed(np.asarray(image)) for image in images])
        others = np.concatenate([(row != own[i + 1 :]).sum(1) for i, row in enumerate(own)])
        print(f"{name}\n  different images: nearest two {others.min()}, next {np.sort(others)[1:4].tolist()}")
        for what, change in COPIES.items():
            bits = (own != np.stack([hashed(np.asarray(change(image))) for image in images])).sum(1)
            print(f"  {what}: median {np.median(bits):.0f}, 99 % {np.percentile(bits, 99):.0f}, most {bits.max()}")


if __name__ == "__main__":
    main()
