"""Code of the questions that are asked in a process of their own."""

from __future__ import annotations

HOROVOD = """
import json
import horovod, horovod.tensorflow as hvd
names = ("mpi", "gloo", "nccl", "cuda")
built = {name: bool(getattr(hvd, name + "_built")()) for name in names}
print(json.dumps({"version": horovod.__version__, **built}))
"""

UCX = """
import ctypes, json, sys
uct = ctypes.CDLL(sys.argv[1])
ucp = ctypes.CDLL(sys.argv[2])
ucp.ucp_get_version_string.restype = ctypes.c_char_p
components, count = ctypes.POINTER(ctypes.c_void_p)(), ctypes.c_uint()
status = uct.uct_query_components(ctypes.byref(components), ctypes.byref(count))
names = []
for index in range(count.value if status == 0 else 0):
    # uct_component_attr_t: uint64 field_mask (bit 0: name), char name[16], more that is not asked
    attributes = ctypes.create_string_buffer(1024)
    ctypes.c_uint64.from_buffer(attributes).value = 1
    if uct.uct_component_query(ctypes.c_void_p(components[index]), attributes) == 0:
        names.append(attributes.raw[8:24].split(b"\\0")[0].decode())
version = ucp.ucp_get_version_string().decode()
print(json.dumps({"version": version, "components": names}))
"""

EXECUTORS = "from spark_dlobd.doctor.executors import main; main()"
