"""What to install if the benchmark's packages are missing.

nlb-tools 0.0.4 pins a pandas that no longer builds, so no extra can name it: it is installed
separately, without its dependencies.
"""

import sys
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from ndt_cli.errors import MissingExtraError

NLB_TOOLS = "nlb-tools==0.0.4"
"""The release that `ndt_cli.nlb.nlb_tools` repairs."""


def require_nlb_extra(*modules: str) -> None:
    """Check that modules are installed, and that nlb-tools is the supported release."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"This needs {', '.join(missing)}, which is not installed", f"Run: {install_line()}"
        )
    if "nlb_tools" in modules:
        name, _, wanted = NLB_TOOLS.partition("==")
        found = package_version(name)
        if found != wanted:
            raise MissingExtraError(
                f"This needs {name} {wanted}; found {found}", f"Run: {install_line()}"
            )


def install_line() -> str:
    """Return the command that installs the extra and nlb-tools in this environment."""
    # Environments made by uv have no pip; uv finds them by the path of their Python.
    pip = f'"{sys.executable}" -m pip install'
    if find_spec("pip") is None:
        pip = f'uv pip install --python "{sys.executable}"'
    needs = " ".join(f'"{need}"' for need in _extra_requirements())
    return f"{pip} {needs} && {pip} --no-deps {NLB_TOOLS}"


def _extra_requirements() -> list[str]:
    """Return the requirements of the extra ``nlb`` from the installed metadata."""
    try:
        lines = requires("ndt-cli") or []
    except PackageNotFoundError:  # a source tree that is not installed
        return [".[nlb]"]
    needs = []
    for line in lines:
        need, _, marker = line.partition(";")
        if marker.replace('"', "'").strip() == "extra == 'nlb'":
            needs.append(need.strip())
    return needs


def package_version(name: str) -> str:
    """Return the installed version of a package, or ``"none"``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
