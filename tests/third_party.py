"""Somebody else's producer: its own client, its own schema of a bar, and what it makes of it.

Decides: how a schema drifts (fields of other types, fields more or fewer) and what lands then. It
uses nothing of ours but the .avsc and the names on the wire, as a third party would. Must not know:
the product's codec, modes, rules.

    with ThirdParty(world, preset, retype={"volume": "string"}) as feed:
        feed.send("BTC/USDT", open_time_ns, volume="12.5")
"""

from __future__ import annotations

import copy
import io
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import fastavro
from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from seamline.connectors.world import World
from seamline.schemas.contract import SCHEMAS, fingerprint_of_text
from seamline.schemas.preset import Preset
from seamline.schemas.topics import HEADER_FINGERPRINT, HEADER_PRODUCER, topic_name

NAME: Final = "third-party"
NS_PER_MS: Final = 1_000_000
FLUSH_S: Final = 60.0


def drifted(
    *,
    retype: Mapping[str, Any] | None = None,
    add: Sequence[Mapping[str, Any]] = (),
    drop: Sequence[str] = (),
    **changes: Any,
) -> str:
    """The text of our bar schema with other types, more or fewer fields; `changes`: of the record
    itself (`name`, `namespace`)."""
    schema = json.loads(SCHEMAS["bar"].text) | changes
    fields = [copy.deepcopy(field) for field in schema["fields"] if field["name"] not in drop]
    for field in fields:
        if retype and field["name"] in retype:
            field["type"] = retype[field["name"]]
            field.pop("default", None)
    schema["fields"] = [*fields, *map(dict, add)]
    return json.dumps(schema)


class ThirdParty:
    """A producer onto `live` of a preset, or another topic of it. Close it, or use `with`.

    `text`: its writer schema, as it registers it (`drifted(…)`; ours where nothing is given).
    `name`: how it calls itself, None for a producer that does not. `fingerprint`: whether it
    states that of its own schema. Without `register` it frames with `schema_id`.
    """

    def __init__(
        self,
        world: World,
        preset: Preset,
        *,
        text: str | None = None,
        retype: Mapping[str, Any] | None = None,
        name: str | None = NAME,
        role: str = "live",
        fingerprint: bool = False,
        schema_id: int | None = None,
    ) -> None:
        self.topic = topic_name(preset.id, role)
        self.text = text if text is not None else drifted(retype=retype)
        self.fingerprint = fingerprint_of_text(self.text)
        self.schema_id = schema_id if schema_id is not None else self._registered(world)
        self.headers: list[tuple[str, bytes]] = []
        if name is not None:
            self.headers.append((HEADER_PRODUCER, name.encode()))
        if fingerprint:
            self.headers.append((HEADER_FINGERPRINT, self.fingerprint[:16].encode()))
        self._schema = fastavro.parse_schema(_plain(json.loads(self.text)))
        self._failed: list[KafkaError] = []
        self._producer = Producer(
            {
                **world.cluster.client_config(),
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
            }
        )

    def value(self, symbol: str, open_time_ns: int, **fields: Any) -> bytes:
        """The framed bytes of one record; a field that the schema has as a string is its text."""
        record: dict[str, Any] = {
            **dict.fromkeys(("open", "high", "low", "close"), 100.0),
            **dict.fromkeys(("quote_volume", "trades", "first_trade_id", "last_trade_id")),
            "symbol": symbol,
            "open_time": open_time_ns // NS_PER_MS,
            "volume": 1.0,
            "source": "ws_closed",
            "closed": True,
            "received_time": open_time_ns // 1_000,
            **fields,
        }
        for field in self._fields:
            if field["type"] == "string":
                record[field["name"]] = str(record.get(field["name"], ""))
        out = io.BytesIO()
        fastavro.schemaless_writer(out, self._schema, record)
        return struct.pack(">BI", 0, self.schema_id) + out.getvalue()

    def send(self, symbol: str, open_time_ns: int, **fields: Any) -> bytes:
        """Send one record; its bytes."""
        value = self.value(symbol, open_time_ns, **fields)
        self.send_raw(symbol, value)
        return value

    def send_raw(self, symbol: str, value: bytes | None) -> None:
        """Send bytes as they are, waiting for room in the client's queue."""
        while True:
            try:
                self._producer.produce(
                    self.topic,
                    value,
                    symbol.encode(),
                    headers=list(self.headers),
                    on_delivery=self._delivered,
                )
                break
            except BufferError:
                self._producer.poll(0.1)
        self._producer.poll(0)

    def flush(self) -> None:
        """All of it is on the broker, else AssertionError."""
        left = self._producer.flush(FLUSH_S)
        assert not left and not self._failed, (left, self._failed[:3])

    def close(self) -> None:
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def _fields(self) -> list[dict[str, Any]]:
        schema: Any = self._schema
        fields: list[dict[str, Any]] = schema["fields"]
        return fields

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failed.append(error)

    def _registered(self, world: World) -> int:
        settings: dict[str, Any] = {"url": world.registry_url}
        if world.registry_auth.basic:
            settings["basic.auth.user.info"] = world.registry_auth.basic
        with SchemaRegistryClient(settings) as client:
            return int(client.register_schema(f"{self.topic}-value", Schema(self.text, "AVRO")))


def _plain(schema: Any) -> Any:
    """Without logical types: times are the wire's numbers."""
    if isinstance(schema, dict):
        return {key: _plain(value) for key, value in schema.items() if key != "logicalType"}
    return [_plain(item) for item in schema] if isinstance(schema, list) else schema
