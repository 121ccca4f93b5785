"""A Python service: reverses texts. Usage: echo.py URL SERVICE [--json]"""

import json
import sys

from eventail.async_service.pika import ReconnectingSupervisor, Service
from eventail.log_criticity import INFO


class Echo(Service):
    PREFETCH_COUNT = 20

    def on_ready(self):
        self.log(INFO, "echo is ready", additional_fields={"extra": [1, "two"]})
        print(json.dumps({"kind": "ready"}), flush=True)

    def handle_command(self, command, payload, conversation_id, reply_to, correlation_id, meta):
        if not isinstance(payload, dict) or not isinstance(payload.get("text"), str):
            self.return_error(reply_to, {"reason": "no text"}, conversation_id, correlation_id)
            return
        answer = {"text": payload["text"][::-1]}
        self.return_success(reply_to, answer, conversation_id, correlation_id)
        self.publish_event(self.logical_service + "Reversed", payload, conversation_id)

    def handle_event(self, event, payload, conversation_id, meta):
        seen = {"kind": "event", "key": event, "payload": payload}
        seen["conversation_id"] = conversation_id
        seen["meta"] = {name: value for name, value in meta.items() if name != "delivery_tag"}
        print(json.dumps(seen), flush=True)


url, name = sys.argv[1:3]
supervisor = ReconnectingSupervisor(Echo, [url], [name + "Asked"], [name + ".*"], name)
if "--json" in sys.argv:
    supervisor.service.use_json()
supervisor.run()
