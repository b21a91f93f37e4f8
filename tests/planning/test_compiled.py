"""Reading optimised HLO: cycles, loops, transfers and kernels, from text small enough to check."""

import jax
import jax.numpy as jnp
import pytest

from clipjax.parallel.accelerators import Accelerator
from clipjax.planning import compile_memory, compiled, hlo, hlo_loops, kernel_schedules, op_costs
from clipjax.planning.collectives import Collective, carries, seconds
from clipjax.planning.device_groups import device_groups

# One cycle a second, a FLOP or a byte a cycle, links of 2 bytes a cycle in all.
UNIT = Accelerator("unit", 1.0, 2**30, 1.0, 1.0, 2.0, 2, 0.25)


def cycles(count: int) -> str:
    return f'backend_config={{"window_config":{{"estimated_cycles":"{count}"}}}}'


LOOPS = f"""HloModule m, is_scheduled=true

%double (p.0: f32[8]) -> f32[8] {{
  %p.0 = f32[8]{{0:T(128)}} parameter(0)
  ROOT %add.0 = f32[8]{{0:T(128)}} add(%p.0, %p.0), {cycles(999)}
}}

%inner_body (p.1: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %p.1 = (s32[]{{:T(128)}}, f32[8]{{0:T(128)S(1)}}) parameter(0)
  %x.1 = f32[8]{{0:T(128)S(1)}} get-tuple-element(%p.1), index=1
  %i.1 = s32[]{{:T(128)}} get-tuple-element(%p.1), index=0
  %two = s32[]{{:T(128)}} constant(2)
  %next.1 = s32[]{{:T(128)}} add(%i.1, %two)
  %f.1 = f32[8]{{0:T(128)S(1)}} fusion(%x.1), kind=kLoop, calls=%double, {cycles(10)}
  ROOT %t.1 = (s32[], f32[8]) tuple(%next.1, %f.1)
}}

%inner_condition (p.2: (s32[], f32[8])) -> pred[] {{
  %p.2 = (s32[], f32[8]) parameter(0)
  %i.2 = s32[]{{:T(128)S(6)}} get-tuple-element(%p.2), index=0
  %limit.2 = s32[]{{:T(128)S(6)}} constant(11)
  ROOT %lt.2 = pred[]{{:T(512)}} compare(%i.2, %limit.2), direction=LT, {cycles(11)}
}}

%outer_body (p.3: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %p.3 = (s32[], f32[8]) parameter(0)
  %x.3 = f32[8] get-tuple-element(%p.3), index=1
  %i.3 = s32[] get-tuple-element(%p.3), index=0
  %one = s32[] constant(1)
  %next.3 = s32[] add(%i.3, %one)
  %start.3 = s32[] constant(1)
  %state.3 = (s32[], f32[8]) tuple(%start.3, %x.3)
  %while.3 = (s32[], f32[8]) while(%state.3), condition=%inner_condition, body=%inner_body
  %y.3 = f32[8] get-tuple-element(%while.3), index=1
  ROOT %t.3 = (s32[], f32[8]) tuple(%next.3, %y.3)
}}

%compare (a: s32[], b: s32[]) -> pred[] {{
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %le = pred[] compare(%a, %b), direction=LE
}}

%outer_condition (p.4: (s32[], f32[8])) -> pred[] {{
  %p.4 = (s32[], f32[8]) parameter(0)
  %i.4 = s32[] get-tuple-element(%p.4), index=0
  %limit.4 = s32[] constant(3)
  ROOT %f.4 = pred[] fusion(%i.4, %limit.4), kind=kLoop, calls=%compare
}}

ENTRY %main (x: f32[8]) -> (s32[], f32[8]) {{
  %x = f32[8]{{0:T(128)}} parameter(0)
  %zero = s32[] constant(0)
  %copied = f32[8]{{0:T(128)}} copy(%x), {cycles(100)}
  %state = (s32[], /*index=1*/f32[8]) tuple(%zero, %copied)
  ROOT %while = (s32[], f32[8]) while(%state), condition=%outer_condition, body=%outer_body
}}
"""


def test_loop_bodies_count_as_often_as_they_run():
    module = hlo.parse(LOOPS)
    inner, outer = (
        hlo_loops.trip_count(module, module.computations[place][name], computation=place)
        for place, name in (("outer_body", "while.3"), ("main", "while"))
    )
    assert (inner, outer) == (5, 4)  # 1, 3, …, 9; 0, 1, 2, 3
    cost = compiled.read(LOOPS, accelerator=UNIT, devices=1)
    assert cost.compiler == 100 + outer * inner * (10 + 11)
    assert cost.total == cost.compiler and cost.unknown_loops == 0
    # The copy moves bytes and multiplies nothing; what stays on the chip is compute.
    assert cost.memory == 100


def test_a_loop_that_cannot_be_read_is_counted_once_and_told():
    text = LOOPS.replace("constant(11)", "parameter(1)")
    cost = compiled.read(text, accelerator=UNIT, devices=1)
    assert cost.unknown_loops == 1 and cost.compiler == 100 + 4 * (10 + 11)


def test_known_trip_counts_are_taken():
    def loop(x):
        return jax.lax.fori_loop(0, 7, lambda _, y: jnp.sin(y) @ y, x)

    text = jax.jit(loop).lower(jnp.ones((32, 32))).compile().as_text()
    module = hlo.parse(text)
    found = [
        hlo_loops.trip_count(module, instruction, computation=computation)
        for computation in module.computations
        for instruction in module.scheduled(computation)
        if instruction.opcode == "while"
    ]
    assert found == [7]


def test_text_that_is_no_module():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("hello")


def entry(*lines: str, before: str = "") -> str:
    body = "\n".join(f"  {line}" for line in lines)
    return f"HloModule m\n{before}\nENTRY %main (x: f32[16]) -> f32[] {{\n{body}\n}}\n"


PARAMETER = "%x = f32[16]{0:T(128)S(1)} parameter(0)"


def work(count: int, name: str = "work") -> str:
    return f"%{name} = f32[16]{{0:T(128)S(1)}} negate(%x), {cycles(count)}"


def test_a_synchronous_transfer_is_waited_for():
    gather = "ROOT %g = f32[64] all-gather(%x), replica_groups=[1,4]<=[4], dimensions={0}"
    cost = compiled.read(entry(PARAMETER, work(10), gather), accelerator=UNIT, devices=4)
    # 256 bytes, three quarters of them from others, at half the links' 2 bytes a cycle.
    assert cost.exposed == 192 and cost.total == 202 and cost.limit() == "communication"
    assert dict(cost.collective_counts) == {
        Collective("all-gather", 256, 4, False, "parameters"): 1
    }


PERMUTE = (
    "%start = (f32[16], f32[16], u32[], u32[]) collective-permute-start(%x),"
    " source_target_pairs={{0,1},{1,0}}"
)


@pytest.mark.parametrize(("hidden", "exposed"), [(20, 44), (500, 0)])
def test_an_asynchronous_transfer_is_hidden_by_work(hidden, exposed):
    done = "ROOT %done = f32[16] collective-permute-done(%start)"
    text = entry(PARAMETER, PERMUTE, work(hidden), done)
    cost = compiled.read(text, accelerator=UNIT, devices=2)
    assert cost.exposed == exposed  # 64 bytes over one link of 1 byte a cycle


def test_transfers_wait_for_one_another():
    second = PERMUTE.replace("%start", "%start.2")
    done = (
        "%done = f32[16] collective-permute-done(%start)",
        "ROOT %done.2 = f32[16] collective-permute-done(%start.2)",
    )
    text = entry(PARAMETER, PERMUTE, second, work(100), *done)
    assert compiled.read(text, accelerator=UNIT, devices=2).exposed == 28  # 2 × 64 - 100


CHAIN = "\n".join(
    f"""%{name} (p: f32[16]) -> f32[64] {{
  %p = f32[16] parameter(0)
  %g.{name} = f32[64] all-gather(%p), channel_id=9, replica_groups=[1,4]<=[4], dimensions={{0}}, \
frontend_attributes={{chain_id="3"}}, metadata={{op_name="jit(step)/jvp(CLIP)/mlp"}}
  ROOT %r.{name} = f32[64] {root}
}}
"""
    for name, root in (
        ("begin", 'custom-call(%g.begin), custom_call_target="AsyncCollectiveStart"'),
        ("carry_on", "negate(%g.carry_on)"),
        ("end", 'custom-call(%g.end), custom_call_target="AsyncCollectiveDone"'),
    )
)


def test_a_transfer_that_runs_through_fusions_counts_once():
    text = entry(
        PARAMETER,
        "%s = f32[64] fusion(%x), kind=kCustom, calls=%begin",
        f"%w = f32[64]{{0:T(128)S(1)}} fusion(%s), kind=kOutput, calls=%carry_on, {cycles(50)}",
        "ROOT %d = f32[64] fusion(%w), kind=kCustom, calls=%end",
        before=CHAIN,
    )
    cost = compiled.read(text, accelerator=UNIT, devices=4)
    assert sum(cost.collective_counts.values()) == 1
    assert cost.exposed == 192 - 50


def test_a_reduction_that_keeps_its_part_is_a_reduce_scatter():
    body = """%scatter (p: f32[8192]) -> f32[2048] {
  %p = f32[8192] parameter(0)
  %r = f32[8192] all-reduce(%p), replica_groups={{0,1,2,3}}, to_apply=%add
  %i = u32[] partition-id()
  ROOT %s = f32[2048] dynamic-slice(%r, %i), dynamic_slice_sizes={2048}
}
"""
    text = entry(
        "%x = f32[8192] parameter(0)",
        "ROOT %f = f32[2048] fusion(%x), kind=kCustom, calls=%scatter,"
        ' metadata={op_name="jit(step)/transpose(jvp(CLIP))/mlp"}',
        before=body,
    )
    (found,) = compiled.read(text, accelerator=UNIT, devices=4).collective_counts
    assert (found.kind, found.bytes, found.group_size) == ("reduce-scatter", 32768, 4)
    assert found.carries == "gradients"


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, x", [[0, 1], [2, 3]]),
        ("replica_groups=[2,4]<=[8], x", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh['axis_0'=4] {'axis_0'}, x", [[0, 1, 2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x", [[0, 2], [1, 3]]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
        ("dimensions={0}", []),
    ],
)
def test_groups(written, groups):
    assert device_groups(written) == groups


@pytest.mark.parametrize(("slices", "crosses"), [(1, False), (2, True)])
def test_groups_that_span_slices_cross(slices, crosses):
    reduce = "ROOT %r = f32[16] all-reduce(%x), replica_groups={{0,2},{1,3}}, to_apply=%add"
    cost = compiled.read(entry(PARAMETER, reduce), accelerator=UNIT, devices=4, num_slices=slices)
    (found,) = cost.collective_counts
    assert found.crosses_slices is crosses and found.carries == "scalars"


def test_the_compilers_sends_between_slices():
    attributes = (
        'frontend_attributes={_xla_host_transfer_rendezvous="ppermute.1_0",'
        '_xla_megascale_transfer_type="ONE_TO_ONE"}'
    )
    text = entry(
        "%x = bf16[16,64] parameter(0), "
        'metadata={op_name="jit(step)/jvp()/shard_map/while/body/squeeze"}',
        "%token = token[] after-all()",
        f"%send = (bf16[16,64], u32[], token[]) send(%x, %token), {attributes}",
        f"%recv = (bf16[16,64], u32[], token[]) recv(%token), {attributes}",
        f"%work = f32[16]{{0:T(128)S(1)}} negate(%x), {cycles(1000)}",
        "%sent = token[] send-done(%send)",
        "ROOT %got = (bf16[16,64], token[]) recv-done(%recv)",
    )
    cost = compiled.read(text, accelerator=UNIT, devices=4, num_slices=2)
    (found,) = cost.collective_counts
    assert found == Collective("collective-permute", 2048, 1, True, "embeddings")
    assert cost.exposed == 2048 / 0.25 - 1000


STEP = "jit(train_step)/"


@pytest.mark.parametrize(
    ("kind", "op_name", "shape", "carried"),
    [
        (
            "all-gather",
            "jvp(CLIP)/blocks/mlp/up/convert_element_type",
            "bf16[768,768]",
            "parameters",
        ),
        (
            "all-reduce",
            "jvp(CLIP)/blocks/mlp/up/convert_element_type",
            "bf16[768,768]",
            "parameters",
        ),
        ("all-gather", "transpose(jvp(CLIP))/while/body/squeeze", "bf16[768,768]", "parameters"),
        ("all-gather", "jvp(CLIP)/patch_embedding/reshape", "bf16[768,768]", "parameters"),
        ("reduce-scatter", "transpose(jvp(CLIP))/mlp/dot_general", "bf16[768,768]", "gradients"),
        ("all-gather", "transpose(jvp(CLIP))/mlp/dot_general", "bf16[768,768]", "gradients"),
        ("all-reduce", "", "bf16[768,768]", "gradients"),
        ("all-reduce", "jvp(CLIP)/mlp/down/dot_general", "bf16[16,50,768]", "activations"),
        ("all-gather", "jvp()/shard_map/all_gather", "bf16[32768,512]", "embeddings"),
        ("all-gather", "jvp(CLIP)/CLIP.encode_text/mul", "f32[64,16]", "embeddings"),
        ("collective-permute", "jvp()/shard_map/while/body/squeeze", "bf16[64,16]", "embeddings"),
        ("collective-permute", "jvp()/shard_map/while/body/squeeze", "u32[5,128]", "log-sum-exps"),
        ("all-reduce", "jvp()/shard_map/all_gather", "f32[32768]", "log-sum-exps"),
        ("all-reduce", "reduce_sum", "u32[]", "scalars"),
    ],
)
def test_what_a_transfer_carries(kind, op_name, shape, carried):
    found = carries(kind, op_name=op_name and STEP + op_name, moved=hlo.arrays(shape))
    assert found == carried


def test_an_all_reduce_moves_everything_twice():
    for kind, factor in {"all-gather": 1, "reduce-scatter": 1, "all-reduce": 2}.items():
        transfer = Collective(kind, 800, 8, False, "gradients")
        assert seconds(transfer, accelerator=UNIT, num_slices=1) == factor * 700


KERNEL = (
    "ROOT %kernel.1 = f32[16,128]{1,0:T(8,128)} custom-call(%x),"
    ' custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"body":"abc",'
    '"cost_estimate":{"flops":"1000","bytes_accessed":"10"}}}'
)
MOVED = 2 * 16 * 128 * 4


@pytest.mark.parametrize(
    ("schedules", "charged", "how"),
    [
        ({}, 4 * MOVED, "4 × roofline, no schedule"),
        ({"kernel.1": 99_999}, 99_999, "its compiled schedule"),
        ({"kernel.1": 5}, MOVED, "its bytes over the memory's bandwidth"),
    ],
)
def test_what_a_custom_kernel_is_charged(schedules, charged, how):
    text = entry("%x = f32[16,128]{1,0:T(8,128)} parameter(0)", KERNEL)
    assert compiled.kernel_names(text) == {"kernel.1"}
    cost = compiled.read(text, accelerator=UNIT, devices=1, schedules=schedules)
    (kernel,) = cost.kernel_counts
    assert (kernel.cycles, kernel.charged, kernel.name) == (charged, how, "kernel.1")
    assert cost.kernels == charged and cost.compiler == 0


BUNDLES = """= control target key start
LB: loop body
= control target key end

     0   :  { %s1 = smov.u32 0 } /* Start region 9 */
   0x1 LB: > { %s3 = sphi %s1, %s2  ;;  %s2 = sadd.s32 1, %s3 } /* Start region 7 */
   0x2   : > { %s4 = smov.u32 (%p9), 2 }
   0x3 LB: >> { %s6 = sphi %s4, %s5 } /* Start region 8 :: Start region 3 */
   0x4   : >> { %s5 = sadd.s32 (%p9), 1, %s6  ;;  %p1 = scmp.ge.s32.totalorder (%p9), %s5, 12 \
/* loop exit test */ }
   0x5   : > { %21 = sbr.rel (!%p1) target = $region8 }
   0x6   : > { %p2 = scmp.ge.s32.totalorder %s2, 6 /* loop exit test */ }
   0x7   : > { %22 = sbr.rel (!%p2) target = $region7 }
   0x8   :  {} /* End region 9 */
"""


def test_a_kernels_schedule():
    assert kernel_schedules.scheduled_cycles(BUNDLES) == 2 + 6 * (5 + 10 * 2)
    unknown = BUNDLES.replace("%s5, 12", "%s5, %s9")
    assert kernel_schedules.scheduled_cycles(unknown) is None
    assert kernel_schedules.scheduled_cycles("") is None


def test_a_dump_is_read_by_name_and_emptied(tmp_path):
    for name in ("123-short-attention.1-01-final_bundles.txt", "123-copy.2-01-final_bundles.txt"):
        (tmp_path / name).write_text(BUNDLES)
    (tmp_path / "123-short-attention.1-00-schedule-analysis_final_bundles.txt").write_text("")
    found = kernel_schedules.read_dump(str(tmp_path), names={"short-attention.1"})
    assert found == {"short-attention.1": 152}
    kernel_schedules.clear_dump(str(tmp_path))
    assert kernel_schedules.read_dump(str(tmp_path), names={"short-attention.1"}) == {}


@pytest.mark.parametrize(
    ("left", "right", "out", "attributes", "flops"),
    [
        ("bf16[8,32]", "bf16[32,16]", "bf16[8,16]", "dim_labels=bf_io->bf", 2 * 8 * 32 * 16),
        (  # summed over a batch dimension, as in the gradient of a weight
            *("bf16[16,8,32]", "bf16[16,8,64]", "bf16[32,64,1]"),
            "window={size=16}, dim_labels=0fb_0io->bf0",
            2 * 16 * 8 * 32 * 64,
        ),
        (  # batched scores: the window's dilation meets one element of each batch dimension
            *("bf16[16,4,24,64]", "bf16[16,4,24,64]", "f32[16,4,24,24]"),
            "window={size=16x4 stride=15x3 lhs_dilate=16x4}, dim_labels=01bf_01oi->01bf",
            2 * 16 * 4 * 24 * 24 * 64,
        ),
    ],
)
def test_matrix_flops(left, right, out, attributes, flops):
    text = entry(
        f"%x = {left} parameter(0)",
        f"%y = {right} parameter(1)",
        f"ROOT %c = {out} convolution(%x, %y), {attributes}",
    )
    module = hlo.parse(text)
    found = op_costs.matrix_flops(
        module.computations["main"]["c"], module=module, computation="main"
    )
    assert found == flops


def test_bytes_are_padded_and_slices_are_not_whole():
    assert hlo.arrays("bf16[128,257,64]{2,1,0:T(8,128)(2,1)}")[0].padded_bytes == (
        128 * 264 * 128 * 2
    )
    body = """%slice (p: f32[24,8,128], i: s32[]) -> f32[8,128] {
  %p = f32[24,8,128]{2,1,0:T(8,128)} parameter(0)
  %i = s32[] parameter(1)
  %s = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%p, %i), dynamic_slice_sizes={1,8,128}
  ROOT %b = f32[8,128]{1,0:T(8,128)} bitcast(%s)
}
"""
    text = entry(
        "%x = f32[24,8,128]{2,1,0:T(8,128)} parameter(0)",
        "%i = s32[]{:T(128)S(6)} parameter(1)",
        "ROOT %f = f32[8,128]{1,0:T(8,128)} fusion(%x, %i), kind=kLoop, calls=%slice",
        before=body,
    )
    module = hlo.parse(text)
    found = op_costs.hbm_bytes(module.computations["main"]["f"], module=module, computation="main")
    assert found == 2 * 8 * 128 * 4


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 18.50G of 15.75G hbm."
            " Exceeded hbm capacity by 2.75G.",
            (18.5, 15.75),
        ),
        (
            "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (544.00G) exceeds"
            " available HBM (15.75G).",
            (544.0, 15.75),
        ),
        ("INVALID_ARGUMENT: Used up", None),
    ],
)
def test_an_overflow_is_read(message, expected):
    found = compile_memory.overflow(message)
    assert found == (expected and tuple(int(gib * 2**30) for gib in expected))
