"""python -m tools.compatibility [--loops a,b] [--topics X,Y] [--write]: ask every loop, show or write the table."""

from __future__ import annotations

import argparse
import sys

from tools.compatibility import asker, loops, registry, table

DOCUMENT = asker.ROOT / "docs" / "compatibility.md"


def ask_all(name: str, probes: list[registry.Probe]) -> dict[str, str]:
    answers = asker.ask_all(name, probes)
    again = [probe for probe in probes if answers[probe.key][0] not in ("yes", "-")]
    answers.update(asker.ask_all(name, again, workers=1))  # deadlines are missed on a busy machine
    for key, (cell, details) in answers.items():
        if cell not in ("yes", "-"):
            print(f"{name}: {key}\n    {cell}", file=sys.stderr)
            if name in loops.OURS:
                print(details, file=sys.stderr)
    return {key: cell for key, (cell, _) in answers.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.compatibility", description=__doc__)
    parser.add_argument("--loops", default=",".join(loops.LOOPS), help="which (default: %(default)s)")
    parser.add_argument("--topics", help="only these, by the beginnings of their names")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCUMENT.relative_to(asker.ROOT)}")
    options = parser.parse_args()
    beginnings = tuple((options.topics or "").split(","))
    probes = [probe for probe in registry.load() if probe.topic.startswith(beginnings)]
    answers = {}
    for name in options.loops.split(","):
        try:
            answers[name] = ask_all(name, probes)
        except asker.Unavailable as reason:
            print(f"{name} is left out: {reason}", file=sys.stderr)
    section = table.render(probes, answers)
    if options.write:
        table.replace(DOCUMENT, section)
    else:
        print(section)
    ours = [cell for name in answers if name in loops.OURS for cell in answers[name].values()]
    return 0 if all(cell in ("yes", "-") for cell in ours) else 1


if __name__ == "__main__":
    sys.exit(main())
