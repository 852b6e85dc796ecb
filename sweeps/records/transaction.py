"""Several requests to MLflow's sqlite store as one transaction.

MLflow commits each request by itself, four times for one unit's run, and sqlite waits at each commit until the
disk has it. What is committed together waits once, and is there as a whole or not at all.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["one_transaction"]

BUSY_TIMEOUT = 20_000  # milliseconds to wait for another writer, as MLflow does


@contextmanager
def one_transaction(client: Any) -> Iterator[None]:
    """Have all that this thread asks of a client's store committed at the end; an error undoes all of it.

    MLflow has no word for this. Its store takes every session from one attribute, which is replaced meanwhile:
    sessions of this thread join one connection, on which their own commits do nothing. After an error within a
    request nothing more can be asked in the same transaction.

    Args:
        client: an `MlflowClient` of a sqlite store.
    """
    from sqlalchemy.orm import Session

    store, owner = client._tracking_client.store, threading.get_ident()
    usual = store.ManagedSessionMaker

    with store.engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")  # begins the transaction, too

        @contextmanager
        def joined(read_only: bool = True) -> Iterator[Any]:
            if threading.get_ident() != owner:  # another client of the same file has the same store
                with usual(read_only=read_only) as session:
                    yield session
                return
            with Session(connection, join_transaction_mode="rollback_only") as session:
                yield session
                session.commit()

        store.ManagedSessionMaker = joined
        try:
            yield
        finally:
            store.ManagedSessionMaker = usual
        connection.commit()
