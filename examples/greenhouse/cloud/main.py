"""A cloud function as one would deploy it to Google Cloud Functions; here it runs in the same runtime on this machine.

It writes down each event it receives, one JSON object a line, in the file that CLOUD_JOURNAL names: so anyone can count
what arrived, and what arrived twice.
"""

import json
import os

import functions_framework
from cloudevents.http import CloudEvent

# One write to a file opened for appending is one whole line, whichever thread it comes from.
journal = os.open(os.environ["CLOUD_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


@functions_framework.cloud_event
def on_event(event: CloudEvent) -> None:
    """Called for each event; returning accepts it."""
    line = {"id": event["id"], "type": event["type"], "device": event["subject"], "data": event.data}
    os.write(journal, json.dumps(line).encode() + b"\n")
