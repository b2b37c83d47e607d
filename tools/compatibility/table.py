"""The answers as Markdown, and their place in docs/compatibility.md."""

from __future__ import annotations

import datetime
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tools.compatibility import loops
from tools.compatibility.registry import Probe

BEGIN = "<!-- API table: begin. Made by `make api-table`; edit tools/compatibility instead. -->"
END = "<!-- API table: end -->"
LONGEST = 72
INTRODUCTION = """\
Each row is a probe: a short program in `tools/compatibility/probes/` that does one thing asyncio's documentation
promises, with real peers, in a process of its own. What is not a yes is asked once more, by itself, and the second
answer stands. The cells say what it did here:

- **yes**: as documented; **no**: the reason, from the exception or the assertion; **crash**: the process ended;
  **hang**: it did not come back; **-**: this Python does not have it.
- † marks what no page promises: the standard library's loop behaves so, and programs have come to rely on it.
"""


def escape(text: str) -> str:
    return re.sub(r"([|*<\\])", r"\\\1", text)


def title(probe: Probe) -> str:
    return escape(probe.title) + ("" if probe.promised else " †")


def cell(text: str) -> str:
    text = re.sub(r" ?(at )?0x[0-9a-f]+", "", text)
    text = text if len(text) <= LONGEST else text[: LONGEST - 3].rstrip() + "..."
    return escape(text)


def rows(columns: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    columns = list(columns)
    head = [columns, ["---"] * len(columns)]
    return "".join(f"| {' | '.join(line)} |\n" for line in [*head, *map(list, lines)])


def by_topic(probes: Iterable[Probe]) -> dict[str, list[Probe]]:
    topics: dict[str, list[Probe]] = {}
    for probe in probes:
        topics.setdefault(probe.topic, []).append(probe)
    return topics


def count(answers: Mapping[str, str], probes: Iterable[Probe]) -> str:
    asked = [answers[probe.key] for probe in probes if answers[probe.key] != "-"]
    return f"{asked.count('yes')} of {len(asked)}"


def versions(names: Iterable[str]) -> str:
    packages = {("aioqemu-loop" if name in loops.OURS else name): loops.version(name) for name in names}
    packages.pop("asyncio", None)
    parts = [f"{name} {version}" for name, version in packages.items()]
    system = f"{platform.system()} {platform.release().split('-')[0]} ({platform.machine()})"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{datetime.date.today():%d %B %Y}, {python}, {', '.join(parts)}, {system}."


def render(probes: list[Probe], answers: Mapping[str, Mapping[str, str]]) -> str:
    """The section. answers: loop -> key of a probe -> cell."""
    names = list(answers)
    topics = by_topic(probes)
    summary = [[escape(name), *(count(answers[loop], group) for loop in names)] for name, group in topics.items()]
    total = ["**all**", *(f"**{count(answers[loop], probes)}**" for loop in names)]
    parts = [BEGIN, "## API table\n", INTRODUCTION, versions(names) + "\n", rows(["topic", *names], [*summary, total])]
    for name, group in topics.items():
        lines = [[title(probe), *(cell(answers[loop][probe.key]) for loop in names)] for probe in group]
        parts += [f"### {escape(name)}\n", rows(["", *names], lines)]
        parts += [
            f"{title(probe)}: the standard library is wrong ({probe.stdlib_wrong}).\n"
            for probe in group
            if probe.stdlib_wrong and answers.get("asyncio", {}).get(probe.key) not in ("yes", "-")
        ]
    return "\n".join([*parts, END])


def replace(path: Path, section: str) -> None:
    """Put the section where the old one is, else at the end."""
    text = path.read_text() if path.exists() else "# Compatibility\n"
    old = re.search(re.escape(BEGIN) + ".*?" + re.escape(END), text, re.DOTALL)
    if old:
        path.write_text(text[: old.start()] + section + text[old.end() :])
    else:
        path.write_text(f"{text.rstrip()}\n\n{section}\n")
