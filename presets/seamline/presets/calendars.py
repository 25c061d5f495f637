"""The calendars that a preset may name.

Decides: the names. They are listed here, so that a presets file is checked without loading
`exchange_calendars` (and pandas with it); a test holds the list to that library. Must not know: a
session.
"""

from __future__ import annotations

from typing import Final

ALWAYS: Final = "24/7"
# ISO 10383 codes. XBEL, XBSE, XCYS and XTAE are names of the library too, but cannot be made with
# the versions in constraints.txt.
_CODES: Final = """
    XAMS XASE XASX XBDA XBKK XBOG XBOM XBRA XBRU XBUD XBUE XCBF XCSE XDUB XDUS XEEE XETR XEUR XFRA
    XHAM XHEL XHKG XICE XIDX XIST XJSE XKAR XKLS XKRX XLIM XLIS XLIT XLJU XLON XLUX XMAD XMEX XMIL
    XMOS XNAS XNYS XNZE XOSL XPAR XPHS XPRA XRIS XSAU XSES XSGO XSHG XSTO XSTU XSWX XTAI XTAL XTKS
    XTSE XTSX XWAR XWBO XZAG
"""
CALENDARS: Final = (ALWAYS, *_CODES.split())
