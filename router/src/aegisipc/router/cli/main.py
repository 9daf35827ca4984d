"""Entry point of the ``aegis`` command.

Every start of the command pays for what this module imports, so it imports nothing but ``sys`` until it
knows that there is work to do; ``dispatch`` goes on from there.
"""

import sys

VERSION = "0.1.0"


def main(argv: "list[str] | None" = None) -> int:
    """Run the command with `argv` (default: the program's arguments) and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    if words in (["--version"], ["-V"]):
        print(f"aegis {VERSION}")
        return 0
    from aegisipc.router.cli.dispatch import dispatch  # noqa: PLC0415 - as above

    return dispatch(words)


if __name__ == "__main__":
    sys.exit(main())
