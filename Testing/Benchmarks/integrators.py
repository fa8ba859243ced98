"""Is an adaptive Dormand-Prince pair (dopri5 of torchdiffeq) worth a dependency for shooting, beside our Runge-Kutta 4?

python -m pip install torchdiffeq
python Testing/Benchmarks/integrators.py [--threads 1] [--repeat 5]

LDDMM shooting of a smooth random momentum, 2-D (96 x 96) and 3-D (48^3), slow and fast. Error: of the momentum at t = 1,
relative, against SciPy's DOP853 with a tolerance of 1e-10 in double precision. Evaluations: of the right-hand side. Seconds:
processor time of one shooting in single precision, as in a registration, median. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
SIGMAS, SHARES = (2.5, 5.0, 9.0), (0.2, 0.3, 0.5)
CASES = ((96, 96), (48, 48, 48))
SPEEDS = (2.0, 6.0)
"""Voxels per unit time of the fastest point."""
STEPS = (2, 4, 6, 8, 12, 16)
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5)


def momentum(shape, speed, dtype):
    """(d, *shape): smooth, random, zero at the borders; its velocity reaches ``speed`` voxels per unit time."""
    import torch

    from DeepDiffRegLib.transforms.kernels import MultiGaussian, Smoother

    generator = torch.Generator().manual_seed(0)
    m = torch.randn(len(shape), *shape, generator=generator, dtype=torch.float64)
    ones = (1.0,) * len(shape)
    m = Smoother(MultiGaussian((3.0,), (1.0,)).symbol, shape, ones, dtype=torch.float64)(m)
    for axis, n in enumerate(shape):
        m = m * torch.hann_window(n, False, dtype=torch.float64).reshape(-1, *(1,) * (len(shape) - 1 - axis))
    v = Smoother(MultiGaussian(SIGMAS, SHARES).symbol, shape, ones, dtype=torch.float64)(m)
    return (m * (speed / float(v.norm(dim=0).max()))).to(dtype)


class Counted:
    """dm/dt of LDDMM on one grid; ``calls`` counts."""

    def __init__(self, shape, dtype):
        from DeepDiffRegLib.transforms._shooting_metric import Constant
        from DeepDiffRegLib.transforms._shooting_path import Shooting
        from DeepDiffRegLib.transforms.kernels import MultiGaussian

        spacing = (1.0,) * len(shape)
        flow = Constant(MultiGaussian(SIGMAS, SHARES)).on(shape, spacing, ((False, False),) * len(shape), "cpu", dtype)
        self.shooting, self.rates, self.calls = Shooting(flow, spacing), flow.rates, 0
        flow.rates = self._counted

    def _counted(self, state):
        self.calls += 1
        return self.rates(state)

    def __call__(self, _time, m):
        return self._counted((m,))[1][0]


def reference(shape, speed) -> np.ndarray:
    """m(1) to about ten digits."""
    import torch
    from scipy.integrate import solve_ivp

    rate, m = Counted(shape, torch.float64), momentum(shape, speed, torch.float64)

    def flat(_time, y):
        return rate(0.0, torch.from_numpy(y.copy()).reshape(m.shape)).reshape(-1).numpy()

    found = solve_ivp(flat, (0.0, 1.0), m.reshape(-1).numpy(), "DOP853", rtol=1e-10, atol=1e-12)
    return found.y[:, -1].reshape(m.shape)


def measure(shape, speed, repeat: int) -> list[dict]:
    """One row per integrator and setting."""
    import torch
    import torchdiffeq

    wanted, rate = reference(shape, speed), Counted(shape, torch.float32)
    m = momentum(shape, speed, torch.float32)
    ends = torch.tensor([0.0, 1.0])
    largest = float(m.abs().max())

    def rk4(steps):
        state = (m,)
        for _ in range(steps):
            state = rate.shooting.step(state, 1 / steps)[1]
        return state[0]

    def dopri5(tolerance):
        return torchdiffeq.odeint(rate, m, ends, rtol=tolerance, atol=tolerance * largest, method="dopri5")[-1]

    rows = []
    for name, run, settings in (("rk4", rk4, STEPS), ("dopri5", dopri5, TOLERANCES)):
        for setting in settings:
            times = []
            for _ in range(repeat):
                rate.calls, start = 0, time.process_time()
                with torch.no_grad():
                    found = run(setting)
                times.append(time.process_time() - start)
            error = float(np.linalg.norm(found.double().numpy() - wanted) / np.linalg.norm(wanted))
            case = {"shape": list(shape), "voxels_per_unit_time": speed, "integrator": name, "setting": setting}
            rows.append({**case, "evaluations": rate.calls, "error": error, "cpu_s": float(np.median(times))})
    return rows


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    import torch

    try:
        import torchdiffeq  # noqa: F401 - asked for before the work
    except ImportError:
        print("torchdiffeq is missing: python -m pip install torchdiffeq", file=sys.stderr)
        return 2
    torch.set_num_threads(arguments.threads)
    rows = [row for shape in CASES for speed in SPEEDS for row in measure(shape, speed, arguments.repeat)]
    for row in rows:
        print(
            "{0:>10} {voxels_per_unit_time:g} voxels  {integrator:>6} {setting:<6g} {evaluations:>4} evaluations  "
            "error {error:.1e}  {cpu_s:.3f} s".format("x".join(map(str, row["shape"])), **row)
        )
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
