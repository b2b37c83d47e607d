"""What asyncio sees: LoopCore, compiled, and the Loop class over it."""
