/* Types of which Python code shall make no objects, because they are nothing before our own code has filled them in.

   AIO_MADE_BY_US(name) defines name_made_by_us(type), to be called once, when the module is made. From then on the type,
   its __new__() and the classes that Python code derives from it raise TypeError. TYPE.__new__(TYPE) in the type's own .pyx
   is a C call that knows nothing of it, and so is as quick as before; types derived in other .pyx pass. */
#ifndef AIO_MADE_BY_US_H
#define AIO_MADE_BY_US_H

#include <Python.h>

#define AIO_MADE_BY_US(name)                                                                            \
    static PyTypeObject *name##_type;                                                                   \
    static newfunc name##_make;                                                                         \
    static PyObject *name##_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {                 \
        if (type != name##_type && !(type->tp_flags & Py_TPFLAGS_HEAPTYPE))                             \
            return name##_make(type, args, kwargs);                                                     \
        PyErr_Format(PyExc_TypeError, "%s objects are made by the loop's methods", type->tp_name);      \
        return NULL;                                                                                    \
    }                                                                                                   \
    static void name##_made_by_us(PyTypeObject *type) {                                                 \
        if (type->tp_flags & Py_TPFLAGS_HEAPTYPE)                                                       \
            return; /* so would be all types of ours, and which are Python's could not be told */       \
        name##_type = type;                                                                             \
        name##_make = type->tp_new;                                                                     \
        type->tp_new = name##_new;                                                                      \
        PyType_Modified(type);                                                                          \
    }

#endif
