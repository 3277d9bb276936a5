"""The one door for text: YAML and JSON become plain data that knows its lines."""

from planner.documents.document import Document, Kind, load, parse
from planner.documents.marks import KeyPath
from planner.documents.yaml_text import written

__all__ = ["Document", "KeyPath", "Kind", "load", "parse", "written"]
