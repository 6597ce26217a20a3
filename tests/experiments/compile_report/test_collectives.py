"""Collectives are read from a program's text: kinds, axes, bytes and how often they run."""

import pytest

from experiments.compile_report.collectives import SLICES, collectives

AXES, SHAPE = ("data", "fsdp"), (2, 4)

PROGRAM = """\
HloModule step

%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (p: f32[8,16]) -> f32[2,16] {
  %all-reduce.7 = f32[8,16]{1,0} all-reduce(%p), channel_id=4, replica_groups=[2,4]<=[8], to_apply=%sum
  ROOT %slice = f32[2,16]{1,0} dynamic-slice(%all-reduce.7, %i, %z)
}

%body (s: (s32[], bf16[2,16])) -> (s32[], bf16[2,16]) {
  %all-gather.1 = bf16[8,16]{1,0} all-gather(%w), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %fusion.1 = f32[2,16]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
  %fusion.2 = f32[2,16]{1,0} fusion(%g), kind=kOutput, calls=%beside
}

%beside (p: bf16[2,16]) -> f32[2,16] {
  %all-gather.9 = bf16[8,16]{1,0} all-gather(%p), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
}

%condition (s: (s32[], bf16[2,16])) -> pred[] {
}

ENTRY %main (w: bf16[2,16]) -> f32[] {
  %while.1 = (s32[]) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %all-reduce.2 = (f32[4]{0}, f32[2]{0}) all-reduce(%x, %y), replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%sum
  %permute.1 = (f32[10]{0}, f32[10]{0}) collective-permute-start(%z), source_target_pairs={{0,1},{1,2},{2,3}}
  %permute.2 = f32[10]{0} collective-permute-done(%permute.1)
  %all-reduce.3 = f32[4]{0} all-reduce(%x), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%sum
  ROOT %all-reduce.4 = f32[] all-reduce(%q), replica_groups={}, to_apply=%sum
}
"""


def test_kinds_axes_and_bytes():
    found = {(c.kind, c.axes): c for c in collectives(PROGRAM, AXES, SHAPE)}
    gather = found["all-gather", ("fsdp",)]
    assert (gather.chips, gather.times, gather.bytes) == (4, 5, 5 * 8 * 16 * 2 * 3 / 4)
    scatter = found["reduce-scatter", ("fsdp",)]
    assert (scatter.times, scatter.bytes) == (5, 5 * 8 * 16 * 4 * 3 / 4)
    assert found["all-reduce", ("data",)].bytes == 2 * (16 + 8) / 2
    assert found["collective-permute", ("fsdp",)].bytes == 40
    assert found["all-reduce", ("data", "fsdp")].bytes == 2 * 4 * 7 / 8
    assert len(found) == 5  # a group of one sends nothing


def test_iota_groups_across_rows():
    text = PROGRAM.replace(
        "replica_groups=[2,4]<=[8], dimensions", "replica_groups=[4,2]<=[2,4]T(1,0), dimensions"
    )
    gather = next(c for c in collectives(text, AXES, SHAPE) if c.kind == "all-gather")
    assert (gather.axes, gather.chips) == (("data",), 2)


def test_groups_by_axes_of_a_mesh():
    text = PROGRAM.replace(
        "replica_groups=[2,4]<=[8], dimensions",
        "replica_groups=mesh['axis_0'=2,'axis_1'=4,'axis_2'=1] {'axis_0','axis_2'}, dimensions",
    )
    gather = next(c for c in collectives(text, AXES, SHAPE) if c.kind == "all-gather")
    assert (gather.axes, gather.chips) == (("data",), 2)


def test_between_slices():
    send = (
        "  %send.1 = (bf16[36,8,128]{2,1,0}, u32[], token[]) send(%b, %a), channel_id=9, is_host_transfer=true, "
        'frontend_attributes={_xla_megascale_target="{1:4}x{0:15}",_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    text = PROGRAM.replace("  %fusion.1 =", f"{send}\n  %fusion.1 =")
    found = next(c for c in collectives(text, AXES, SHAPE) if c.axes == (SLICES,))
    assert (found.kind, found.chips, found.times) == ("all-reduce", 4, 5)
    assert found.bytes == 5 * 2 * (36 * 8 * 128 * 2) * 3 / 4


def test_groups_that_are_not_understood():
    with pytest.raises(ValueError, match="no groups of devices"):
        collectives(PROGRAM.replace("replica_groups={}", "replica_groups=@all"), AXES, SHAPE)
