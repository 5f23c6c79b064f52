"""What `predict --engine` chooses among: `Engine`, one row of the table in `predict.py`."""

import collections.abc
import typing


class Engine(typing.NamedTuple):
    """What runs the model for `predict`.

    To add one, write a module with its functions and put its row into `ENGINES` of `predict.py`.

    Args:
        summary: what it is, for the help.
        check: function from parsed to checked arguments, called before Keras is imported.
        run: function from arguments to an exit status.
        options: tuple of Option that no other engine has; their value is None if they are not given.
        uses_models: whether this process needs Keras.
    """

    summary: str
    check: collections.abc.Callable
    run: collections.abc.Callable
    options: tuple = ()
    uses_models: bool = True


def add_engines(command, engines):
    """Add `--engine` and the options of each engine to a parser.

    Args:
        command: argparse parser. engines: dict from name to Engine; the first is the default.
    """
    told = "; ".join(f"{name}: {engine.summary}" for name, engine in engines.items())
    default = next(iter(engines))
    command.add_argument("--engine", choices=tuple(engines), default=default, help=f"what runs the model. {told}")
    for name, engine in engines.items():
        if engine.options:
            group = command.add_argument_group(f"with --engine {name}")
            for option in engine.options:
                option.add_to(group, late_default=True)


def check_engine(args, engines):
    """Refuse the options of other engines; then let the chosen one check its own. Returns the checked arguments."""
    for name, engine in engines.items():
        for option in engine.options if name != args.engine else ():
            if getattr(args, option.name) is not None:
                raise ValueError(
                    f"{option.flag} works with --engine {name}. Received: --engine {args.engine}. "
                    f"Add --engine {name}, or leave {option.flag} out."
                )
    return engines[args.engine].check(args)
