"""What loops count, told by OpenTelemetry's SDK."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import math
import re
import threading

import pytest

from aioqemu_loop import IOThread
from aioqemu_loop.loop.metrics import Metrics

pytest.importorskip("opentelemetry.sdk.metrics")

from opentelemetry import metrics as api
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from aioqemu_loop import otel


@pytest.fixture
def reader():
    return InMemoryMetricReader()


@pytest.fixture
def provider(reader):
    provider = MeterProvider([reader])
    yield provider
    provider.shutdown()


def collect(reader):
    """Name -> (metric, its points)."""
    data = reader.get_metrics_data()
    if data is None:
        return {}
    found = [
        metric for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
    ]
    assert len({metric.name for metric in found}) == len(found)
    return {metric.name: (metric, list(metric.data.data_points)) for metric in found}


def value(reader, name, **attributes):
    """The sum of the points that have these attributes."""
    _, points = collect(reader)[name]
    return sum(
        point.value
        for point in points
        if all(
            point.attributes.get(f"{'network.io.' if key == 'direction' else 'aioqemu_loop.'}{key}") == wanted
            for key, wanted in attributes.items()
        )
    )


def test_every_field_has_its_instrument():
    assert list(otel.INSTRUMENTS) == [field.name for field in dataclasses.fields(Metrics)]
    for about in otel.INSTRUMENTS.values():
        assert re.fullmatch(r"aioqemu_loop(\.[a-z_]+)+", about.name)
        assert about.description and about.unit


async def echo():
    async def serve(reader, writer):
        writer.write(await reader.read(1000))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"x" * 1000)
    assert await reader.read() == b"x" * 1000
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


def test_what_a_loop_counts_is_told_in_the_units_it_says(loop, reader, provider, fdmon):
    instrumentation = otel.instrument(loop, provider)
    loop.run_until_complete(echo())
    counted = loop.metrics()
    told = collect(reader)
    assert {about.name for about in otel.INSTRUMENTS.values()} == set(told)
    for name, about in otel.INSTRUMENTS.items():
        metric, points = told[about.name]
        assert (metric.unit, metric.description) == (about.unit, about.description)
        assert all(point.attributes["aioqemu_loop.fdmon"] == fdmon for point in points)
        points = [point for point in points if about.attributes.items() <= dict(point.attributes).items()]
        expected = getattr(counted, name)
        if name == "busy_histogram":
            assert sum(point.value for point in points) == sum(expected)
        else:
            (point,) = points
            assert point.value == pytest.approx(expected * (about.scale or 1))
    assert value(reader, "aioqemu_loop.io", direction="receive") == 2000
    assert value(reader, "aioqemu_loop.io", direction="transmit") == 2000
    assert value(reader, "aioqemu_loop.connections.accepted") == 1
    instrumentation.close()


def test_buckets_have_their_bounds(loop, reader, provider):
    instrumentation = otel.instrument(loop, provider)
    loop.run_until_complete(echo())
    _, points = collect(reader)["aioqemu_loop.busy.periods"]
    counts = loop.metrics().busy_histogram
    bounds = [point.attributes["aioqemu_loop.busy.bound"] for point in points]
    assert bounds == [1024e-9 * 2 ** (i + 1) for i, count in enumerate(counts) if count]
    assert [point.value for point in points] == [count for count in counts if count]
    last = list(otel._buckets((0,) * 23 + (7,), {}))
    assert [(item.value, item.attributes["aioqemu_loop.busy.bound"]) for item in last] == [(7, math.inf)]
    instrumentation.close()


def test_all_loops_those_made_later_too(loop, reader, provider):
    instrumentation = otel.instrument(meter_provider=provider)
    loop.run_until_complete(asyncio.sleep(0))
    with IOThread("other") as thread:
        thread.submit(asyncio.sleep(0)).result(10)
        _, points = collect(reader)["aioqemu_loop.turns"]
        ids = {point.attributes["aioqemu_loop.id"] for point in points}
        assert len(ids) == len(points) >= 2
    after = {point.attributes["aioqemu_loop.id"] for point in collect(reader)["aioqemu_loop.turns"][1]}
    assert after < ids
    instrumentation.close()
    assert collect(reader) == {}


def test_two_that_tell_of_the_same_loop_count_it_once(loop, reader, provider):
    first = otel.instrument(loop, provider)
    second = otel.instrument(loop, provider)
    loop.run_until_complete(asyncio.sleep(0))
    assert len(collect(reader)["aioqemu_loop.turns"][1]) == 1
    first.close()
    first.close()
    assert len(collect(reader)["aioqemu_loop.turns"][1]) == 1
    second.close()
    assert collect(reader) == {}
    third = otel.instrument(loop, provider)
    assert value(reader, "aioqemu_loop.turns") == loop.metrics().turns
    third.close()


def test_the_global_provider(loop, reader, provider, monkeypatch):
    monkeypatch.setattr(api, "get_meter_provider", lambda: provider)
    instrumentation = otel.instrument(loop)
    assert "aioqemu_loop.turns" in collect(reader)
    instrumentation.close()


def test_without_an_sdk_nothing_happens(loop):
    instrumentation = otel.instrument(loop, api.NoOpMeterProvider())
    loop.run_until_complete(asyncio.sleep(0))
    instrumentation.close()


def test_collected_by_another_thread_while_it_runs(loop, reader, provider):
    instrumentation = otel.instrument(meter_provider=provider)
    told = []

    def collect_often():
        while len(told) < 20 or told[-1] == told[0]:
            told.append(value(reader, "aioqemu_loop.turns"))
        loop.call_soon_threadsafe(end.set)

    async def main():
        while not end.is_set():
            await asyncio.sleep(0)

    end = threading.Event()
    thread = threading.Thread(target=collect_often)
    thread.start()
    loop.run_until_complete(asyncio.wait_for(main(), 30))
    thread.join()
    assert told == sorted(told)
    instrumentation.close()


def test_it_keeps_no_loop_alive(loop_factory, provider):
    import weakref

    loop = loop_factory()
    instrumentation = otel.instrument(meter_provider=provider)
    provider.force_flush()
    loop.close()
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None
    instrumentation.close()


def test_the_documented_table():
    from pathlib import Path

    text = (Path(__file__).resolve().parents[2] / "docs" / "opentelemetry.md").read_text()
    kinds = {"counter": "counter", "updowncounter": "up-down counter", "gauge": "gauge"}
    for name, about in otel.INSTRUMENTS.items():
        assert f"| `{about.name}` | {kinds[about.kind]} | {about.unit} | `" in text
        assert f"`{name}`" in text
