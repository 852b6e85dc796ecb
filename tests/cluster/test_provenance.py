"""What a manifest says of the code that computed it."""

from cluster import provenance
from mpcwdwm import __version__


def test_a_package_that_is_not_installed_has_no_known_version() -> None:
    """Commands also run from a folder on Python's path."""
    assert provenance._version("mpcwdwm") == __version__
    assert provenance._version("nobody-has-this") == "unknown"
