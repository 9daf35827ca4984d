"""AegisIPC sdk."""
