"""A report as one HTML file that needs nothing else: no network, no script, prints well."""

from __future__ import annotations

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from planner.report.document import Report
from planner.report.view import VERDICTS
from planner.resources import package_file

_TEMPLATES = "report/templates"


def to_html(report: Report) -> str:
    environment = Environment(
        loader=FileSystemLoader(package_file(_TEMPLATES)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    classes = {words: verdict for verdict, words in VERDICTS.items()}
    return environment.get_template("report.html").render(report=report, classes=classes)
