TRACE_EVENTS: tuple[str, ...]
