"""libglib's functions, from the library that PyGObject has loaded. Nothing links against it, so the package builds and
installs without GLib."""

from posix.dlfcn cimport RTLD_LAZY, dlopen, dlsym

cdef Functions table
cdef bint loaded = False

cdef int load() except -1:
    global loaded
    cdef void *library = dlopen(b"libglib-2.0.so.0", RTLD_LAZY)
    if library == NULL:
        raise ImportError("libglib-2.0.so.0 cannot be loaded")
    # As in the struct, which is pointers only.
    cdef void **slots = <void **>&table
    cdef int i
    names = (
        b"g_source_new", b"g_source_attach", b"g_source_destroy", b"g_source_unref", b"g_source_set_priority",
        b"g_source_set_can_recurse", b"g_source_set_name", b"g_source_add_poll", b"g_source_remove_poll",
        b"g_main_context_default", b"g_main_context_ref", b"g_main_context_unref", b"g_main_context_acquire",
        b"g_main_context_release", b"g_main_context_prepare", b"g_main_context_query", b"g_main_context_check",
        b"g_main_context_dispatch",
    )
    assert len(names) * sizeof(void *) == sizeof(Functions)
    for i, name in enumerate(names):
        slots[i] = dlsym(library, name)
        if slots[i] == NULL:
            raise ImportError(f"libglib-2.0.so.0 has no {name.decode()}")
    loaded = True
    return 0


cdef Functions *functions() except NULL:
    """Raises ImportError where GLib is missing."""
    if not loaded:
        load()
    return &table


cdef void *address_of(object main_context) except NULL:
    """The GMainContext of a GLib.MainContext; None is the default one. PyGObject's boxed types hash to their address."""
    from gi.repository import GLib

    cdef Functions *glib = functions()
    if main_context is None:
        return glib.main_context_default()
    if not isinstance(main_context, GLib.MainContext):
        raise TypeError(f"main_context must be a GLib.MainContext or None, not {main_context!r}")
    if hash(GLib.MainContext.default()) != <Py_hash_t>glib.main_context_default():
        raise ImportError("this PyGObject does not tell where a GLib.MainContext lies")
    return <void *><Py_hash_t>hash(main_context)
