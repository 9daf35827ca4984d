"""AegisIPC eventstore."""
