"""VIA 1, 2 and 3, as the tools write them: every shape, attribute and way to hold images, to the pixel."""

import base64
import json
import math

import numpy as np
import pytest
from reader_tools import (
    HEIGHT,
    WIDTH,
    X,
    Y,
    box,
    check,
    inside_ellipse,
    masks_of,
    picture,
    round_shape,
    save_image,
    save_turned,
)

from keras_maskrcnn.data import Via3Dataset, ViaDataset


def polygon(xs, ys, name="polygon"):
    return {"name": name, "all_points_x": xs, "all_points_y": ys}


def region(shape, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes}


L_SHAPE = polygon([5, 25, 25, 15, 15, 5], [4, 4, 14, 14, 30, 30])
L_MASK = box(5, 4, 25, 14) | box(5, 4, 15, 30)


def via1(folder):
    """An export of VIA 1.0: regions as a dictionary, keys of name and size, images as base64 never used."""
    rectangle = {"name": "rect", "x": 30, "y": 5, "width": 20, "height": 10}
    regions_of = {"b.png": {"0": region(L_SHAPE, kind="cat"), "1": region(rectangle, kind="dog")}, "a.png": {}}
    content = {}
    for name, regions in regions_of.items():
        size = save_image(folder / name, seed=len(name)).stat().st_size
        entry = {"fileref": "", "size": size, "filename": name, "base64_img_data": "", "file_attributes": {}}
        content[f"{name}{size}"] = entry | {"regions": regions}
    (folder / "via_region_data.json").write_text(json.dumps(content))
    return folder / "via_region_data.json"


def via2(folder, regions, attributes, name="a.png", **changes):
    """A project of VIA 2.0: regions as a list, attributes with their options."""
    size = (folder / name).stat().st_size
    key = f"{name}{size}"
    entry = {"filename": name, "size": size, "regions": regions, "file_attributes": {}}
    project = {
        "_via_settings": {"ui": {}, "core": {"buffer_size": "18", "filepath": {}}, "project": {"name": "mine"}},
        "_via_img_metadata": {key: entry},
        "_via_attributes": {"region": attributes, "file": {"caption": {"type": "text"}}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": [key],
    }
    (folder / "project.json").write_text(json.dumps(project | changes))
    return folder / "project.json"


def dropdown(*options, kind="dropdown"):
    return {"type": kind, "description": "", "options": dict.fromkeys(options, ""), "default_options": {}}


def test_via1_regions_as_a_dictionary_and_a_text_attribute(tmp_path):
    dataset = ViaDataset(via1(tmp_path))
    assert dataset.class_names == ("cat", "dog") and dataset.category_ids == (1, 2)
    check(dataset, {"b.png": [("cat", L_MASK), ("dog", box(30, 5, 50, 15))], "a.png": []}, tmp_path)


def test_via2_all_shapes_with_a_dropdown(tmp_path):
    save_image(tmp_path / "a.png")
    theta = 0.6
    shapes = [
        (L_SHAPE, L_MASK),
        (polygon([30, 50, 50, 30], [5, 5, 15, 15], "polyline"), box(30, 5, 50, 15)),  # open: last joins first
        ({"name": "rect", "x": 40, "y": 20, "width": 12, "height": 8}, box(40, 20, 52, 28)),
        ({"name": "circle", "cx": 30, "cy": 20, "r": 12.5}, round_shape(30, 20, 12.5, 12.5)),
        ({"name": "ellipse", "cx": 30, "cy": 20, "rx": 18, "ry": 6}, round_shape(30, 20, 18, 6)),
        ({"name": "ellipse", "cx": 30, "cy": 20, "rx": 18, "ry": 6, "theta": theta}, round_shape(30, 20, 18, 6, theta)),
    ]
    regions = [region(shape, animal="dog" if n % 2 else "cat") for n, (shape, _) in enumerate(shapes)]
    path = via2(tmp_path, regions, {"animal": dropdown("dog", "cat", "bird")})
    dataset = ViaDataset(path)
    assert dataset.class_names == ("dog", "cat", "bird")  # the tool's order, unused options included
    expected = [("dog" if n % 2 else "cat", mask) for n, (_, mask) in enumerate(shapes)]
    check(dataset, {"a.png": expected}, tmp_path)


def test_via2_theta_turns_clockwise_as_the_canvas_draws_it(tmp_path):
    save_image(tmp_path / "a.png")
    shape = {"name": "ellipse", "cx": 30, "cy": 20, "rx": 18, "ry": 3, "theta": math.pi / 4}
    mask = masks_of(ViaDataset(via2(tmp_path, [region(shape)], {})), 0)[0]
    assert mask[30, 40] and mask[10, 20] and not mask[10, 40] and not mask[30, 20]  # y points down
    assert abs(mask.sum() - math.pi * 18 * 3) < 8


@pytest.mark.parametrize(
    "kind, value", [("radio", "dog"), ("text", " dog "), ("checkbox", {"dog": True, "cat": False})]
)
def test_via2_other_attributes(tmp_path, kind, value):
    save_image(tmp_path / "a.png")
    about = dropdown("cat", "dog", kind=kind) if kind != "text" else {"type": "text", "default_value": ""}
    attributes = {"animal": about, "quality": {"type": "text"}}
    path = via2(tmp_path, [region(L_SHAPE, animal=value, quality="good")], attributes)
    dataset = ViaDataset(path, attribute="animal")
    assert dataset.class_names == (("dog",) if kind == "text" else ("cat", "dog"))
    check(dataset, {"a.png": [("dog", L_MASK)]}, tmp_path)


def test_via_without_attributes_has_one_class_and_images_elsewhere(tmp_path):
    """The published balloon layout: VIA 1, no attribute."""
    path = via1(tmp_path)
    content = json.loads(path.read_text())
    for entry in content.values():
        for one in entry["regions"].values():
            one["region_attributes"] = {}
    (tmp_path / "elsewhere").mkdir()
    path = path.rename(tmp_path / "elsewhere" / "via.json")
    path.write_text(json.dumps(content))
    dataset = ViaDataset(path, tmp_path, class_names=["balloon"])
    check(dataset, {"b.png": [("balloon", L_MASK), ("balloon", box(30, 5, 50, 15))], "a.png": []}, tmp_path)


def test_via2_keeps_the_order_of_the_project_and_loses_no_image(tmp_path):
    entries = {}
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        save_image(tmp_path / name, seed)
        entries[name] = {"filename": name, "size": 1, "regions": [], "file_attributes": {}}
    path = via2(tmp_path, [], {}, _via_img_metadata=entries, _via_image_id_list=["c.png", "gone.png", "a.png"])
    check(ViaDataset(path), {"c.png": [], "a.png": [], "b.png": []}, tmp_path)


def test_category_ids_must_fit_the_classes(tmp_path):
    with pytest.raises(ValueError, match=r"Received 1 ids for the 2 classes \['cat', 'dog'\]"):
        ViaDataset(via1(tmp_path), category_ids=[5])


def test_via_csv(tmp_path):
    save_image(tmp_path / "a.png"), save_image(tmp_path / "b.png", seed=1)
    header = "#filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    cells = [json.dumps(value).replace('"', '""') for value in (L_SHAPE, {"label": "cat"})]
    lines = [header, f'a.png,100,"{{}}",1,0,"{cells[0]}","{cells[1]}"', 'b.png,100,"{}",0,0,"{}","{}"']
    (tmp_path / "via.csv").write_text("\n".join(lines))
    check(ViaDataset(tmp_path / "via.csv"), {"a.png": [("cat", L_MASK)], "b.png": []}, tmp_path)


def test_via_on_a_turned_photo_and_beyond_its_edge(tmp_path):
    save_turned(tmp_path / "a.jpg")
    shape = {"name": "rect", "x": WIDTH - 10, "y": -5, "width": 20, "height": 15}
    dataset = ViaDataset(via2(tmp_path, [region(shape)], {}, name="a.jpg"))
    check(dataset, {"a.jpg": [("object", box(WIDTH - 10, 0, WIDTH, 10))]}, tmp_path)
    assert dataset.image_sizes == [(HEIGHT, WIDTH)]


FAULTS = {
    "point": (region({"name": "point", "cx": 1, "cy": 2}, animal="cat"), ["'point'", "encloses nothing"]),
    "no class": (region(L_SHAPE), ["'animal'", "None"]),
    "empty class": (region(L_SHAPE, animal=""), ["'animal'", "''"]),
    "unknown class": (region(L_SHAPE, animal="cow"), ["['cat', 'dog']", "'cow'"]),
    "two ticked": (region(L_SHAPE, animal={"cat": True, "dog": True}), ["'cat': True, 'dog': True"]),
    "outside": (region(polygon([70, 80, 80], [5, 5, 9]), animal="cat"), ["40 x 60", "[70.0, 5.0]"]),
    "two points": (region(polygon([1, 9], [1, 9]), animal="cat"), ["at least three"]),
    "lists of two lengths": (region(polygon([1, 9, 9], [1, 9]), animal="cat"), ["equal length"]),
    "no radius": (region({"name": "circle", "cx": 5, "cy": 5, "r": 0}, animal="cat"), ["positive radii"]),
    "no number": (region({"name": "rect", "x": "a", "y": 1, "width": 2, "height": 3}, animal="cat"), ["'a'"]),
    "no shape": ({"region_attributes": {"animal": "cat"}}, ["None"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_via_faults_are_named_with_file_and_region(tmp_path, name):
    save_image(tmp_path / "a.png")
    broken, words = FAULTS[name]
    path = via2(tmp_path, [region(L_SHAPE, animal="cat"), broken], {"animal": dropdown("cat", "dog")})
    with pytest.raises(ValueError) as caught:
        ViaDataset(path)
    assert all(word in str(caught.value) for word in ["region 1 of", "a.png", *words])
    with pytest.warns(UserWarning, match="Left out 1"):
        dataset = ViaDataset(path, on_error="skip")
    assert len(dataset.faults) == 1 and len(dataset[0].instances) == 1


def test_via_files_that_are_none_and_choices_that_are_open(tmp_path):
    save_image(tmp_path / "a.png")
    path = via2(tmp_path, [region(L_SHAPE, a="x", b="y")], {})
    with pytest.raises(ValueError, match=r"\['a', 'b'\].*Name it: attribute=\.\.\."):
        ViaDataset(path)
    with pytest.raises(ValueError, match=r"one of the region attributes \['a', 'b'\]. Received 'c'"):
        ViaDataset(path, attribute="c")
    assert ViaDataset(path, attribute="b").class_names == ("y",)
    path.write_text('{"images": []}')
    with pytest.raises(ValueError, match="Export Annotations"):
        ViaDataset(path)
    path.write_text(json.dumps({"gone.png1": {"filename": "gone.png", "regions": []}}))
    with pytest.raises(ValueError, match="gone.png.*does not exist"):
        ViaDataset(path)


def via3(folder, metadata, attribute=None, files=None):
    """A project of VIA 3."""
    files = files or {"1": file3("a.png")}
    described = {"aname": "animal", "anchor_id": "FILE1_Z0_XY1", "type": 4, "desc": "", "default_option_id": ""}
    of_files = described | {"aname": "caption", "anchor_id": "FILE1_Z0_XY0", "type": 1, "options": {}}
    about = {"pid": "__VIA_PROJECT_ID__", "rev": "__VIA_PROJECT_REV_ID__", "pname": "Unnamed VIA Project"}
    project = {
        "project": about | {"created": 1574343199772, "vid_list": list(files)},
        "config": {"file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}}, "ui": {}},
        "attribute": {} if attribute is None else {"1": described | {"options": {}} | attribute, "2": of_files},
        "file": files,
        "metadata": metadata,
        "view": {key: {"fid_list": [key]} for key in files},
    }
    (folder / "via3.json").write_text(json.dumps(project))
    return folder / "via3.json"


def file3(name, **changes):
    return {"fid": "1", "fname": name, "type": 2, "loc": 1, "src": ""} | changes


def mark(xy, vid="1", **av):
    return {"vid": vid, "flg": 0, "z": [], "xy": xy, "av": av}


def test_via3_all_shapes_with_options(tmp_path):
    save_image(tmp_path / "a.png"), save_image(tmp_path / "b.png", seed=1)
    shapes = [
        ([2, 40, 20, 12, 8], box(40, 20, 52, 28)),
        ([3, 30, 20, 12.5], round_shape(30, 20, 12.5, 12.5)),
        ([4, 30, 20, 18, 6], round_shape(30, 20, 18, 6)),
        ([6, 30, 5, 50, 5, 50, 15, 30, 15], box(30, 5, 50, 15)),
        ([7, 5, 4, 25, 4, 25, 14, 15, 14, 15, 30, 5, 30], L_MASK),
        ([8, 10, 12, 20, 5, 32, 9, 22, 25], box(10, 5, 32, 25)),
        ([9, 40, 20, 20, 20, 30, 10], round_shape(30, 20, 10, 10)),
    ]
    metadata = {f"1_{n}": mark(xy, **{"1": str(n % 2)}) for n, (xy, _) in enumerate(shapes)}
    metadata["1_file"] = mark([], **{"2": "a caption of the whole image"})
    files = {"2": file3("b.png", fid="2"), "1": file3("a.png")}
    dataset = Via3Dataset(via3(tmp_path, metadata, {"options": {"0": "dog", "1": "cat"}}, files))
    assert dataset.class_names == ("dog", "cat")
    expected = [("cat" if n % 2 else "dog", mask) for n, (_, mask) in enumerate(shapes)]
    check(dataset, {"b.png": [], "a.png": expected}, tmp_path)


def test_via3_image_inside_the_project_and_a_text_attribute(tmp_path):
    source = save_image(tmp_path / "hidden" / "a.png", seed=5)
    encoded = base64.b64encode(source.read_bytes()).decode()
    files = {"1": file3("a.png", loc=4, src=f"data:image/png;base64,{encoded}")}
    path = via3(tmp_path, {"m": mark([2, 1, 2, 10, 5], **{"1": "cat"})}, {"type": 1}, files)
    dataset = Via3Dataset(path)
    np.testing.assert_array_equal(dataset.load_image(0), picture(5))
    check(dataset, {"000001.png": [("cat", box(1, 2, 11, 7))]}, tmp_path)


@pytest.mark.parametrize(
    "broken, words",
    [
        (mark([1, 5, 5], **{"1": "0"}), ["shape number 1", "encloses nothing"]),
        (mark([3, 5, 5], **{"1": "0"}), ["a circle needs 3 numbers"]),
        (mark([9, 1, 1, 2, 2, 3, 3], **{"1": "0"}), ["lie on a line"]),
        (mark([2, 5, 5, 5, 5]), ["'animal'", "'0': 'dog'"]),
        (mark([2, 5, 5, 5, 5], **{"1": "7"}), ["'7'"]),
        (mark([2, 5, 5, 5, 5], vid="9", **{"1": "0"}), ["view '9'"]),
    ],
)
def test_via3_faults_are_named(tmp_path, broken, words):
    save_image(tmp_path / "a.png")
    path = via3(tmp_path, {"good": mark([2, 1, 1, 5, 5], **{"1": "0"}), "bad-1": broken}, {"options": {"0": "dog"}})
    with pytest.raises(ValueError) as caught:
        Via3Dataset(path)
    assert all(word in str(caught.value) for word in ["region bad-1", *words])
    with pytest.warns(UserWarning, match="Left out 1"):
        assert len(Via3Dataset(path, on_error="skip")[0].instances) == 1


def test_via3_damaged_inline_image_and_video_are_named(tmp_path):
    save_image(tmp_path / "a.png")
    inline = {"1": file3("x.png", loc=4, src="data:image/png;base64,AAAA")}
    with pytest.raises(ValueError, match="x.png.*damaged"):
        Via3Dataset(via3(tmp_path, {}, files=inline))
    with pytest.raises(ValueError, match="view 1.*one image"):
        Via3Dataset(via3(tmp_path, {}, files={"1": file3("x.mp4", type=4)}))
    (tmp_path / "via3.json").write_text("{}")
    with pytest.raises(ValueError, match="A VIA 3 project must contain"):
        Via3Dataset(tmp_path / "via3.json")


def test_the_helper_knows_an_ellipse():
    """Its area is pi rx ry, and a turn by a right angle swaps the axes."""
    assert abs(inside_ellipse(30, 20, 15, 10).sum() - math.pi * 150) < 5
    turned = inside_ellipse(30, 20, 15, 10, math.pi / 2)
    assert turned[6, 30] and not turned[20, 42]
    assert X[3, 7] == 7.5 and Y[3, 7] == 3.5
