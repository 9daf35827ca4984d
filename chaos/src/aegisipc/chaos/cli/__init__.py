"""The verb ``aegis chaos``. Its parts import what they need only when they run."""
