"""The rooms of the package and their arrows, read from the source: who imports whom, how often, and every circle.

    python tests/import_graph.py [FOLDER OF THE PACKAGE]

Nothing is imported, so any commit can be read. test_architecture.py checks the rules on this graph.
"""

import ast
import collections
import pathlib
import sys

PACKAGE = pathlib.Path(__file__).parents[1] / "keras_maskrcnn"


def dotted_name(path, package):
    """keras_maskrcnn/data/records.py -> "keras_maskrcnn.data.records"; a folder's `__init__` has the folder's name."""
    parts = [package.name, *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path):
    """Dotted names of all that a file imports, at its top and inside functions, names of modules included."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"Imports must be absolute. Received a relative one in {path}. Write the whole name.")
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def lazy_names(path, package):
    """Modules that an `__init__` names in strings ("inference.predictor"), to import them when they are asked for."""
    if path.name != "__init__.py":
        return []
    strings = [
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    root = path.parent == package
    return [f"{package.name}.{text.removeprefix(package.name + '.')}" for text in strings if root or "." in text]


def module_graph(package=PACKAGE):
    """{module: set of modules that it imports}, by dotted names, lazy imports included.

    `from a.b import c` is an arrow to the module a.b.c where there is one, else to a.b. That Python runs the
    `__init__` of every folder on the way is no arrow: only a name that is taken from an `__init__` is.
    """
    files = {dotted_name(path, package): path for path in sorted(package.rglob("*.py"))}
    graph = {}
    for module, path in files.items():
        names = imported_names(path) + [name for name in lazy_names(path, package) if name in files]
        own = {name if name in files else name.rpartition(".")[0] for name in names}
        graph[module] = {name for name in own if name in files} - {module}
    return graph


def circles(graph):
    """Strongly connected components of more than one node: sorted lists of nodes that reach one another."""
    reached = {node: reachable(graph, node) for node in graph}
    together = {
        tuple(sorted(other for other in graph if node in reached[other] and other in reached[node])) for node in graph
    }
    return sorted(list(group) for group in together if len(group) > 1)


def reachable(graph, start):
    """All nodes that arrows lead to from a node; the node itself if one leads back."""
    found, waiting = set(), [start]
    while waiting:
        for node in graph[waiting.pop()] - found:
            found.add(node)
            waiting.append(node)
    return found


def room_of(module):
    """keras_maskrcnn.data.readers.coco -> "data"; "keras_maskrcnn" for the root's `__init__`."""
    parts = module.split(".")
    return parts[min(1, len(parts) - 1)]


def room_arrows(graph):
    """{(room, other room): number of imports}."""
    pairs = ((room_of(module), room_of(other)) for module, others in graph.items() for other in others)
    return collections.Counter((one, other) for one, other in pairs if one != other)


def describe(package=PACKAGE):
    """The text that this program prints."""
    graph = module_graph(package)
    arrows, sizes = room_arrows(graph), collections.Counter(map(room_of, graph))
    lines = []
    for room in sorted(sizes):
        others = sorted((other, count) for (one, other), count in arrows.items() if one == room)
        told = ", ".join(f"{other} {count}" for other, count in others) or "-"
        lines.append(f"{room} ({sizes[room]} file{'s' * (sizes[room] > 1)}) -> {told}")
    root_files = len(list(package.glob("*.py")))
    found = circles(graph)
    lines.append(f"{len(graph)} modules, {len(sizes)} rooms, {root_files} files in the root, {len(arrows)} arrows")
    lines += [f"circle of {len(group)}: {', '.join(group)}" for group in found] or ["no circle of imports"]
    return "\n".join(lines)


if __name__ == "__main__":
    print(describe(*map(pathlib.Path, sys.argv[1:2])))
