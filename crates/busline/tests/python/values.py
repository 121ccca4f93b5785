"""A Python service that sends values of every type, and looks at what comes back.

Usage: values.py URL SERVICE COMMAND [--json]
"""

import datetime
import decimal
import fractions
import json
import sys
import uuid

import cbor2
from eventail.async_service.pika import Service

INTEGERS = [0, 23, 24, 255, 256, 65535, 65536, 2**32, 2**63, 2**64 - 1, 2**64, 10**30, 10**60]
BOTH = [
    None,
    True,
    False,
    "",
    "text",
    "Zoé \u0000 \u2028 \U0001f600 \"quoted\" \\",
    "long " * 20000,
    [],
    {},
    [[[[]]], {"": {"": []}}],
    {"name": "Zoé", "list": [1, "a", None, 1.5], "nested": {"k": {"k": [True, {}]}}},
    {str(number): number for number in range(1000)},
    *INTEGERS,
    *[-number for number in INTEGERS],
    *[0.0, -0.0, 1.0, 1.5, 0.1, -1e300, 5e-324, 1e16, 123456789.123456789],
    *[float("inf"), float("-inf"), float("nan")],
]
BINARY = [
    b"",
    bytes(range(256)),
    [b"a", {"k": b"b"}],
    {1: "one", -1: "minus", True: "yes", None: "none", b"k": "bytes", 2.5: "float"},
    datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, datetime.timezone.utc),
    datetime.datetime(
        2026, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=5, minutes=30))
    ),
    datetime.date(2026, 1, 2),
    decimal.Decimal("3.14159265358979323846"),
    fractions.Fraction(1, 3),
    uuid.UUID("12345678-1234-5678-1234-567812345678"),
    {1, 2, 3},
    frozenset(["a"]),
    cbor2.CBORSimpleValue(99),
    cbor2.CBORTag(6000, ["tagged"]),
]


class Values(Service):
    PREFETCH_COUNT = 20

    def on_ready(self):
        for number, value in enumerate(VALUES):
            back = self.logical_service + ".Return"
            self.send_command(command, value, "talk %d" % number, back, str(number))

    def on_Return(self, payload, conversation_id, status, correlation_id, meta):
        sent = VALUES[int(correlation_id)]
        came = (status, conversation_id, written(payload))
        if came != ("success", "talk " + correlation_id, written(sent)):
            print(json.dumps({"sent": repr(sent)[:1000], "came": repr(came)[:1000]}), flush=True)
        seen.add(correlation_id)
        if len(seen) == len(VALUES):
            print(json.dumps({"seen": len(seen)}), flush=True)
            self.stop()


def written(value):
    """As bytes, so that 1, 1.0 and True differ, and one nan is another."""
    return cbor2.dumps(value)


url, name, command = sys.argv[1:4]
is_json = "--json" in sys.argv
VALUES = BOTH if is_json else BOTH + BINARY
seen = set()
service = Values([url], [], [name + ".Return"], name)
if is_json:
    service.use_json()
service.run()
