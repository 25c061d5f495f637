"""The cases of a venue: each fault of the simulator alone, and a mix of all.

Decides: when in a day each fault comes. Faults leave the first minutes alone, so that a reader is
there before them, and the last ones, so that the venue has time to say what is settled.
"""

from __future__ import annotations

import random

from faults.case import Case, Ground, Outcome
from faults.venue_days import Shape, Weather, run_days

FOUR = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT")
TWENTY = (*FOUR, *(f"C{n:02}/USDT" for n in range(16)))
WHOLE_DAY = Shape(1_440, TWENTY, speed=480.0, block_rows=240, settled_batch=60)
SHORT = Shape(120, FOUR, speed=240.0, block_rows=30, settled_batch=10)

SENTENCES = {
    "lose-frames": "frames of the venue's socket are lost",
    "duplicate-frames": "frames come twice",
    "reorder-frames": "frames come after the next one",
    "delay-frames": "frames come late",
    "malformed-frames": "frames are no message of the venue",
    "oversized-frames": "frames are larger than a client takes",
    "wrong-symbol": "frames say that they are of another symbol",
    "drop-socket": "sockets break without a word",
    "shutdown": "the venue announces that it closes sockets (`serverShutdown`), and does",
    "outage": "the venue answers 503 and cuts sockets for minutes; its history is whole afterwards",
    "halt": "the venue is down and nobody trades",
    "lose-history": "the venue loses minutes for good that were traded",
    "correct-klines": "settled history says otherwise than the socket did",
    "slow-rest": "REST answers seconds late",
    "limit-rest": "REST refuses with 429 or 418 and `Retry-After`",
    "clock": "the venue's clock is off by minutes",
}


def faults_of(kind: str, seed: int, shape: Shape) -> str:
    """The text of one kind for a day of this shape."""
    rng = random.Random(f"{kind} {seed}")
    first, last = shape.minutes // 6, shape.minutes * 3 // 5
    span = f"from=+{first}m,to=+{last}m"

    def minute() -> int:
        return rng.randrange(first, last)

    def stretch(longest: int) -> str:
        start = minute()
        return f"from=+{start}m,to=+{start + rng.randrange(2, longest)}m"

    times = "|".join(f"+{n}m" for n in sorted({minute() for _ in range(4)}))
    texts = {
        "lose-frames": f"lose-frames:p=0.1,only=closed,{span}",
        "duplicate-frames": f"duplicate-frames:p=0.2,{span}",
        "reorder-frames": f"reorder-frames:p=0.1,{span}",
        "delay-frames": f"delay-frames:p=0.05,by=40s,{span}",
        "malformed-frames": f"malformed-frames:p=0.05,{span}",
        "oversized-frames": f"oversized-frames:at={times},symbol={rng.choice(shape.symbols)}",
        "wrong-symbol": f"wrong-symbol:p=0.05,{span}",
        "drop-socket": f"drop-socket:p=0.003,{span};drop-socket:at={times}",
        "shutdown": f"shutdown:at=+{minute()}m,notice=5m",
        "outage": f"outage:{stretch(9)};outage:only=ws,{stretch(5)};outage:only=rest,{stretch(5)}",
        "halt": f"halt:{stretch(9)}",
        "lose-history": f"lose-history:at={times},symbol={rng.choice(shape.symbols)}",
        "correct-klines": f"correct-klines:p=0.05,after=5m,{span}",
        "slow-rest": f"slow-rest:p=0.2,by=2s,{span};lose-frames:p=0.02,only=closed,{span}",
        "limit-rest": (
            f"limit-rest:p=0.2,status=429,retry_after=1s,{span};"
            f"limit-rest:p=0.02,status=418,retry_after=2s,{span};"
            f"lose-frames:p=0.02,only=closed,{span}"
        ),
        "clock": f"clock:by=-90s,{stretch(15)};clock:by=45s,{stretch(15)}",
    }
    return texts[kind]


def weather(kind: str, seed: int, shape: Shape) -> Weather:
    """A venue with one kind of fault, or with a `mix` of all."""
    kinds = list(SENTENCES) if kind == "mix" else [kind]
    text = ";".join(faults_of(each, seed, shape) for each in kinds)
    return Weather(kind, text, ("--settled-batch", str(shape.settled_batch)))


def one_day(kind: str, shape: Shape) -> Case:
    def run(ground: Ground, seed: int) -> Outcome:
        return run_days(ground, seed, [weather(kind, seed, shape)], shape)[kind]

    sentence = "a mix of all faults" if kind == "mix" else SENTENCES[kind]
    return Case(
        f"venue-{kind}",
        f"a simulated day at {len(shape.symbols)} symbols: {sentence}",
        run,
        faults=SENTENCES,
    )


CASES = tuple(one_day(kind, WHOLE_DAY) for kind in (*SENTENCES, "mix"))
