"""Coordinates of small charts, which templates draw as SVG: no script and no library is needed to see them."""

WIDTH, HEIGHT = 300, 200  # of a chart's plane, units of its viewBox


def line(xs, ys, width=WIDTH, height=HEIGHT):
    """The `points` of an SVG polyline: values from 0 to 1, the origin at the lower left."""
    return " ".join(f"{x * width:.1f},{(1 - y) * height:.1f}" for x, y in zip(xs, ys, strict=True))


def stacked_bars(lower, upper):
    """Bars of two values, one on the other.

    Args:
        lower, upper: lists of as many counts.

    Returns:
        List of dicts: x, width, and y and height of the two: `low_y`, `low_height`, `high_y`, `high_height`.
    """
    most = max((a + b for a, b in zip(lower, upper, strict=True)), default=0) or 1
    width = WIDTH / max(1, len(lower))
    bars = []
    for place, (a, b) in enumerate(zip(lower, upper, strict=True)):
        low, high = a / most * HEIGHT, b / most * HEIGHT
        bars.append(
            {
                "x": f"{place * width:.1f}",
                "width": f"{width - 1:.1f}",
                "low_y": f"{HEIGHT - low:.1f}",
                "low_height": f"{low:.1f}",
                "high_y": f"{HEIGHT - low - high:.1f}",
                "high_height": f"{high:.1f}",
            }
        )
    return bars
