"""A Python service that others call. Usage: echo.py URL SERVICE [--json] [--exclusive]"""

import json
import sys

from eventail.async_service.pika import ReconnectingSupervisor, Service
from eventail.log_criticity import INFO


class Echo(Service):
    PREFETCH_COUNT = 20

    def on_ready(self):
        self.log(INFO, "echo is ready", additional_fields={"extra": [1, "two"]})
        print(json.dumps({"kind": "ready"}), flush=True)

    def on_Reverse(self, payload, conversation_id, reply_to, correlation_id, meta):
        if not isinstance(payload, dict) or not isinstance(payload.get("text"), str):
            self.return_error(reply_to, {"reason": "no text"}, conversation_id, correlation_id)
            return
        answer = {"text": payload["text"][::-1]}
        self.return_success(reply_to, answer, conversation_id, correlation_id)
        self.publish_event("Reversed", payload, conversation_id)

    def on_Identity(self, payload, conversation_id, reply_to, correlation_id, meta):
        self.return_success(reply_to, payload, conversation_id, correlation_id)

    def on_Meta(self, payload, conversation_id, reply_to, correlation_id, meta):
        del meta["delivery_tag"]
        self.return_success(reply_to, {"meta": meta}, conversation_id, correlation_id)

    def on_Later(self, payload, conversation_id, reply_to, correlation_id, meta):
        def answer():
            self.return_success(reply_to, payload, conversation_id, correlation_id)
            self.manual_ack(meta["delivery_tag"])

        self.call_later(payload["seconds"], answer)
        return True

    def on_Double(self, payload, conversation_id, reply_to, correlation_id, meta):
        self.publish_event("Doubled", payload, conversation_id)
        answer = {"doubled": 2 * payload}
        self.return_success(reply_to, answer, conversation_id, correlation_id)


url, name = sys.argv[1:3]
supervisor = ReconnectingSupervisor(Echo, [url], [], [name + ".*"], name)
if "--json" in sys.argv:
    supervisor.service.use_json()
if "--exclusive" in sys.argv:
    supervisor.service.use_exclusive_queues()
supervisor.run()
