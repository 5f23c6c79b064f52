"""Valid datasets of every format, as files in memory: small, with several images, classes and kinds of objects.

A file's content is bytes, text, or a JSON value; `inputs.py` changes it and writes it.
"""

import base64
import functools
import io

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 20, 30  # not square, so that swapped sides show
STEMS = ("a", "b", "c")
SQUARE = [4.0, 3.0, 14.0, 3.0, 14.0, 12.0, 4.0, 12.0]
TRIANGLE = [16.5, 5.0, 27.0, 7.5, 20.0, 17.0]


@functools.cache
def picture(seed=0, height=HEIGHT, width=WIDTH, ending="png"):
    """The bytes of an image file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), ending)


def encoded(image, ending, **options):
    """A PIL image as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper()), **options)
    return file.getvalue()


def pictures(rng, folder="", stems=STEMS):
    """{name: bytes} of images in a folder, all of one type."""
    ending = rng.choice(("png", "png", "jpg", "bmp"))
    return {f"{folder}{stem}.{ending}": picture(number, ending=ending) for number, stem in enumerate(stems)}


def disc(cx=10, cy=9, radius=5):
    """A mask, uint8 (HEIGHT, WIDTH)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return ((x - cx) ** 2 + (y - cy) ** 2 < radius**2).astype(np.uint8)


def counts(mask):
    """Uncompressed run lengths of a mask, a list."""
    flat = np.concatenate([[0], mask.T.ravel().astype(np.int8), [0]])
    return np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)), [mask.size]])).tolist()


def coco(rng):
    """COCO instances with polygons, run lengths of both kinds and a crowd."""
    images = pictures(rng, rng.choice(("", "images/")))
    compressed = coco_mask.encode(np.asfortranarray(disc()))
    shapes = [
        [SQUARE],
        [SQUARE, TRIANGLE],
        {"size": [HEIGHT, WIDTH], "counts": counts(disc())},
        {"size": [HEIGHT, WIDTH], "counts": compressed["counts"].decode()},
        [[1, 1, 1.5, 19, 29, 18.5]],
    ]
    annotations = [
        {
            "id": number + 1,
            "image_id": 10 + number % len(images),
            "category_id": (1, 3)[number % 2],
            "segmentation": shape,
            "bbox": [4, 3, 20, 14],
            "area": 90.5,
            "iscrowd": int(isinstance(shape, dict) and number % 2),
        }
        for number, shape in enumerate(rng.sample(shapes, rng.randrange(1, len(shapes) + 1)))
    ]
    content = {
        "images": [
            {"id": 10 + k, "file_name": name.split("/")[-1], "height": HEIGHT, "width": WIDTH}
            for k, name in enumerate(images)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog", "supercategory": "pet"}],
    }
    if rng.random() < 0.3:
        content["info"] = {"year": 2020}
    return {**images, "coco.json": content}, "coco.json"


def yolo(rng):
    """YOLO segmentation with two parts."""
    names = rng.choice((["cat", "dog"], {0: "cat", 1: "dog"}))
    listed = "names:\n" + "".join(
        f"  - {name}\n" if isinstance(names, list) else f"  {key}: {name}\n"
        for key, name in enumerate(names if isinstance(names, list) else names.values())
    )
    line = " ".join(f"{v / (WIDTH, HEIGHT)[k % 2]:.6f}" for k, v in enumerate(SQUARE))
    other = " ".join(f"{v / (WIDTH, HEIGHT)[k % 2]:.6f}" for k, v in enumerate(TRIANGLE))
    files = {"data.yaml": f"path: .\ntrain: images/train\nval: images/val\n{listed}nc: 2\n"}
    files |= pictures(rng, "images/train/", ("a", "b")) | pictures(rng, "images/val/", ("c",))
    files |= {"labels/train/a.txt": f"0 {line}\n1 {other}\n", "labels/train/b.txt": f"1 {other}\n"}
    files["labels/val/c.txt"] = f"0 {other}"
    return files, rng.choice(("data.yaml", ""))


def voc(rng):
    """Pascal VOC with palettes, XML files and lists; or CVAT's, with colours and a label map."""
    objects = np.zeros((HEIGHT, WIDTH), np.uint8)
    objects[3:12, 4:14], objects[5:15, 17:27] = 1, 2
    classes = np.where(objects == 1, 8, np.where(objects == 2, 12, 0)).astype(np.uint8)
    files = pictures(rng, "JPEGImages/", ("a", "b"))
    colors, by_class = rng.random() < 0.3, rng.random() < 0.8
    for stem in ("a", "b"):
        files[f"SegmentationObject/{stem}.png"] = _palette_file(objects, colors)
        files[f"Annotations/{stem}.xml"] = _voc_xml(stem, ("cat", "dog"))
        if by_class or colors:
            files[f"SegmentationClass/{stem}.png"] = _palette_file(classes, colors)
    files["ImageSets/Segmentation/train.txt"] = "a\nb\n"
    if colors:
        files["labelmap.txt"] = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:64,0,0::\ndog:64,0,128::\n"
    return files, ""


def _palette_file(numbers, colors):
    image = Image.new("P", (WIDTH, HEIGHT))
    image.putdata(numbers.ravel().tolist())
    image.putpalette([value for k in range(256) for value in _voc_color(k)])
    return encoded(image.convert("RGB") if colors else image, "png")


def _voc_color(number):
    color = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            color[channel] |= (number >> channel & 1) << 7 - bit
        number >>= 3
    return color


def _voc_xml(stem, names):
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>\n"
        for name in names
    )
    return (
        f"<annotation>\n<filename>{stem}.jpg</filename>\n<size><width>{WIDTH}</width><height>{HEIGHT}</height>"
        f"<depth>3</depth></size>\n{objects}</annotation>\n"
    )


def csv_polygons(rng):
    """A table of polygons: plain numbers, JSON or WKT, or a point per row."""
    kind = rng.randrange(4)
    images = pictures(rng, rng.choice(("", "images/")))
    exact = rng.random() < 0.5
    names = [name.split("/")[-1] for name in images]
    shapes = [[v + 0.123456 * exact for v in shape] for shape in (SQUARE, TRIANGLE, SQUARE)]
    if kind == 3:
        rows = ["image,instance,x,y,label"]
        for name, shape in zip(names, shapes):
            rows += [f"{name},1,{shape[k]},{shape[k + 1]},cat" for k in range(0, len(shape), 2)]
        return {**images, "table.csv": "\n".join(rows) + "\n"}, "table.csv"
    separator = rng.choice((",", ";", "\t"))
    rows = [separator.join(("image", "polygon", "label"))]
    for name, shape, label in zip(names, shapes, ("cat", "dog", "cat")):
        rows.append(separator.join((name, f'"{_outline_text(shape, kind)}"', label)))
    return {**images, "table.csv": "\n".join(rows)}, "table.csv"


def _outline_text(shape, kind):
    points = [(shape[k], shape[k + 1]) for k in range(0, len(shape), 2)]
    if kind == 0:
        return " ".join(map(str, shape))
    if kind == 1:
        return str([list(point) for point in points])
    ring = ", ".join(f"{x} {y}" for x, y in [*points, points[0]])
    return f"POLYGON (({ring}), (6 5, 9 5, 9 8, 6 5))"


def via(rng):
    """VIA 2: an export or a project, every shape."""
    images = pictures(rng)
    shapes = [
        {"name": "polygon", "all_points_x": SQUARE[::2], "all_points_y": SQUARE[1::2]},
        {"name": "rect", "x": 3, "y": 4, "width": 10, "height": 8},
        {"name": "circle", "cx": 12, "cy": 9, "r": 5},
        {"name": "ellipse", "cx": 15, "cy": 9, "rx": 8, "ry": 4, "theta": 0.5},
        {"name": "polyline", "all_points_x": TRIANGLE[::2], "all_points_y": TRIANGLE[1::2]},
    ]
    entries = {}
    for number, (name, data) in enumerate(images.items()):
        regions = [
            {"shape_attributes": shape, "region_attributes": {"class": rng.choice(("cat", "dog"))}}
            for shape in rng.sample(shapes, 2)
        ]
        if number == 1:
            regions = {str(k): region for k, region in enumerate(regions)}  # VIA 1
        entries[f"{name}{len(data)}"] = {"filename": name, "size": len(data), "regions": regions, "file_attributes": {}}
    if rng.random() < 0.5:
        return {**images, "via.json": entries}, "via.json"
    described = {"region": {"class": {"type": "dropdown", "options": {"cat": "", "dog": ""}}}, "file": {}}
    project = {"_via_settings": {}, "_via_img_metadata": entries, "_via_attributes": described}
    return {**images, "via.json": project | {"_via_image_id_list": list(entries)}}, "via.json"


def via_csv(rng):
    """VIA's own CSV."""
    images = pictures(rng)
    rows = ["filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"]
    for name in images:
        shape = '{""name"":""rect"",""x"":3,""y"":4,""width"":10,""height"":8}'
        rows.append(f'{name},99,"{{}}",1,0,"{shape}","{{""class"":""cat""}}"')
    return {**images, "via.csv": "\n".join(rows) + "\n"}, "via.csv"


def via3(rng):
    """A project of VIA 3 with every shape; an image may be inside the project."""
    images = pictures(rng)
    shapes = [
        [2, 3, 4, 10, 8],
        [3, 12, 9, 5],
        [4, 15, 9, 8, 4],
        [7, *SQUARE],
        [6, *TRIANGLE],
        [8, 5, 3, 9, 12, 3, 8, 14, 6],
        [9, 5, 5, 15, 5, 10, 12],
    ]
    files = {
        str(k + 1): {"fid": k + 1, "fname": name, "type": 2, "loc": 1, "src": name} for k, name in enumerate(images)
    }
    if rng.random() < 0.4:
        inline = base64.b64encode(next(iter(images.values()))).decode()
        files["1"] |= {"loc": 4, "src": f"data:image/png;base64,{inline}"}
    content = {
        "project": {"pid": "x", "vid_list": list(files)},
        "config": {},
        "attribute": {
            "1": {"aname": "class", "anchor_id": "FILE1_Z0_XY1", "type": 4, "options": {"0": "cat", "1": "dog"}}
        },
        "file": files,
        "metadata": {
            f"m{k}": {"vid": str(k % len(files) + 1), "flg": 0, "z": [], "xy": shape, "av": {"1": str(k % 2)}}
            for k, shape in enumerate(rng.sample(shapes, 4))
        },
        "view": {key: {"fid_list": [int(key)]} for key in files},
    }
    return {**images, "via3.json": content}, "via3.json"


def labelme(rng):
    """labelme: a file an image, every shape, groups, masks, an embedded image."""
    images = pictures(rng)
    mask = base64.b64encode(encoded(Image.fromarray(disc(4, 4, 4)[:9, :9] * 255), "png")).decode()
    points = [[SQUARE[k], SQUARE[k + 1]] for k in range(0, 8, 2)]
    shapes = [
        {"label": "cat", "points": points, "group_id": None, "shape_type": "polygon", "flags": {}},
        {"label": "dog", "points": [[3, 4], [13, 12]], "group_id": None, "shape_type": "rectangle"},
        {"label": "dog", "points": [[12, 9], [15, 9]], "shape_type": "circle"},
        {"label": "cat", "points": [[2, 2], [11, 11]], "shape_type": "mask", "mask": mask},
        {"label": "cat", "points": points, "group_id": 1, "shape_type": "polygon"},
        {"label": "cat", "points": [[20, 2], [26, 4], [22, 9]], "group_id": 1, "shape_type": "polygon"},
        {"label": "cat", "points": points, "group_id": None, "shape_type": "oriented_rectangle"},
    ]
    files = dict(images)
    for number, (name, data) in enumerate(images.items()):
        content = {
            "version": "5.0.1",
            "flags": {},
            "shapes": rng.sample(shapes, 3),
            "imagePath": name,
            "imageData": None,
        }
        content |= {"imageHeight": HEIGHT, "imageWidth": WIDTH}
        if number == 0 and rng.random() < 0.5:
            content |= {"imagePath": "elsewhere.png", "imageData": base64.b64encode(data).decode()}
        files[f"{name.split('.')[0]}.json"] = content
    return files, rng.choice(("", "b.json"))


def label_images(rng):
    """Images and images of numbers, in PNG, TIFF, npy or colours."""
    files = pictures(rng, "images/")
    for number, stem in enumerate(STEMS):
        labels = disc() + 2 * disc(22, 12, 4)
        kind = rng.randrange(4)
        if kind == 0:
            files[f"labels/{stem}.png"] = encoded(Image.fromarray(labels), "png")
        elif kind == 1:
            files[f"labels/{stem}.tif"] = encoded(Image.fromarray(labels.astype(np.uint16) * 300), "tif")
        elif kind == 2:
            files[f"labels/{stem}.npy"] = npy_bytes(labels.astype(("i4", "u2", "f4")[number]))
        else:
            files[f"labels/{stem}.png"] = encoded(
                Image.fromarray(np.stack([labels * 60, labels, labels * 9], 2)), "png"
            )
    return files, ""


def npy_bytes(array):
    """An array as the bytes of a .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def instance_files(rng):
    """One mask file an object, in folders or by name."""
    files = pictures(rng, "images/")
    for stem in STEMS:
        first, second = (encoded(Image.fromarray(mask * 255), "png") for mask in (disc(), disc(20, 10, 6)))
        if rng.random() < 0.5:
            files |= {f"masks/{stem}/cat/1.png": first, f"masks/{stem}/dog/1.png": second}
        else:
            files |= {f"masks/{stem}_cat_1.png": first, f"masks/{stem}_dog_2.png": second}
    return files, ""


def dsb(rng):
    """Data Science Bowl 2018."""
    files = {}
    for number, name in enumerate(("id1", "id2")):
        files[f"{name}/images/{name}.png"] = picture(number)
        for k, mask in enumerate((disc(), disc(20, 10, 6))):
            files[f"{name}/masks/{k}.png"] = encoded(Image.fromarray(mask * 255), "png")
    return files, ""


DATASETS = {
    "coco": coco,
    "yolo": yolo,
    "voc": voc,
    "csv": csv_polygons,
    "via": via,
    "via-csv": via_csv,
    "via3": via3,
    "labelme": labelme,
    "label-images": label_images,
    "instance-files": instance_files,
    "dsb": dsb,
}
