"""The probes. Each asks for one thing that asyncio's documentation promises, with real peers."""
