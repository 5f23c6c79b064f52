"""The rules of the house, read from the source: who imports whom, no Lambda, everything public is described.

Each rule is one case; its message lists the files that break it.
"""

import ast
import itertools

import pytest
from import_graph import PACKAGE, circles, imported_names, module_graph, room_arrows, room_of

# Room (a folder, or a file of the root) -> the rooms that it may import. A room stands below the ones that it imports.
# CONTRIBUTING.md shows the same table.
ROOMS = {
    "_version": "",
    "geometry": "",
    "host": "",
    "families": "",
    "settings": "branches host",
    "config": "branches families settings",
    "batch": "branches geometry",
    "inputs": "batch",
    "backend": "geometry host",
    "learning": "backend geometry",
    "network": "backend geometry",
    "box_stages": "geometry learning network",
    "branches": "backend geometry learning network",
    "model": "backend box_stages config geometry inputs learning network",
    "backbones": "network",
    "ops": "backend geometry network",
    "data": "batch geometry host",
    "inference": "backend data geometry host",
    "evaluation": "backend data geometry host inference network",
    "pages": "config data evaluation host inference",
    "labelling": "geometry host",
    "measuring": "data geometry host",
    "gigapixels": "data host inference labelling measuring",
    "video": "data host inference",
    "checkup": "config data geometry host pages",
    "runs": "backend config data evaluation host inference network pages",
    "weights": "_version branches config families host model network runs",
    "serving": "_version backend config data geometry host inference model network",
    "scale": "data host inference runs serving weights",
    "viewers": "data geometry host labelling scale",
    "cli": "backend checkup config data evaluation geometry gigapixels host inference labelling measuring model "
    "network pages runs scale serving video weights",
}
STEPS_OF_NETWORK = {
    "calibration",
    "layers",
    "padding",
    "roi_levels",
}  # what several stages are built of; every other file of network/ is a stage
FRAMEWORKS = {"tensorflow", "jax", "torch"}
MAY_NAME = {"backend": FRAMEWORKS, "serving": {"tensorflow"}}
MOST_FILES_IN_ROOT = 8

FILES = sorted(PACKAGE.rglob("*.py"))
GRAPH = module_graph()


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


def arrows(between=GRAPH):
    """Pairs (module, module that it imports)."""
    return [(one, other) for one, others in sorted(between.items()) for other in sorted(others)]


def test_the_graph_has_lazy_imports_and_modules_taken_from_their_folder(tmp_path):
    package = tmp_path / "house"
    for name, text in {
        "__init__.py": "NAMES = {'f': 'attic.f', 'door': 'door', 'two words': 'no module'}",
        "door.py": "import os\nfrom house.attic import f, helper",  # a module, and a name of the __init__
        "attic/__init__.py": "helper = 'attic.g'",
        "attic/f.py": "def late():\n    import house.attic.g as g\n    return g",
        "attic/g.py": "def later():\n    from house.attic.f import late\n    return late",
    }.items():
        (package / name).parent.mkdir(exist_ok=True, parents=True)
        (package / name).write_text(text)
    graph = module_graph(package)
    assert graph == {
        "house": {"house.attic.f", "house.door"},
        "house.door": {"house.attic.f", "house.attic"},
        "house.attic": {"house.attic.g"},
        "house.attic.f": {"house.attic.g"},
        "house.attic.g": {"house.attic.f"},
    }
    assert circles(graph) == [["house.attic.f", "house.attic.g"]]
    assert room_arrows(graph) == {("house", "attic"): 1, ("house", "door"): 1, ("door", "attic"): 2}
    (package / "attic" / "g.py").write_text("from . import f")
    with pytest.raises(ValueError, match="must be absolute.*g.py"):
        module_graph(package)


def test_the_rooms_are_in_the_table_and_few_files_are_in_the_root():
    assert {"network", "data", "model"} < {room_of(module) for module in GRAPH} - {PACKAGE.name} <= set(ROOMS)
    in_root = [path.name for path in PACKAGE.glob("*.py")]
    assert {"__init__.py", "model.py", "config.py", "batch.py"} <= set(in_root)
    assert len(in_root) <= MOST_FILES_IN_ROOT, in_root


def test_no_circle_of_imports_lazy_ones_included():
    assert circles(GRAPH) == []


def test_the_table_itself_has_no_circle():
    table = {room: set(allowed.split()) for room, allowed in ROOMS.items()}
    assert circles(table) == [] and set().union(*table.values()) <= set(ROOMS)


def test_rooms_import_what_the_table_allows():
    rooms = {(one, other): (room_of(one), room_of(other)) for one, other in arrows()}
    broken = [
        f"{one} imports {other}"
        for (one, other), (room, below) in rooms.items()
        if room not in (below, PACKAGE.name) and below not in ROOMS[room].split()
    ]
    assert not broken


def test_the_table_allows_no_arrow_that_nobody_uses():
    used = set(room_arrows(GRAPH))
    assert not [
        f"{room}: {below}" for room, allowed in ROOMS.items() for below in allowed.split() if (room, below) not in used
    ]


def described_rooms():
    """CONTRIBUTING.md's table of rooms, in the form of `ROOMS`."""
    lines = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("| room | contents | may import |") + 2
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in itertools.takewhile(bool, lines[start:])]
    rooms = {room.strip("`").removesuffix("/").removesuffix(".py"): allowed for room, _, allowed in rows}
    return {room: "" if allowed == "-" else allowed.replace(", ", " ") for room, allowed in rooms.items()}


def test_the_table_of_rooms_in_contributing_is_this_one():
    assert described_rooms() == ROOMS


def test_stages_of_the_network_do_not_import_each_other():
    stages = {}
    for module in GRAPH:
        parts = module.split(".")
        if parts[1:2] == ["network"] and len(parts) > 2 and parts[2] not in STEPS_OF_NETWORK:
            stages[module] = parts[2]
    assert {"backbones", "fpn", "anchors", "rpn", "roi_align", "box_head", "detections"} <= set(stages.values())
    pairs = [(one, other) for one, other in arrows() if one in stages and other in stages]
    assert not [f"{one} imports {other}" for one, other in pairs if stages[one] != stages[other]]


def test_frameworks_are_named_in_the_backend_and_in_serving_alone():
    named = {path: {name.split(".")[0] for name in imported_names(path)} & FRAMEWORKS for path in FILES}
    assert {name_of(path).split("/")[0] for path, found in named.items() if found} == set(MAY_NAME)
    broken = {name_of(path): found - MAY_NAME.get(name_of(path).split("/")[0], set()) for path, found in named.items()}
    assert not {name: found for name, found in broken.items() if found}


def test_no_private_keras_and_no_lambda_layers():
    private = [name_of(path) for path in FILES if any(n.startswith("keras.src") for n in imported_names(path))]
    lambdas = [name_of(path) for path in FILES if "layers.Lambda" in path.read_text(encoding="utf-8")]
    assert not private and not lambdas


def undescribed(path):
    """Public names of a file without a docstring; the module itself is one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    missing = [] if ast.get_docstring(tree) else ["the module"]
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for prefix, scope in [("", tree), *((f"{node.name}.", node) for node in classes)]:
        for node in scope.body:
            described = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if described and not node.name.startswith("_") and not ast.get_docstring(node):
                missing.append(prefix + node.name)
    return missing


def test_everything_public_has_a_docstring(tmp_path):
    source = tmp_path / "a.py"
    source.write_text("def f(): pass\ndef _g(): pass\nclass C:\n    '''C'''\n    def m(self): pass\n")
    assert undescribed(source) == ["the module", "f", "C.m"]
    assert not {name_of(path): missing for path in FILES if (missing := undescribed(path))}


def test_no_path_of_one_machine():
    assert not [name_of(path) for path in FILES if any(p in path.read_text() for p in ("/root/", "/home/"))]
