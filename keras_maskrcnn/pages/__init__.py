"""HTML pages: the report on a dataset and the report on a training run."""
