"""What the HTML pages of the package share: one look, and the few pieces they are made of.

Pages are one file each and fetch nothing from elsewhere, so that they open on any machine and travel by mail. Called by
`checkup/page.py` (a dataset) and `run_page.py` (a training run).
"""

import html

from keras_maskrcnn.host.files import write_text

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; padding: 0 1em; color: #1d2733 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin: 2em 0 .6em; border-bottom: 1px solid #d5dce3 }
table { border-collapse: collapse } td, th { padding: .2em .8em .2em 0; text-align: left; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.bar { background: #3b82c4; height: .8em; display: inline-block; min-width: 2px } td.b { width: 210px }
.tiles { display: flex; flex-wrap: wrap; gap: 1em } .tile { background: #f1f5f9; border-radius: 6px; padding: .6em 1em }
.tile b { display: block; font-size: 1.5em } .error { color: #b3261e }
.warning { color: #9a6700 } .note { color: #4b5a69 }
.side { display: flex; flex-wrap: wrap; gap: 3em } .pictures { display: flex; flex-wrap: wrap; gap: 10px }
figure { margin: 0; width: 250px } figure img { max-width: 250px; max-height: 250px } figcaption { font-size: .75em;
overflow-wrap: anywhere } details { margin: .3em 0 } summary { cursor: pointer } li { overflow-wrap: anywhere }
pre { background: #f1f5f9; padding: .8em; overflow: auto }
"""


def write_html(path, title, parts):
    """Write a page, whole or not at all.

    Args:
        path: file to write.
        title: str, for the window and the first heading.
        parts: list of str, HTML.
    """
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>"
    write_text(path, "\n".join([head, f"<h1>{escape(title)}</h1>", *parts]) + "</html>\n")


def escape(value):
    """A value as text that is safe inside HTML."""
    return html.escape(str(value))


def tiles(figures):
    """Figures to see first: a list of (name, value)."""
    cells = "".join(f"<div class=tile><b>{escape(value)}</b>{escape(name)}</div>" for name, value in figures)
    return f"<div class=tiles>{cells}</div>"


def options_table(options):
    """Names and values: a dict."""
    rows = "".join(f"<tr><td>{escape(name)}<td>{escape(value)}" for name, value in options.items())
    return f"<table>{rows}</table>"


def bars(rows, name, count, title, second=None):
    """A table with a bar a row, as long as its count.

    Args:
        rows: list of dicts. name, count, second: their keys; `second` is a further column of numbers, or None.
        title: heading of the names.
    """
    most = max((row[count] for row in rows), default=0) or 1
    cells = "".join(
        f"<tr><td>{escape(row[name])}<td class=n>{row[count]}" + (f"<td class=n>{row[second]}" if second else "")
        + f"<td class=b>{bar(row[count] / most)}"
        for row in rows
    )  # fmt: skip
    head = f"<th>{title}<th class=n>{count}" + (f"<th class=n>{second}" if second else "")
    return f"<div><table><tr>{head}<th>{cells}</table></div>"


def bar(share):
    """A bar of a share of the column's width, for a cell of class b."""
    return f"<span class=bar style='width:{100 * share:.1f}%'></span>" if share > 0 else ""


def details(summary, content, opened=False):
    """Content that a click on its summary shows; both HTML."""
    return f"<details{' open' * opened}><summary>{summary}</summary>{content}</details>"
