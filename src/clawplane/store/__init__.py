"""Where everything is kept: the ports of domain/ports.py on a database and a directory; see store.py."""

from clawplane.store.store import Store, open_store

__all__ = ["Store", "open_store"]
