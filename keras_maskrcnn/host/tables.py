"""Tables as plain text, aligned by rich: the same on terminals and in files, without colours or frames."""

import io


def text_table(rows):
    """Align the columns of a table: the first to the left, the others to the right.

    Widths count terminal cells, so names in Chinese or with accents stay aligned.

    Args:
        rows: list of rows of equal length, their cells of any type; the first may be headings.

    Returns:
        str, a line a row, two spaces between columns, no newline at the end.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [[Text(str(cell)) for cell in row] for row in rows]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for column in range(len(rows[0]) if rows else 0):
        table.add_column(justify="right" if column else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    width = sum(max(cell.cell_len for cell in column) + 2 for column in zip(*rows, strict=True))
    console = Console(file=io.StringIO(), width=max(width, 1), color_system=None, force_jupyter=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
