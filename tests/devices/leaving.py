"""A process of test_devices.py: one of two, of which the second ends before the work is done.

python leaving.py killed|raises
"""

import os
import signal
import sys

import keras_maskrcnn as km


def main(how):
    """Meet twice; the second process does not come the second time."""
    with km.use_devices(None) as team:
        team.gather("first")
        if team.first:
            team.gather("second")
        elif how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("image 7 cannot be read")


if __name__ == "__main__":
    main(*sys.argv[1:])
