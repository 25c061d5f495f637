"""What the broker and the registry are told: every setting, in one place.

Decides: the settings of a stack of one broker, embedded or in containers (a test holds the compose
file to `BROKER`), and what differs where several brokers replicate each other on one machine.
Invariants: pure functions of their arguments; logs are bounded. Must not know: processes, which
ports are in use, downloads.

Several brokers are each a controller too, as a static quorum: its members and their ports come from
this configuration at every start, so a stack that stopped can move to other ports as a whole. (The
voters of a dynamic quorum, which `format --initial-controllers` makes, keep their ports in the log:
with all of them changed at once no leader could be found.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from seamline.connectors.embedded.ports import HOST, BrokerPlace

# Settings that have nothing to do with where the broker runs.
BROKER: Mapping[str, str] = MappingProxyType(
    {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "BROKER",
        # One broker: every internal topic has one replica.
        "default.replication.factor": "1",
        "min.insync.replicas": "1",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # Fifty partitions each are made for big clusters; these are opened at every start.
        "offsets.topic.num.partitions": "8",
        "transaction.state.log.num.partitions": "8",
        "share.coordinator.state.topic.num.partitions": "1",
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": "0",
        # A hung transaction holds back every reader of its partition: find it within a second,
        # and let nobody ask for more than half a minute.
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        "transaction.max.timeout.ms": "30000",
    }
)
# What differs with three brokers or five: all is held by three, a write is acknowledged by two.
REPLICATED: Mapping[str, str] = MappingProxyType(
    {
        "default.replication.factor": "3",
        "min.insync.replicas": "2",
        "offsets.topic.replication.factor": "3",
        "transaction.state.log.replication.factor": "3",
        "transaction.state.log.min.isr": "2",
        "share.coordinator.state.topic.replication.factor": "3",
        "share.coordinator.state.topic.min.isr": "2",
        # A killed broker leads until its session ends: 9 s by default, for which all waits.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        # The default of 128 MiB is taken at the start, by each of them.
        "log.cleaner.dedupe.buffer.size": str(16 << 20),
    }
)
BROKER_COUNTS = (1, 3, 5)
KAFKA_HEAP_MB = 768
# Of each, where there are several.
REPLICATED_HEAP_MB = 384
REGISTRY_HEAP_MB = 384
REGISTRY_API = "/apis/ccompat/v7"

LOG_MB = 8
LOG_FILES = 3

JVM_FLAGS = (
    "-XX:+UseSerialGC",
    "-Djava.awt.headless=true",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
)


def heap_mb(brokers: int) -> int:
    """MiB of heap of each broker; a process takes about 200 MiB more than it uses of that."""
    return KAFKA_HEAP_MB if brokers == 1 else REPLICATED_HEAP_MB


def broker_properties(data: Path, number: int, places: Sequence[BrokerPlace]) -> str:
    """`server.properties` of broker `number` of `places`; the loopback interface only."""
    place = next(p for p in places if p.number == number)
    controller = f"{HOST}:{place.controller_port}"
    here = {
        "node.id": str(number),
        "listeners": f"BROKER://{place.address},CONTROLLER://{controller}",
        "advertised.listeners": f"BROKER://{place.address}",
        "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(data),
    }
    if len(places) == 1:
        quorum = {"controller.quorum.bootstrap.servers": controller}
    else:
        voters = ",".join(f"{p.number}@{HOST}:{p.controller_port}" for p in places)
        quorum = {**REPLICATED, "controller.quorum.voters": voters}
    told = {**BROKER, **here, **quorum}
    return "".join(f"{key}={value}\n" for key, value in sorted(told.items()))


def container_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """`settings` as the variables that the project's own container image reads."""
    return {
        "KAFKA_" + key.replace("_", "__").replace("-", "___").replace(".", "_").upper(): value
        for key, value in settings.items()
    }


def broker_logging(folder: Path) -> str:
    """log4j2 properties: one file that rolls, nothing on the console."""
    return f"""\
status = error
name = seamline-broker
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = {folder / "kafka.log"}
appender.file.filePattern = {folder / "kafka.log"}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{yyyy-MM-dd HH:mm:ss,SSS}}{{UTC}} %p %m (%c)%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = {LOG_MB}MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = {LOG_FILES - 1}
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
"""


def kafka_command(
    java: Path,
    classpath: Sequence[Path],
    *,
    folder: Path,
    mark: str,
    heap_mb: int,
    main: Sequence[str],
) -> list[str]:
    """The command line of one of Kafka's main classes; `folder` holds its configuration."""
    return [
        str(java),
        mark,
        *JVM_FLAGS,
        f"-Xmx{heap_mb}m",
        f"-Djava.io.tmpdir={folder / 'tmp'}",
        f"-XX:ErrorFile={folder / 'jvm-error.log'}",
        f"-Dlog4j2.configurationFile={(folder / 'log4j2.properties').as_uri()}",
        "-cp",
        ":".join(str(path) for path in classpath),
        *main,
    ]


def registry_command(java: Path, home: Path, folder: Path, mark: str, port: int) -> list[str]:
    """The command line of the registry: SQL storage in an H2 file below `folder`."""
    return [
        str(java),
        mark,
        *JVM_FLAGS,
        # It serves a handful of requests: quick start over peak speed.
        "-XX:TieredStopAtLevel=1",
        f"-Xmx{REGISTRY_HEAP_MB}m",
        f"-Djava.io.tmpdir={folder / 'tmp'}",
        f"-XX:ErrorFile={folder / 'jvm-error.log'}",
        "-Dapicurio.storage.kind=sql",
        "-Dapicurio.storage.sql.kind=h2",
        f"-Dapicurio.datasource.url=jdbc:h2:file:{folder / 'registry'}",
        "-Dquarkus.http.host=127.0.0.1",
        f"-Dquarkus.http.port={port}",
        # Its health endpoints would listen on 0.0.0.0:9000, where only one registry has room.
        "-Dquarkus.management.host=127.0.0.1",
        "-Dquarkus.management.port=0",
        "-Dquarkus.log.console.enabled=false",
        "-Dquarkus.log.file.json.enabled=false",
        "-Dquarkus.log.file.enabled=true",
        f"-Dquarkus.log.file.path={folder / 'registry.log'}",
        f"-Dquarkus.log.file.rotation.max-file-size={LOG_MB}M",
        f"-Dquarkus.log.file.rotation.max-backup-index={LOG_FILES - 1}",
        "-jar",
        str(home / "quarkus-run.jar"),
    ]
