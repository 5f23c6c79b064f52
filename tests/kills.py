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


def restore(folder, state):
    """Write the files that `visible` found: no child has to make them again."""
    for name, content in state.items():
        path = pathlib.Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# Kills at a step or at a time ------------------------------------------------------------------------------

STEPS = ("rename", "replace", "mkdir", "unlink", "rmdir", "fsync", "truncate", "link")  # of os: what changes a disk


def at_each_step(call):
    """Call `call()` before each change of the disk that this process makes from now on."""
    from keras_maskrcnn.host import files

    for module, name in [(os, name) for name in STEPS] + [(files, "exchange")]:
        setattr(module, name, _announced(getattr(module, name), call))


def _announced(function, call):
    def announced(*args, **kwargs):
        call()
        return function(*args, **kwargs)

    return announced


def count_steps(work):
    """How often a function changes the disk, counted in a child; and the seconds that it takes."""
    reader, writer = os.pipe()

    def counted():
        at_each_step(lambda: os.write(writer, b"."))
        work()

    started = time.monotonic()
    child = start_process(counted)
    os.close(writer)
    count = 0
    while found := os.read(reader, 4096):
        count += len(found)
    os.close(reader)
    if wait_for(child):
        raise RuntimeError("The work failed without a kill.")
    return count, time.monotonic() - started


def killed_at_step(work, number):
    """Call a function in a child that is killed just before its change of the disk with this number, from 0.

    Returns:
        As `in_a_process`.
    """
    left = [number]

    def step():
        if left[0] == 0:
            kill_this_process()
        left[0] -= 1

    def until_then():
        at_each_step(step)
        work()

    return in_a_process(until_then)


class Scene:
    """Work that replaces an old state of a folder by a new one.

    Args:
        name: of the command. prepare, work: functions of a folder: they write the old state, and the new one.
    """

    def __init__(self, name, prepare, work):
        self.name, self.prepare, self.work = name, prepare, work

    def states(self, folder):
        """(old, new) states as `visible`, the number of steps and the seconds of the work. In children."""
        folder.mkdir(parents=True)
        assert in_a_process(lambda: self.prepare(folder)) == 0
        old = visible(folder)
        steps, seconds = count_steps(lambda: self.work(folder))
        return old, visible(folder), steps, seconds

    def kill(self, folder, states, step=None, seconds=None):
        """Kill the work once and look: "old", "new" or "missing" (files that belong together); raise for a mixture.

        Then the work is done again, and must leave the new state and nothing else.
        """
        old, new = states[:2]
        folder.mkdir(parents=True)
        restore(folder, old)
        work = lambda: self.work(folder)  # noqa: E731
        killed_at_step(work, step) if step is not None else in_a_process(work, kill_after=seconds)
        found = visible(folder)
        unknown = {name for name, content in found.items() if content not in (old.get(name), new.get(name))}
        assert not unknown, f"{self.name}: neither old nor new: {unknown}"
        kind = self._kind(found, old, new)
        assert in_a_process(work) == 0
        assert visible(folder) == new and leftovers(folder) == [], (self.name, leftovers(folder))
        return kind

    @staticmethod
    def _kind(found, old, new):
        # New images stand beside the old ones; the file that names them decides.
        changed = {name for name in old | new if old.get(name) != new.get(name) and not name.endswith(".png")}
        states = {"old" if found.get(name) == old.get(name) else "new" for name in changed if name in found}
        absent = {name for name in changed & set(old) & set(new) if name not in found}
        if absent:
            return "missing" if len(states) < 2 else "mixed"
        return states.pop() if len(states) == 1 else "mixed" if states else "old"
