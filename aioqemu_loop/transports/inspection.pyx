"""What a transport can be asked from any thread. Nothing here changes it; its own get_write_buffer_size() would send."""

from aioqemu_loop.transports.base cimport FlowControlledTransport
from aioqemu_loop.transports.tls_writing cimport TLSWriting


def buffered(transport):
    """Bytes that were written and are not with the kernel, or with the transport below; 0 for one that does not write."""
    cdef TLSWriting tls
    if isinstance(transport, FlowControlledTransport):
        return (<FlowControlledTransport>transport).buffered_size()
    if isinstance(transport, TLSWriting):
        tls = <TLSWriting>transport
        return tls.queue.size + (0 if tls.pipe is None else <Py_ssize_t>tls.pipe.outgoing.pending)
    return 0
