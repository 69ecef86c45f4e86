"""The LiteRT runtime: fp32, int8 and int4 on a CPU, without TensorFlow. A family's stack is
recorded (`record`), written as a graph (`lower`, `graph`, `quantize`), kept in the user's cache
folder (`store`), and run from one attention to the next (`program`, `runtime`), which is numpy's
(`attention`, `kv_cache`).
"""
