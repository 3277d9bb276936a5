"""Write what is measured of the planner's errors: `python -m planner.validation.accuracy`.

In a checkout this makes docs/accuracy.md and planner/validation/errors.json anew from the shipped
runs. A change of a formula or a constant is committed together with what it makes of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from planner.errors import MissingPartError
from planner.resources import package_file
from planner.validation.compare import Comparison, comparison_of
from planner.validation.error_table import as_text, error_table
from planner.validation.host_steps import host_errors, shipped_host_steps
from planner.validation.page import page
from planner.validation.predict import compare_runs
from planner.validation.runs import shipped_runs
from planner.validation.traces import compare_traces, shipped_cases


def written() -> dict[Path, str]:
    """The files and their contents."""
    comparison: Comparison = comparison_of(compare_runs(shipped_runs().runs))
    traced, host = compare_traces(shipped_cases()), host_errors(shipped_host_steps())
    checkout = package_file("").parent
    return {
        checkout / "docs" / "accuracy.md": page(comparison, traced, host),
        package_file("validation/errors.json"): as_text(error_table(comparison.rows)),
    }


def main() -> int:
    if not (package_file("").parent / "docs").is_dir():
        raise MissingPartError("docs/ is not beside the package: run this in a checkout")
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
