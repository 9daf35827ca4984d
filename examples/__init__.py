"""Examples: an order gateway, a position keeper, a pool of quotes, a first client, and ``aegis demo``."""
