"""URLs of databases: how they may be shown, and what the driver is to be told that they say."""

from __future__ import annotations

from typing import Final

from sqlalchemy import URL

_HIDDEN: Final = "hidden"
_SECRETS: Final = ("pass", "secret", "token", "key")
"""What is in the name of a parameter that is nobody's business."""

_SSL_OF_LIBPQ: Final = "sslmode"
_SSL_OF_ASYNCPG: Final = "ssl"


def shown_url(url: URL) -> str:
    """Return a URL as it may be shown: without the password, wherever it is in it."""
    hidden = {name: _HIDDEN for name in url.query if any(word in name.lower() for word in _SECRETS)}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def for_asyncpg(url: URL) -> URL:
    """Return the URL of a PostgreSQL database for the driver that is used here. It takes what others call
    ``sslmode`` by another name.
    """
    mode = url.query.get(_SSL_OF_LIBPQ)
    if mode is not None:
        url = url.difference_update_query([_SSL_OF_LIBPQ])
        url = url if _SSL_OF_ASYNCPG in url.query else url.update_query_dict({_SSL_OF_ASYNCPG: mode})
    return url.set(drivername="postgresql+asyncpg")
