"""Run the pickle of a PyTorch file on a machine of our own. Nothing of the file reaches Python's unpickler.

A pickle is a program: it imports, calls and sets attributes. This machine has only the instructions for numbers,
strings, tuples, lists and dictionaries, and these three, which cannot do more than the caller allows:

- GLOBAL and STACK_GLOBAL make a `Name`, an immutable pair of strings. Nothing is imported.
- REDUCE and NEWOBJ look the name up in the caller's table of calls and pass the arguments to that function, which
  checks them.
- BUILD, which would set attributes, is passed over after a dictionary (torch adds `_metadata` to one). After an object
  that one of the caller's functions made it calls that object's `set_state`, if it has one, which checks what it
  gets. After anything else it is refused.

Called by `pth.py` and `pkl.py`.
"""

import pickletools
import typing

from keras_maskrcnn.weights.limits import MOST_INSTRUCTIONS, MOST_PICKLE_BYTES

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = frozenset(
    """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    """.split()
)
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
_NOTHING = {"PROTO", "FRAME"}
_MARK = object()
_LONGEST_LINE = 1 << 16  # names, and numbers as text, whose conversion takes the square of their length


class Name(typing.NamedTuple):
    """A name in a pickle, which stands for nothing."""

    module: str
    name: str

    def __str__(self):
        return f"{self.module[:40]}.{self.name[:40]}"


def read_pickle(file, names, calls, load_storage, most_bytes=MOST_PICKLE_BYTES, buildable=()):
    """Run one pickle.

    Args:
        file: binary file at the start of the pickle; afterwards at its end.
        names: set of Name, all names that may occur.
        calls: dict of Name to the function that REDUCE calls with the arguments of the pickle.
        load_storage: function of a persistent id, any value of the pickle.
        most_bytes: of the pickle.
        buildable: classes of objects whose `set_state` BUILD may call.

    Returns:
        The value: numbers, strings, tuples, lists, dictionaries, names, and what `calls` and `load_storage` return.

    Raises:
        ValueError, LookupError: an instruction or a name is not allowed, or the pickle is damaged.
    """
    machine = _Machine(names, calls, load_storage, frozenset(buildable))
    for count, (opcode, argument, position) in enumerate(pickletools.genops(_Bounded(file, most_bytes))):
        if count >= MOST_INSTRUCTIONS:
            raise ValueError(f"a pickle of more than {MOST_INSTRUCTIONS:,} instructions")
        if opcode.name == "STOP":
            return machine.pop()
        machine.run(opcode.name, argument, position)  # `genops` raises where the pickle ends without STOP


class _Bounded:
    """The part of a file that a pickle may take up; reads beyond raise. For `pickletools.genops`."""

    def __init__(self, file, most_bytes):
        self.file, self.most_bytes, self.left = file, most_bytes, most_bytes

    def read(self, count):
        self._spend(count)
        return self.file.read(count)

    def readline(self):
        line = self.file.readline(_LONGEST_LINE + 1)
        if len(line) > _LONGEST_LINE:
            raise ValueError(f"a line of more than {_LONGEST_LINE:,} bytes in a pickle")
        self._spend(len(line))
        return line

    def _spend(self, count):
        self.left -= count
        if self.left < 0:
            raise ValueError(f"a pickle of more than {self.most_bytes:,} bytes")

    def tell(self):
        return self.most_bytes - self.left


class _Machine:
    """A stack and a memo."""

    def __init__(self, names, calls, load_storage, buildable):
        self.names, self.calls, self.load_storage, self.buildable = names, calls, load_storage, buildable
        self.stack, self.memo = [], {}

    def run(self, name, argument, position):
        """Run one instruction."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _PUTS:
            self.memo[argument] = self.top()
        elif name in _GETS:
            self.stack.append(self.memo[argument])
        elif name in _INSTRUCTIONS:
            _INSTRUCTIONS[name](self)
        elif name == "GLOBAL":
            self.push_name(*argument.split(" ", 1))
        elif name not in _NOTHING:
            raise ValueError(f"the pickle instruction {name} at byte {position}")

    # The stack

    def top(self):
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("a pickle that reads an empty stack")
        return self.stack[-1]

    def pop(self):
        self.top()
        return self.stack.pop()

    def pop_marked(self):
        """The values above the last mark."""
        place = next((i for i in range(len(self.stack) - 1, -1, -1) if self.stack[i] is _MARK), None)
        if place is None:
            raise ValueError("a pickle that reads beyond its marks")
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def memoize(self):
        self.memo[len(self.memo)] = self.top()

    # Containers

    def push_tuple(self, count):
        values = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(values)))

    def extend(self, values):
        target = self.top()
        if type(target) is not list:
            raise ValueError(f"a pickle that appends to {describe(target)}")
        target.extend(values)

    def update(self, values):
        target = self.top()
        if type(target) is not dict:
            raise ValueError(f"a pickle that sets entries of {describe(target)}")
        target.update(as_dict(values))

    # Names

    def push_name(self, module, name):
        found = Name(module, name)
        if found not in self.names:
            raise ValueError(f"the name {found}, which no tensor needs")
        self.stack.append(found)

    def push_global(self):
        name, module = self.pop(), self.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is not made of strings")
        self.push_name(module, name)

    def reduce(self):
        arguments, function = self.pop(), self.pop()
        if type(function) is not Name or function not in self.calls:
            raise ValueError(f"a call of {function if type(function) is Name else describe(function)}")
        if type(arguments) is not tuple:
            raise ValueError(f"a call of {function} with {describe(arguments)} instead of arguments")
        self.stack.append(self.calls[function](*arguments))

    def build(self):
        state, target = self.pop(), self.top()
        if type(target) in self.buildable:
            target.set_state(state)
        elif type(target) is not dict:
            raise ValueError(f"an instruction to change {describe(target)}")


def as_dict(values):
    """A dict of alternating keys and values. Keys are strings or numbers: hashing others may take for ever."""
    if len(values) % 2:
        raise ValueError("a dictionary with a key and no value")
    for key in values[::2]:
        if type(key) not in (str, int, float, bool):
            raise ValueError(f"a dictionary with {describe(key)} for a key")
    return dict(zip(values[::2], values[1::2], strict=True))


def describe(value):
    """A few words on any value of a pickle. Printing it could take for ever: pickles share what they nest."""
    if type(value) in (str, float, bool, type(None)) or (type(value) is int and abs(value) < 1 << 64):
        return repr(value[:40] if isinstance(value, str) else value)
    return f"a {type(value).__name__.strip('_').lower()}"


_INSTRUCTIONS = {
    "MARK": lambda machine: machine.stack.append(_MARK),
    "POP": lambda machine: machine.pop(),
    "POP_MARK": lambda machine: machine.pop_marked(),
    "DUP": lambda machine: machine.stack.append(machine.top()),
    "MEMOIZE": _Machine.memoize,
    "EMPTY_LIST": lambda machine: machine.stack.append([]),
    "EMPTY_DICT": lambda machine: machine.stack.append({}),
    "LIST": lambda machine: machine.stack.append(machine.pop_marked()),
    "DICT": lambda machine: machine.stack.append(as_dict(machine.pop_marked())),
    "TUPLE": lambda machine: machine.stack.append(tuple(machine.pop_marked())),
    "TUPLE1": lambda machine: machine.push_tuple(1),
    "TUPLE2": lambda machine: machine.push_tuple(2),
    "TUPLE3": lambda machine: machine.push_tuple(3),
    "APPEND": lambda machine: machine.extend([machine.pop()]),
    "APPENDS": lambda machine: machine.extend(machine.pop_marked()),
    "SETITEM": lambda machine: machine.update([*reversed([machine.pop(), machine.pop()])]),
    "SETITEMS": lambda machine: machine.update(machine.pop_marked()),
    "STACK_GLOBAL": _Machine.push_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,  # makes an object of a class: here as REDUCE, of a name in the table of calls
    "BUILD": _Machine.build,
    "BINPERSID": lambda machine: machine.stack.append(machine.load_storage(machine.pop())),
}
