"""What processes need that tests start, and waiting for them without end."""

import os
import subprocess
import tempfile
import time


def python_path(*folders):
    """PYTHONPATH of these folders and of what this process has, `one_framework` among it."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


class Child(subprocess.Popen):
    """A process whose output is kept in a file, so that it never waits for a reader.

    Args:
        command: list of str. **environment: variables beside those of this process.
    """

    def __init__(self, command, **environment):
        self.output = tempfile.TemporaryFile()
        super().__init__(command, env=os.environ | environment, stdout=self.output, stderr=subprocess.STDOUT)

    def told(self):
        """What it has printed so far, str."""
        return os.pread(self.output.fileno(), 10**8, 0).decode(errors="replace")  # leaves its place in the file


def wait_until(condition, children, seconds):
    """Wait until `condition()`. Fails, with the output of all, if a child ends before or the seconds are over."""
    deadline = time.monotonic() + seconds
    while not condition():
        ended = [child.poll() for child in children]
        if ended != [None] * len(children) or time.monotonic() > deadline:
            raise AssertionError(f"after {seconds} s or less the processes are {ended}\n{outputs(children)}")
        time.sleep(0.02)


def end(*children, seconds):
    """Wait for processes, all of which must succeed within the seconds. If one fails, the others are killed.

    Returns:
        list of what each printed.
    """
    deadline = time.monotonic() + seconds
    try:
        while any(child.poll() is None for child in children):
            if any(child.poll() for child in children) or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        ended = [child.poll() for child in children]
        assert ended == [0] * len(children), f"after {seconds} s or less: {ended}\n{outputs(children)}"
        return [child.told() for child in children]
    finally:
        stop(*children)


def status_of(child, seconds):
    """The exit status of a process, which must end within the seconds; negative for a signal."""
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"still there after {seconds} s\n{outputs([child])}") from None


def stop(*children):
    """Kill those that still run."""
    for child in children:
        child.kill()
        child.wait()


def outputs(children):
    """The end of what each child printed, one after the other."""
    return "\n".join(f"--- {place}: {child.told()[-4000:]}" for place, child in enumerate(children))
