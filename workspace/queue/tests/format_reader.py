#!/usr/bin/env python3
"""Reads the log of a queue and prints what lives in it, as JSON. It knows FORMAT.md alone, and is its proof.

    format_reader.py --in-full LOG     every batch of every living segment is read
    format_reader.py --by-index LOG    segments with a valid index are read by it, the others and the head in full

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
from dataclasses import dataclass
from enum import Enum
from typing import Any, NoReturn, TypeVar

Json = dict[str, Any]
T = TypeVar("T")

PAGE_OCTETS = 4096
HEADER_OCTETS = 128
CRC_OFFSET = 124
RECORD_HEADER_OCTETS = 16
CHUNK_HEAD_OCTETS = 32
SUPERBLOCK_OFFSETS = (0, 32_768)
HEAD_OCTETS = 65_536
VERSION = 2
BLANK_MARKER = b"STERNPOST QUEUE BLANK 1\n"

CHUNK, ENVELOPE, OUTCOME, MOVED, DISCARDED = range(1, 6)
KINDS = {CHUNK: "content", ENVELOPE: "envelope", OUTCOME: "outcome", MOVED: "moved", DISCARDED: "discarded"}
STATES = ("pending", "failed", "delivered", "transferred", "reported", "discarded")
PENDING, FAILED = 0, 1
OUTCOME_DELIVERED, TRANSFERRED, DEFERRED, OUTCOME_FAILED, DELAY_REPORTED, REPORTED, OUTCOME_DISCARDED = range(7)
STATE_AFTER = {OUTCOME_DELIVERED: 2, TRANSFERRED: 3, REPORTED: 4, OUTCOME_DISCARDED: 5}
PRECEDENCES = ("deferred", "routine", "priority", "immediate", "flash", "override")
ENTRIES = ("written", "content", "message", "outcome", "discarded", "gone", "dead")
ATTEMPTS_MAX = 65_535


class LogError(Exception):
    """The file cannot be read as a log; the words say why."""


class Undecodable(Exception):
    """Octets are not what the document says stands there; the words say why."""


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
        }

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
        kind = self.variant(7)
        if kind == DEFERRED:
            self.variant(2)
        if kind in (OUTCOME_DELIVERED, TRANSFERRED, DEFERRED, OUTCOME_FAILED):
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
            "state": self.variant(6),
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
        if self.state > FAILED or (self.state == FAILED and kind not in STATE_AFTER):
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


class Contents:
    """The living messages and the chunks that were found: records, or entries of an index, applied in log order."""

    def __init__(self) -> None:
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

    def message(self, message: Message) -> None:
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
        self.name_next(sequence + 1)
        self.messages.pop(sequence, None)
        self.discarded(id)

    def dead(self, sequence: int) -> None:
        message = self.messages.pop(sequence, None)
        if message is not None:
            self.discarded(message.id)

    def _bury(self, message: Message) -> None:
        if all(recipient.state > FAILED for recipient in message.recipients):
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
    """Pages without a valid batch header before one that has it."""

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
    next_message_sequence: int
    entries: int
    octets: bytes
    """Of the entries."""
    entries_are_right: bool


class Segment:
    """The octets of one segment, and what stands valid in them."""

    def __init__(self, octets: bytes, index: int, secret: bytes) -> None:
        self.octets, self.index, self.secret = octets, index, secret
        self.pages = len(octets) // PAGE_OCTETS
        self.header = self._header()
        self._bodies: dict[Batch, tuple[Body, list[Record]]] = {}

    def salt(self, kind: bytes, *numbers: bytes) -> int:
        return crc32c(self.secret + kind + struct.pack("<I", self.index) + b"".join(numbers))

    def salt_of_use(self, kind: bytes, use: int) -> int:
        return self.salt(kind, struct.pack("<Q", use))

    def _header(self) -> SegmentHeader | None:
        octets = self.octets[:HEADER_OCTETS]
        version, index = struct.unpack_from("<II", octets, 8)
        header = SegmentHeader(*struct.unpack_from("<QQQQI4xQQ", octets, 16))
        if octets[:8] != b"STERNSEG" or version != VERSION or index != self.index or header.use == 0:
            return None
        return header if crc32c(octets[:CRC_OFFSET], self.salt(b"segment")) == u32_at(octets, CRC_OFFSET) else None

    def batch(self, page: int, use: int | None = None) -> Batch | None:
        """The valid batch header on `page`: of `use`, or if that is None of the use that it names."""
        octets = self.octets[page * PAGE_OCTETS : page * PAGE_OCTETS + HEADER_OCTETS]
        if octets[:8] != b"STERNBAT":
            return None
        version, records, sequence, named, index, own_page = struct.unpack_from("<IIQQII", octets, 8)
        if version != VERSION or index != self.index or own_page != page or named != (use or named):
            return None
        crc = u32_at(octets, CRC_OFFSET)
        pages = round_up(HEADER_OCTETS + u32_at(octets, 40), PAGE_OCTETS) // PAGE_OCTETS
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

    def found(self, use: int, header: SegmentHeader | None) -> list[Batch | Gap]:
        """Every valid batch header of a use where one is expected, and the gaps between them."""
        found: list[Batch | Gap] = []
        # Of a use without header nothing is known that its first batch follows.
        before = (header.sequence_first - 1, header.follows_crc) if header else None
        page = 1
        while page < self.pages:
            batch = self._next_batch(page, use, before)
            if batch is None:
                break
            if batch.page > page:
                found.append(Gap(page, batch.page))
            newer = None if self.is_whole(batch) else self._whole_within(batch, use, before)
            if newer:
                found.append(Gap(batch.page, newer.page))
                page = newer.page
                continue
            found.append(batch)
            # The length and the name of a batch count only with its body.
            before, page = (batch.sequence, batch.crc) if self.is_whole(batch) else before, batch.end
        return found

    def _whole_within(self, torn: Batch, use: int, before: tuple[int, int] | None) -> Batch | None:
        """A whole batch that was written over what is left of a torn one."""
        for at in range(torn.page + 1, torn.end):
            batch = self.batch(at, use)
            if batch and fits(batch, before) and self.is_whole(batch):
                return batch
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
        octets = self.octets[-PAGE_OCTETS:][:HEADER_OCTETS]
        if octets[:8] != b"STERNIDX":
            return None
        version, index, named, first, last, crc, end, next_message = struct.unpack_from("<IIQQQIIQ", octets, 8)
        entries, begin, entries_octets, entries_crc = struct.unpack_from("<IIII", octets, 56)
        salt = self.salt_of_use(b"index", use)
        if version != VERSION or index != self.index or named != use:
            return None
        if crc32c(octets[:CRC_OFFSET], salt) != u32_at(octets, CRC_OFFSET):
            return None
        body = self.octets[begin : begin + entries_octets]
        is_right = PAGE_OCTETS < end <= begin <= begin + entries_octets <= len(self.octets) - PAGE_OCTETS
        entries_are_right = crc32c(body, salt) == entries_crc
        return Footer(first, last, crc, next_message, entries, body, entries_are_right) if is_right else None


def fits(batch: Batch, before: tuple[int, int] | None) -> bool:
    """Whether a batch can come behind the one of that sequence and CRC, if that is known."""
    if before is None:
        return True
    sequence, crc = before
    return batch.sequence > sequence + 1 or (batch.sequence == sequence + 1 and batch.predecessor_crc == crc)


# --- The index of a segment ------------------------------------------------------------------------------------------

Effect = Callable[[Contents], None]


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
        return lambda contents: contents.message(Message(id, sequence, octets, chunks, spot, recipients))

    def run(self, spot: Spot) -> list[Recipient]:
        count, _, state, attempts = self.u32(), self.u16(), self.variant(len(STATES)), self.u16()
        delay_reported, has_words = self.flag(), self.flag()
        return [Recipient(state, attempts, delay_reported, spot if has_words else None) for _ in range(count)]

    def outcomes(self) -> Effect:
        sequence, spot = self.u64(), self.spot()
        outcomes = self.items(lambda: (self.numbers(), self.variant(7)))
        return lambda contents: contents.outcome(sequence, outcomes, spot)

    def discard(self) -> Effect:
        id = self.message_id()
        return lambda contents: contents.discarded(id)

    def gone(self) -> Effect:
        id, sequence = self.message_id(), self.u64()
        return lambda contents: contents.gone(id, sequence)

    def dead(self) -> Effect:
        sequence = self.u64()
        return lambda contents: contents.dead(sequence)


# --- Recovery --------------------------------------------------------------------------------------------------------


@dataclass
class Use:
    """A living use: where it is, and how far its batches count."""

    segment: int
    number: int
    header: SegmentHeader
    """If it is lost: what the first batch tells of it."""
    header_is_lost: bool
    limit: int | None
    """The log sequence that its successor follows. None: it is the head, or its successor is not found."""
    is_head: bool


@dataclass(frozen=True)
class Trace:
    """Where a use shows itself."""

    segment: int
    header: SegmentHeader | None


class Log:
    """One log, opened to be read."""

    def __init__(self, path: str, by_index: bool) -> None:
        try:
            self.file = os.open(path, os.O_RDONLY)
        except OSError as problem:
            raise LogError(f"{path} cannot be opened: {problem.strerror}") from None
        self.path, self.by_index = path, by_index
        self.octets = os.lseek(self.file, 0, os.SEEK_END)
        self.damage: list[Json] = []
        self.torn_tail: Json | None = None
        self.contents = Contents()
        self.batches = 0
        self.records: Counter[str] = Counter()
        self.entries: Counter[str] = Counter()
        self.checked: set[Spot] = set()
        self.superblock = self._superblock()
        self._loaded: Segment | None = None

    def read(self, offset: int, octets: int) -> bytes:
        found = b""
        while len(found) < octets:
            part = os.pread(self.file, octets - len(found), offset + len(found))
            if not part:
                raise LogError(f"{self.path} ends at {offset + len(found)}, before {offset + octets}")
            found += part
        return found

    def offset_of(self, segment: int, offset: int = 0) -> int:
        return HEAD_OCTETS + segment * self.superblock.segment_octets + offset

    def segment(self, index: int) -> Segment:
        """One segment is in memory at a time."""
        if self._loaded is None or self._loaded.index != index:
            octets = self.read(self.offset_of(index), self.superblock.segment_octets)
            self._loaded = Segment(octets, index, self.superblock.secret)
        return self._loaded

    def tell(self, what: str, offset: int, octets: int, words: str) -> None:
        self.damage.append({"what": what, "offset": offset, "octets": octets, "words": words})

    # The superblocks.

    def _superblock(self) -> Superblock:
        if self.octets < HEAD_OCTETS:
            raise LogError(f"{self.path} has {self.octets} octets, less than the head of a log")
        blocks = {offset: Superblock.parse(self.read(offset, HEADER_OCTETS)) for offset in SUPERBLOCK_OFFSETS}
        valid = [block for block in blocks.values() if block]
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
        uses: dict[int, Trace] = {}
        silent = []
        for index in range(self.superblock.segments):
            segment = self.segment(index)
            header, batch = segment.header, segment.batch(1)
            if batch:
                uses.setdefault(batch.use, Trace(index, None))
            if header:
                uses[header.use] = Trace(index, header)
                self.contents.name_next(header.next_message_sequence)
            if not header and not batch:
                silent.append(index)
        for index in silent:
            if index > max((trace.segment + 1 for trace in uses.values()), default=0):
                break
            batches = filter(None, map(self.segment(index).batch, range(1, self.segment(index).pages)))
            use = max((batch.use for batch in batches), default=0)
            if use:
                uses.setdefault(use, Trace(index, None))
        head = self._head(uses)
        return self._path(uses, head) if head else []

    def _head(self, uses: dict[int, Trace]) -> Use | None:
        for number in sorted(uses, reverse=True):
            index, header = uses[number].segment, uses[number].header
            segment = self.segment(index)
            found = segment.found(number, header)
            whole = [item for item in found if isinstance(item, Batch) and segment.is_whole(item)]
            self.start = max([1, header.start if header else 0, *(batch.start for batch in whole[-1:])])
            if header:
                return Use(index, number, header, False, None, True)
            if whole:
                first = next(item for item in found if isinstance(item, Batch))
                if whole[-1].end > 1 + first.pages:
                    self.tell("segment header", self.offset_of(index), PAGE_OCTETS, f"use {number} has lost it")
                return Use(index, number, self._made(uses, first), True, None, True)
        return None

    def _made(self, uses: dict[int, Trace], first: Batch) -> SegmentHeader:
        """The header of a use that has lost it, as far as its first batch tells."""
        use, sequence = self._named(uses, first) or self._presumed(uses, first)
        follows = (use, sequence, first.predecessor_crc)
        return SegmentHeader(first.use, first.sequence, *follows, first.start, first.next_message_sequence)

    def _named(self, uses: dict[int, Trace], first: Batch) -> tuple[int, int] | None:
        if first.page > 1:
            return None
        if first.sequence == 1:
            return 0, 0
        crc = first.predecessor_crc
        for number in sorted((use for use in uses if use < first.use), reverse=True)[:4]:
            trace = uses[number]
            segment = self.segment(trace.segment)
            footer = segment.footer(number)
            if footer and footer.crc_last == crc:
                return number, footer.sequence_last
            found = segment.found(number, trace.header)
            whole = max((at for at, item in enumerate(found, 1) if segment.is_whole(item)), default=0)
            for item in found[:whole]:
                if isinstance(item, Batch) and item.crc == crc:
                    return number, item.sequence
            if trace.header and trace.header.follows_crc == crc:
                return trace.header.follows_use, trace.header.follows_sequence
        return None

    def _presumed(self, uses: dict[int, Trace], first: Batch) -> tuple[int, int]:
        number = max((use for use in uses if use < first.use), default=0)
        if not number:
            return 0, 0
        self._tell_uses(number, first.use)
        footer = self.segment(uses[number].segment).footer(number)
        return number, footer.sequence_last if footer else first.sequence - 1

    def _tell_uses(self, below: int, above: int) -> None:
        for use in range(max(below + 1, self.start), above):
            self.tell("whole segment", 0, self.superblock.segment_octets, f"use {use} is not found")

    def _path(self, uses: dict[int, Trace], head: Use) -> list[Use]:
        path, above = [head], head.number
        number, limit = head.header.follows_use, head.header.follows_sequence
        while self.start <= number < above:
            above = number
            use = self._located(uses, number, limit, {other.segment for other in path})
            if use:
                path.append(use)
                number, limit = use.header.follows_use, use.header.follows_sequence
                continue
            lower = max((use for use in uses if use < number), default=0)
            self._tell_uses(lower, number + 1)
            footer = self.segment(uses[lower].segment).footer(lower) if lower else None
            number, limit = lower, footer.sequence_last if footer else None
        return path[::-1]

    def _located(self, uses: dict[int, Trace], number: int, limit: int | None, taken: set[int]) -> Use | None:
        trace = uses.get(number)
        if trace is None or trace.segment in taken:
            return None
        if trace.header:
            return Use(trace.segment, number, trace.header, False, limit, False)
        found = self.segment(trace.segment).found(number, None)
        first = next((item for item in found if isinstance(item, Batch)), None)
        if first is None:
            return None
        self.tell("segment header", self.offset_of(trace.segment), PAGE_OCTETS, f"use {number} has lost it")
        return Use(trace.segment, number, self._made(uses, first), True, limit, False)

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
        last_sequence = last.sequence if isinstance(last, Batch) else 0
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
        for batch, body, records in self.batches_of(use):
            sequences.append(batch.sequence)
            if body is Body.NEITHER:
                continue
            self.batches += 1
            self.contents.name_next(batch.next_message_sequence)
            for record in records:
                self._apply_record(use, batch, record)
        return {"sequence_first": use.header.sequence_first, "sequence_last": sequences[-1] if sequences else None, "read": "in full"}

    def _apply_record(self, use: Use, batch: Batch, record: Record) -> None:
        kind = KINDS.get(record.kind, "record")
        try:
            if not record.good or record.kind not in KINDS:
                raise Undecodable("its CRC is wrong" if not record.good else f"its kind {record.kind} is unknown")
            spot = Spot(use.segment, use.number, record.offset, record.octets)
            self.checked.add(spot)
            self._apply_body(record.kind, record.body, spot, batch.written_at_ms)
            self.records[kind] += 1
        except Undecodable as problem:
            offset, octets = self.offset_of(use.segment, record.offset), round_up(record.octets, 8)
            self.tell("record", offset, octets, f"{kind} of batch {batch.sequence}: {problem}")

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
        footer = None if use.is_head else self.segment(use.segment).footer(use.number)
        if footer is None or not footer.entries_are_right or use.limit not in (None, footer.sequence_last):
            return None, []
        try:
            return footer, EntryDecoder(footer.octets, use.segment, use.number).entries(footer.entries)
        except Undecodable:
            return None, []

    # --- Reading one record back -------------------------------------------------------------------------------------

    def record_at(self, spot: Spot, *kinds: int) -> tuple[int, bytes]:
        """Kind and body of the record at `spot`, if it is one of `kinds` and its CRC is right."""
        octets = self.read(self.offset_of(spot.segment, spot.offset), spot.octets)
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
        shown |= {"envelope": None, "sha256_told": None, "sha256_computed": None, "problem": None}
        try:
            letter = Letter.decode(self.record_at(message.spot, ENVELOPE, MOVED)[1])
            shown |= {"envelope": letter.envelope, "sha256_told": letter.sha256}
            shown["sha256_computed"] = self._content_sha256(message)
        except Undecodable as problem:
            shown["problem"] = str(problem)
        shown["recipients"] = [self.recipient_json(*numbered) for numbered in enumerate(message.recipients)]
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
        messages: list[Json] = []
        isolated: list[Json] = []
        for _, message in sorted(self.contents.messages.items()):
            (isolated if self.contents.what_is_missing(message) else messages).append(self.message_json(message))
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
    parser.add_argument("log", help="file or block device")
    arguments = parser.parse_args()
    try:
        shown = Log(arguments.log, arguments.by_index).json()
    except LogError as problem:
        print(f"format_reader: {problem}", file=sys.stderr)
        return 1
    json.dump(shown, sys.stdout, indent=1, ensure_ascii=False)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
