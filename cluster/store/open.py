"""Opening a store: a folder, or a place behind a URL."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from cluster.store.files import Store
from mpcwdwm.errors import UserError
from mpcwdwm.paths import user_path

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
        if not text.partition("://")[2].strip("/"):
            raise UserError(f"storage '{text}' names no bucket: give one, as in s3://bucket/folder")
        from cluster.store.urls import RemoteStore  # fsspec and its back ends load only when needed

        return RemoteStore(text)
    root = user_path(text).resolve()  # absolute: actors have another working directory
    for place in (root, *root.parents):
        if place.exists():
            if not place.is_dir():
                where = "is" if place == root else f"lies below '{place}', which is"
                raise UserError(f"storage '{root}' {where} a file: give a folder or a URL")
            break
    return Store(root)
