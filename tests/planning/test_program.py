"""What is read in the text of compiled programs."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from drl_jax.parallel.mesh import AXIS, place
from drl_jax.planning.program import Collective, collectives, estimated_cycles, memory

TPU = """HloModule jit_step, is_scheduled=true

%body.1 (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]) parameter(0)
  %conv.1 = f32[8] fusion(%p), kind=kOutput, calls=%inner, backend_config={"estimated_cycles":"100"}
  ROOT %t = (s32[], f32[8]) tuple(%i, %conv.1)
}

%cond.1 (p: (s32[], f32[8])) -> pred[] {
  %bound = s32[]{:T(128)} constant(30)
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}

ENTRY %main.9 (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0), backend_config={"estimated_cycles":"7"}
  %loop = (s32[], f32[8]) while(%start), condition=%cond.1, body=%body.1, backend_config={}
  %sum = (f32[4,2]{1,0:T(8,128)}, bf16[3]{0}) all-reduce(%a, %b), to_apply=%add
  ROOT %out = f32[8] add(%g, %sum)
}
"""


def test_the_text_of_a_tpu_program():
    assert collectives(TPU) == [Collective("all-reduce", 4 * 8 + 2 * 3, in_loop=False)]
    assert estimated_cycles(TPU) == 7 + 30 * 100
    assert estimated_cycles(TPU.replace("estimated_cycles", "other")) is None


def test_messages_in_a_real_program():
    placement = place(8)

    def on_device(x):
        inside = jax.lax.fori_loop(0, 3, lambda _, y: jax.lax.psum(y, AXIS) / 9 + x, x)
        return inside, jax.lax.all_gather(x, AXIS, tiled=True)

    part = PartitionSpec(AXIS)
    function = jax.jit(
        jax.shard_map(
            on_device, mesh=placement.mesh, in_specs=part, out_specs=(part, PartitionSpec()), check_vma=False
        )
    )
    compiled = function.lower(placement.shard(np.ones((8, 5), np.float32))).compile()
    found = set(collectives(compiled.as_text() or ""))
    assert Collective("all-reduce", 2 * 5 * 4, in_loop=True) in found
    assert Collective("all-gather", 8 * 5 * 4, in_loop=False) in found
    assert len(found) == 2


def test_memory_of_a_real_program():
    compiled = jax.jit(lambda x: jnp.sort(x * 2)).lower(jnp.ones(1000)).compile()
    planned = memory(compiled)
    assert planned.arguments == 4000
    assert planned.peak >= 4000
