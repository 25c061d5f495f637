"""Every rule by which data is judged: its id, where it is judged, what it blocks, what it means.

Decides: ids, severities by conformance preset, explanations, and what the agent does with a
landed record in canary and in strict (DESIGN 4.2): the one table of it. Invariants: an id is the
same word in findings, reports, quarantine headers, counters and documents; every id that the agent
or the pipeline can write is here; `strict-blocking` blocks what a strategy would compute with
wrongly or could not see, and reports what was put right without loss; `permissive` blocks only what
leaves nothing to judge. Severities decide what `conform` and `fetch` block; they route no record in
the agent. Must not know: how a rule is judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from seamline.schemas.modes import CANARY, MODES, STRICT

BLOCK: Final = "block"
REPORT: Final = "report"
STRICT_BLOCKING: Final = "strict-blocking"
PERMISSIVE: Final = "permissive"
CONFORMANCE_PRESETS: Final = (STRICT_BLOCKING, PERMISSIVE)

# Ids that more than one module writes.
OUT_OF_ORDER: Final = "out_of_order"
DUPLICATE_EQUAL: Final = "duplicate_equal"
DUPLICATE_CONFLICT: Final = "duplicate_conflict"
GAP: Final = "gap"

SCHEMA: Final = "schema"
TEMPORAL: Final = "temporal"
INTAKE: Final = "intake"

# What the agent does with a landed record that breaks a rule. A record counts once, under the first
# rule that decides what becomes of it.
QUARANTINE: Final = "quarantine"
PASS: Final = "pass"
OFF_GRID_POLICY: Final = "by off_grid"
UNHEARD: Final = "unheard"
TOLD: Final = "told"
NOT_JUDGED: Final = "not judged"
FATES: Final[Mapping[str, str]] = MappingProxyType(
    {
        QUARANTINE: "goes to quarantine with its bytes, counted as a failure (`poisoned` is not "
        "counted: it is a fault of the program)",
        PASS: "passes, counted as a failure; a bar is flagged SUSPECT",
        OFF_GRID_POLICY: "as the preset says: `reject` goes to quarantine, `snap` passes, floored "
        "to the grid and flagged SNAPPED; counted as a failure either way",
        UNHEARD: "the statement is not heard, the rest of the record counts",
        TOLD: "merged as always, told in counts, reports and ledger; no failure (bars only)",
        NOT_JUDGED: "frames only: the agent does not judge it",
    }
)

# Ids of writer schemas that follow the mode.
TOMBSTONED_SCHEMA: Final = "tombstoned_schema"
SCHEMA_DRIFT: Final = "schema_drift"

_ALL: Final = ("bars", "trades", "quotes")
_BARS: Final = ("bars",)
_TRADES: Final = ("trades",)
_QUOTES: Final = ("quotes",)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `stage`: schema and temporal are judged in frames and by the agent, intake by the
    agent alone. `severity`: conformance preset -> block or report. `agent`: validation mode -> what
    the agent does with a landed record that breaks it, a key of FATES."""

    id: str
    kinds: tuple[str, ...]
    stage: str
    title: str
    explanation: str
    severity: Mapping[str, str]
    agent: Mapping[str, str]

    @property
    def follows_mode(self) -> bool:
        """Whether canary and strict differ."""
        return self.agent[CANARY] != self.agent[STRICT]


_BY_MODE: Final = (PASS, QUARANTINE)


def _rule(
    id_: str,
    kinds: tuple[str, ...],
    stage: str,
    title: str,
    explanation: str,
    *,
    agent: str | tuple[str, str],
    strict: str = BLOCK,
    permissive: str = REPORT,
) -> Rule:
    """`agent`: what the agent does in canary and in strict, one word where it is the same;
    `strict` and `permissive`: severities of the conformance presets."""
    severity = MappingProxyType({STRICT_BLOCKING: strict, PERMISSIVE: permissive})
    fates = (agent, agent) if isinstance(agent, str) else agent
    by_mode = MappingProxyType(dict(zip(MODES, fates, strict=True)))
    return Rule(id_, kinds, stage, title, explanation, severity, by_mode)


_SCHEMA_RULES: Final = (
    _rule(
        *("missing_column", _ALL, SCHEMA, "A required column is absent"),
        "The schema (or the kind, where none is given) requires a column that the frame does not "
        "have. A strategy that reads it would fail, or worse, fall back to a default. All rows are "
        "counted. Of trades and quotes nothing else is judged; bars are judged by what is there, "
        "without a time column by their values alone. On the plane Avro settles this: such a "
        "record is `undecodable`. Add the column, or state the schema that the data really has.",
        agent=NOT_JUDGED,
        permissive=BLOCK,
    ),
    _rule(
        *("unexpected_column", _ALL, SCHEMA, "A column that the schema does not know"),
        "The frame has a column that nobody declared: often a renamed field, or a source that "
        "began to send more. It is kept as it is, judged by no rule, and is no part of what makes "
        "two rows equal, so nothing of it is verified. On the plane a writer schema outside the "
        "approved bundle is `unknown_schema`. Add the column to the schema or drop it.",
        agent=NOT_JUDGED,
        strict=REPORT,
    ),
    _rule(
        *("dtype_cast", _ALL, SCHEMA, "A column or a time had to be converted"),
        "A column came with another type than the schema states (texts for numbers, int64 for "
        "float64), or times came as texts or datetimes. It was converted; a datetime without an "
        "offset was read as UTC. That is right only if the source meant it so: a local time read "
        "as UTC moves every bar by hours. Numbers with a stated unit are no finding. On the plane "
        "the schema fixes the types. Let the producer write the types of the schema.",
        agent=NOT_JUDGED,
        strict=REPORT,
    ),
    _rule(
        *("cast_failure", _ALL, SCHEMA, "A cell could not be converted"),
        "A cell that had to be converted is not of the wanted type: `oops` is no price, 1.5 is no "
        "integer. It becomes null and is not counted again as `non_finite`. A sum or an average "
        "over such a column silently leaves it out. On the plane it cannot come this far: the "
        "record is `undecodable`. Look at the sample rows and mend the source.",
        agent=NOT_JUDGED,
    ),
    _rule(
        *("non_finite", _ALL, SCHEMA, "Infinite, NaN or null where a number is required"),
        "A required number is no finite number. NaN goes through every later calculation and a "
        "comparison with it is false, so a stop that depends on it never triggers. In a frame an "
        "infinity becomes null, NaN stays NaN, and the row stays. The agent puts such a record "
        "into quarantine in canary and in strict, because there is no value to keep. Backfill the "
        "span from a source that has the value.",
        agent=QUARANTINE,
    ),
    _rule(
        *("invalid_timestamp", _ALL, SCHEMA, "No time, or one that int64 nanoseconds cannot hold"),
        "The time is null, cannot be read, is not a whole nanosecond, or lies outside 1677 to "
        "2262. Without a time a row has no identity and no order. The row is dropped and counted "
        "by this rule only, never wrapped around to another year; the agent puts the record into "
        "quarantine in both modes. The usual cause is a wrong ts_unit: compare it with the source.",
        agent=QUARANTINE,
    ),
    _rule(
        *("missing_symbol", _ALL, SCHEMA, "A row without a symbol"),
        "The frame has a column of symbols and the row none, so it belongs to no series: kept, it "
        "would stand in the history of something else. It is set aside. On the plane the key must "
        "equal the symbol, so it would be `key_mismatch`. Mend the join that lost the symbol.",
        agent=NOT_JUDGED,
    ),
    _rule(
        *("enumeration", _ALL, SCHEMA, "A value outside its enumeration"),
        "A cell with a fixed set of values holds another: an authority that is none of "
        "rest_settled, ws_closed, rest_fresh, ws_open, or a side that is neither buy nor sell. An "
        "unknown authority ranks below all known ones, so it never replaces a stated value; an "
        "unknown side becomes null. On the plane the Avro enumeration refuses it as "
        "`undecodable`. Map the source's words to those of the schema.",
        agent=NOT_JUDGED,
    ),
)

_TEMPORAL_RULES: Final = (
    _rule(
        *("off_grid", _BARS, TEMPORAL, "The open time is not on the grid"),
        "The open time of a bar is not a multiple of its interval (counted from the grid origin), "
        "so it is no bar of this series: joined by time it would pair with nothing, or with the "
        "wrong minute. It is set aside and fills no gap. The agent follows the preset's "
        "`off_grid`: `reject` puts it into quarantine in both modes, `snap` floors it to the grid "
        "and flags it. Check the interval and the unit of the times; some archives have weeks of "
        "such bars.",
        agent=OFF_GRID_POLICY,
    ),
    _rule(
        *("out_of_order", _ALL, TEMPORAL, "A row that arrives after a newer one"),
        "A row comes after a row of its symbol with a larger time. A backtest that reads rows as "
        "they come would trade on the future. Rows that other rules drop count as well. The result "
        "is sorted by time, so nothing is lost; the agent merges by identity and only counts. "
        "Many such rows point to a source that merges several connections, or to a late repair.",
        agent=TOLD,
        strict=REPORT,
    ),
    _rule(
        *("duplicate_equal", _ALL, TEMPORAL, "The same row more than once"),
        "Rows repeat an identity with equal content: overlapping requests or a reconnect. Summed "
        "twice they double a volume. One is kept, the others are dropped and counted; the agent "
        "counts a confirmation and writes nothing, in both modes. A null beside a value is filled "
        "and no conflict. Harmless as such; a sudden number of them costs requests.",
        agent=TOLD,
        strict=REPORT,
    ),
    _rule(
        *("duplicate_conflict", _ALL, TEMPORAL, "One identity, two values from one authority"),
        "The same authority (or none) states two values for one identity, so at least one is "
        "wrong and the arrival order decides which a strategy saw. The later one stands as a new "
        "revision, the older stays in the log; nothing is overwritten in silence. The agent does "
        "the same in both modes and counts it. A difference between authorities is no finding: "
        "the higher one stands. Ask the venue again after `settle_seconds`, and see if it repeats.",
        agent=TOLD,
    ),
    _rule(
        *("gap", _BARS, TEMPORAL, "Expected bars are absent"),
        "Bars that the calendar expects are missing, between the first and the last bar of a "
        "symbol or in the stated window. An indicator over n bars then silently covers more time, "
        "and a return jumps. Nothing is filled in: the finding holds number, bounds and cause "
        "(`no_trades` or `our_loss` where the trade ids beside it prove one, else `unknown`). On "
        "the plane each gap has an entry in the ledger. Backfill the ranges; what the venue never "
        "had stays named.",
        agent=TOLD,
    ),
    _rule(
        *("boundary_misaligned", _BARS, TEMPORAL, "A step that is no multiple of the interval"),
        "Between two neighbouring times of a symbol, off-grid rows included, lies more than one "
        "interval and not a whole number of them: the series changed its phase there. Bars after "
        "it may cover other minutes than their label says. It is counted per step and drops "
        "nothing; on the plane the row behind it is `off_grid`. Look for a changed interval or a "
        "clock that was set.",
        agent=NOT_JUDGED,
    ),
    _rule(
        *("ohlc_inconsistent", _BARS, TEMPORAL, "No trades can have made this bar"),
        "High is below low, or open or close lies outside low to high. A stop or a limit that is "
        "tested against high and low would fill at a price that never was. The row stays in a "
        "frame; the agent flags it SUSPECT in canary and puts it into quarantine in strict. "
        "Backfill the span from REST; if it repeats, the source mixes two markets.",
        agent=_BY_MODE,
    ),
    _rule(
        *("non_positive_price", (*_BARS, *_TRADES), TEMPORAL, "A price of zero or less"),
        "A price of a bar (or, in the agent, of a trade) is zero or negative. Returns divide by "
        "it and a logarithm of it is undefined. Some futures did trade below zero: then judge by "
        "`permissive`. The row stays in a frame; the agent flags a bar SUSPECT in canary and puts "
        "the record into quarantine in strict. Look at the source for a placeholder of no trade.",
        agent=_BY_MODE,
    ),
    _rule(
        *("negative_volume", _BARS, TEMPORAL, "A volume below zero"),
        "The volume or quote volume is negative. Volume-weighted prices and limits on "
        "participation break by its sign. Zero is allowed: nothing traded. The row stays in a "
        "frame; the agent flags it SUSPECT in canary and puts it into quarantine in strict. The "
        "usual cause is a correction that was sent as a bar.",
        agent=_BY_MODE,
    ),
    _rule(
        *("trade_ids", _BARS, TEMPORAL, "Trade ids and number of trades disagree"),
        "The bar names its first and last trade id and a number of trades that does not fit: "
        "last - first + 1 is another number; or one of them is below -1, which is none. So the bar "
        "is not the sum of its trades, and ids cannot prove that nothing is missing around it. The "
        "row stays in a frame; the agent flags it SUSPECT in canary and puts it into quarantine in "
        "strict. Venues whose ids are shared by several markets break it by nature.",
        agent=_BY_MODE,
    ),
    _rule(
        *("price_jump", _BARS, TEMPORAL, "A close far outside its rolling band"),
        "The close moved by more than `jump_sigmas` (12 where nothing is said) times the rolling "
        "volatility of its symbol. It can be news or a wrong tick; both deserve a look before an "
        "order is sized by it. It is only reported, never blocked and never changed: dropping true "
        "jumps would make every backtest too calm. The agent does not judge it in either mode. "
        "Compare with another source at that minute.",
        agent=NOT_JUDGED,
        strict=REPORT,
    ),
    _rule(
        *("future_time", (*_BARS, *_TRADES), INTAKE, "It would end in the future"),
        "A closed bar, a trade or a watermark is later than the owner's clock allows (10 s). It "
        "would close minutes that have not begun, and every true bar until then would be late. "
        "The agent puts it into quarantine in both modes; a frame is not judged by it, because the "
        "pipeline has no clock. Check the clocks of producer and worker, and the unit of the time.",
        agent=QUARANTINE,
    ),
)

_MARKET_RULES: Final = (
    _rule(
        *("missing_trade_id", _TRADES, TEMPORAL, "A trade without an id"),
        "The trade has no id, so a repeat of it cannot be told from a second trade of the same "
        "size: volume may be counted twice. It is kept as a trade of its own. On the plane the id "
        "is required and its absence is `undecodable`. Take the ids of the venue; do not invent "
        "them from row numbers.",
        agent=NOT_JUDGED,
    ),
    _rule(
        *("trade_id_gap", _TRADES, TEMPORAL, "Numbers are missing between trade ids"),
        "Between two ids of a symbol that follow each other numbers are absent. Where a venue "
        "counts each market by itself these are trades that were not received, and volume and "
        "prices between them are unknown. Venues that count all markets together have such holes "
        "always; so it is only reported. The agent does not judge it in either mode yet. "
        "Ask the venue for the ids in between.",
        agent=NOT_JUDGED,
        strict=REPORT,
    ),
    _rule(
        *("invalid_price", (*_TRADES, *_QUOTES), TEMPORAL, "A price, bid or ask of zero or less"),
        "The price of a trade, or bid or ask of a quote, is zero or negative; the columns say "
        "which. A zero bid often means an empty side of the book, and a mid of it is a price that "
        "nobody quoted. No spread is computed from it. The row stays in a frame; the agent's name "
        "for a trade is `non_positive_price`. Read an empty side as null at the source.",
        agent=NOT_JUDGED,
    ),
    _rule(
        *("invalid_size", (*_TRADES, *_QUOTES), TEMPORAL, "A size of zero or less"),
        "The size of a trade, or of a bid or ask, is zero or negative; the columns say which. "
        "Volume-weighted prices divide by sums of it. The row stays in a frame; the agent's name "
        "for a trade is `non_positive_size`. Some feeds send zero to delete a level: that is no "
        "quote and belongs into another table.",
        agent=NOT_JUDGED,
    ),
    _rule(
        *("non_positive_size", _TRADES, INTAKE, "A landed trade with a size of zero or less"),
        "The agent's name of `invalid_size`: a landed trade says that nothing, or less, changed "
        "hands, and every volume that includes it is wrong. In canary it is counted and passes, in "
        "strict it goes to quarantine; a frame names it `invalid_size` and keeps the row. Look at "
        "what the venue means by such a record.",
        agent=_BY_MODE,
    ),
    _rule(
        *("crossed_quotes", _QUOTES, TEMPORAL, "The bid is not below the ask"),
        "Bid is at or above ask, both valid. Within one venue such a book would trade at once, so "
        "two sides of different times were put together; a strategy would see an arbitrage that "
        "does not exist. The row stays and is only counted; quotes have no agent yet. Build both "
        "sides from one snapshot and its updates, in their order.",
        agent=NOT_JUDGED,
    ),
    _rule(
        *("wide_spread", _QUOTES, TEMPORAL, "The spread is above the stated limit"),
        "(ask - bid) / bid is above `wide_spread_percent`, both valid and not crossed. A mid of "
        "such a quote is nobody's price, and a fill would cost the spread. The row stays and is "
        "only counted; without a stated limit the rule is not judged, and quotes have no agent "
        "yet. Compare with the market's usual spread at that hour before you trade on it.",
        agent=NOT_JUDGED,
    ),
)

_INTAKE_RULES: Final = (
    _rule(
        *("tombstoned_schema", _ALL, INTAKE, "The writer schema is withdrawn for the subject"),
        "The writer schema of a landed record is approved, but was withdrawn for its subject "
        "(`seamline schema tombstone`), for example because a field of it was written in another "
        "unit. Its values decode and may all be wrong. In canary the record passes, is counted as "
        "a failure, and its bars are flagged SUSPECT; in strict it goes to quarantine before it is "
        "decoded. A frame has no writer schema. Let the producer write a version that stands.",
        agent=_BY_MODE,
    ),
    _rule(
        *("schema_drift", _ALL, INTAKE, "An unapproved schema that still means the record"),
        "The writer schema of a landed record is not of the approved bundle but resolves into it "
        "without a guess: a promoted type, a missing field with a default, an added field, a "
        "number as decimal text. In canary the record is translated and passes, counted as a "
        "failure, its bars flagged SUSPECT; in strict it goes to quarantine, bytes as they came. A "
        "record that does not resolve is `unknown_schema`; frames know `dtype_cast`. Let the "
        "producer register and write the approved schema.",
        agent=_BY_MODE,
    ),
    _rule(
        *("undecodable", _ALL, INTAKE, "The bytes are not a record of the schema"),
        "A landed record has no Confluent frame, or its bytes do not decode by its writer schema. "
        "Nothing is known of it, not even its time, so a bar may be missing somewhere. It goes to "
        "quarantine in canary and in strict, bytes as they came; frames know `cast_failure` "
        "instead. The header `seamline-detail` says where decoding failed. Mend the producer and "
        "land the data again.",
        agent=QUARANTINE,
    ),
    _rule(
        *("wrong_partition", _ALL, INTAKE, "The producer partitions by another hash"),
        "The record lies in a partition that murmur2 of its key does not name. Two owners would "
        "each keep a truth of the same symbol, and a reader would see one of them. It goes to "
        "quarantine in both modes; frames have no partitions. Set `partitioner=murmur2_random` in "
        "clients of librdkafka.",
        agent=QUARANTINE,
    ),
    _rule(
        *("key_mismatch", _ALL, INTAKE, "The key is not the symbol"),
        "The key of a landed record is not the UTF-8 symbol of its value. Order by symbol and "
        "compaction follow the key, so its bars would reach the wrong series or owner. It goes to "
        "quarantine in both modes; frames have no keys. Mend the producer and land the data again.",
        agent=QUARANTINE,
    ),
    _rule(
        *("unknown_schema", _ALL, INTAKE, "The schema is not of the approved bundle"),
        "The writer schema of a landed record is not approved, or is that of another record. Its "
        "fields could mean anything: a price in cents decodes as well as one in dollars. It goes "
        "to quarantine in both modes; frames know `unexpected_column`. Register the approved "
        "schemas and use their ids.",
        agent=QUARANTINE,
    ),
    _rule(
        *("registry_unavailable", _ALL, INTAKE, "An unseen schema id while the registry is down"),
        "A record names a schema id that was not seen before, and the registry does not answer. To "
        "guess the schema would be to guess prices. It goes to quarantine in both modes while "
        "known ids flow on; frames need no registry. Bring the registry back, then land the "
        "records again or backfill the span.",
        agent=QUARANTINE,
    ),
    _rule(
        *("null_value", _ALL, INTAKE, "A record without a value that is no heartbeat"),
        "A null value on a landing topic without the headers of a heartbeat. It says neither a bar "
        "nor that there is none, and must not count as proof that time has passed. It goes to "
        "quarantine in both modes; in a frame a null is judged cell by cell. Mend the producer.",
        agent=QUARANTINE,
    ),
    _rule(
        *("invalid_block", _BARS, INTAKE, "A block that is not one of the preset"),
        "A landed block has another span or interval than the preset, rows or a range outside its "
        "bounds, or a digest that is not that of its rows. Its promise of completeness cannot be "
        "believed, so it could hide a gap. It goes to quarantine in both modes as a whole; frames "
        "have no blocks. Mend the producer and land the range again.",
        agent=QUARANTINE,
    ),
    _rule(
        *("wrong_interval", _BARS, INTAKE, "A bar of another length than the topic's"),
        "The writer states the length of its bars, and it is not the interval of the preset: a bar "
        "of five minutes on a topic of one is on the grid and right in every value. It goes to "
        "quarantine in both modes, as a block of another interval does; frames state no length. "
        "Send the bars to the preset of their interval.",
        agent=QUARANTINE,
    ),
    _rule(
        *("poisoned", _ALL, INTAKE, "No step can take the record"),
        "The worker failed on this record alone, again and again, each time with a machine rebuilt "
        "from the log: a fault of the program that only this record shows. After the limit of "
        "attempts it is passed over so that live goes on, and whatever it said is missing. It goes "
        "to quarantine in both modes, bytes as they came; frames have no worker. The header "
        "`seamline-detail` has the error; report it, and land the record again once it is mended.",
        agent=QUARANTINE,
    ),
    _rule(
        *("fingerprint_mismatch", _ALL, INTAKE, "The header names another schema than the id"),
        "The header `seamline-fp` of a landed record is not the fingerprint of the schema that its "
        "id means here. One of them is wrong, often an id from another registry, and a record that "
        "decodes by the wrong schema is wrong without a trace. It goes to quarantine in both "
        "modes; a record without the header is taken by its id, and frames have no headers. Let "
        "the producer use this registry, or stop it from copying headers of others.",
        agent=QUARANTINE,
    ),
    _rule(
        *("invalid_outages", _ALL, INTAKE, "A statement of outages that cannot be believed"),
        "A heartbeat's header `seamline-outages` is no list of spans, or ends in the future. Heard "
        "all the same it would explain gaps that are our own loss. In both modes the statement "
        "before it stands, the heartbeat's watermark counts and nothing goes to quarantine; frames "
        "have no heartbeats. Look at which connector writes the header, and at its clock.",
        agent=UNHEARD,
    ),
    _rule(
        *("too_many_symbols", _ALL, INTAKE, "More symbols than one decoder may know"),
        "One worker met more than 65,536 symbols in one partition; the limit keeps a broken "
        "producer from filling its memory. Bars of the symbol are missing until this is mended. "
        "The record goes to quarantine in both modes; frames have no such limit. Use more "
        "partitions or presets, or find the producer that makes symbols up.",
        agent=QUARANTINE,
    ),
)

RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {rule.id: rule for rule in (*_SCHEMA_RULES, *_TEMPORAL_RULES, *_MARKET_RULES, *_INTAKE_RULES)}
)


def fate(rule: str, mode: str) -> str:
    """What the agent does with a landed record that breaks the rule, a key of FATES."""
    return RULES[rule].agent[mode]


def severity(rule: str, preset: str) -> str:
    """`block` or `report`. A rule that is not registered blocks: it was not argued for."""
    found = RULES.get(rule)
    return BLOCK if found is None else found.severity[preset]
