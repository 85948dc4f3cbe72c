"""Saying what to install, where the benchmark's packages are missing.

nlb-tools 0.0.4 pins a pandas that no longer builds, so no extra can name it: it is installed
beside the package, without its pins.
"""

import sys
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from ndt_cli.errors import MissingExtraError

NLB_TOOLS = "nlb-tools==0.0.4"
"""The release that the repairs in `ndt_cli.nlb.nlb_tools` are made for."""


def require_nlb_extra(*modules: str) -> None:
    """Check that modules can be imported, and that nlb-tools is the release known to work.

    Parameters
    ----------
    *modules : str
        Top-level modules, such as ``"nlb_tools"``.

    Raises
    ------
    MissingExtraError
        Its hint is one line to run, for pip or, in an environment without pip, for uv.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"This needs {', '.join(missing)}, not installed here", f"Run: {install_line()}"
        )
    if "nlb_tools" in modules:
        name, _, wanted = NLB_TOOLS.partition("==")
        found = package_version(name)
        if found != wanted:
            raise MissingExtraError(
                f"This needs {name} {wanted}; found {found}", f"Run: {install_line()}"
            )


def install_line() -> str:
    """Return the commands that install the extra and nlb-tools in this environment."""
    # An environment made by uv holds no pip; uv finds it by the path of its Python.
    pip = f'"{sys.executable}" -m pip install'
    if find_spec("pip") is None:
        pip = f'uv pip install --python "{sys.executable}"'
    needs = " ".join(f'"{need}"' for need in _extra_requirements())
    return f"{pip} {needs} && {pip} --no-deps {NLB_TOOLS}"


def _extra_requirements() -> list[str]:
    """Return what the extra ``nlb`` names, from the installed package's own metadata."""
    try:
        lines = requires("ndt-cli") or []
    except PackageNotFoundError:  # run from a source tree that was never installed
        return [".[nlb]"]
    needs = []
    for line in lines:
        need, _, marker = line.partition(";")
        if marker.replace('"', "'").strip() == "extra == 'nlb'":
            needs.append(need.strip())
    return needs


def package_version(name: str) -> str:
    """Return a package's version, ``"none"`` where it is not installed as a package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
