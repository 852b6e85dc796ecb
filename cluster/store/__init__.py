"""The artifact store: in a folder or behind a URL, with a lease on work."""

from cluster.store.files import StorageError, Store, Writer
from cluster.store.open import open_store

__all__ = ["StorageError", "Store", "Writer", "open_store"]
