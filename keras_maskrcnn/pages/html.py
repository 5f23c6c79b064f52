"""Renders the HTML pages of the package from the jinja2 templates beside this file.

Every value is escaped (autoescape), so names of classes and files cannot break a page. A page is one file that fetches
nothing from elsewhere: it opens on any machine and can be sent by mail. Called by `dataset_page.py` and `run_page.py`.
"""

import functools
import pathlib

from keras_maskrcnn.host.files import write_text

_TEMPLATES = pathlib.Path(__file__).parent / "templates"


def write_page_file(path, template, **values):
    """Render a template and write the page, whole or not at all.

    Args:
        path: file to write.
        template: name of a file in `templates/`.
        **values: what the template shows.
    """
    write_text(path, _environment().get_template(template).render(values))


@functools.cache
def _environment():
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,  # a missing value is an error, not an empty place
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
