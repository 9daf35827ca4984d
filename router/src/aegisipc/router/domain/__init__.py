"""The pure part of the router: what it believes, and what it decides. No clock, no network, no randomness."""
