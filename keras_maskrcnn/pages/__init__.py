"""HTML pages from jinja2 templates: the report on a dataset and the report on a training run."""
