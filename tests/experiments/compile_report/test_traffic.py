"""Bytes through HBM are read from a program's text: loops, slices, updates in place, and what stays in VMEM."""

from experiments.compile_report.traffic import hbm_bytes

# 4 layers of weights [4, 8, 8]: each trip reads one of them, and writes one of four results in place.
PROGRAM = """\
HloModule step

%slice_and_multiply (p0: f32[4,8,8], p1: s32[], p2: f32[8,8]) -> f32[8,8] {
  %p0 = f32[4,8,8]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[8,8]{1,0} parameter(2)
  %slice = f32[1,8,8]{2,1,0} dynamic-slice(%p0, %p1), dynamic_slice_sizes={1,8,8}
  %bitcast = f32[8,8]{1,0} bitcast(%slice)
  ROOT %product = f32[8,8]{1,0} multiply(%bitcast, %p2)
}

%update (p0: f32[4,8,8], p1: f32[8,8], p2: s32[]) -> f32[4,8,8] {
  %p0 = f32[4,8,8]{2,1,0} parameter(0)
  %p1 = f32[8,8]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %row = f32[1,8,8]{2,1,0} bitcast(%p1)
  ROOT %updated = f32[4,8,8]{2,1,0} dynamic-update-slice(%p0, %row, %p2)
}

%body (s: (s32[], f32[4,8,8], f32[8,8], f32[4,8,8])) -> (s32[], f32[4,8,8], f32[8,8], f32[4,8,8]) {
  %s = (s32[], f32[4,8,8]{2,1,0}, f32[8,8]{1,0}, f32[4,8,8]{2,1,0}) parameter(0)
  %w = f32[4,8,8]{2,1,0} get-tuple-element(%s), index=1
  %x = f32[8,8]{1,0} get-tuple-element(%s), index=2
  %ys = f32[4,8,8]{2,1,0} get-tuple-element(%s), index=3
  %i = s32[] constant(0)
  %fusion.1 = f32[8,8]{1,0} fusion(%w, %i, %x), kind=kLoop, calls=%slice_and_multiply
  %fusion.2 = f32[4,8,8]{2,1,0} fusion(%ys, %fusion.1, %i), kind=kLoop, calls=%update
  %kept = f32[8,8]{1,0:T(8,128)S(1)} copy(%fusion.1)
}

%condition (s: (s32[])) -> pred[] {
}

ENTRY %main (w: f32[4,8,8]) -> f32[4,8,8] {
  %w = f32[4,8,8]{2,1,0} parameter(0)
  %t = (s32[], f32[4,8,8]{2,1,0}) tuple(%w)
  %while.1 = (s32[]) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"4"}}
  %start = (f32[8,8]{1,0:S(1)}, f32[8,8]{1,0}, u32[]) copy-start(%z)
  %done = f32[8,8]{1,0:S(1)} copy-done(%start)
}
"""

ROW = 8 * 8 * 4


def test_loops_slices_and_updates():
    # A trip: the product reads a slice, x and an index and writes a row; the update reads the row and an index and
    # writes a row; the copy into VMEM reads a row.
    trip = (ROW + ROW + 4 + ROW) + (ROW + 4 + ROW) + ROW
    assert hbm_bytes(PROGRAM) == 4 * trip


def test_more_trips_move_more():
    longer = PROGRAM.replace('"n":"4"', '"n":"8"')
    assert hbm_bytes(longer) == 2 * hbm_bytes(PROGRAM)
