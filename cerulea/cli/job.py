"""The process of one job: reads its assignment from standard input, runs it, and ends.

Started by an agent (`flows.agent`); not a command for people. Its first report leaves before torch is loaded.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING

from cerulea.core.parent import die_with_parent

if TYPE_CHECKING:
    from cerulea.core.settings import Settings
    from cerulea.jobs.protocol import Assignment

BEGAN = time.monotonic()


def main() -> int:
    """Run the job; the exit code is for the agent: 0 when the desk took the ending."""
    die_with_parent()
    line = sys.stdin.readline()
    first = json.loads(line)
    from cerulea.client.desk import RemoteDesk
    from cerulea.core.settings import read_settings
    from cerulea.flows.link import Link
    from cerulea.jobs.protocol import Assignment

    assignment, settings = Assignment.of(first["assignment"]), read_settings()
    if os.environ.get("RANK", "0") != "0":
        return _take_part(assignment, settings)
    link = Link(RemoteDesk(first["url"], assignment.token), assignment)
    link.start()
    from cerulea.cli.view import view_of
    from cerulea.core.errors import CeruleaError
    from cerulea.flows.launch import together
    from cerulea.flows.perform import perform
    from cerulea.jobs.protocol import Ending

    try:
        processes = together(assignment.slots, module="cerulea.cli.job", words=(), first_line=line)
        with processes, view_of(assignment.kind, as_json=False) as view:
            for event in perform(link, settings, began=BEGAN, signal_means="drain", report=view.report):
                if not isinstance(event, Ending):
                    view.handle(event)
    except CeruleaError as error:
        # The desk has it already, or has given the job to another; this is for the log.
        print(f"{error.code}: {error}", flush=True)
        return 0 if link.told else 3
    return 0


def _take_part(assignment: Assignment, settings: Settings) -> int:
    """Another process of the job leads; this one has its part of the sums."""
    from cerulea.flows.roots import check_at_start
    from cerulea.flows.train import train
    from cerulea.train.recipe import recipe_from

    check_at_start(assignment, settings)
    for _ in train(settings, recipe_from({**assignment.recipe, "name": assignment.name})):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
