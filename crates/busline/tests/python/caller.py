"""A Python service that calls another one. Usage: caller.py URL SERVICE TARGET COUNT"""

import json
import sys

from eventail.async_service.pika import Service


class Caller(Service):
    PREFETCH_COUNT = 20

    def on_ready(self):
        for number in range(count):
            self.send_command(
                target + ".Reverse",
                {"text": "text %d" % number},
                "conversation %d" % number,
                self.logical_service + ".Return",
                str(number),
            )

    def handle_result(self, key, payload, conversation_id, status, correlation_id, meta):
        right = (
            payload == {"text": ("text %s" % correlation_id)[::-1]}
            and conversation_id == "conversation " + correlation_id
            and status == "success"
        )
        outcome(correlation_id, "right" if right else "wrong")

    def handle_returned_message(self, key, payload, envelope):
        outcome(envelope["correlation_id"], "returned")


def outcome(correlation_id, what):
    outcomes[correlation_id] = what
    if len(outcomes) == count:
        counted = {what: 0 for what in ("right", "wrong", "returned")}
        for what in outcomes.values():
            counted[what] += 1
        print(json.dumps(counted), flush=True)
        service.stop()


url, name, target = sys.argv[1:4]
count = int(sys.argv[4])
outcomes = {}
service = Caller([url], [], [name + ".Return"], name)
service.run()
