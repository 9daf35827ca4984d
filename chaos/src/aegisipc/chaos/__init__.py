"""AegisIPC chaos."""
