"""A client of the broker that knows no convention. Usage: raw.py URL

Each line of the input is one thing to do, as JSON:

- ["publish", exchange, key, properties, body in hex]
- ["get", queue, count]: prints so many messages, and waits for those that are not there yet
"""

import datetime
import json
import sys

import pika

connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()
channel.confirm_delivery()


def publish(exchange, key, properties, body):
    properties = pika.BasicProperties(**properties)
    channel.basic_publish(exchange, key, bytes.fromhex(body), properties)
    print(json.dumps("published"), flush=True)


def get(queue, count):
    for method, properties, body in channel.consume(queue):
        channel.basic_ack(method.delivery_tag)
        said = {name: value for name, value in vars(properties).items() if value is not None}
        line = {"key": method.routing_key, "properties": said, "body": body.hex()}
        print(json.dumps(line, default=plain), flush=True)
        count -= 1
        if count == 0:
            channel.cancel()
            return


def plain(value):
    return value.timestamp() if isinstance(value, datetime.datetime) else value.hex()


for line in sys.stdin:
    name, *arguments = json.loads(line)
    {"publish": publish, "get": get}[name](*arguments)
