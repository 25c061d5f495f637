"""Blocks to bytes and back.

Decides: how a `Block` is laid out, with the same conversions as `codec`. Invariants: see
`block_kernels`; bytes that are no block raise ContractError with `reason`. Must not know: whether a
digest is true (`fingerprint.block_digest` tells), which schema id means which schema.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from seamline.schemas import block_kernels as kernels
from seamline.schemas.codec_kernels import REASONS, SYMBOL_BYTES_MAX
from seamline.schemas.columns import Block
from seamline.schemas.contract import SCHEMAS
from seamline.schemas.errors import ContractError, UsageError
from seamline.schemas.matrices import Matrices, of_conformed, to_conformed
from seamline.schemas.times import NS_PER_MS, NS_PER_US
from seamline.schemas.wire import frame, symbol_bytes_of, whole_one

NEWEST: Final = SCHEMAS["bar_block"].version


def encode_block(block: Block, schema_id: int) -> bytes:
    """One framed block. With `landing` the revision, flags, known time and origin are left out.

    Raises ContractError for rows out of order or outside the span, times between two milliseconds,
    a digest that is not 32 bytes, a symbol that is not 1 to 64 bytes.
    """
    symbol = symbol_bytes_of(block.symbol)
    if not 1 <= len(symbol) <= SYMBOL_BYTES_MAX:
        raise ContractError("a symbol has 1 to 64 bytes", parameter="symbol", value=block.symbol)
    if len(block.digest) != kernels.DIGEST_BYTES:
        raise ContractError("a digest has 32 bytes", parameter="digest", value=block.digest)
    matrices = of_conformed(block.columns)
    room = kernels.BLOCK_HEAD_BYTES_MAX + len(block.columns) * kernels.BLOCK_ROW_BYTES_MAX
    out = np.empty(room, np.uint8)
    size = kernels.encode_block(
        np.frombuffer(frame(schema_id), np.uint8),
        np.frombuffer(symbol, np.uint8),
        np.frombuffer(block.digest, np.uint8),
        _meta(block),
        *matrices,
        out,
    )
    if size < 0:
        raise _refused("columns", len(block.columns), -size)
    return out[:size].tobytes()


def decode_block(value: bytes, version: int | None = None) -> Block:
    """The block of one framed record of this version of `bar_block`, the newest where none is
    given; the id is not looked at.

    Raises ContractError with `reason` (one of REASONS) for bytes that are no block.
    """
    written = NEWEST if version is None else version
    if not 1 <= written <= NEWEST:
        raise UsageError("no such version", parameter="version", value=version)
    matrices = Matrices.empty(len(value) // kernels.ROW_BYTES_MIN)
    meta = np.empty(kernels.META_LENGTH, np.int64)
    rows = kernels.decode_block(np.frombuffer(value, np.uint8), written, *matrices, meta)
    if rows < 0:
        raise _refused("block", value, -rows)
    numbers = meta.tolist()
    symbol_at, digest_at = numbers[kernels.M_SYMBOL_AT], numbers[kernels.M_DIGEST_AT]
    return Block(
        symbol=value[symbol_at : symbol_at + numbers[kernels.M_SYMBOL_BYTES]].decode(),
        block_start_ns=numbers[kernels.M_BLOCK_START],
        block_end_ns=numbers[kernels.M_BLOCK_END],
        interval_ns=numbers[kernels.M_INTERVAL],
        range_start_ns=numbers[kernels.M_RANGE_START],
        complete_through_ns=(
            numbers[kernels.M_COMPLETE] if numbers[kernels.M_HAS_COMPLETE] else None
        ),
        columns=to_conformed(matrices.first(rows)),
        digest=value[digest_at : digest_at + kernels.DIGEST_BYTES],
        sequence=numbers[kernels.M_SEQUENCE],
        landing=bool(numbers[kernels.M_LANDING]),
        asked_time_ns=numbers[kernels.M_ASKED] if numbers[kernels.M_HAS_ASKED] else None,
    )


def _meta(block: Block) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    complete, asked = block.complete_through_ns, block.asked_time_ns
    return np.array(
        [
            whole_one(block.block_start_ns, NS_PER_MS, "block_start_ns"),
            whole_one(block.block_end_ns, NS_PER_MS, "block_end_ns"),
            whole_one(block.range_start_ns, NS_PER_MS, "range_start_ns"),
            complete is not None,
            0 if complete is None else whole_one(complete, NS_PER_MS, "complete_through_ns"),
            whole_one(block.interval_ns, NS_PER_MS, "interval_ns"),
            block.sequence,
            block.landing,
            asked is not None,
            0 if asked is None else asked // NS_PER_US,
            *([0] * (kernels.META_LENGTH - kernels.M_SYMBOL_AT)),
        ],
        np.int64,
    )


def _refused(parameter: str, value: object, code: int) -> ContractError:
    reason = REASONS[code]
    return ContractError(f"not a block: {reason}", parameter=parameter, value=value, reason=reason)
