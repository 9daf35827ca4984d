"""Entry point of the `aegis` command."""


def main() -> None:
    """Run the `aegis` command."""
