"""Python without a loop: publishes one of each. Usage: endpoint.py URL SERVICE [--json]"""

import sys

from eventail.log_criticity import ERROR
from eventail.sync_publisher import Endpoint

url, name = sys.argv[1:3]
endpoint = Endpoint([url], name)
if "--json" in sys.argv:
    endpoint.force_json()
endpoint.publish_event("Happened", {"text": "Zoé"}, "of endpoint")
endpoint.publish_configuration("Settings", {"text": "Zoé"})
endpoint.log(ERROR, "it failed: é", conversation_id="of endpoint")
