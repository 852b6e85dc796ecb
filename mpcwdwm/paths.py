"""Paths as people write them."""

from pathlib import Path

from mpcwdwm.errors import UserError

__all__ = ["user_path"]


def user_path(text: str | Path) -> Path:
    """Return a path with ``~`` and ``~NAME`` replaced by the home folder.

    Raises:
        UserError: there is no such user, or this one has no home: an unknown uid in a container.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"'{text}': no home folder is known for that: write the path in full") from None
