"""Runs cases in child processes that are watched: one that hangs, dies or takes too much memory is one case's outcome.

A child is a fork of the process that imported the package, so it starts in milliseconds. It goes through its cases and
sends each outcome; the parent ends it where a case takes longer than `SECONDS` or the child more than `MEMORY`, counts
that case, and starts another child with the next.
"""

import contextlib
import faulthandler
import os
import pathlib
import pickle
import re
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time

from . import doors, inputs, judge

SECONDS = 10  # of the processor, for a case
WAITED = 120  # seconds on the clock, for a case that waits for something
MEMORY = 2 * 2**30  # anonymous resident bytes of a child
_SPACE = 4 * 2**30  # address space: what numpy asks for at once
_POLL = 0.05
_TRACE = "trace.txt"  # where a child writes what it did when it died


def run_case(name, seed, folder, kept=None):
    """Run one case in this process.

    Args:
        name: a key of DOORS. seed: of the case. folder: empty, for its files. kept: mutations to apply, None is all.

    Returns:
        dict: outcome, reason, error (class name), place (line of the package).
    """
    door = doors.DOORS[name]
    case = door.make(seed, kept)
    folder = pathlib.Path(folder)
    (folder / "out").mkdir()
    case.options.setdefault("output", folder / "out") if "seed" in case.options else None
    options = {key: value for key, value in case.options.items() if key != "seed"}
    case.options.pop("seed", None)
    output = case.options.get("output")
    path = inputs.write(case, folder / "in", seed) if case.files else folder
    case.options = options if output is None else {**options, "output": output}
    try:
        door.enter(case, path)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except doors.Unclear as error:
        return {"outcome": "unclear", "reason": str(error.args[0]), "error": "text", "place": judge.place_of(error)}
    except BaseException as error:  # every kind of exception is what is looked for
        outcome, reason = judge.outcome_of(error, doors.mentions(case, path) if door.named else ())
        told = {"error": type(error).__name__, "place": judge.place_of(error), "message": str(error)[:300]}
        return {"outcome": outcome, "reason": reason, **told}
    return {"outcome": "accepted", "reason": "", "error": "", "place": ""}


class Child:
    """A process that runs a list of cases."""

    def __init__(self, cases):
        self.cases = list(cases)
        self.done = 0
        self.largest = 0
        self.folder = tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self._read, write = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._read)
            _serve(self.cases, write, self.folder)
        os.close(write)
        self._buffer = b""
        self._since = time.monotonic(), 0.0

    def poll(self):
        """(number of the case, result) of what is finished by now, a list; and whether the child is still at work."""
        found = []
        for result in self._received():
            found.append((self.done, result))
            self.done += 1
            self._since = time.monotonic(), _used(self.pid)
        if self.done == len(self.cases):
            self._end()
            return found, False
        problem = self._problem()
        if problem is not None:
            outcome, reason = problem
            self._stop()
            place = _place_in(pathlib.Path(self.folder) / _TRACE)
            found.append((self.done, {"outcome": outcome, "reason": reason, "error": outcome, "place": place}))
            self.done += 1
            self._end()
            return found, False
        return found, True

    def _received(self):
        while select.select([self._read], [], [], 0)[0]:
            data = os.read(self._read, 1 << 16)
            if not data:
                break
            self._buffer += data
        while len(self._buffer) >= 4:
            (size,) = struct.unpack("<I", self._buffer[:4])
            if len(self._buffer) < 4 + size:
                return
            yield pickle.loads(self._buffer[4 : 4 + size])
            self._buffer = self._buffer[4 + size :]

    def _problem(self):
        """(outcome, reason) of the case at work if the child must end, or has."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.pid = None
            late = list(self._received())
            if late:  # it finished cases before it died
                self._buffer = b"".join(struct.pack("<I", len(d)) + d for d in map(pickle.dumps, late)) + self._buffer
                return None
            return "crash", f"wait status {status} ({_signal_name(status)})"
        memory = _resident(self.pid)
        self.largest = max(self.largest, memory)
        if memory > MEMORY:
            return "memory", f"{memory / 2**30:.1f} GB"
        waited, used = time.monotonic() - self._since[0], _used(self.pid) - self._since[1]
        if used > SECONDS or waited > WAITED:
            return "hang", f"{used:.0f} s of the processor, {waited:.0f} s in all"
        return None

    def _stop(self):
        """End the process. The first signal lets it write down where it is."""
        for number in (signal.SIGABRT, signal.SIGKILL):
            for _ in range(20):
                if self.pid is None:
                    return
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, number)
                time.sleep(_POLL)
                if os.waitpid(self.pid, os.WNOHANG)[0]:
                    self.pid = None

    def _end(self):
        if self.pid is not None and self.done == len(self.cases):
            os.waitpid(self.pid, 0)
            self.pid = None
        self._stop()
        os.close(self._read)
        shutil.rmtree(self.folder, ignore_errors=True)


def _serve(cases, write, folder):
    """The child: every case in a folder of its own, its outcome into the pipe."""
    status = 1
    try:
        resource.setrlimit(resource.RLIMIT_AS, (_space_now() + _SPACE, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        faulthandler.enable(open(pathlib.Path(folder) / _TRACE, "w"))
        for number, (name, seed) in enumerate(cases):
            place = pathlib.Path(folder) / str(number)
            place.mkdir()
            result = run_case(name, seed, place)
            result["reason"] = result["reason"].encode("utf-8", "replace").decode()[:600]
            shutil.rmtree(place, ignore_errors=True)
            data = pickle.dumps(result)
            os.write(write, struct.pack("<I", len(data)) + data)
        status = 0
    finally:
        os._exit(status)


def _place_in(trace):
    """The innermost line of the package in faulthandler's dump: "file.py:12 function"."""
    text = trace.read_text(errors="replace") if trace.is_file() else ""
    found = re.search(r'File "[^"]*/keras_maskrcnn/([^"]+)", line (\d+) in (\S+)', text)
    return f"{found[1]}:{found[2]} {found[3]}" if found else "outside the package"


def _space_now():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _resident(pid):
    """Anonymous resident bytes of a process: a child begins without the pages of files that its parent has read."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def _used(pid):
    """Seconds of the processor that a process has taken."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _signal_name(status):
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "exit"


def run_all(cases, jobs, batch, report):
    """Run cases in children.

    Args:
        cases: list of (door, seed). jobs: children at a time. batch: cases a child runs at most.
        report: called with (door, seed, result) of each.

    Returns:
        int, the largest resident memory of a child, bytes.
    """
    waiting = [cases[k : k + batch] for k in range(0, len(cases), batch)][::-1]
    children, largest = [], 0
    while waiting or children:
        while waiting and len(children) < jobs:
            children.append(Child(waiting.pop()))
        working = []
        for child in children:
            found, goes_on = child.poll()
            for number, result in found:
                case = child.cases[number]
                if result["outcome"] in ("hang", "memory") and len(child.cases) > 1:
                    waiting.append([case])  # alone: the machine may have been busy, or other cases took the memory
                else:
                    report(*case, result)
            if goes_on:
                working.append(child)
            else:
                largest = max(largest, child.largest)
                if child.done < len(child.cases):
                    waiting.append(child.cases[child.done :])
        children = working
        time.sleep(_POLL)
    return largest
