"""Addresses of crypto currencies: Bitcoin (base58check, bech32 and bech32m) and Ethereum (EIP-55 where the case is mixed)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from stages.pii.entities import Span

ADDRESS = re.compile(
    rb"(?<![A-Za-z0-9])(?:bc1[02-9ac-hj-np-z]{11,71}|BC1[02-9AC-HJ-NP-Z]{11,71}|[13][1-9A-HJ-NP-Za-km-z]{25,34}|0x[0-9a-fA-F]{40})(?![A-Za-z0-9])"
)
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
SHORTEST = 26


def wallets(folded: bytes, tokens: list[tuple[int, int]]) -> Iterator[Span]:
    """All addresses of a text whose checksum holds, at the beginning of one of the long tokens or after a `.`, `-` or `_` in it."""
    for first, last in tokens:
        if last - first < SHORTEST:
            continue
        for found in ADDRESS.finditer(folded, first, last):
            value, start = found[0].decode(), found.start()
            if value.startswith("0x"):
                if is_ethereum(value):
                    yield Span(start, found.end(), "CRYPTO", 0.9 if value[2:].lower() != value[2:] else 0.5)
            elif is_bech32(value) if value[:3].lower() == "bc1" else is_base58check(value):
                yield Span(start, found.end(), "CRYPTO", 1.0)


def is_base58check(value: str) -> bool:
    """Version byte 0 or 5, 20 bytes, and the first four bytes of a double SHA-256."""
    number = 0
    for letter in value:
        number = number * 58 + BASE58.index(letter)
    if number >> 200:
        return False
    data = number.to_bytes(25, "big")
    return data[0] in (0, 5) and hashlib.sha256(hashlib.sha256(data[:21]).digest()).digest()[:4] == data[21:]


def is_bech32(value: str) -> bool:
    """BIP 173 (version 0) and BIP 350 (versions 1 to 16) addresses of the main network."""
    data = [BECH32.index(letter) for letter in value[3:].lower()]
    check = 1
    for five in [3, 3, 0, 2, 3, *data]:  # "bc", expanded
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ five
        for bit, term in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= term if top >> bit & 1 else 0
    return check == (1 if data[0] == 0 else 0x2BC830A3)


def is_ethereum(value: str) -> bool:
    """Forty hexadecimal digits; of mixed case only as EIP-55 spells them. Rows of one digit are none."""
    digits = value[2:]
    lower = digits.lower()
    if len(set(lower)) < 4:
        return False
    if digits in (lower, digits.upper()):
        return True
    marks = keccak256(lower.encode()).hex()
    return all(c.isdigit() or c.isupper() == (int(mark, 16) > 7) for c, mark in zip(digits, marks, strict=False))


_ROUNDS = 24
_MASK = (1 << 64) - 1


def _rotate(word: int, by: int) -> int:
    return (word << by | word >> 64 - by) & _MASK if by else word


def _round_constants() -> list[int]:
    """Keccak's constants from its linear feedback shift register (FIPS 202, 3.2.5)."""
    constants, state = [], 1
    for _ in range(_ROUNDS):
        constant = 0
        for power in range(7):
            if state & 1:
                constant |= 1 << (1 << power) - 1
            state = state << 1 ^ (0x171 if state >> 7 else 0)
        constants.append(constant)
    return constants


_CONSTANTS = _round_constants()


def keccak256(message: bytes) -> bytes:
    """Keccak-256 as Ethereum uses it (padding 0x01, before FIPS 202 changed it); for messages under 136 bytes."""
    block = bytearray(message.ljust(136, b"\0"))
    block[len(message)] ^= 0x01
    block[135] ^= 0x80
    lanes = [[0] * 5 for _ in range(5)]
    for place in range(17):
        lanes[place % 5][place // 5] = int.from_bytes(block[8 * place : 8 * place + 8], "little")
    for constant in _CONSTANTS:
        columns = [lane[0] ^ lane[1] ^ lane[2] ^ lane[3] ^ lane[4] for lane in lanes]
        for x in range(5):
            mixed = columns[x - 1] ^ _rotate(columns[(x + 1) % 5], 1)
            lanes[x] = [word ^ mixed for word in lanes[x]]
        x, y, current = 1, 0, lanes[1][0]
        for step in range(24):
            x, y = y, (2 * x + 3 * y) % 5
            current, lanes[x][y] = lanes[x][y], _rotate(current, (step + 1) * (step + 2) // 2 % 64)
        for row in range(5):
            old = [lanes[x][row] for x in range(5)]
            for x in range(5):
                lanes[x][row] = old[x] ^ (~old[(x + 1) % 5] & old[(x + 2) % 5] & _MASK)
        lanes[0][0] ^= constant
    return b"".join(lanes[place % 5][place // 5].to_bytes(8, "little") for place in range(4))
