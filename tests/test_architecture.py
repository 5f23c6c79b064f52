"""The rules of the house, read off the source: who imports whom, no Lambda, everything public is described."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "keras_maskrcnn"
FILES = sorted(PACKAGE.rglob("*.py"))
FRAMEWORKS = {"tensorflow", "jax", "torch"}
STAGES = {"backbone", "fpn", "anchors", "rpn", "roi_align", "box_head", "detections", "mask_head"}
# The package's front re-exports the recipes that users compile with; the command line compiles with them.
MAY_IMPORT_TRAINING = {"model.py", "__init__.py", "cli/recipe.py"}


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


def imported_modules(path):
    """Dotted names of all that a file imports, at its top and inside functions."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name_of(path)}: relative imports hide who imports whom"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def own_modules(path):
    """First parts, inside the package, of what a file imports: {"boxes", "training", ...}."""
    parts = [name.split(".") for name in imported_modules(path)]
    return {part[1] for part in parts if part[0] == "keras_maskrcnn" and len(part) > 1}


def test_there_are_files_to_check():
    assert {"model.py", "config.py", "boxes.py"} | {f"{s}.py" for s in STAGES} <= {name_of(f) for f in FILES}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_backend_and_serving_import_a_framework(path):
    frameworks = {name.split(".")[0] for name in imported_modules(path)} & FRAMEWORKS
    folder = name_of(path).split("/")[0]
    assert not frameworks or folder == "backend" or (folder == "serving" and frameworks == {"tensorflow"})


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_stages_do_not_import_each_other(stage):
    assert not own_modules(PACKAGE / f"{stage}.py") & (STAGES - {stage})


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_the_model_imports_training(path):
    if "training" in own_modules(path):
        assert name_of(path) in MAY_IMPORT_TRAINING or name_of(path).startswith("training/")


def test_data_needs_no_model_and_the_model_no_evaluation():
    around = {
        "predictor",
        "evaluation",
        "experiment",
        "visualize",
        "cli",
        "demo",
        "serving",
        "zoo",
        "checkup",
    }
    for path in FILES:
        if name_of(path).startswith("data/"):
            assert not own_modules(path) & (around | STAGES | {"model", "training"}), name_of(path)
    for stage in [*STAGES, "model", "boxes", "masks", "batch", "config"]:
        assert not own_modules(PACKAGE / f"{stage}.py") & (around | {"data"}), stage


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_private_keras_and_no_lambda_layers(path):
    text = path.read_text(encoding="utf-8")
    assert "layers.Lambda" not in text
    assert not [name for name in imported_modules(path) if name.startswith("keras.src")]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_everything_public_has_a_docstring(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    missing = [] if ast.get_docstring(tree) else ["the module"]
    scopes = [("", tree)] + [
        (f"{node.name}.", node)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    for prefix, scope in scopes:
        for node in scope.body:
            described = isinstance(node, (ast.FunctionDef, ast.ClassDef))
            if described and not node.name.startswith("_") and not ast.get_docstring(node):
                missing.append(prefix + node.name)
    assert not missing


def test_no_path_of_one_machine():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert "/root/" not in text and "/home/" not in text, name_of(path)
