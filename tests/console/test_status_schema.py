"""The published schema of the status document: real documents satisfy it, and it leaves none of their fields out."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
from operator_documents import RECORDED, gateway, manager

from gateway.console import status_schema
from gateway.console.status_schema import schema_text
from tests.support.declared import undeclared

FILE = Path(status_schema.__file__).parent / "data" / "status.schema.json"
VALIDATOR = jsonschema.Draft202012Validator(json.loads(FILE.read_text()))
DOCUMENTS = {path.stem: json.loads(path.read_text()) for path in RECORDED} | {"made": gateway(), "manager": manager()}


def test_documents_of_every_role_and_way_are_there():
    roles = {
        (path.stem.split("-")[1], *one["roles"])
        for path, one in zip(RECORDED, map(json.loads, map(Path.read_text, RECORDED)), strict=True)
    }
    assert roles >= {(way, role) for way in ("proxy", "nat", "direct") for role in ("gateway", "manager")}


def test_file_of_the_package_is_a_schema():
    VALIDATOR.check_schema(VALIDATOR.schema)


def test_file_of_the_package_is_what_the_declaration_makes():
    assert FILE.read_text() == schema_text(), (
        "python -c 'from gateway.console.status_schema import *; print(schema_text(), end=\"\")' writes it"
    )


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_satisfies_the_schema(name):
    VALIDATOR.validate(DOCUMENTS[name])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_schema_declares_every_field_of_a_document(name):
    assert undeclared(DOCUMENTS[name]) == []


def test_schema_refuses_what_is_no_status():
    without = gateway()
    del without["elections"]
    for wrong in (without, gateway(schema=2), gateway(pid="812"), gateway(roles=["king"])):
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate(wrong)


def test_documents_of_later_versions_with_more_fields_satisfy_it_too():
    VALIDATOR.validate(gateway(something_new={"a": 1}))


def test_everything_declared_is_explained():
    for name, part in json.loads(FILE.read_text())["$defs"].items():
        assert re.fullmatch(r"[A-Z].*", part["description"], re.DOTALL), name
