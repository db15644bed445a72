"""Loading: the tools that `holdfast chat --tools` names.

Rule of this file: what is not there, or breaks while it is loaded, is told in a line that names what was asked for.

    weather:get_weather          a function of a module; or a list of functions
    weather                      all functions of a module that were made tools with @tool
    tools/weather.py:get_weather     the same in a file
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any

from holdfast.cli.trouble import Trouble
from holdfast.conversation.errors import InvalidInputError
from holdfast.engine.toolkits import Toolkit, toolkit


def loaded_tools(given: Iterable[str]) -> Toolkit:
    """The tools in the order in which they are named, each once. Raises Trouble, and InvalidInputError."""
    named: list[Any] = []
    tools: list[Any] = []
    for what in given:
        new = [each for each in _loaded(what) if not any(each is other for other in named)]
        named += new
        try:
            kit = toolkit(new)
        except InvalidInputError as error:
            raise Trouble(f"--tools {what}: {error}") from error
        tools += [*kit.by_name.values(), *kit.sources]
    return toolkit(tools)


def _loaded(what: str) -> list[Any]:
    place, name = _parted(what)
    module = _module(what, place)
    if not name:
        made = [value for value in vars(module).values() if _is_tool(value)]
        if not made:
            raise Trouble(f"--tools {what}: nothing in it was made with @tool. Name a function: {place}:FUNCTION")
        return made
    value: Any = module
    for step in name.split("."):
        if not hasattr(value, step):
            raise Trouble(f"--tools {what}: there is no {step!r} in {place}.{_what_there_is(module)}")
        value = getattr(value, step)
    if isinstance(value, (list, tuple)):
        return list(value)
    if not (callable(value) or _is_tool(value) or hasattr(value, "tools")):
        raise Trouble(f"--tools {what}: {name} is no function and no list of functions, but a {type(value).__name__}.")
    return [value]


def _parted(what: str) -> tuple[str, str]:
    """Module or file, and the name in it. The colon of a Windows drive parts nothing."""
    place, colon, name = what.rpartition(":")
    return (place, name) if colon and "/" not in name and "\\" not in name else (what, "")


def _is_tool(value: object) -> bool:
    return not isinstance(value, type) and hasattr(value, "spec") and hasattr(value, "needs_approval")


def _what_there_is(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if _is_own_function(value, module)]
    return f" There is: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else ""


def _is_own_function(value: object, module: ModuleType) -> bool:
    is_function = callable(value) and not isinstance(value, type)
    return is_function and getattr(value, "__module__", "") == module.__name__


# --- modules ----------------------------------------------------------------------------------------------------


def _module(what: str, place: str) -> ModuleType:
    """Import it, from here first, as `python -m` does. Raises Trouble."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return _of_file(what, place) if _is_file(place) else import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not (place == error.name or place.startswith(f"{error.name}.")):
            raise _broken(what, place, error) from error  # it is there, and imports something that is not
        raise Trouble(f"--tools {what}: there is no module {error.name!r}, neither here nor installed.") from error
    except (Exception, SystemExit) as error:
        if isinstance(error, Trouble):
            raise
        raise _broken(what, place, error) from error


def _is_file(place: str) -> bool:
    return place.endswith(".py") or "/" in place or os.sep in place


def _of_file(what: str, place: str) -> ModuleType:
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise Trouble(f"--tools {what}: there is no file {place}.")
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise Trouble(f"--tools {what}: {place} is no Python file.")
    sys.path.insert(0, str(path.parent))  # it may import what lies beside it, as a script may
    module = module_from_spec(spec)
    if known is None:
        sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _broken(what: str, place: str, error: BaseException) -> Trouble:
    own = [frame for frame in extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    own = [frame for frame in own if frame.filename != __file__]
    where = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Trouble(f"--tools {what}: {place} cannot be loaded: {words}{where}")
