"""How a field names something: by a registered name, or as "package.module:name" in the user's own code."""

import contextlib
import dataclasses
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from resnet_jax.errors import ConfigError, UserError, nearest


def is_import(name: str) -> bool:
    """Return whether a name has the form "package.module:name"."""
    return ":" in name


def lookup(kind: str, name: str, registered: Mapping[str, Any]) -> Any:
    """Return what is registered under `name`, or what "package.module:name" imports.

    Args:
      kind: of thing, for the error: "block", "optimizer" and so on.
      name: a key of `registered`, or module and attribute with a colon between.
      registered: what the project has.

    Raises ConfigError if there is no such name, module or attribute, or if the module raises an error.
    """
    if not is_import(name):
        if name in registered:
            return registered[name]
        known = f"one of {', '.join(sorted(registered))}, or " if registered else ""
        raise ConfigError(
            f'there is no {kind} {name!r}{nearest(name, registered)}: use {known}your own as "module:name".'
        )
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise ConfigError(f"the {kind} {name!r} cannot be imported: {error}.") from error
        raise ConfigError(
            f"the {kind} {name!r} names a module that cannot be found: put {module_name.split('.')[0]}.py beside the "
            "config file or on PYTHONPATH."
        ) from error
    except Exception as error:  # The module is the user's code and may raise anything.
        raise ConfigError(f"the {kind} {name!r} cannot be imported: {described(error)}.") from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        known = [key for key in vars(module) if not key.startswith("_")]
        raise ConfigError(f"{module_name} has no {attribute!r}{nearest(attribute, known)}.") from error


@dataclasses.dataclass(frozen=True)
class Own:
    """A function of the user's, whose exceptions become one sentence with the file and the line."""

    kind: str
    name: str
    function: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function. Raises ConfigError for any exception in it."""
        try:
            return self.function(*args, **kwargs)
        except UserError:
            raise
        except Exception as error:  # The function is the user's code and may raise anything.
            raise ConfigError(f"the {self.kind} {self.name!r} raises {described(error)}.") from error


def own(kind: str, name: str, registered: Mapping[str, Any]) -> Any:
    """Return what `lookup` returns; a function of the user's is an `Own`. Raises ConfigError if it is not callable."""
    function = lookup(kind, name, registered)
    if not is_import(name):
        return function
    if not callable(function):
        raise ConfigError(f"the {kind} {name!r} is {type(function).__name__} and must be a function.")
    return Own(kind, name, function)


def call_with_fields(kind: str, name: str, function: Callable[..., Any], fields: Mapping[str, Any]) -> Any:
    """Call a function with those of `fields` that its signature names.

    Raises ConfigError if it needs any other parameter, and for any exception in a user's function.
    """
    signature = parameters(function)
    for parameter in signature.values():
        needed = parameter.default is parameter.empty and parameter.kind not in VARIADIC
        if needed and (parameter.name not in fields or parameter.kind is parameter.POSITIONAL_ONLY):
            raise ConfigError(
                f"the {kind} {name!r} has a parameter {parameter.name!r}{nearest(parameter.name, fields)}; it can name "
                f"{', '.join(sorted(fields))}."
            )
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.values())
    return Own(kind, name, function)(**{key: fields[key] for key in fields if takes_all or key in signature})


def check_call(kind: str, name: str, function: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    """Raise ConfigError if a function cannot be called with so many positional arguments."""
    try:
        inspect.signature(unwrapped(function)).bind(*arguments)
    except TypeError as error:
        raise ConfigError(f"the {kind} {name!r} cannot be called with ({', '.join(arguments)}): {error}.") from error
    except ValueError:  # a built-in function has no signature
        pass


VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a function by name."""
    return inspect.signature(unwrapped(function)).parameters


def unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that an `Own` holds, or the function itself."""
    return function.function if isinstance(function, Own) else function


def described(error: BaseException) -> str:
    """Return an exception as "ValueError: text (file, line n)", where the line is the last outside of libraries."""
    if isinstance(error, SyntaxError):
        place = (error.filename, error.lineno)
    else:
        frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        place = next((frame for frame in reversed(frames) if not is_library(frame[0])), frames[-1])
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if text else ''}{text.rstrip('.')} ({place[0]}, line {place[1]})"


def is_library(file: str) -> bool:
    """Return whether a file belongs to this package, to an installed one or to Python."""
    places = (str(Path(__file__).parent), str(Path(inspect.__file__).parent))
    return file.startswith((*places, "<")) or "site-packages" in file


@contextlib.contextmanager
def own_modules() -> Iterator[None]:
    """Forget, on leaving, the folders that `importable_from` added and the modules that were imported from them."""
    before = list(sys.path)
    try:
        yield
    finally:
        added = [str(folder) for folder in sys.path if folder not in before]
        sys.path[:] = before
        for name, module in list(sys.modules.items()):
            if (file := getattr(module, "__file__", None)) and str(Path(file).parent) in added:
                del sys.modules[name]


def importable_from(folder: Path) -> None:
    """Let the modules of a folder be imported. They come after all others: none of them hides a library."""
    if str(folder.resolve()) not in sys.path:
        sys.path.append(str(folder.resolve()))
        importlib.invalidate_caches()
