"""The JSON schema of the report, made from its types.

python -m hf_unlearn.verification.schema     # rewrite the committed file
"""

from __future__ import annotations

import json
from typing import Any

from .report import Report
from .report_file import SCHEMA_PATH
from .typed_json import schema_of


def report_schema() -> dict[str, Any]:
    """The schema as a dictionary."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hf_unlearn verification report",
        "description": (
            "What was measured on an unlearned model and its published files, and what follows. "
            "It holds no forget text."
        ),
        **schema_of(Report),
    }


def schema_text() -> str:
    """The schema as its file has it."""
    return json.dumps(report_schema(), indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA_PATH.write_text(schema_text(), encoding="utf-8")
