"""JSON that nobody means well with: instances, parameters, texts that are none, tensors."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from hostile_pictures import encoded, good_picture

Cases = Iterator[tuple[str, bytes]]


def strange_json() -> Cases:
    """Name and bytes."""
    b64 = base64.b64encode(encoded(good_picture(), "PNG")).decode()
    row = [[0, 0, 0]] * 8
    instances: dict[str, Any] = {
        "ragged": [row, row[:7]],
        "ragged pixels": [[[0, 0, 0], [0, 0]]],
        "wrong depth": [[[[0, 0, 0]]]],
        "flat": [0, 1, 2],
        "two channels": [[[0, 0]] * 8] * 8,
        "negative": [[-1] * 8] * 8,
        "too large": [[256] * 8] * 8,
        "huge number": [[10**40] * 8] * 8,
        "float": [[0.5] * 8] * 8,
        "huge float": [[1e308] * 8] * 8,
        "empty": [],
        "empty rows": [[], []],
        "texts": [["0"] * 8] * 8,
        "booleans": [[True] * 8] * 8,
        "nulls": [[None] * 8] * 8,
        "objects": [[{}] * 8] * 8,
        "null": None,
        "number": 5,
        "text": "abc",
        "true": True,
        "object": {},
        "list of none": [None],
        "nothing in b64": {"b64": ""},
        "null in b64": {"b64": None},
        "list in b64": {"b64": [b64]},
        "not base64": {"b64": "%%%"},
        "short base64": {"b64": b64[:-3]},
        "base64 of lines": {"b64": b64[:40] + "\n" + b64[40:]},
        "url-safe base64": {"b64": "-_-_"},
        "unicode in b64": {"b64": "é" * 50},
        "nul in b64": {"b64": "AA\0A"},
        "data address": {"b64": f"data:image/png;base64,{b64}"},
        "twice": {"b64": b64, "url": "https://a.example"},
        "nested image": {"image": {"image": {"b64": b64}}},
        "unknown key": {"b64": b64, "x": 1},
        "good rows": [row] * 8,
        "file": {"url": "file:///etc/passwd"},
        "metadata": {"url": "http://169.254.169.254/latest/meta-data"},
        "loopback": {"url": "https://127.0.0.1:22/"},
        "decimal": {"url": "https://2130706433/a.png"},
        "no host": {"url": "https://"},
        "bucket": {"url": "s3://secrets/../key"},
        "nul address": {"url": "https://a\0b/"},
        "long address": {"url": "https://a/" + "b" * 9000},
        "bracket address": {"url": "https://[::ffff:127.0.0.1/"},
        "port": {"url": "https://a:99999999/"},
        "empty address": {"url": ""},
    }
    for kind, instance in instances.items():
        yield _json(f"instance: {kind}", {"instances": [instance]})
    good = {"instances": [{"b64": b64}]}
    parameters: list[Any] = [
        None,
        [],
        5,
        "x",
        {"classes": "many"},
        {"classes": -1},
        {"classes": 10**30},
        {"classes": 1e400},
        {"classes": True},
        {"class": 5},
        {"class": ["nobody"]},
        {"class": ["\0"]},
        {"class": ["é" * 300]},
        {"class": ["a"] * 2000},
        {"top": 0},
        {"top": 10**9},
        {"map": "pdf"},
        {"map": ["grid"]},
        {"concept": ["Mid2/999999"]},
        {"concept": ["x/y/z"]},
        {"concept": ["-1"]},
        {"concept": ["٣"]},
        {"change": [{"concept": 0, "factor": -1}]},
        {"change": "0:nan"},
        {"change": [{"concept": 0, "factor": 1e300}]},
        {"change": [{"concept": 2**70, "factor": 0}]},
        {"rgba": "maybe"},
        {"label": ["red"] * 3},
        {"label": [""]},
        {"label": ["\0", "\ud83d"]},
        {"label": "red"},
        {"label": [str(n) for n in range(70)]},
        {"label": ["é" * 300]},
        {"label": ["red"], "background": ["blue"], "background_score": 0.5},
        {"background_score": 1e400},
        {"patches": False},
        {"__proto__": {}},
        {"": 1},
        {"classes": 1, "top": 3, "map": "fp16", "origins": True},
        {"verdict": "wrong_reason"},
        {"verdict": "wrong_reason", "class": "bird", "box": [1e400, 0, 1, 1]},
        {"verdict": "wrong_class", "class": "bird", "box": [5, 5, 1, 1]},
        {"verdict": "wrong_reason", "class": "bird", "note": "\0\ud83d" * 9000},
    ]
    for number, given in enumerate(parameters):
        yield _json(f"parameters {number}", {**good, "parameters": given})
    texts: dict[str, bytes] = {
        "no object": b"[]",
        "a number": b"5",
        "a text": b'"x"',
        "null": b"null",
        "nothing": b"",
        "spaces": b"   ",
        "half": b'{"instances": [',
        "comma": b'{"instances": [],}',
        "NaN": b'{"instances": [[[NaN]]]}',
        "Infinity": b'{"instances": [[[-Infinity]]]}',
        "1e999": b'{"instances": [[[1e999]]]}',
        "long number": b'{"instances": [[[' + b"9" * 5000 + b"]]]}",
        "longer number": b'{"instances": ' + b"9" * 200_000 + b"}",
        "deep lists": b'{"instances": ' + b"[" * 100_000,
        "deep and closed": b'{"instances": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        "deep objects": b'{"a":' * 20_000,
        "same key": b'{"instances": [], "instances": [[[0]]]}',
        "nul": b'{"instances": ["\0"]}',
        "nul at the end": b"{}\0",
        "surrogate": b'{"instances": [{"b64": "\\ud800"}]}',
        "lone surrogate key": b'{"\\udfff": 1, "instances": []}',
        "byte order mark": b'\xef\xbb\xbf{"instances": []}',
        "latin": '{"instances": [{"b64": "é"}]}'.encode("latin-1"),
        "utf-16": json.dumps(good).encode("utf-16"),
        "utf-32": json.dumps(good).encode("utf-32"),
        "overlong": b'{"\xc0\xaf": 1}',
        "many instances": json.dumps({"instances": [[[0]]] * 5000}).encode(),
        "many empties": json.dumps({"instances": [{}] * 60_000}).encode(),
        "many keys": json.dumps({str(n): n for n in range(20_000)}).encode(),
        "picture as JSON": encoded(good_picture(), "PNG"),
        "wide rows": json.dumps({"instances": [[[0] * 300_000]]}).encode(),
        "one long text": b'{"instances": ["' + b"a" * 700_000 + b'"]}',
    }
    yield from texts.items()


def _json(kind: str, content: Any) -> tuple[str, bytes]:
    return kind, json.dumps(content).encode()


def strange_tensors() -> Cases:
    """Of the Open Inference Protocol, all JSON; see also :func:`strange_binaries`."""

    shapes: list[Any] = [
        [],
        [1],
        [0, 2, 2, 3],
        [-1, 2, 2, 3],
        [2**63, 2, 2, 3],
        [1, 2**40, 2**40, 3],
        [1, 2, 2, 4],
        [1.5, 2, 2, 3],
        ["1", 2, 2, 3],
        None,
        "x",
        [[1]],
        [1] * 5000,
        [1, 2, 2, 3],
    ]
    datas: list[Any] = [
        None,
        [],
        5,
        "x",
        {},
        [0] * 11,
        [[0] * 12],
        [0.5] * 12,
        [-1] * 12,
        [10**400] * 12,
        [None] * 12,
        ["a"] * 12,
        [[0], [0, 0]],
        [{}] * 12,
        [True] * 12,
    ]
    yield from (_json(f"shape {n}", _tensor(shape=shape)) for n, shape in enumerate(shapes))
    yield from (_json(f"data {n}", _tensor(data=data)) for n, data in enumerate(datas))
    others: list[Any] = [
        {"inputs": []},
        {"inputs": None},
        {"inputs": [None]},
        {"inputs": [{}] * 9},
        _tensor(datatype="FP64"),
        _tensor(name="\0"),
        _tensor(parameters={"binary_data_size": -1}),
        _tensor(parameters={"binary_data_size": 2**70}, data=None),
        _tensor() | {"outputs": [{"name": "logits"}] * 40},
        _tensor() | {"outputs": [{}]},
        _tensor() | {"outputs": {"name": "x"}},
        _tensor() | {"outputs": [{"name": "attribution"}]},
        _tensor() | {"id": "i" * 500},
        _tensor() | {"parameters": {"class": "nobody"}},
        _tensor() | {"outputs": [{"name": "concept_contributions"}]},
        _tensor(name="image", datatype="BYTES", shape=[1], data=["AA=="]),
        _tensor(name="image", datatype="BYTES", shape=[3, 1], data=[["AA=="], "AA==", [["AA=="]]]),
    ]
    yield from (_json(f"tensor {n}", content) for n, content in enumerate(others))


def strange_binaries() -> Iterator[tuple[str, str, bytes]]:
    """Name, length of the JSON as the header tells it, and bytes."""
    given = _tensor(name="image", datatype="BYTES", shape=[1], data=None, parameters={"binary_data_size": 8})
    text = json.dumps(given).encode()
    for length in ("", "0", "-5", "9" * 20, "1e2", "0x10", "5", str(len(text)), str(len(text) + 9)):
        for rest in (b"", b"\xff" * 8, b"\x04\0\0\0abcd"):
            yield f"binary {length} {len(rest)}", length, text + rest


def _tensor(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [0] * 12, **changes}]}
