"""AioContext: handlers, ready queue, timers, bottom halves and notifier. Usable without asyncio."""
