"""What the router needs from the machine it runs on: processes, files, the embedded broker."""
