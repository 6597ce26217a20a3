"""Compiles for a TPU that is not there, with the compiler of ``libtpu`` (in the dev extra)."""

import functools
import os

# Read when libtpu loads: nothing answers for this machine's TPU, and test processes may share the library.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

TOPOLOGIES = {
    "v4": "v4:2x2x1",
    "v5e": "v5e:2x2",
    "v5p": "v5p:2x2x1",
    "v6e": "v6e:2x2",
    "TPU7x": "TPU7x:2x2x1",
}


@functools.cache
def one_chip(chip):
    """A mesh of one chip, which also tells the compilation what it is for."""
    topology = topologies.get_topology_desc(topology_name=TOPOLOGIES[chip], platform="tpu")
    return Mesh(np.array(topology.devices[:1]), ("chip",), axis_types=(AxisType.Auto,))


def compile_for(chip, function, *args):
    """Lowers and compiles ``function`` of arrays like ``args`` for one chip."""
    sharding = NamedSharding(one_chip(chip), PartitionSpec())
    args = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), args)
    with jax.set_mesh(one_chip(chip)):
        return jax.jit(function).lower(*args).compile()
