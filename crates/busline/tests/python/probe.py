"""A Python service that says what comes to it, and does what its input says.

Usage: probe.py URL SERVICE OPTIONS, where the options are a JSON object of

- events, commands, configurations: the keys to bind
- fails: the last words of keys whose handler raises; once: those whose handler raises once
- unhandled: the last words of keys for which the library looks for a method in vain
- asks: a configuration to publish while unconfigured
- returned: false to have the handler of returned messages raise
- json, exclusive: whether

Each line of the input is the name of a method of the service and its arguments, as JSON.
"""

import json
import sys
import threading

import cbor2
from eventail.async_service.pika import ReconnectingSupervisor, Service


class Probe(Service):
    def on_ready(self):
        say("ready")

    def on_unconfigured(self):
        say("unconfigured")
        if "asks" in options:
            self.publish_configuration(options["asks"], {"who": self.logical_service})

    def handle_event(self, key, payload, conversation_id, meta):
        if last(key) in options.get("unhandled", []):
            return super().handle_event(key, payload, conversation_id, meta)
        say("event", key, payload, conversation_id, meta)
        self.perhaps_fail(key)

    def handle_command(self, key, payload, conversation_id, reply_to, correlation_id, meta):
        say("command", key, payload, conversation_id, meta, correlation_id, reply_to=reply_to)
        self.perhaps_fail(key)

    def handle_result(self, key, payload, conversation_id, status, correlation_id, meta):
        say("result", key, payload, conversation_id, meta, correlation_id, status=status)
        self.perhaps_fail(key)

    def handle_config(self, key, payload, meta):
        say("configuration", key, payload, "", meta)
        self.perhaps_fail(key)
        if isinstance(payload, dict) and payload.get("fail"):
            raise RuntimeError("no luck")
        return isinstance(payload, dict) and payload.get("complete") is True

    def handle_returned_message(self, key, payload, envelope):
        if not options.get("returned", True):
            raise RuntimeError("no luck")
        say("returned", key, payload, envelope=envelope)

    def perhaps_fail(self, key):
        if last(key) in options.get("fails", []):
            raise RuntimeError("no luck")
        if last(key) in options.get("once", []):
            options["once"].remove(last(key))
            raise RuntimeError("no luck")


def last(key):
    return key.split(".")[-1]


def say(kind, key=None, payload=None, conversation_id=None, meta=None, correlation_id=None, **more):
    line = {"kind": kind, **more}
    if key is not None:
        line["key"] = key
        line["payload"] = cbor2.dumps(payload).hex()
    if meta is not None:
        line["meta"] = {name: meta[name] for name in meta if name != "delivery_tag"}
        line["conversation_id"] = "" if conversation_id is None else str(conversation_id)
        line["correlation_id"] = correlation_id or ""
    # Times, where the broker says when a letter died.
    print(json.dumps(line, default=str), flush=True)


def obey():
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        do = lambda name=name, arguments=arguments: getattr(supervisor.service, name)(*arguments)
        supervisor.service._connection.ioloop.add_callback_threadsafe(do)


url, name, options = sys.argv[1:4]
options = json.loads(options)
keys = [options.get(kind, []) for kind in ("events", "commands", "configurations")]
supervisor = ReconnectingSupervisor(Probe, [url], *keys[:2], name, keys[2])
if options.get("json"):
    supervisor.service.use_json()
if options.get("exclusive"):
    supervisor.service.use_exclusive_queues()
threading.Thread(target=obey, daemon=True).start()
supervisor.run()
