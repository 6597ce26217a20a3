"""Bytes that a compiled program moves through HBM, from its text, loops as often as they run.

Every operation reads its operands and writes its results once; what the compiler keeps in VMEM (memory space 1) costs
nothing. Of an operand that a fusion only slices the slices count, of a buffer that it updates in place the update.
XLA's own count ("bytes accessed") takes a loop's body once, however often it runs.
"""

import re
from typing import NamedTuple

from experiments.compile_report.collectives import KINDS
from experiments.hlo import ArrayType, array_types, computations, inner

_LINE = re.compile(r"^\s*(?:ROOT )?%([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)")
_NAME = re.compile(r"%([\w.-]+)")
_CALLS = re.compile(r"calls=%([\w.-]+)")
_NUMBER = re.compile(r"^\s*(\d+)\)")
#: They name or group what is there.
_FREE = {
    "parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all", "partition-id", "iota",
    "while", "conditional", "call", "opt-barrier",
}  # fmt: skip
_SLICES = {"dynamic-slice", "slice", "gather"}


class _Op(NamedTuple):
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    rest: str


def hbm_bytes(hlo: str) -> int:
    """Bytes read from and written to HBM in one call of a compiled program.

    Args:
        hlo: ``compiled.as_text()``.

    Raises:
        ValueError: for text of no program, or a loop whose trip count is not a constant.
    """
    found, entry = computations(hlo)
    parsed = {name: [op for line in lines if (op := _parse(line))] for name, lines in found.items()}

    def bytes_of(name: str) -> int:
        types = {op.name: op.type for op in parsed[name]}
        total = sum(_traffic(op, types, parsed) for op in parsed[name])
        for line in found[name]:
            if inside := inner(line, found):
                total += inside.times * max(map(bytes_of, inside.names))
        return total

    return bytes_of(entry)


def _parse(line: str) -> _Op | None:
    match = _LINE.match(line)
    if match is None:
        return None
    name, kind, opcode, rest = match.groups()
    return _Op(name, kind, opcode, tuple(_NAME.findall(rest.split(")")[0])), rest)


def _size(kind: str) -> int:
    """Bytes of a type's arrays that lie in HBM."""
    return sum(map(_in_hbm, array_types(kind)))


def _in_hbm(array: ArrayType) -> int:
    return 0 if "S(" in array.layout else array.bytes


def _whole(kind: str) -> int:
    """Bytes of a type's arrays wherever they lie: inside a fusion, memory spaces are not those of its operands."""
    return sum(array.bytes for array in array_types(kind))


def _traffic(op: _Op, types: dict[str, str], parsed: dict[str, list[_Op]]) -> int:
    if op.opcode in _FREE or op.opcode.endswith("-done"):
        return 0
    if op.opcode in _SLICES:
        return 2 * _size(op.type)
    if op.opcode == "dynamic-update-slice":
        return 2 * _size(types.get(op.operands[1], ""))
    if op.opcode == "copy-start":  # (copy, original, context)
        copied = array_types(op.type)[0]
        return _in_hbm(copied) + _size(types.get(op.operands[0], ""))
    if op.opcode == "slice-start":  # ((original), slice, context)
        cut = array_types(op.type)[1]
        return _in_hbm(cut) + cut.bytes
    called = _CALLS.search(op.rest)
    if op.opcode == "fusion" and called and called[1] in parsed:
        return _fusion(op, types, parsed[called[1]])
    return _size(op.type) + sum(_size(types.get(name, "")) for name in op.operands)


def _beside_collective(op: _Op, types: dict[str, str], body: list[_Op], collective: _Op) -> int:
    """A fusion that also does a piece of a collective: the whole of it counts once, where it starts."""
    shard = next((o.type for o in body if o.name == collective.operands[0]), "")
    passed = {array.bare for array in array_types(f"{collective.type} {shard}")}

    def own(kind: str) -> int:
        return sum(_in_hbm(array) for array in array_types(kind) if array.bare not in passed)

    total = own(op.type) + sum(own(types.get(name, "")) for name in op.operands)
    starts = any("AsyncCollectiveStart" in inside.rest for inside in body)
    return total + starts * (_size(collective.type) + _whole(shard))


def _fusion(op: _Op, types: dict[str, str], body: list[_Op]) -> int:
    for inside in body:
        if inside.opcode in KINDS:
            return _beside_collective(op, types, body, inside)
    by_name = {inside.name: inside for inside in body}

    def source(name: str) -> str:
        while name in by_name and by_name[name].opcode in ("bitcast", "copy", "reshape"):
            name = by_name[name].operands[0]
        return name

    total, updated = 0, 0
    for inside in body:
        if inside.opcode != "parameter":
            continue
        number = _NUMBER.match(inside.rest)
        whole = _size(types.get(op.operands[int(number[1])], "")) if number else 0
        users = [
            user
            for user in body
            if inside.name in map(source, user.operands) and source(user.name) == user.name
        ]
        if users and all(
            user.opcode in _SLICES and source(user.operands[0]) == inside.name for user in users
        ):
            whole = min(whole, sum(_whole(user.type) for user in users))
        elif any(
            user.opcode == "dynamic-update-slice" and source(user.operands[0]) == inside.name
            for user in users
        ):
            updates = [user for user in users if user.opcode == "dynamic-update-slice"]
            update = sum(_whole(by_name[user.operands[1]].type) for user in updates)
            updated += max(0, whole - update)
            whole = 0
        total += whole
    return total + max(0, _size(op.type) - updated)
