"""Processes that are killed: forked children, and what is in a folder afterwards; used by several test files."""

import os
import pathlib
import signal
import time
import traceback


def kill_this_process():
    """End this process as the system does when memory is short: nothing is tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_process(work, kill_after=None):
    """Call a function in a forked child, which is killed after some seconds if it still runs then.

    Returns:
        0 if the function returned, 1 if it raised (the child prints why), -9 if it was killed.
    """
    child = start_process(work)
    if kill_after is not None:
        time.sleep(kill_after)
        if os.waitpid(child, os.WNOHANG)[0]:
            return 0
        os.kill(child, signal.SIGKILL)
    return wait_for(child)


def start_process(work):
    """Fork a child that calls a function. Returns its process id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)  # no tidying up of the parent's things
    return child


def wait_for(child):
    """Wait until a child has ended; its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def visible(folder):
    """The files of a folder that are no temporary ones and no locks: dict from relative path to content."""
    folder = pathlib.Path(folder)
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in found.items() if not any(p[0] == "." for p in name.parts)}


def leftovers(folder):
    """Names of temporary files and locks in a folder, sorted."""
    return sorted(path.name for path in pathlib.Path(folder).rglob(".*"))
