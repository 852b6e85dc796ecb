"""Opening a store: a folder, or a place behind a URL."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from cluster.store.files import Store
from mpcwdwm.errors import UserError

__all__ = ["open_store"]


def open_store(location: str | Path) -> Store:
    """Open the store at a folder path, a ``file://`` URL or any fsspec URL (``s3://``, ``gs://``).

    Nothing is created before something is written.

    Raises:
        UserError: the place is a file, or nothing installed can read such a URL.
    """
    text = str(location)
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    if "://" in text:
        from cluster.store.urls import RemoteStore  # fsspec and its back ends load only when needed

        return RemoteStore(text)
    root = Path(text).expanduser().resolve()  # absolute: actors have another working directory
    if root.exists() and not root.is_dir():
        raise UserError(f"storage '{root}' is a file: give a folder or a URL")
    return Store(root)
