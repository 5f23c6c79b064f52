"""What processes need that tests start."""

import os


def python_path(*folders):
    """PYTHONPATH of these folders and of what this process has, `one_framework` among it."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])
