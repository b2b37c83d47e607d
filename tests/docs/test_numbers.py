"""README.md's numbers are those of docs/performance.md."""

import re

from tools.performance_pictures import ROOT, ratios_to_uvloop

WORKLOADS = (
    "http/uvicorn",
    "http/aiohttp",
    "https/uvicorn",
    "https/aiohttp",
    "tcp/streams/50x1KiB",
    "tcp/sock/50x1KiB",
    "scheduling/call_soon",
    "scheduling/future",
    "scheduling/timer_cancel",
    "system/spawn",
    "client/redis_get",
    "tcp/protocol/1x1KiB",
)


def test_those_of_the_readme_are_those_of_the_page():
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| [^|]+((?:\| *[\d.-]+ *){4})\|$", text.partition("## How fast")[2], re.MULTILINE)
    told = [[cell.strip() for cell in row.strip("| ").split("|")] for row in rows]
    page = ratios_to_uvloop()
    found = [
        [f"{page[workload][loop]:.2f}".replace("nan", "-") for loop in ("io_uring", "zuvloop", "rloop", "rsloop")]
        for workload in WORKLOADS
    ]
    assert told == found
