"""Forms of `show stat` and `show info`: CSV, typed, JSON, and the schema of the JSON.

Rule: an absent value is an empty field of the CSV, and no line at all of the other forms.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from gateway.console.stats.columns import ALL, DASH, NATURES, ORIGINS, OWN, POSITIONS, SCOPES, STATIC, Column
from gateway.console.stats.rows import LETTERS, NAMES, Row, Value

Field = tuple[int, Column, Value]  # position, what it is, value
_LIMITS: Final = {
    "s32": (-(2**31), 2**31 - 1),
    "u32": (0, 2**32 - 1),
    "u64": (0, 2**53 - 1),  # what a double holds exactly
}


def csv(rows: Iterable[Row]) -> str:
    """Return HAProxy's CSV: a comma at the end of each line too, as HAProxy writes it."""
    names = [*(column.name for column in STATIC), DASH, *(column.name for column in OWN)]
    lines = ["# " + ",".join(names) + ","]
    for row in rows:
        values = {**row.values, DASH: DASH}
        lines.append("".join(f"{_quoted(values.get(name, ''))}," for name in names))
    return "\n".join(lines) + "\n"


def _quoted(value: Value) -> str:
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\n') else text


def fields_of(row: Row) -> list[Field]:
    """Return the row's values, in the order of the columns."""
    return [(POSITIONS[one.name], one, row.values[one.name]) for one in ALL if one.name in row.values]


def typed_stat(rows: Iterable[Row]) -> str:
    """Return a line a value, with its tag and type."""
    return "".join(
        f"{LETTERS[row.type]}.{row.iid}.{row.sid}.{position}.{column.name}.1:{column.tag}:{column.type}:{value}\n"
        for row in rows
        for position, column, value in fields_of(row)
    )


def json_stat(rows: Iterable[Row]) -> str:
    """Return a list of rows, each a list of values."""
    return _dumped(
        [
            [
                {"objType": NAMES[row.type], "proxyId": row.iid, "id": row.sid, **_field(*field)}
                for field in fields_of(row)
            ]
            for row in rows
        ]
    )


def plain_info(fields: Sequence[Field]) -> str:
    """Return `Name: value` lines."""
    return "".join(f"{column.name}: {value}\n" for _, column, value in fields)


def typed_info(fields: Sequence[Field]) -> str:
    """Return a line a value, with its tag and type."""
    return "".join(f"{place}.{column.name}.1:{column.tag}:{column.type}:{value}\n" for place, column, value in fields)


def json_info(fields: Sequence[Field]) -> str:
    """Return a list of values."""
    return _dumped([_field(*field) for field in fields])


def _field(position: int, column: Column, value: Value) -> dict[str, Any]:
    origin, nature, scope = tuple(column.tag)
    return {
        "field": {"pos": position, "name": column.name},
        "processNum": 1,
        "tags": {"origin": ORIGINS[origin], "nature": NATURES[nature], "scope": SCOPES[scope]},
        "value": {"type": column.type, "value": value},
    }


def json_schema() -> str:
    """Return the schema of what `show info json` and `show stat json` say."""
    value = {
        "oneOf": [
            *(
                {
                    "properties": {
                        "type": {"const": name},
                        "value": {"type": "integer", "minimum": low, "maximum": high},
                    },
                    "required": ["type", "value"],
                }
                for name, (low, high) in _LIMITS.items()
            ),
            {
                "properties": {"type": {"const": "str"}, "value": {"type": "string"}},
                "required": ["type", "value"],
            },
        ]
    }
    field = {
        "type": "object",
        "properties": {
            "field": {
                "type": "object",
                "properties": {"pos": {"type": "integer", "minimum": 0}, "name": {"type": "string"}},
                "required": ["pos", "name"],
            },
            "processNum": {"type": "integer", "minimum": 1},
            "tags": {
                "type": "object",
                "properties": {
                    "origin": {"enum": [*ORIGINS.values()]},
                    "nature": {"enum": [*NATURES.values()]},
                    "scope": {"enum": [*SCOPES.values()]},
                },
                "required": ["origin", "nature", "scope"],
            },
            "value": value,
        },
        "required": ["field", "processNum", "tags", "value"],
    }
    of_stat = {
        "properties": {
            "objType": {"enum": [*NAMES.values()]},
            "proxyId": {"type": "integer", "minimum": 0},
            "id": {"type": "integer", "minimum": 0},
        },
        "required": ["objType", "proxyId", "id"],
    }
    return _dumped(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "oneOf": [
                {"title": "Info", "type": "array", "items": field},
                {"title": "Stat", "type": "array", "items": {"type": "array", "items": {"allOf": [field, of_stat]}}},
            ],
        }
    )


def _dumped(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"
