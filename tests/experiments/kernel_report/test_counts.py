"""What the report counts by itself: matmuls, traffic, rounding, and how rows and tables say what failed."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from experiments.kernel_report import accuracy, rows, text
from experiments.kernel_report.blocks import padded_bytes, traffic
from experiments.kernel_report.matmuls import Matmul, bound_cycles, matmuls
from experiments.kernel_report.plot import roofline
from experiments.kernel_report.rounding import with_rounded_products
from experiments.kernel_report.shapes import MemoryShape, preset_shape, table_shapes
from pallas_kernels.chips import CHIPS, chip_of
from tests.tolerances import OUTPUT_F32

REPOSITORY = Path(__file__).resolve().parents[3]
SMALL = MemoryShape(d_head=64, depth=1, expansion=1, chunk=64)


def bound(shape, chip="v5e", direction="forward"):
    return rows.bound(shape, CHIPS[chip], direction)


class TestMatmuls:
    def test_products_scans_and_branches(self):
        def fn(a, b):
            c = jnp.einsum("gij,gkj->gik", a, a)  # 3 x [4, 5] @ [5, 4]
            d, _ = jax.lax.scan(lambda s, _: (s @ b, None), a[0], length=7)  # 7 x [4, 5] @ [5, 5]
            return jax.lax.cond(d[0, 0] > 0, lambda: c.sum(), lambda: (a[0] @ b).sum())

        a, b = jnp.ones((3, 4, 5)), jnp.ones((5, 5))
        assert matmuls(fn, a, b) == [Matmul(3, 4, 5, 4), Matmul(7, 4, 5, 5), Matmul(1, 4, 5, 5)]

    def test_a_loop_of_unknown_length_is_refused(self):
        def fn(a):
            return jax.lax.while_loop(lambda s: s.sum() < 9, lambda s: s @ a, a)

        with pytest.raises(ValueError, match="while"):
            matmuls(fn, jnp.ones((4, 4)))

    @pytest.mark.parametrize(
        ("d_head", "expansion", "chunk", "cycles"),
        # bundles x utilisation of the sketch in the design: 928, 1760, 2432, 3232
        [(128, 2, 128, 928), (128, 4, 128, 1760), (128, 2, 256, 2432), (256, 2, 128, 3232)],
    )
    def test_bound_of_the_memory(self, d_head, expansion, chunk, cycles):
        shape = MemoryShape(d_head, 2, expansion, chunk)
        assert bound(shape)["bound_cycles"] == cycles
        assert bound(shape, direction="backward")["bound_cycles"] == 3 * cycles

    def test_unpadded_bound_is_the_peak(self):
        chip = CHIPS["v6e"]
        products = [Matmul(1, 512, 512, 512)]
        assert bound_cycles(products, chip) == 2 * 512**3 / chip.flops_per_cycle

    def test_either_operand_may_stay_in_the_unit(self):
        wide, tall = Matmul(1, 8, 128, 1024), Matmul(1, 1024, 128, 8)
        assert bound_cycles([wide], CHIPS["v5e"]) == bound_cycles([tall], CHIPS["v5e"]) == 16


class TestTraffic:
    def test_blocks_are_copied_when_their_index_changes(self):
        def fn(x, w):
            def kernel(x_ref, w_ref, y_ref):
                y_ref[...] = x_ref[...] + w_ref[...]

            return pl.pallas_call(
                kernel,
                grid=(2, 3),
                in_specs=[
                    pl.BlockSpec((None, None, 8, 128), lambda i, n: (i, n, 0, 0)),
                    pl.BlockSpec((None, 8, 128), lambda i, n: (i, 0, 0)),
                ],
                out_specs=pl.BlockSpec((None, None, 8, 128), lambda i, n: (i, 2 - n, 0, 0)),
                out_shape=x,
                name="add",
            )(x, w)

        x = jax.ShapeDtypeStruct((2, 3, 8, 128), jnp.float32)
        w = jax.ShapeDtypeStruct((2, 8, 128), jnp.float32)
        (call,) = traffic(jax.make_jaxpr(jax.jit(fn))(x, w).jaxpr)
        block = 8 * 128 * 4
        assert (call.name, call.grid, call.grid_steps) == ("add", (2, 3), 6)
        assert (call.read, call.written) == ((6 + 2) * block, 6 * block)

    @pytest.mark.parametrize(
        ("shape", "dtype", "expected"),
        [
            ((4, 128, 128), jnp.bfloat16, 4 * 128 * 128 * 2),
            ((1, 128), jnp.float32, 128 * 4),
            ((128, 1), jnp.float32, 128 * 128 * 4),
            ((9, 130), jnp.float32, 16 * 256 * 4),
            ((1, 128), jnp.bfloat16, 2 * 128 * 2),
        ],
    )
    def test_padding(self, shape, dtype, expected):
        assert padded_bytes(shape, dtype) == expected


class TestRounding:
    def setup_method(self):
        generator = np.random.default_rng(0)
        self.a, self.b = (jnp.asarray(generator.normal(size=(8, 8)), jnp.float32) for _ in range(2))

    @staticmethod
    def loss(product):
        def fn(a, b):
            def body(state, x):
                state = jax.lax.cond(
                    x[0] > 0, lambda s: jnp.tanh(product(s, b)), lambda s: s, state
                )
                return state, state.sum()

            return jax.checkpoint(lambda a: jax.lax.scan(body, a, a)[1].sum())(a)

        return fn

    def test_is_the_function_with_rounded_operands(self):
        def rounded(x, y):
            x, y = (z.astype(jnp.bfloat16).astype(jnp.float32) for z in (x, y))
            return jnp.dot(x, y, precision="highest")

        actual = with_rounded_products(self.loss(jnp.dot))(self.a, self.b)
        np.testing.assert_allclose(actual, self.loss(rounded)(self.a, self.b), rtol=OUTPUT_F32)
        assert abs(actual - self.loss(jnp.dot)(self.a, self.b)) > 10 * OUTPUT_F32

    def test_gradients_are_rounded_too(self):
        gradient = jax.grad(self.loss(jnp.dot))
        difference = with_rounded_products(gradient)(self.a, self.b) - gradient(self.a, self.b)
        assert jnp.abs(difference).max() > 1e-4

    def test_leaves_products_that_ask_for_more(self):
        exact = self.loss(lambda x, y: jnp.dot(x, y, precision="highest"))
        assert with_rounded_products(exact)(self.a, self.b) == exact(self.a, self.b)


@pytest.mark.slow
class TestErrors:
    SHAPE = MemoryShape(d_head=8, depth=2, expansion=2, chunk=8)

    def test_kernel_and_default_differ_from_the_oracle_by_roundings(self, monkeypatch):
        found = accuracy.errors(self.SHAPE, timeout=120)
        monkeypatch.setattr(accuracy, "with_rounded_products", lambda fn: fn)
        exact = accuracy.measure_errors(**dataclasses.asdict(self.SHAPE))
        for direction in rows.DIRECTIONS:
            kernel, default = found[direction].kernel, found[direction].default
            assert 1e-4 < default < 0.1
            assert 0.5 < kernel / default == found[direction].ratio < 2
            # Neither program's roundings are lost; the kernel's step makes them itself.
            assert kernel > 1.05 * exact[direction]["default"]
            assert default > 1.05 * exact[direction]["default"]


class TestRows:
    def test_failures_become_rows_with_messages(self):
        with ThreadPoolExecutor(1) as pool:
            found = rows.submit(pool, SMALL, ["v5e:2x2", "v6e:2x2"], timeout=0.01)()
        assert [row["direction"] for row in found] == ["forward", "backward"] * 2
        for row in found:
            assert set(row) == set(rows.KEYS)
            assert row["bundles"] is row["utilisation"] is row["error_ratio"] is None
            assert row["bound_cycles"] > 0
            assert [message.split(":")[0] for message in row["errors"]] == [
                "kernel",
                "XLA",
                "XLA",
                "accuracy",
            ]
        assert text.table(found).count("no result within 0.01 seconds") == 2 * 4
        assert text.page(found, "the command").count("kernel: no result") == 2

    def test_compulsory_bytes(self):
        tokens, gates, state = 64 * 2, 3 * 4, 2 * 64 * 64 * 4 / 4096  # per token
        forward, backward = (
            rows.compulsory_bytes(SMALL, direction) / (8 * 4096) for direction in rows.DIRECTIONS
        )
        assert forward == 4 * tokens + gates + 2 * state
        assert backward == 7 * tokens + 2 * gates + 3 * state

    def test_shapes(self):
        shapes = table_shapes()
        assert len(shapes) == len(set(shapes)) == 3 * (1 + 3) * 3
        assert preset_shape("400m") in shapes

    @pytest.mark.parametrize("topology", ["v9:2x2", "v5e", ""])
    def test_unknown_chip(self, topology):
        with pytest.raises(ValueError, match="topology must be CHIP:SHAPE"):
            chip_of(topology)


class TestRoofline:
    def test_writes_a_picture(self, tmp_path):
        row = {"topology": "v5e:2x2", "d_head": 64, "tile": 64, "direction": "forward"}
        row |= {"bundles": 800.0, "flops": 10**7, "hbm_bytes_per_token": 2000.0}
        roofline([row, row | {"topology": "v6e:2x2"}, row | {"bundles": None}], tmp_path / "r.png")
        assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")

    def test_where_nothing_compiled_the_panel_is_empty(self, tmp_path):
        row = {"topology": "v5e:2x2", "d_head": 64, "bundles": None}
        roofline([row], tmp_path / "r.png")
        assert (tmp_path / "r.png").exists()


@pytest.mark.slow
class TestCommandLine:
    def test_json_of_a_preset(self, tmp_path):
        if importlib.util.find_spec("libtpu") is None:
            pytest.skip("no TPU compiler here")
        command = [sys.executable, "-m", "experiments.kernel_report", "--topology=v5e:2x2"]
        command += ["--preset=tiny", "--json", f"--output={tmp_path}"]
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=300
        )
        found = json.loads(done.stdout)
        assert [row["direction"] for row in found] == ["forward", "backward"]
        for row in found:
            assert row["errors"] == []
            assert None not in row.values()
            assert row["utilisation"] == pytest.approx(row["bound_cycles"] / row["bundles"])
            # The kernel multiplies as the algebra says: nothing is left out forward.
            if row["direction"] == "forward":
                assert row["matrix_cycles"] >= row["bound_cycles"]
            assert row["hbm_bytes_per_token"] > row["compulsory_bytes_per_token"]
            assert row["xla_cycles_ratio"] > 1
        assert json.loads((tmp_path / "report.json").read_text()) == found
        assert "Static estimates" in (tmp_path / "report.md").read_text()
        assert (tmp_path / "roofline.png").stat().st_size > 10_000
