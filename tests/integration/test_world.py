"""The session's stack: a real broker and a real registry, in whatever way they were started."""

from __future__ import annotations

import json
import urllib.request

from seamline.connectors.kafka.probe import ask_cluster
from seamline.connectors.world import World


def test_the_broker_answers(world: World) -> None:
    facts = ask_cluster(world.cluster)
    assert facts.cluster_id
    assert facts.brokers


def test_the_registry_takes_a_schema_and_gives_it_back(world: World) -> None:
    schema = {"type": "record", "name": "Probe", "fields": [{"name": "x", "type": "long"}]}
    subject = f"{world.registry_url}/subjects/test-world-probe/versions"
    body = json.dumps({"schema": json.dumps(schema)}).encode()
    request = urllib.request.Request(
        subject, body, {"Content-Type": "application/vnd.schemaregistry.v1+json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        identity = json.load(response)["id"]
    with urllib.request.urlopen(
        f"{world.registry_url}/schemas/ids/{identity}", timeout=10
    ) as response:
        assert json.loads(json.load(response)["schema"])["fields"][0]["name"] == "x"
