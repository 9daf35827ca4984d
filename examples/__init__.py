"""Examples: an order gateway, a pool of quotes, a first client, and the demonstration (``aegis demo``)."""
