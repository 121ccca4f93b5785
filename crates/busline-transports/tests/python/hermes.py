"""Both sides of a Hermes bus on SQLite. Usage: hermes.py FILE

It does what Hermes' producer and consumer plugins do, statement by statement, with the standard library
alone; where HERMES_DIR names a checkout of Hermes, the real plugins do it. Each line of the input is one
thing to do, as JSON; each has one line of output.

- ["open", days], ["send", text], ["close"]: the producer
- ["cycles", count, days, texts]: opens, sends and closes again and again, as the server does
- ["beginning"], ["seek", offset], ["timeout", ms], ["iterate", count]: the consumer; prints [offset, text, time]
- ["sql", statement, values]: something that neither of them does
"""

import json
import os
import sqlite3
import sys
import time
from datetime import datetime, timedelta

TABLE = (
    "CREATE TABLE IF NOT EXISTS hermesmessages "
    "(msgid INTEGER PRIMARY KEY AUTOINCREMENT, data TEXT NOT NULL, timestamp REAL NOT NULL)"
)


class Producer:
    def __init__(self, uri):
        self.uri = uri
        self.db = None

    def open(self, days):
        self.db = sqlite3.connect(self.uri)
        self.db.execute(TABLE)
        self.db.commit()
        limit = (datetime.now() - timedelta(days=days)).timestamp()
        self.db.execute("DELETE FROM hermesmessages WHERE timestamp < ?", (limit,))
        self.db.commit()
        self.db.execute("VACUUM")
        self.db.commit()

    def send(self, text):
        row = (text, datetime.now().timestamp())
        self.db.execute("INSERT INTO hermesmessages (data, timestamp) VALUES (?, ?)", row)
        self.db.commit()

    def close(self):
        self.db.commit()
        self.db.close()
        self.db = None


class Consumer:
    """One connection a turn; everything from the offset on is fetched at each look."""

    def __init__(self, uri):
        self.db = sqlite3.connect(f"file:{uri}?mode=ro", uri=True)
        self.offset = None
        self.timeout = 1.0

    def one(self, sql):
        return self.db.execute(sql).fetchone()[0]

    def beginning(self):
        self.offset = self.one("SELECT min(msgid) FROM hermesmessages")

    def seek(self, offset):
        highest = self.one("SELECT seq FROM sqlite_sequence WHERE name = 'hermesmessages'")
        lowest = self.one("SELECT min(msgid) FROM hermesmessages")
        if not (highest + 1 if lowest is None else lowest) <= offset <= highest + 1:
            raise IndexError(f"{offset} is not in {lowest}..{highest + 1}")
        self.offset = offset

    def iterate(self, count):
        deadline = time.time() + self.timeout
        found = []
        while time.time() < deadline and len(found) < count:
            sql = "SELECT msgid, data, timestamp FROM hermesmessages WHERE msgid >= ? ORDER BY msgid"
            rows = self.db.execute(sql, (self.offset,)).fetchall()
            for number, text, timestamp in rows:
                if not isinstance(text, str):
                    raise TypeError("the text of an event is no text")
                json.loads(text)
                datetime.fromtimestamp(timestamp)
                found.append([number, text, timestamp])
                self.offset = number + 1
            if rows:
                deadline = time.time() + self.timeout
            else:
                time.sleep(0.5)
        return found


class RealProducer:
    def __init__(self, uri):
        self.uri = uri
        self.plugin = None

    def open(self, days):
        from plugins.messagebus_producers.sqlite.sqlite import SqliteProducerPlugin

        self.plugin = SqliteProducerPlugin({"uri": self.uri, "retention_in_days": days})
        self.plugin.open()

    def send(self, text):
        from lib.datamodel.event import Event

        self.plugin.send(Event.from_json(text))

    def close(self):
        self.plugin.close()


class RealConsumer:
    def __init__(self, uri):
        from plugins.messagebus_consumers.sqlite.sqlite import SqliteConsumerPlugin

        self.plugin = SqliteConsumerPlugin({"uri": uri})
        self.plugin.open()

    def beginning(self):
        self.plugin.seekToBeginning()

    def seek(self, offset):
        self.plugin.seek(offset)

    @property
    def timeout(self):
        return None

    @timeout.setter
    def timeout(self, seconds):
        self.plugin.setTimeout(int(seconds * 1000))

    def iterate(self, count):
        found = []
        for event in self.plugin:
            found.append([event.offset, event.to_json(), event.timestamp.timestamp()])
            if len(found) >= count:
                break
        return found


def real():
    """The real plugins, or nothing."""
    folder = os.environ.get("HERMES_DIR")
    if not folder:
        return None
    import builtins
    import logging
    from types import SimpleNamespace

    sys.path[:0] = [folder, os.path.join(folder, "src")]
    builtins.__hermes__ = SimpleNamespace(appname="hermes-server", logger=logging.getLogger("hermes"))
    return RealProducer, RealConsumer


def run(uri):
    make_producer, make_consumer = real() or (Producer, Consumer)
    producer, consumers = make_producer(uri), {}

    def consumer():
        if "it" not in consumers:
            consumers["it"] = make_consumer(uri)
        return consumers["it"]

    def do(what, arguments):
        if what == "cycles":
            count, days, texts = arguments
            for _ in range(count):
                producer.open(days)
                for text in texts:
                    producer.send(text)
                producer.close()
            return count
        if what in ("open", "send", "close"):
            return getattr(producer, what)(*arguments)
        if what == "timeout":
            consumer().timeout = arguments[0] / 1000
            return None
        if what == "sql":
            with sqlite3.connect(uri) as db:
                return db.execute(*arguments).fetchall()
        return getattr(consumer(), what)(*arguments)

    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        try:
            said = {"done": do(what, arguments)}
        except Exception as error:  # it is told, whatever it is
            said = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), flush=True)


run(sys.argv[1])
