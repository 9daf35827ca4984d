"""AegisIPC router."""
