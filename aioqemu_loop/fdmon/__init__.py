"""Who is ready: the FDMon contract (`base`) and its native backends poll, epoll and io_uring.

Each backend owns its own state and knows no sibling; which one is used is decided one floor up.
"""
