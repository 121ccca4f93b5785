"""Python without a loop: publishes one of each. Usage: endpoint.py URL SERVICE"""

import sys

from eventail.log_criticity import ERROR
from eventail.sync_publisher import Endpoint

url, name = sys.argv[1:3]
endpoint = Endpoint([url], name)
endpoint.publish_event(name + "Happened", {"n": 1}, "of endpoint")
endpoint.publish_configuration(name + "Settings", {"n": 2})
endpoint.log(ERROR, "it failed", conversation_id="of endpoint")
