"""The verb ``aegis chaos``: its parts are found in the modules beside this one."""

from __future__ import annotations

import importlib

from aegisipc.eventstore.cli import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

PARTS = ("sim", "run", "soak", "mutants", "conformance")
"""The modules of this package with a ``configure(kinds)``, in the order in which help lists what they add.
Each sets ``chaos`` on its parsers: the function that takes the arguments and returns the exit code.
"""


def _configure(parser: ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")
    for part in PARTS:
        importlib.import_module(f"aegisipc.chaos.cli.{part}").configure(kinds)


def _run(args: Namespace) -> int:
    code: int = args.chaos(args)
    return code


VERB = Verb(
    "chaos",
    "break the system in simulation and for real, and judge what is left",
    _configure,
    _run,
    description="""\
Break the system while clients call, heal it, and judge what is left: does anything contradict what is
promised? In a simulation, thousands of times a minute; and with real processes, servers and networks.

aegis chaos WHAT --help explains each.""",
    examples="""\
aegis chaos sim --seeds 10000 --json
aegis chaos sim --seed 4711 --keep out
aegis chaos run --scenario all --duration 20 --seed 7 --report out
aegis chaos soak --minutes 10 --json
aegis chaos mutants --json""",
)
