"""What all commands share: exit statuses, number types, and `Option`, one row in a command's table of options."""

import argparse
import dataclasses
import math

SUCCESS, CHECK_FAILED, MISTAKE = 0, 1, 2  # exit statuses; argparse uses 2 for wrong arguments, too


_MOST = 2**31 - 1  # of whole numbers: counts and sizes become 32-bit integers


def positive(kind):
    """Make an argparse type for numbers of this kind above zero: finite ones, and whole ones below 2^31."""

    def parse(text):
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be above zero, received {text}")
        if kind is int and value > _MOST or value == math.inf:
            raise argparse.ArgumentTypeError(
                f"must be {'at most ' + str(_MOST) if kind is int else 'finite'}, received {text}"
            )
        return value

    parse.__name__ = kind.__name__  # argparse shows it if the text is no number
    return parse


def count_or_auto(text):
    """The argparse type of a number of workers, which "auto" leaves open."""
    return text if text == "auto" else positive(int)(text)


count_or_auto.__name__ = "int"


def count_or_all(text):
    """The argparse type of a number of devices, or "all"."""
    return text if text == "all" else positive(int)(text)


count_or_all.__name__ = "int"


def finite(text):
    """The argparse type of numbers that are neither infinite nor NaN."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be finite, received {text}")
    return value


finite.__name__ = "float"


def seed(text):
    """The argparse type of seeds of random numbers, which take 32 bits."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 2^32, received {text}")
    return value


seed.__name__ = "int"


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: its flag, the values that it accepts, its default and its help.

    Args:
        flag: such as "--min-size".
        help: str; the help on the screen adds the default.
        default: value if the option is given nowhere; None: no value.
        type: function from text to value, or bool for a switch without a value.
        choices, nargs, const, metavar: as argparse takes them.
        old_flag: an earlier name, still accepted but not in the help.
    """

    flag: str
    help: str
    default: object = None
    type: object = str
    choices: tuple | None = None
    nargs: object = None
    const: object = None
    metavar: object = None
    old_flag: str | None = None

    @property
    def name(self):
        """The key in parsed arguments and in files: "min_size" for "--min-size"."""
        return self.flag.removeprefix("--").replace("-", "_")

    def add_to(self, parser, late_default=False, required=False):
        """Add the option to a parser or a group of one.

        Args:
            parser: argparse parser or group.
            late_default: the parsed value is None if the option is not given; `settled` fills the default in.
            required: whether the command needs it.
        """
        settings = {"dest": self.name, "default": None if late_default else self.default}
        if self.type is bool:
            settings |= {"action": "store_const", "const": True}
        else:
            names = ("type", "choices", "nargs", "const", "metavar")
            settings |= {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        parser.add_argument(self.flag, help=self._described(), required=required, **settings)
        if self.old_flag:
            parser.add_argument(self.old_flag, help=argparse.SUPPRESS, **settings)

    def from_file(self, value, path):
        """Check a value from a JSON file as the command line checks its text.

        Args:
            value: what the file holds. path: the file, for messages.

        Raises:
            ValueError: the option does not accept it.
        """
        many = self.nargs not in (None, "?")
        try:
            if isinstance(value, list) != many or (isinstance(self.nargs, int) and len(value) != self.nargs):
                raise ValueError
            checked = [self._checked(item) for item in (value if many else [value])]
        except (ValueError, TypeError, argparse.ArgumentTypeError):
            raise ValueError(
                f"{path}: {self.name} must be a value that {self.flag} accepts: {self.help}. "
                f"Received {repr(value)[:200]}. Correct it in the file, or give {self.flag} and remove it there."
            ) from None
        return checked if many else checked[0]

    def _checked(self, item):
        if self.type is bool:
            accepted, value = isinstance(item, bool), item
        else:
            value = self.type(str(item))
            accepted = self.choices is None or value in self.choices
        if not accepted:
            raise ValueError
        return value

    def _described(self):
        text = self.help.replace("%", "%%")
        if self.default is None or self.default is False:
            return text
        shown = " ".join(map(str, self.default)) if isinstance(self.default, tuple) else self.default
        return f"{text} (default: {shown})"


def add_options(parser, options, late_defaults=False, required=()):
    """Add options to a parser or group; those named in `required` must be given."""
    for option in options:
        option.add_to(parser, late_defaults, option.name in required)


def settled(args, options, proposed=None):
    """Give every option a value: from the command line, else the proposed one, else the default.

    Args:
        args: parsed arguments, None for options that were not given.
        options: the Options, added with late defaults.
        proposed: dict from name to value, of a file or a proposal; None stands for "not proposed".

    Returns:
        argparse.Namespace with the other arguments unchanged.
    """
    values = dict(vars(args))
    for option in options:
        sources = (values.get(option.name), (proposed or {}).get(option.name), option.default)
        values[option.name] = next((value for value in sources if value is not None), None)
    return argparse.Namespace(**values)
