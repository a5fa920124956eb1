"""Objects of a third party by name: ``module:name``, or ``path/to/file.py:name``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from pint_diffusion.errors import InputError, reason


def load(spec: str) -> Any:
    """Import the module of an object and return the object; None if the module has none.

    Parameters
    ----------
    spec : str
        ``module:name``, the module as in an import statement, or ``path/to/file.py:name``.

    Raises
    ------
    InputError
        If the module can't be imported.
    """
    source, _, name = spec.rpartition(":")
    try:
        is_file = source.endswith(".py")
        module = _import_file(Path(source)) if is_file else importlib.import_module(source)
        return getattr(module, name, None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise InputError(f"{spec}: {source} can't be imported ({reason(error)})") from error


def _import_file(file: Path) -> ModuleType:
    """Run a file as a module of its own, under a name that no other module has."""
    name = f"pint_diffusion_third_party_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
