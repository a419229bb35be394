"""Whether the libraries of a format are installed, in a version that works. Imports none of them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence

from packaging.specifiers import SpecifierSet

from ..errors import EnvironmentFailure, MissingExtraError


def check_libraries(name: str, package: str, versions: str, companions: Sequence[str], extra: str) -> str:
    """Check what a format needs; for the parameters see :class:`~hf_unlearn.quantization.base.Format`.

    Returns:
        The version of ``package``.

    Raises:
        MissingExtraError: One is not installed.
        EnvironmentFailure: It is, in a version that does not work.
    """
    for companion in companions:
        _version(name, companion, extra)
    version = _version(name, package, extra)
    if version not in SpecifierSet(versions, prereleases=True):
        raise EnvironmentFailure(
            f"format {name} needs {package} {versions}, and {version} is installed: run  "
            f"pip install 'hf_unlearn[{extra}]'"
        )
    return version


def _version(name: str, package: str, extra: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtraError(f"format {name}", package, extra) from None
