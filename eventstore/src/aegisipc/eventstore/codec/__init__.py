"""The codec: Python values as MessagePack, both ways, self-describing and safe on hostile bytes.

``encode`` takes any value by its run-time type and ``decode`` gives it back; models, dataclasses and enum
members come back as plain data, everything else as what it was. ``type_codec(T)`` adds a declared type: it
validates before encoding and after decoding, so that models, dataclasses and enum members return as
themselves. Nothing is ever pickled, imported or called by name: the bytes can only select from the table.

The wire (a contract: golden bytes in ``tests/eventstore/codec/test_wire_format.py``)
--------------------------------------------------------------------------------------

Native MessagePack: ``None``, ``bool``, integers of 64 bits, ``float`` (NaN and infinities too), ``str``,
``bytes``, lists as arrays and dicts as maps. Keys of a map may be any hashable value.

Scalars beyond MessagePack are extension values:

====  ===========  ======================================================================================
code  type         payload
====  ===========  ======================================================================================
1     big integer  two's complement, big-endian, shortest form; only values outside 64 bits
2     Decimal      ``str(value)`` in ASCII: ``-1.50``, ``1E+9``, ``NaN``, ``Infinity``
3     datetime     fields of the wall clock, fold, offset and zone name: see ``moments``
4     date         year uint16, month, day
5     time         like datetime, without the date
6     timedelta    days int32, seconds uint32, microseconds uint32, big-endian, normalized
7     UUID         16 bytes
8     complex      real and imaginary part, float64 big-endian
-1    timestamp    MessagePack's own; never written, read as a datetime in UTC
====  ===========  ======================================================================================

Containers beyond MessagePack are arrays whose first element is a one-byte extension value of code 16, the
tag: ``01`` tuple, ``02`` set, ``03`` frozenset. A tag anywhere else is malformed. They are tagged arrays, not
extension payloads, so that a value is written and read in one pass: nested payloads would be copied once per
level, and reading them would recurse.

Everything else is reduced on encoding: enum member to its value, model and dataclass to a map by field name,
NamedTuple to tuple, deque to list, a subclass of a builtin to that builtin, compiled pattern to its text with
inline flags, other types that Pydantic knows (paths, IP addresses, URLs, ...) to their JSON form.
Secrets are refused.
"""

from __future__ import annotations

from aegisipc.eventstore.codec.decoding import decode
from aegisipc.eventstore.codec.encoding import encode
from aegisipc.eventstore.codec.limits import BODY_LIMITS, DEFAULT_LIMITS, Limits
from aegisipc.eventstore.codec.typed import TypeCodec, type_codec

pack = encode
unpack = decode

__all__ = [
    "BODY_LIMITS",
    "DEFAULT_LIMITS",
    "Limits",
    "TypeCodec",
    "decode",
    "encode",
    "pack",
    "type_codec",
    "unpack",
]
