"""Objects of a third party by name: ``module:name``, or ``path/to/file.py:name``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from pint_diffusion.errors import InputError, reason
from pint_diffusion.small_file import refuse_irregular


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


def absolute(spec: str) -> str:
    """Return the name of an object with which `load` finds it from any folder."""
    source, _, name = spec.rpartition(":")
    return f"{placed(Path(source))}:{name}" if source.endswith(".py") else spec


def placed(path: Path) -> Path:
    """Return the path of something from any folder; what is not there keeps the path it was given.

    So a message names what the user wrote.
    """
    try:
        return path.absolute() if os.path.lexists(path) else path
    except (OSError, ValueError):  # this folder is gone, or the path is none
        return path


def digest(spec: str) -> str:
    """Return the SHA-256 of the source files that `load` runs; empty if they are not found.

    They are the file, or the module and the packages that it is in. What these import is not
    among them. Nothing is imported.
    """
    found = hashlib.sha256()
    files = _sources(spec.rpartition(":")[0])
    try:
        for file in files:
            found.update(hashlib.sha256(file.read_bytes()).digest())
    except OSError:
        files = []
    return found.hexdigest() if files else ""


def _sources(source: str) -> list[Path]:
    """Find the source files of a file or a module, as import would, from the outermost package."""
    if source.endswith(".py"):
        return [Path(source)]
    files, place, name = [], None, ""
    for word in source.split("."):
        name = f"{name}.{word}" if name else word
        finders = [finder.find_spec for finder in sys.meta_path if hasattr(finder, "find_spec")]
        found = next(filter(None, (find(name, place) for find in finders)), None)
        if found is None:
            return []
        if found.has_location and found.origin:
            files.append(Path(found.origin))
        place = found.submodule_search_locations
    return files


class _AsWritten(SourceFileLoader):
    """Runs a file as it is written: it neither takes nor leaves compiled code beside it."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def _import_file(file: Path) -> ModuleType:
    """Run a file as a module of its own, under a name that no other module has."""
    refuse_irregular(file)
    name = f"pint_diffusion_third_party_{file.stem}"
    spec = importlib.util.spec_from_loader(name, _AsWritten(name, str(file)))
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
