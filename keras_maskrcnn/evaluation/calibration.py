"""Tables that turn scores into probabilities: how they are fitted to detections, and read on the host.

Comes in: scores of detections, and whether each is right. Goes out: a table as `network/calibration.py` reads it inside
the model: points (score, probability), the first of score 0, the last of score 1, both columns strictly ascending, so
that the order of scores stays and average precision with it. Called by `tuning.py`.
"""

import numpy as np

_MOST_POINTS = 32
_SLOPE = 1e-3  # of the score itself in an isotonic table: steps become slopes
_TEMPERATURES = np.log([0.05, 20])  # the range of the fit
_LOGITS = np.linspace(-8, 8, _MOST_POINTS - 1)  # where a temperature's curve becomes points
_NEAR = 1e-6  # logits of scores of 0 and 1 are finite
_DIGITS = 7


def isotonic_table(scores, right):
    """Centred isotonic regression: the shares of right detections, pooled until they rise with the score.

    Zadrozny and Elkan, Transforming classifier scores into accurate multiclass probability estimates, KDD 2002; Oron
    and Flournoy, Centered isotonic regression, 2017: the line goes through the centre of each pool, so it rises
    everywhere.

    Args:
        scores: float (N,), N > 0. right: bool (N,).

    Returns:
        List of [score, probability].
    """
    from scipy import optimize  # takes long to import

    values, place = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    counts = np.bincount(place).astype(np.float64)
    shares = np.bincount(place, np.asarray(right, np.float64)) / counts
    fitted = optimize.isotonic_regression(shares, weights=counts)
    starts = _merged(fitted.blocks[:-1].astype(int), counts)
    weights = np.add.reduceat(counts, starts)
    centres = np.add.reduceat(values * counts, starts) / weights
    heights = np.add.reduceat(shares * counts, starts) / weights
    inside = (centres > 0) & (centres < 1)
    points = np.array([[0.0, 0.0], *zip(centres[inside], heights[inside]), [1.0, heights[-1]]])
    points[:, 1] = (1 - _SLOPE) * points[:, 1] + _SLOPE * points[:, 0]
    return _ascending(points)


def _merged(starts, counts):
    """The first places of at most `_MOST_POINTS` - 2 pools: where there are more, neighbours of few detections join."""
    most = _MOST_POINTS - 2
    if len(starts) <= most:
        return starts
    ends = np.cumsum(np.add.reduceat(counts, starts))
    quantiles = np.floor((ends - ends[0]) / (ends[-1] - ends[0] + 1) * most)
    return starts[np.append(True, np.diff(quantiles) > 0)]


def temperature_table(scores, right):
    """Temperature scaling: logits of the scores are divided by the one number that makes the truth most likely.

    Guo et al., On calibration of modern neural networks, ICML 2017, section 4.2. Args, returns: as `isotonic_table`.
    """
    from scipy import optimize

    logits, right = _logits(np.asarray(scores, np.float64)), np.asarray(right, bool)
    signs = np.where(right, -1.0, 1.0)
    loss = lambda log: np.logaddexp(0, signs * logits / np.exp(log)).mean()  # noqa: E731
    temperature = np.exp(optimize.minimize_scalar(loss, bounds=_TEMPERATURES, method="bounded").x)
    curve = np.transpose([_sigmoid(_LOGITS), _sigmoid(_LOGITS / temperature)])
    return _ascending(np.concatenate([[[0.0, 0.0]], curve, [[1.0, 1.0]]]))


METHODS = {"isotonic": isotonic_table, "temperature": temperature_table}


def calibrated(scores, table):
    """Read the probabilities of scores (N,) in a table; None: the scores themselves."""
    scores = np.asarray(scores, np.float64)
    return scores if table is None else np.interp(scores, *np.transpose(table))


def _ascending(points):
    """Points rounded for a file, without those that rounding made equal to the one before: lists."""
    points = np.round(points, _DIGITS)
    kept = [points[0]]
    for point in points[1:-1]:
        if (point > kept[-1]).all() and (point < points[-1]).all():
            kept.append(point)
    return [point.tolist() for point in [*kept, points[-1]]]


def _logits(scores):
    scores = np.clip(scores, _NEAR, 1 - _NEAR)
    return np.log(scores) - np.log1p(-scores)


def _sigmoid(logits):
    return 1 / (1 + np.exp(-logits))
