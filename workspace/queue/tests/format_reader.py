#!/usr/bin/env python3
"""Reads the log of a queue and prints what lives in it, as JSON. It knows FORMAT.md alone, and is its proof.

    format_reader.py --in-full LOG     every batch of every living segment is read
    format_reader.py --by-index LOG    segments with a valid index are read by it, the others and the head in full
    … --unreadable OFFSET              the page there is taken as one that the device does not read (for a copy of a
                                       device that had one; more than once for more pages)

Nothing is written, and nothing is taken from the switch: whatever this file knows stands in FORMAT.md, and its parts
are named as the sections there. `format.rs` beside it compares what is printed with what the queue says of the log.

Exit status: 0 with JSON on the standard output, 1 with a sentence on the standard error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any, NoReturn, TypeVar

Json = dict[str, Any]
T = TypeVar("T")

PAGE_OCTETS = 4096
HEADER_OCTETS = 128
BATCH_OCTETS_MAX = 16 << 20
CRC_OFFSET = 124
RECORD_HEADER_OCTETS = 16
CHUNK_HEAD_OCTETS = 32
MESSAGE_HEAD_OCTETS = 80
RECIPIENT_OCTETS_MIN = 7
CLAIMED_CHUNKS_MAX = 4096
SUPERBLOCK_OFFSETS = (0, 32_768)
HEAD_OCTETS = 65_536
VERSION = 3
BLANK_MARKER = b"STERNPOST QUEUE BLANK 1\n"

CHUNK, ENVELOPE, OUTCOME, MOVED, DISCARDED = range(1, 6)
KINDS = {CHUNK: "content", ENVELOPE: "envelope", OUTCOME: "outcome", MOVED: "moved", DISCARDED: "discarded"}
STATES = (
    "pending", "failed", "delivered", "transferred", "reported", "discarded", "delivered-report-owed", "relayed-report-owed",
)
PENDING, FAILED, DELIVERED_OWED, RELAYED_OWED = 0, 1, 6, 7
OUTCOME_DELIVERED, TRANSFERRED, DEFERRED, OUTCOME_FAILED, DELAY_REPORTED, REPORTED, OUTCOME_DISCARDED = range(7)
OUTCOME_DELIVERED_OWED, OUTCOME_RELAYED_OWED = range(7, 9)
OUTCOMES_COUNT = 9
STATE_AFTER = {
    OUTCOME_DELIVERED: 2,
    TRANSFERRED: 3,
    REPORTED: 4,
    OUTCOME_DISCARDED: 5,
    OUTCOME_DELIVERED_OWED: DELIVERED_OWED,
    OUTCOME_RELAYED_OWED: RELAYED_OWED,
}
STATE_WHEN_TOLD = {DELIVERED_OWED: 2, RELAYED_OWED: 3}
NOT_OVER = (PENDING, FAILED, DELIVERED_OWED, RELAYED_OWED)
PRECEDENCES = ("deferred", "routine", "priority", "immediate", "flash", "override")
ENTRIES = ("written", "content", "message", "outcome", "discarded", "gone", "dead")
ATTEMPTS_MAX = 65_535
PAGE_READS_MAX = 4
SEARCHED_SEGMENTS_MAX = 4
SEARCHED_PAGES_MAX = (16 << 20) // PAGE_OCTETS + 1
FOLLOWED_USES_MAX = 4


class LogError(Exception):
    """The file cannot be read as a log; the words say why."""


class Undecodable(Exception):
    """Octets are not what the document says stands there; the words say why."""


class Unread(Undecodable):
    """The device does not read a record now: nobody knows what stands there."""


# --- Checksums -------------------------------------------------------------------------------------------------------


def _octet(value: int) -> int:
    """What eight bits at the low end of the register become."""
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


def _table() -> list[int]:
    """The same for sixteen bits: two octets a step take half the time of one."""
    octet = [_octet(value) for value in range(256)]
    return [octet[octet[low] & 255 ^ high] ^ octet[low] >> 8 for high in range(256) for low in range(256)]


TABLE = _table()


def crc32c(octets: bytes, salt: int = 0) -> int:
    """CRC32C (RFC 3720) of `octets`, going on behind octets whose CRC32C is `salt`."""
    table, register = TABLE, salt ^ 0xFFFFFFFF
    even = len(octets) & ~1
    for pair in struct.unpack(f"<{even // 2}H", octets[:even]):
        register = table[(register ^ pair) & 0xFFFF] ^ register >> 16
    for octet in octets[even:]:
        register = _octet((register ^ octet) & 255) ^ register >> 8
    return register ^ 0xFFFFFFFF


def u32_at(octets: bytes, offset: int) -> int:
    return int(struct.unpack_from("<I", octets, offset)[0])


def round_up(octets: int, unit: int) -> int:
    return -(-octets // unit) * unit


# --- Encodings -------------------------------------------------------------------------------------------------------


class Decoder:
    """Takes values off the front of some octets. What stands behind the last one is not looked at."""

    def __init__(self, octets: bytes) -> None:
        self.octets, self.at = octets, 0

    def take(self, count: int) -> bytes:
        if count > len(self.octets) - self.at:
            raise Undecodable(f"{count} octets are wanted at {self.at} of {len(self.octets)}")
        self.at += count
        return self.octets[self.at - count : self.at]

    def unpack(self, form: str) -> tuple[int, ...]:
        """Little-endian numbers of fixed size, as structs have them."""
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def u8(self) -> int:
        return self.take(1)[0]

    def i8(self) -> int:
        return int.from_bytes(self.take(1), "little", signed=True)

    def flag(self) -> bool:
        return self.variant_of(self.u8(), 2) == 1

    def unsigned(self, bits: int) -> int:
        value = shift = 0
        while True:
            octet = self.u8()
            value |= (octet & 127) << shift
            shift += 7
            if octet < 128 and value >> bits == 0:
                return value
            if octet < 128 or shift >= bits:
                raise Undecodable(f"no u{bits} ends at {self.at}")

    def u16(self) -> int:
        return self.unsigned(16)

    def u32(self) -> int:
        return self.unsigned(32)

    def u64(self) -> int:
        return self.unsigned(64)

    def string(self) -> str:
        try:
            return self.take(self.u64()).decode()
        except UnicodeDecodeError as problem:
            raise Undecodable(f"a string is not UTF-8: {problem}") from None

    def optional(self, value: Callable[[], T]) -> T | None:
        return value() if self.flag() else None

    def items(self, item: Callable[[], T]) -> list[T]:
        return [item() for _ in range(self.u64())]

    def variant(self, count: int) -> int:
        return self.variant_of(self.u32(), count)

    def variant_of(self, value: int, count: int) -> int:
        if value >= count:
            raise Undecodable(f"{value} is none of {count} variants")
        return value

    def message_id(self) -> str:
        return self.take(16).hex()

    # The types, in the order of the table.

    def envelope(self) -> Json:
        return {
            "sender": self.string() if self.variant(2) == 1 else None,
            "recipients": self.items(self.recipient),
            "routes": self.items(self.route),
            "accepted_at_ms": self.u64(),
            "precedence": PRECEDENCES[self.variant(6)],
            "mt_priority": self.optional(self.i8),
            "body": ("7BIT", "8BITMIME")[self.variant(2)],
            "smtputf8": self.flag(),
            "ret": self.optional(lambda: ("FULL", "HDRS")[self.variant(2)]),
            "envid": self.optional(self.string),
            "source": self.string(),
            "client": self.string(),
            "tls": self.optional(self.tls),
            "identity": self.optional(self.string),
        }

    def tls(self) -> Json:
        return {
            "version": self.string(),
            "cipher_suite": self.string(),
            "group": self.optional(self.string),
            "client_certificate": self.optional(self.client_certificate),
        }

    def client_certificate(self) -> Json:
        return {"subject": self.string(), "sha256": self.take(32).hex(), "verified": self.flag()}

    def recipient(self) -> Json:
        return {
            "address": self.string(),
            "route": self.u16(),
            "notify": self.optional(lambda: {"success": self.flag(), "failure": self.flag(), "delay": self.flag()}),
            "orcpt": self.optional(self.string),
        }

    def route(self) -> Json:
        return {"channel": self.string(), "peer": self.string()}

    def numbers(self) -> range:
        first = self.u32()
        return range(first, first + self.u32())

    def outcome(self) -> tuple[int, Json | None]:
        """The kind, and the diagnostic if the kind has one."""
        kind = self.variant(OUTCOMES_COUNT)
        if kind == DEFERRED:
            self.variant(2)
        if kind not in (DELAY_REPORTED, REPORTED, OUTCOME_DISCARDED):
            return kind, self.diagnostic()
        if kind == REPORTED:
            self.optional(self.message_id)
        if kind in (REPORTED, OUTCOME_DISCARDED):
            self.string()
        return kind, None

    def diagnostic(self) -> Json:
        return {
            "status": f"{self.u8()}.{self.u16()}.{self.u16()}",
            "reply_code": self.optional(self.u16),
            "text": self.string(),
            "remote": self.string(),
        }

    def recipient_record(self) -> Json:
        return {
            "state": self.variant(len(STATES)),
            "attempts": self.u16(),
            "last": self.optional(self.diagnostic),
            "delay_reported": self.flag(),
        }


# --- Record ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spot:
    """Where a record stands: header and body, without the zeroes behind them."""

    segment: int
    use: int
    offset: int
    """Within the segment."""
    octets: int

    @property
    def content_octets(self) -> int:
        """Of a content chunk."""
        return self.octets - RECORD_HEADER_OCTETS - CHUNK_HEAD_OCTETS


@dataclass
class Chunk:
    id: str
    owner: int
    index: int
    content: bytes

    @staticmethod
    def decode(body: bytes) -> Chunk:
        decoder = Decoder(body)
        id, (owner, index) = decoder.message_id(), decoder.unpack("<QI4x")
        if len(body) == CHUNK_HEAD_OCTETS:
            raise Undecodable("a chunk without content")
        return Chunk(id, owner, index, body[CHUNK_HEAD_OCTETS:])


@dataclass
class Letter:
    """An envelope or a moved message, as its record has it."""

    id: str
    sequence: int
    content_octets: int
    chunks: int
    sha256: str
    envelope: Json
    states: list[tuple[range, Json]]

    @staticmethod
    def decode(body: bytes) -> Letter:
        decoder = Decoder(body)
        id = decoder.message_id()
        sequence, octets, chunks, envelope_octets, states_octets = decoder.unpack("<QQIII4x")
        sha256 = decoder.take(32).hex()
        envelope = Decoder(decoder.take(envelope_octets)).envelope()
        encoded = Decoder(decoder.take(states_octets))
        states = encoded.items(lambda: (encoded.numbers(), encoded.recipient_record())) if states_octets else []
        routes = len(envelope["routes"])
        if not envelope["recipients"] or any(recipient["route"] >= routes for recipient in envelope["recipients"]):
            raise Undecodable("an envelope without recipients, or with a route that is none of its own")
        return Letter(id, sequence, octets, chunks, sha256, envelope, states)

    def recipients(self, spot: Spot) -> list[Recipient]:
        """As the record at `spot` has them."""
        recipients = [Recipient() for _ in self.envelope["recipients"]]
        for numbers, state in self.states:
            for recipient in recipients[numbers.start : numbers.stop]:
                recipient.state, recipient.attempts = state["state"], state["attempts"]
                recipient.delay_reported = state["delay_reported"]
                recipient.words = spot if state["last"] else None
        return recipients


def decode_outcomes(body: bytes) -> tuple[int, list[tuple[range, tuple[int, Json | None]]]]:
    """The message's sequence, and for which recipients which outcome."""
    decoder = Decoder(body)
    sequence, _ = decoder.unpack("<QQ")
    return sequence, decoder.items(lambda: (decoder.numbers(), decoder.outcome()))


# --- What the records mean -------------------------------------------------------------------------------------------


@dataclass
class Recipient:
    state: int = PENDING
    attempts: int = 0
    delay_reported: bool = False
    words: Spot | None = None
    """Where its last diagnostic stands: an outcome, or the moved record."""

    def apply(self, kind: int, spot: Spot) -> None:
        if self.state in STATE_WHEN_TOLD:
            if kind in (REPORTED, OUTCOME_DISCARDED):
                self.state = STATE_WHEN_TOLD[self.state]
            return
        if self.state not in NOT_OVER or (self.state == FAILED and kind not in STATE_AFTER):
            return
        self.state = FAILED if kind == OUTCOME_FAILED else STATE_AFTER.get(kind, self.state)
        if kind == DELAY_REPORTED:
            self.delay_reported = True
        elif kind not in (REPORTED, OUTCOME_DISCARDED):
            self.attempts, self.words = min(self.attempts + 1, ATTEMPTS_MAX), spot


@dataclass
class Message:
    id: str
    sequence: int
    content_octets: int
    chunks: int
    spot: Spot
    recipients: list[Recipient]


@dataclass
class Place:
    """Where a chunk stands, and whose it is."""

    spot: Spot
    owner: int


@dataclass(frozen=True)
class Claim:
    """What the head of a damaged envelope or moved record says, and what its header and its batch do."""

    id: str
    sequence: int
    content_octets: int
    chunks: int
    recipients: int
    spot: Spot
    written_at_ms: int

    def message(self, found: int) -> Message:
        """The message that stands for it, if chunks below `found` are there. One more is told of than there is."""
        chunks = min(max(self.chunks, found), CLAIMED_CHUNKS_MAX) + 1
        recipients = [Recipient() for _ in range(self.recipients)]
        return Message(self.id, self.sequence, self.content_octets, chunks, self.spot, recipients)


class Contents:
    """The living messages and the chunks that were found: records, or entries of an index, applied in log order."""

    def __init__(self) -> None:
        self.claims: dict[int, Claim] = {}
        self.messages: dict[int, Message] = {}
        self.chunks: dict[str, dict[int, Place]] = {}
        self.first_seen_ms: dict[str, int] = {}
        self.next_message_sequence = 1

    def name_next(self, sequence: int) -> None:
        self.next_message_sequence = max(self.next_message_sequence, sequence)

    def chunk(self, id: str, index: int, place: Place, written_at_ms: int) -> None:
        self.chunks.setdefault(id, {})[index] = place
        if place.owner == 0:
            self.first_seen_ms.setdefault(id, written_at_ms)
        else:
            self._believe(place.owner)

    def claim(self, claim: Claim) -> None:
        if claim.sequence not in self.messages and not self._lives(claim.id):
            self.claims[claim.sequence] = claim
            self._believe(claim.sequence)

    def _believe(self, sequence: int) -> None:
        """Makes a message of a claim if chunks of its id are there without one."""
        claim = self.claims.get(sequence)
        if claim is None or sequence in self.messages or self._lives(claim.id):
            return
        places = self.chunks.get(claim.id, {})
        found = [index for index, place in places.items() if place.owner in (0, sequence)]
        if found:
            self.messages[sequence] = claim.message(max(found) + 1)

    def _lives(self, id: str) -> bool:
        return any(message.id == id for message in self.messages.values())

    def _give_way(self, id: str, sequence: int) -> None:
        """What stands for a damaged message gives way to a sound record of its id or of its number."""
        of_id = [number for number, message in self.messages.items() if message.id == id]
        for number in [number for number in {*of_id, sequence} if number in self.claims]:
            claim = self.claims.pop(number)
            if number in self.messages and self.messages[number].spot == claim.spot:
                del self.messages[number]
                self.first_seen_ms.setdefault(claim.id, claim.written_at_ms)
                for place in self.chunks[claim.id].values():
                    place.owner = 0

    def message(self, message: Message) -> None:
        self._give_way(message.id, message.sequence)
        self.name_next(message.sequence + 1)
        self.messages[message.sequence] = message
        self._bury(message)

    def outcome(self, sequence: int, outcomes: list[tuple[range, int]], spot: Spot) -> None:
        message = self.messages.get(sequence)
        if message is None:
            return
        for numbers, kind in outcomes:
            for recipient in message.recipients[numbers.start : numbers.stop]:
                recipient.apply(kind, spot)
        self._bury(message)

    def discarded(self, id: str) -> None:
        self.chunks.pop(id, None)
        self.first_seen_ms.pop(id, None)

    def gone(self, id: str, sequence: int) -> None:
        self._give_way(id, sequence)
        self.name_next(sequence + 1)
        self.messages.pop(sequence, None)
        self.discarded(id)

    def dead(self, sequence: int) -> None:
        message = self.messages.pop(sequence, None)
        if message is not None:
            self.discarded(message.id)

    def _bury(self, message: Message) -> None:
        if not any(recipient.state in NOT_OVER for recipient in message.recipients):
            self.dead(message.sequence)

    def chunks_of(self, message: Message) -> dict[int, Place]:
        places = self.chunks.get(message.id, {})
        return {index: place for index, place in places.items() if place.owner in (0, message.sequence)}

    def what_is_missing(self, message: Message) -> str | None:
        """Why a message is isolated, if it is."""
        places = self.chunks_of(message)
        octets = 0
        for index in range(message.chunks):
            if index not in places:
                return f"chunk {index} is not found"
            octets += places[index].spot.content_octets
        return None if octets == message.content_octets else f"{octets} octets of content are found"

    def partials(self) -> list[Json]:
        ids = {message.id for message in self.messages.values()}
        found = []
        for id, places in sorted(self.chunks.items()):
            spots = [place.spot for place in places.values() if place.owner == 0]
            if spots and id not in ids:
                octets = sum(spot.content_octets for spot in spots)
                found.append({"id": id, "octets": octets, "first_seen_ms": self.first_seen_ms[id]})
        return found


# --- Superblock, segment header, batch -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Superblock:
    generation: int
    secret: bytes
    version: int
    page_octets: int
    segment_octets: int
    segments: int

    @property
    def octets(self) -> int:
        """Of the whole log."""
        return HEAD_OCTETS + self.segments * self.segment_octets

    @staticmethod
    def parse(octets: bytes) -> Superblock | None:
        if octets[:8] != b"STERNLOG" or crc32c(octets[:CRC_OFFSET]) != u32_at(octets, CRC_OFFSET):
            return None
        version, page_octets, generation = struct.unpack_from("<IIQ", octets, 8)
        return Superblock(generation, octets[24:40], version, page_octets, u32_at(octets, 40), u32_at(octets, 44))


@dataclass(frozen=True)
class SegmentHeader:
    use: int
    sequence_first: int
    follows_use: int
    follows_sequence: int
    follows_crc: int
    start: int
    next_message_sequence: int


class Body(Enum):
    GOOD = "the batch is whole"
    READABLE = "the record headers are right, not all bodies"
    NEITHER = "the record headers are wrong"


@dataclass(frozen=True)
class Batch:
    page: int
    pages: int
    records: int
    sequence: int
    use: int
    crc: int
    body_octets: int
    headers_crc: int
    predecessor_crc: int
    start: int
    next_message_sequence: int
    written_at_ms: int

    @property
    def end(self) -> int:
        return self.page + self.pages


@dataclass(frozen=True)
class Gap:
    """Pages without a valid batch header, or with the rest of an older batch, before one that has a valid header."""

    page: int
    end: int


@dataclass(frozen=True)
class Record:
    offset: int
    """Of the header, within the segment."""
    kind: int
    body: bytes
    good: bool

    @property
    def octets(self) -> int:
        return RECORD_HEADER_OCTETS + len(self.body)


@dataclass(frozen=True)
class Footer:
    sequence_first: int
    sequence_last: int
    crc_last: int
    """Of the header of the last good batch."""
    next_message_sequence: int
    entries: int
    begin: int
    """Of the entries, within the segment."""
    octets: int
    """Of the entries."""
    entries_crc: int


class Segment:
    """What stands valid in one segment. Its first pages and its footer are read alone, where no more is wanted."""

    def __init__(self, read: Callable[[int, int], bytes], octets: int, index: int, secret: bytes) -> None:
        self._read, self.index, self.secret = read, index, secret
        self.pages = octets // PAGE_OCTETS
        self._front = read(0, 2 * PAGE_OCTETS)
        self.header = self._header()
        self._bodies: dict[Batch, tuple[Body, list[Record]]] = {}

    @cached_property
    def octets(self) -> bytes:
        return self._read(0, self.pages * PAGE_OCTETS)

    def salt(self, kind: bytes, *numbers: bytes) -> int:
        return crc32c(self.secret + kind + struct.pack("<I", self.index) + b"".join(numbers))

    def salt_of_use(self, kind: bytes, use: int) -> int:
        return self.salt(kind, struct.pack("<Q", use))

    def _header(self) -> SegmentHeader | None:
        octets = self._front[:HEADER_OCTETS]
        version, index = struct.unpack_from("<II", octets, 8)
        header = SegmentHeader(*struct.unpack_from("<QQQQI4xQQ", octets, 16))
        if octets[:8] != b"STERNSEG" or version != VERSION or index != self.index or header.use == 0:
            return None
        return header if crc32c(octets[:CRC_OFFSET], self.salt(b"segment")) == u32_at(octets, CRC_OFFSET) else None

    def first(self) -> Batch | None:
        """The valid batch header on page 1, of any use."""
        return self._batch(self._front[PAGE_OCTETS:][:HEADER_OCTETS], 1, None)

    def batch(self, page: int, use: int | None) -> Batch | None:
        """The valid batch header on `page`: of `use`, or if that is None of the use that it names."""
        return self._batch(self.octets[page * PAGE_OCTETS :][:HEADER_OCTETS], page, use)

    def _batch(self, octets: bytes, page: int, use: int | None) -> Batch | None:
        if octets[:8] != b"STERNBAT":
            return None
        version, records, sequence, named, index, own_page = struct.unpack_from("<IIQQII", octets, 8)
        if version != VERSION or index != self.index or own_page != page or named != (use or named):
            return None
        crc = u32_at(octets, CRC_OFFSET)
        batch_octets = HEADER_OCTETS + u32_at(octets, 40)
        if batch_octets > BATCH_OCTETS_MAX:
            return None
        pages = round_up(batch_octets, PAGE_OCTETS) // PAGE_OCTETS
        if page + pages > self.pages or crc32c(octets[:CRC_OFFSET], self.salt_of_use(b"batch", named)) != crc:
            return None
        return Batch(page, pages, records, sequence, named, crc, *struct.unpack_from("<III4xQQQ", octets, 40))

    def body(self, batch: Batch) -> tuple[Body, list[Record]]:
        """What the body of a batch is, and its records unless their headers are wrong."""
        if batch not in self._bodies:
            self._bodies[batch] = self._judge(batch)
        return self._bodies[batch]

    def _judge(self, batch: Batch) -> tuple[Body, list[Record]]:
        salt = self.salt_of_use(b"batch", batch.use)
        offset = batch.page * PAGE_OCTETS + HEADER_OCTETS
        end = offset + batch.body_octets
        headers, records = b"", []
        while offset + RECORD_HEADER_OCTETS <= end:
            kind, octets, crc = struct.unpack_from("<H2xII", self.octets, offset)
            headers += self.octets[offset : offset + RECORD_HEADER_OCTETS]
            body = self.octets[offset + RECORD_HEADER_OCTETS : offset + RECORD_HEADER_OCTETS + octets]
            records.append((offset, kind, body, crc))
            offset += round_up(RECORD_HEADER_OCTETS + octets, 8)
        if offset != end or len(records) != batch.records or crc32c(headers, salt) != batch.headers_crc:
            return Body.NEITHER, []
        judged = [Record(offset, kind, body, crc32c(body, salt) == crc) for offset, kind, body, crc in records]
        return (Body.GOOD if all(record.good for record in judged) else Body.READABLE), judged

    def newest_use(self) -> int | None:
        """The newest use of which a page holds a valid batch header: the second batch stands no later than that."""
        pages = range(1, min(self.pages, SEARCHED_PAGES_MAX))
        batches = (self.batch(page, None) for page in pages)
        return max((batch.use for batch in batches if batch), default=None)

    def found(self, use: int, header: SegmentHeader | None) -> list[Batch | Gap]:
        """Every valid batch header of a use where one is expected, and the gaps between them."""
        found: list[Batch | Gap] = []
        # Of a use without header nothing is known that its first batch follows.
        before = (header.sequence_first - 1, header.follows_crc) if header else None
        page = 1
        while batch := self._next_batch(page, use, before):
            if batch.page > page:
                found.append(Gap(page, batch.page))
            newer = None if self.is_whole(batch) else self._whole_within(batch, before)
            if newer:
                found.append(Gap(batch.page, newer.page))
                page = newer.page
                continue
            found.append(batch)
            page = batch.end
            if self.is_whole(batch):
                before = (batch.sequence, batch.crc)
        return found

    def _whole_within(self, batch: Batch, before: tuple[int, int] | None) -> Batch | None:
        """The first whole batch on a page that `batch` claims: then this one is what is left of an older write."""
        for page in range(batch.page + 1, batch.end):
            newer = self.batch(page, batch.use)
            if newer and fits(newer, before) and self.is_whole(newer):
                return newer
        return None

    def _next_batch(self, page: int, use: int, before: tuple[int, int] | None) -> Batch | None:
        for at in range(page, self.pages):
            batch = self.batch(at, use)
            if batch and fits(batch, before):
                return batch
        return None

    def is_whole(self, item: Batch | Gap) -> bool:
        return isinstance(item, Batch) and self.body(item)[0] is Body.GOOD

    def footer(self, use: int) -> Footer | None:
        """The footer of the index of `use`, if it is valid."""
        octets = self._read((self.pages - 1) * PAGE_OCTETS, PAGE_OCTETS)[:HEADER_OCTETS]
        if octets[:8] != b"STERNIDX":
            return None
        version, index, named, first, last, crc, end, next_message = struct.unpack_from("<IIQQQIIQ", octets, 8)
        entries, begin, entries_octets, entries_crc = struct.unpack_from("<IIII", octets, 56)
        if version != VERSION or index != self.index or named != use:
            return None
        if crc32c(octets[:CRC_OFFSET], self.salt_of_use(b"index", use)) != u32_at(octets, CRC_OFFSET):
            return None
        if not PAGE_OCTETS < end <= begin <= begin + entries_octets <= (self.pages - 1) * PAGE_OCTETS:
            return None
        return Footer(first, last, crc, next_message, entries, begin, entries_octets, entries_crc)

    def entries(self, footer: Footer, use: int) -> bytes:
        """The octets of the entries of an index."""
        octets = self._read(footer.begin, footer.octets)
        if crc32c(octets, self.salt_of_use(b"index", use)) != footer.entries_crc:
            raise Undecodable("the CRC of the entries is wrong")
        return octets


def fits(batch: Batch, before: tuple[int, int] | None) -> bool:
    """Whether a batch can come behind the one of that sequence and CRC, if that is known."""
    if before is None:
        return True
    sequence, crc = before
    return batch.sequence > sequence + 1 or (batch.sequence == sequence + 1 and batch.predecessor_crc == crc)


# --- The index of a segment ------------------------------------------------------------------------------------------

Effect = Callable[[Contents], None]


@dataclass(frozen=True)
class MessageEntry:
    """What an entry says of an envelope or a moved record."""

    id: str
    sequence: int
    content_octets: int
    chunks: int
    spot: Spot
    recipients: list[Recipient]

    def __call__(self, contents: Contents) -> None:
        recipients = [replace(recipient) for recipient in self.recipients]
        contents.message(Message(self.id, self.sequence, self.content_octets, self.chunks, self.spot, recipients))


@dataclass(frozen=True)
class GoneEntry:
    """What an entry says of a message that is over."""

    id: str
    sequence: int

    def __call__(self, contents: Contents) -> None:
        contents.gone(self.id, self.sequence)


class EntryDecoder(Decoder):
    """Decodes the entries of an index to what they do."""

    def __init__(self, octets: bytes, segment: int, use: int) -> None:
        super().__init__(octets)
        self.segment, self.use, self.written_at_ms = segment, use, 0

    def entries(self, count: int) -> list[tuple[str, Effect]]:
        entries = []
        while self.at < len(self.octets):
            variant = self.variant(len(ENTRIES))
            decoders = (self.written, self.content, self.message, self.outcomes, self.discard, self.gone, self.dead)
            entries.append((ENTRIES[variant], decoders[variant]()))
        if len(entries) != count:
            raise Undecodable(f"{len(entries)} entries instead of {count}")
        return entries

    def spot(self) -> Spot:
        offset = self.u32() * 8
        return Spot(self.segment, self.use, offset, self.u32())

    def written(self) -> Effect:
        self.written_at_ms = self.u64()
        return lambda contents: None

    def content(self) -> Effect:
        id, index, owner = self.message_id(), self.u32(), self.u64()
        place, written_at_ms = Place(self.spot(), owner), self.written_at_ms
        return lambda contents: contents.chunk(id, index, place, written_at_ms)

    def message(self) -> Effect:
        id, sequence, _, _ = self.message_id(), self.u64(), self.u64(), self.variant(len(PRECEDENCES))
        octets, chunks, spot, _, _ = self.u64(), self.u32(), self.spot(), self.flag(), self.items(self.route)
        recipients = [recipient for run in self.items(lambda: self.run(spot)) for recipient in run]
        return MessageEntry(id, sequence, octets, chunks, spot, recipients)

    def run(self, spot: Spot) -> list[Recipient]:
        count, _, state, attempts = self.u32(), self.u16(), self.variant(len(STATES)), self.u16()
        delay_reported, has_words = self.flag(), self.flag()
        return [Recipient(state, attempts, delay_reported, spot if has_words else None) for _ in range(count)]

    def outcomes(self) -> Effect:
        sequence, spot = self.u64(), self.spot()
        outcomes = self.items(lambda: (self.numbers(), self.variant(OUTCOMES_COUNT)))
        return lambda contents: contents.outcome(sequence, outcomes, spot)

    def discard(self) -> Effect:
        id = self.message_id()
        return lambda contents: contents.discarded(id)

    def gone(self) -> Effect:
        return GoneEntry(self.message_id(), self.u64())

    def dead(self) -> Effect:
        sequence = self.u64()
        return lambda contents: contents.dead(sequence)


# --- Recovery --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trace:
    """Where a use shows itself, and its header unless it is lost."""

    segment: int
    header: SegmentHeader | None


@dataclass
class Use:
    """A living use: where it is, and how far its batches count."""

    segment: int
    header: SegmentHeader
    """If it is lost: what the batches tell of it."""
    limit: int | None = None
    """The log sequence that its successor follows. None: it is the head, or neither its successor nor a footer is found."""
    is_head: bool = False

    @property
    def number(self) -> int:
        return self.header.use


class Log:
    """One log, opened to be read."""

    def __init__(self, path: str, by_index: bool, unreadable: set[int]) -> None:
        try:
            self.file = os.open(path, os.O_RDONLY)
        except OSError as problem:
            raise LogError(f"{path} cannot be opened: {problem.strerror}") from None
        self.path, self.by_index, self.unreadable = path, by_index, unreadable
        self.octets = os.lseek(self.file, 0, os.SEEK_END)
        self.damage: list[Json] = []
        self.torn_tail: Json | None = None
        self.contents = Contents()
        self.batches = 0
        self.records: Counter[str] = Counter()
        self.entries: Counter[str] = Counter()
        self.checked: set[Spot] = set()
        self.lost_envelopes: set[Spot] = set()
        self.has_read = False
        self.lost_pages: set[int] = set()
        self.start = 1
        self.superblock = self._superblock()
        self._loaded: Segment | None = None

    # What the disk does not read.

    def read(self, offset: int, octets: int) -> bytes:
        """Octets from the beginning of a page on. Pages that the device does not read say nothing."""
        try:
            return self._read_at_once(offset, octets)
        except OSError:
            pages = range(offset, offset + octets, PAGE_OCTETS)
            return b"".join(self._read_page(page, min(PAGE_OCTETS, offset + octets - page)) for page in pages)

    def _read_at_once(self, offset: int, octets: int) -> bytes:
        if any(offset - PAGE_OCTETS < page < offset + octets for page in self.unreadable):
            raise OSError("the page is said to be unreadable")
        found = b""
        while len(found) < octets:
            part = os.pread(self.file, octets - len(found), offset + len(found))
            if not part:
                raise LogError(f"{self.path} ends at {offset + len(found)}, before {offset + octets}")
            found += part
        self.has_read = True
        return found

    def _read_page(self, offset: int, octets: int) -> bytes:
        for _ in range(PAGE_READS_MAX):
            try:
                return self._read_at_once(offset, octets)
            except OSError:
                continue
        self.lost_pages.add(offset)
        return bytes(octets)

    def offset_of(self, segment: int, offset: int = 0) -> int:
        return HEAD_OCTETS + segment * self.superblock.segment_octets + offset

    def segment(self, index: int) -> Segment:
        """One segment is in memory at a time."""
        if self._loaded is None or self._loaded.index != index:
            start = self.offset_of(index)
            block = self.superblock
            self._loaded = Segment(
                lambda offset, octets: self.read(start + offset, octets), block.segment_octets, index, block.secret
            )
        return self._loaded

    def tell(self, what: str, offset: int, octets: int, words: str) -> None:
        self.damage.append({"what": what, "offset": offset, "octets": octets, "words": words})

    # The superblocks.

    def _superblock(self) -> Superblock:
        if self.octets < HEAD_OCTETS:
            raise LogError(f"{self.path} has {self.octets} octets, less than the head of a log")
        blocks = {offset: Superblock.parse(self.read(offset, HEADER_OCTETS)) for offset in SUPERBLOCK_OFFSETS}
        valid = [block for block in blocks.values() if block]
        if not self.has_read:
            raise LogError(f"{self.path} cannot be read at all: the device is away")
        if not valid:
            self._refuse_head()
        for offset in (offset for offset, block in blocks.items() if block is None):
            self.tell("superblock", offset, PAGE_OCTETS, "it is invalid, the other one counts")
        # `max` takes the first of equals, which is A.
        chosen = max(valid, key=lambda block: block.generation)
        self._check_geometry(chosen)
        return chosen

    def _refuse_head(self) -> NoReturn:
        head = self.read(0, HEAD_OCTETS)
        if not any(head.removeprefix(BLANK_MARKER)):
            raise LogError(f"{self.path} is blank: no log has been made in it yet")
        raise LogError(f"{self.path} is not a log (or destroyed): none of its superblocks is valid")

    def _check_geometry(self, block: Superblock) -> None:
        if block.version != VERSION or block.page_octets != PAGE_OCTETS:
            words = f"version {block.version} and pages of {block.page_octets} octets"
            raise LogError(f"{self.path} has {words}, which is not known here")
        if block.segment_octets % PAGE_OCTETS or not 128 << 10 <= block.segment_octets <= 64 << 20:
            raise LogError(f"{self.path} has segments of {block.segment_octets} octets: they cannot be so long")
        if not 8 <= block.segments <= 65_536 or block.octets > self.octets:
            raise LogError(f"{self.path} has {block.segments} segments, which do not fit into {self.octets} octets")

    # Which uses live.

    def living(self) -> list[Use]:
        """The living uses, oldest first."""
        shown = self._shown()
        for number in sorted(shown, reverse=True):
            head = self._head(number, shown)
            if head:
                return self._path(head, shown)[::-1]
        return []

    def _shown(self) -> dict[int, Trace]:
        """Every use that shows itself, living or not."""
        shown: dict[int, Trace] = {}
        silent = []
        for index in range(self.superblock.segments):
            header, first = self.segment(index).header, self.segment(index).first()
            if first:
                shown.setdefault(first.use, Trace(index, None))
            if header:
                shown[header.use] = Trace(index, header)
                self.contents.name_next(header.next_message_sequence)
            if not header and not first:
                silent.append(index)
        for index in silent:
            if index > SEARCHED_SEGMENTS_MAX + max((trace.segment for trace in shown.values()), default=-1):
                break
            newest = self.segment(index).newest_use()
            if newest is not None:
                shown.setdefault(newest, Trace(index, None))
        return shown

    def _head(self, number: int, shown: dict[int, Trace]) -> Use | None:
        """A use as the head, unless it is torn."""
        trace = shown[number]
        segment = self.segment(trace.segment)
        found = segment.found(number, trace.header)
        footer = segment.footer(number)
        limit = footer.sequence_last if footer else None
        whole = [item for item in found if isinstance(item, Batch) and segment.is_whole(item)]
        counted = [batch for batch in whole if limit is None or batch.sequence <= limit]
        start = counted[-1].start if counted else 0
        if trace.header:
            self.start = max(1, start, trace.header.start)
            return self._newest(Use(trace.segment, trace.header, limit), shown)
        if not whole:
            return None
        self.start = max(1, start)
        first = next(item for item in found if isinstance(item, Batch))
        if whole[-1].end > 1 + first.pages:
            self._tell_lost_header(trace.segment, number)
        return self._newest(Use(trace.segment, self._header_from(first, shown), limit), shown)

    def _newest(self, use: Use, shown: dict[int, Trace]) -> Use:
        """The newest use that shows itself: the head, or sealed by one that is lost if it has a footer."""
        use.is_head = use.limit is None
        if not use.is_head:
            self._tell_lost_uses(use.number, max(*shown, use.number + 1) + 1)
        return use

    def _path(self, head: Use, shown: dict[int, Trace]) -> list[Use]:
        path, above = [head], head.number
        number: int
        limit: int | None
        number, limit = head.header.follows_use, head.header.follows_sequence
        while self.start <= number < above:
            above = number
            trace = shown.get(number)
            if trace and all(use.segment != trace.segment for use in path):
                use = Use(trace.segment, trace.header or self._lost_header(trace.segment, number, shown), limit)
                path.append(use)
                number, limit = use.header.follows_use, use.header.follows_sequence
                continue
            lower = max((use for use in shown if use < number), default=0)
            self._tell_lost_uses(lower, number + 1)
            if lower:
                footer = self.segment(shown[lower].segment).footer(lower)
                limit = footer.sequence_last if footer else None
            number = lower
        return path

    # What the batches tell of a lost header.

    def _lost_header(self, index: int, number: int, shown: dict[int, Trace]) -> SegmentHeader:
        self._tell_lost_header(index, number)
        first = next(item for item in self.segment(index).found(number, None) if isinstance(item, Batch))
        return self._header_from(first, shown)

    def _header_from(self, first: Batch, shown: dict[int, Trace]) -> SegmentHeader:
        lower = sorted((number for number in shown if number < first.use), reverse=True)
        follows = self._named_by(first, lower[:FOLLOWED_USES_MAX], shown) if first.page == 1 else None
        use, sequence = follows or self._presumably_before(first, lower, shown)
        return SegmentHeader(
            first.use, first.sequence, use, sequence, first.predecessor_crc, first.start, first.next_message_sequence
        )

    def _named_by(self, first: Batch, lower: list[int], shown: dict[int, Trace]) -> tuple[int, int] | None:
        """Use and sequence of the batch that the first one of a use names as its predecessor."""
        if first.sequence == 1:
            return 0, 0
        for number in lower:
            segment, header = self.segment(shown[number].segment), shown[number].header
            footer = segment.footer(number)
            if footer and footer.crc_last == first.predecessor_crc:
                return number, footer.sequence_last
            for item in self._up_to_last_whole(segment, number, header):
                if item.crc == first.predecessor_crc:
                    return number, item.sequence
            if header and header.follows_crc == first.predecessor_crc:
                return header.follows_use, header.follows_sequence
            for item in segment.found(number, header):
                if isinstance(item, Batch) and item.page > 1 and item.predecessor_crc == first.predecessor_crc:
                    return number, item.sequence - 1
        return None

    @staticmethod
    def _up_to_last_whole(segment: Segment, number: int, header: SegmentHeader | None) -> list[Batch]:
        batches = [item for item in segment.found(number, header) if isinstance(item, Batch)]
        while batches and not segment.is_whole(batches[-1]):
            batches.pop()
        return batches

    def _presumably_before(self, first: Batch, lower: list[int], shown: dict[int, Trace]) -> tuple[int, int]:
        """The use before, to its end; what is between the two is lost."""
        if not lower:
            return 0, 0
        self._tell_lost_uses(lower[0], first.use)
        footer = self.segment(shown[lower[0]].segment).footer(lower[0])
        return lower[0], footer.sequence_last if footer else first.sequence - 1

    def _tell_lost_header(self, index: int, number: int) -> None:
        self.tell("segment header", self.offset_of(index), PAGE_OCTETS, f"use {number} has lost it")

    def _tell_lost_uses(self, below: int, above: int) -> None:
        for number in range(max(below + 1, self.start, above - self.superblock.segments), above):
            self.tell("whole segment", 0, self.superblock.segment_octets, f"use {number} is not found")

    # The places where a batch is expected.

    def batches_of(self, use: Use) -> Iterator[tuple[Batch, Body, list[Record]]]:
        """The batches that count, in order, with their records; what is damaged before and between them is told."""
        segment = self.segment(use.segment)
        found = segment.found(use.number, use.header)
        counted = self._counted(segment, use, found)
        for item in found[:counted]:
            if isinstance(item, Gap):
                self._tell_pages(use, item.page, item.end, "no valid batch header")
                continue
            body, records = segment.body(item)
            if body is Body.NEITHER:
                self._tell_pages(use, item.page, item.end, f"batch {item.sequence}: {body.value}")
            yield item, body, records
        last = found[counted - 1] if counted else None
        last_sequence = last.sequence if isinstance(last, Batch) else use.header.sequence_first - 1
        if use.limit is not None and last_sequence < use.limit:
            self._tell_pages(use, last.end if last else 1, segment.pages, "no batch, and its successor follows one")
        torn = next((item for item in found[counted:] if use.is_head and isinstance(item, Batch)), None)
        if torn:
            offset = self.offset_of(use.segment, torn.page * PAGE_OCTETS)
            self.torn_tail = {"offset": offset, "octets": torn.pages * PAGE_OCTETS}

    @staticmethod
    def _counted(segment: Segment, use: Use, found: list[Batch | Gap]) -> int:
        """How many of what was found is no tail: up to the last whole batch, or up to what the successor follows."""
        counted = 0
        for number, item in enumerate(found, 1):
            if isinstance(item, Batch) and use.limit is not None and item.sequence > use.limit:
                break
            if isinstance(item, Batch) and (use.limit is not None or segment.is_whole(item)):
                counted = number
        return counted

    def _tell_pages(self, use: Use, page: int, end: int, words: str) -> None:
        self.tell("batches", self.offset_of(use.segment, page * PAGE_OCTETS), (end - page) * PAGE_OCTETS, words)

    # The records of a valid batch.

    def read_in_full(self, use: Use) -> Json:
        sequences = []
        # Where an envelope is damaged, the index may tell of its message.
        footer, entries = self._index(use)
        spare = {effect.spot: effect for _, effect in entries if isinstance(effect, MessageEntry)}
        gone = [effect for _, effect in entries if isinstance(effect, GoneEntry)] if footer else None
        for batch, body, records in self.batches_of(use):
            sequences.append(batch.sequence)
            if body is Body.NEITHER:
                continue
            self.batches += 1
            self.contents.name_next(batch.next_message_sequence)
            for record in records:
                self._apply_record(use, batch, record, spare, gone)
        first = use.header.sequence_first
        return {"sequence_first": first, "sequence_last": sequences[-1] if sequences else None, "read": "in full"}

    def _apply_record(
        self, use: Use, batch: Batch, record: Record, spare: dict[Spot, MessageEntry], gone: list[GoneEntry] | None
    ) -> None:
        kind = KINDS.get(record.kind, "record")
        spot = Spot(use.segment, use.number, record.offset, record.octets)
        try:
            if not record.good or record.kind not in KINDS:
                raise Undecodable("its CRC is wrong" if not record.good else f"its kind {record.kind} is unknown")
            self.checked.add(spot)
            self._apply_body(record.kind, record.body, spot, batch.written_at_ms)
            self.records[kind] += 1
        except Undecodable as problem:
            offset, octets = self.offset_of(use.segment, record.offset), round_up(record.octets, 8)
            self.tell("record", offset, octets, f"{kind} of batch {batch.sequence}: {problem}")
            if spot in spare:
                self.lost_envelopes.add(spot)
                spare[spot](self.contents)
            elif record.kind in (ENVELOPE, MOVED) and len(record.body) >= MESSAGE_HEAD_OCTETS:
                self._take_head(batch, record.body, spot, gone)

    def _take_head(self, batch: Batch, body: bytes, spot: Spot, gone: list[GoneEntry] | None) -> None:
        """What the head of a damaged envelope tells: by an index it ends its message, without one it is a claim."""
        decoder = Decoder(body)
        id = decoder.message_id()
        sequence, octets, chunks = decoder.unpack("<QQI")
        if gone is not None:
            for entry in [entry for entry in gone if entry.id == id or entry.sequence == sequence][:1]:
                entry(self.contents)
        elif 1 <= sequence < batch.next_message_sequence:
            octets, recipients = min(octets, self.superblock.octets), len(body) // RECIPIENT_OCTETS_MIN
            self.contents.claim(Claim(id, sequence, octets, chunks, recipients, spot, batch.written_at_ms))

    def _apply_body(self, kind: int, body: bytes, spot: Spot, written_at_ms: int) -> None:
        if kind == CHUNK:
            chunk = Chunk.decode(body)
            self.contents.chunk(chunk.id, chunk.index, Place(spot, chunk.owner), written_at_ms)
        elif kind in (ENVELOPE, MOVED):
            letter = Letter.decode(body)
            if letter.chunks > self.superblock.octets // (RECORD_HEADER_OCTETS + CHUNK_HEAD_OCTETS):
                raise Undecodable(f"{letter.chunks} chunks, more than the log has room for")
            numbers = (letter.id, letter.sequence, letter.content_octets, letter.chunks)
            self.contents.message(Message(*numbers, spot, letter.recipients(spot)))
        elif kind == OUTCOME:
            sequence, outcomes = decode_outcomes(body)
            self.contents.outcome(sequence, [(numbers, kind) for numbers, (kind, _) in outcomes], spot)
        else:
            self.contents.discarded(Decoder(body).message_id())

    # The index of a segment.

    def read_use(self, use: Use) -> Json:
        footer, entries = self._index(use)
        shown: Json = {"segment": use.segment, "use": use.number, "index_valid": footer is not None}
        shown["index_entries"] = footer.entries if footer else None
        if footer is None or not self.by_index:
            return shown | self.read_in_full(use)
        self.contents.name_next(footer.next_message_sequence)
        for name, apply in entries:
            self.entries[name] += 1
            apply(self.contents)
        sequences = {"sequence_first": footer.sequence_first, "sequence_last": footer.sequence_last}
        return shown | sequences | {"read": "by index"}

    def _index(self, use: Use) -> tuple[Footer | None, list[tuple[str, Effect]]]:
        """The index of a segment, if it has a valid one that covers what it should."""
        segment = self.segment(use.segment)
        footer = None if use.is_head else segment.footer(use.number)
        if footer is None or use.limit not in (None, footer.sequence_last):
            return None, []
        try:
            octets = segment.entries(footer, use.number)
            return footer, EntryDecoder(octets, use.segment, use.number).entries(footer.entries)
        except Undecodable:
            return None, []

    # --- Reading one record back -------------------------------------------------------------------------------------

    def record_at(self, spot: Spot, *kinds: int) -> tuple[int, bytes]:
        """Kind and body of the record at `spot`, if it is one of `kinds` and its CRC is right."""
        try:
            octets = self._read_at_once(self.offset_of(spot.segment, spot.offset), spot.octets)
        except OSError as problem:
            raise Unread(f"the record at {self.offset_of(spot.segment, spot.offset)}: {problem}") from None
        kind, body_octets, crc = struct.unpack_from("<H2xII", octets)
        body = octets[RECORD_HEADER_OCTETS:]
        salt = crc32c(self.superblock.secret + b"batch" + struct.pack("<IQ", spot.segment, spot.use))
        is_right = spot in self.checked or crc32c(body, salt) == crc
        if kind not in kinds or body_octets != len(body) or not is_right:
            raise Undecodable(f"the record at {self.offset_of(spot.segment, spot.offset)} is damaged")
        self.checked.add(spot)
        return kind, body

    def words_of(self, number: int, recipient: Recipient) -> Json | None:
        """The last diagnostic of a recipient. Of a damaged record the words are left out."""
        if recipient.words is None:
            return None
        try:
            kind, body = self.record_at(recipient.words, OUTCOME, MOVED)
            if kind == OUTCOME:
                found = [diagnostic for numbers, (_, diagnostic) in decode_outcomes(body)[1] if number in numbers]
            else:
                found = [state["last"] for numbers, state in Letter.decode(body).states if number in numbers]
        except Unread:
            raise
        except Undecodable:
            return None
        return next((diagnostic for diagnostic in reversed(found) if diagnostic), None)

    def recipient_json(self, number: int, recipient: Recipient) -> Json:
        return {
            "state": STATES[recipient.state],
            "attempts": recipient.attempts,
            "delay_reported": recipient.delay_reported,
            "last": self.words_of(number, recipient),
        }

    def message_json(self, message: Message) -> Json:
        """A message with all that its records say; `problem` tells why it cannot be handed out."""
        shown: Json = {"id": message.id, "sequence": message.sequence, "content_octets": message.content_octets}
        shown |= {"envelope": None, "recipients": None, "sha256_told": None, "sha256_computed": None, "problem": None}
        try:
            letter = Letter.decode(self.record_at(message.spot, ENVELOPE, MOVED)[1])
            recipients = [self.recipient_json(*numbered) for numbered in enumerate(message.recipients)]
            shown |= {"envelope": letter.envelope, "recipients": recipients, "sha256_told": letter.sha256}
            shown["sha256_computed"] = self._content_sha256(message)
        except Undecodable as problem:
            shown["problem"] = str(problem)
        return shown

    def _content_sha256(self, message: Message) -> str:
        missing = self.contents.what_is_missing(message)
        if missing:
            raise Undecodable(missing)
        places = self.contents.chunks_of(message)
        digest = hashlib.sha256()
        for index in range(message.chunks):
            digest.update(Chunk.decode(self.record_at(places[index].spot, CHUNK)[1]).content)
        return digest.hexdigest()

    # --- What is printed ---------------------------------------------------------------------------------------------

    def json(self) -> Json:
        segments = [self.read_use(use) for use in self.living()]
        for page in sorted(self.lost_pages):
            self.tell("unreadable", page, PAGE_OCTETS, f"the device did not read it in {PAGE_READS_MAX} attempts")
        messages: list[Json] = []
        isolated: list[Json] = []
        for _, message in sorted(self.contents.messages.items()):
            is_isolated = self.contents.what_is_missing(message) or message.spot in self.lost_envelopes
            (isolated if is_isolated else messages).append(self.message_json(message))
        return {
            "geometry": self._geometry(),
            "segments": segments,
            "batches": self.batches,
            "records": {name: self.records[name] for name in KINDS.values()},
            "index_entries": {name: self.entries[name] for name in ENTRIES},
            "next_message_sequence": self.contents.next_message_sequence,
            "torn_tail": self.torn_tail,
            "damage": self.damage,
            "messages": messages,
            "partials": self.contents.partials(),
            "isolated": isolated,
        }

    def _geometry(self) -> Json:
        block = self.superblock
        return {
            "octets": self.octets,
            "generation": block.generation,
            "page_octets": block.page_octets,
            "segment_octets": block.segment_octets,
            "segments": block.segments,
        }


def main() -> int:
    parser = argparse.ArgumentParser(description="prints what lives in the log of a queue, as JSON")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--in-full", action="store_true", help="read every batch of every living segment")
    how.add_argument("--by-index", action="store_true", help="read segments by their indexes where they are valid")
    parser.add_argument("--unreadable", metavar="OFFSET", type=int, action="append", default=[], help="of a page")
    parser.add_argument("log", help="file or block device")
    arguments = parser.parse_args()
    try:
        shown = Log(arguments.log, arguments.by_index, set(arguments.unreadable)).json()
    except LogError as problem:
        print(f"format_reader: {problem}", file=sys.stderr)
        return 1
    json.dump(shown, sys.stdout, indent=1, ensure_ascii=False)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
