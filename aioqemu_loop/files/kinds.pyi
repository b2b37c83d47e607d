class Facts:
    fd: int
    directory: bool
    local: bool  # a regular file of a local file system
    size: int  # bytes
    block_size: int  # what suits the file, bytes

def facts_in_thread(fd: int, kind: int) -> Facts: ...
