"""Groups of things that pairs connect: pieces of one object in a tiled image, copies of one picture in a dataset."""

import numpy as np


def connected_groups(count, pairs):
    """Divide 0..count-1 into groups, so that two numbers are in one group if a chain of pairs connects them.

    Args:
        count: int.
        pairs: list of (i, j), int from 0 to below count.

    Returns:
        List of rising lists, ordered by their first number. A number without a pair is a group of its own.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not count:
        return []
    rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(count, count))
    number, labels = connected_components(graph, directed=False)
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(labels, minlength=number))[:-1])
    return sorted(group.tolist() for group in groups)
