import pytest
import torch

from saeaudit.errors import ConfigError
from saeaudit.recovery import NullSpace, null_space, project_ball, search
from saeaudit.recovery.search import RowScores, random_feasible

D = 256
BOUND = 1e-5


def rows_of(n, kind, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, D, generator=generator)
    match kind:
        case "duplicates":
            rows[n // 2 :] = rows[: n - n // 2].clone()
        case "near duplicates":
            rows[n // 2 :] = rows[: n - n // 2] + 1e-3 * rows[n // 2 :]
        case "scales":
            rows *= torch.logspace(-4, 4, n)[:, None]
    return rows


def leak(rows, delta):
    """Largest |A delta| / (|A| |delta|), in fp64."""
    rows, delta = rows.double(), delta.double()
    return float(((delta @ rows.T).norm(dim=1) / (torch.linalg.matrix_norm(rows, ord=2) * delta.norm(dim=1))).max())


class Watched(NullSpace):
    """Remembers every projection, that is every gradient, momentum and iterate of a search."""

    def project(self, v):
        out = super().project(v)
        SEEN.append(out.detach().clone())
        return out


SEEN: list[torch.Tensor] = []


def quadratic(seed=5, n_rows=6):
    """Rows that want to be somewhere else, with a mix of curvatures."""
    generator = torch.Generator().manual_seed(seed)
    target = 3 * torch.randn(n_rows, D, generator=generator)
    weight = torch.logspace(-1, 1, D)

    def objective(delta, rows):
        loss = ((delta - target[rows]).square() * weight).sum(1)
        return RowScores(loss, -loss)

    return objective, target.norm(dim=1) * 0.7


@pytest.mark.parametrize("n", [5, 50, 200])
@pytest.mark.parametrize("kind", ["random", "duplicates", "near duplicates", "scales"])
def test_every_step_of_a_search_leaves_the_rows_alone(n, kind):
    rows = rows_of(n, kind)
    free = Watched(null_space(rows).protected)
    objective, budgets = quadratic()
    SEEN.clear()
    starts = random_feasible(0.01 * budgets, free, torch.Generator().manual_seed(1))
    found = search(objective, budgets, free, n_steps=20, starts=starts)
    assert len(SEEN) > 60
    assert max(leak(rows, v) for v in [*SEEN, found.delta]) <= BOUND
    assert bool((found.delta.norm(dim=1) <= budgets * (1 + 1e-6)).all())
    assert bool((found.margin > objective(starts, torch.arange(len(starts))).margin).all())


@pytest.mark.parametrize("n", [5, 50, 200])
def test_projecting_only_the_gradient_and_adam_would_break_that_bound(n):
    """The published procedure: what the test above must be able to see."""
    rows = rows_of(n, "random")
    free = null_space(rows)
    objective, _ = quadratic()
    delta = torch.zeros(6, D, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=0.1)
    for _ in range(20):
        optimiser.zero_grad()
        objective(delta, torch.arange(6)).loss.sum().backward()
        delta.grad = free.project(delta.grad)
        optimiser.step()
    assert leak(rows, delta.detach()) > 1e3 * BOUND


def test_a_ridge_would_leak_along_near_duplicates():
    rows = torch.nn.functional.normalize(rows_of(2, "random"), dim=1)
    rows[1] = torch.nn.functional.normalize(rows[0] + 0.008 * rows[1], dim=0)
    v = rows[1:] - rows[:1]
    ridge = v - v @ rows.T @ torch.linalg.solve(rows @ rows.T + 1e-4 * torch.eye(2), rows)
    assert ridge.norm() / v.norm() > 0.3
    assert null_space(rows).project(v).norm() / v.norm() < 1e-4


def test_projection_is_the_nearest_point_and_keeps_what_is_free():
    rows = rows_of(50, "random")
    free = null_space(rows)
    v = torch.randn(7, D, generator=torch.Generator().manual_seed(2))
    once = free.project(v)
    torch.testing.assert_close(free.project(once), once, atol=1e-6, rtol=0)
    exact = v.double() - v.double() @ torch.linalg.pinv(rows.double()) @ rows.double()
    torch.testing.assert_close(once.double(), exact, atol=1e-5, rtol=0)
    inside = torch.randn(7, 50, generator=torch.Generator().manual_seed(3)) @ rows
    assert float((free.project(inside).norm(dim=1) / inside.norm(dim=1)).max()) < BOUND
    assert free.project(v.bfloat16()).dtype == torch.float32


def test_the_rank_counts_independent_rows_whatever_their_length():
    assert null_space(rows_of(50, "random")).rank == 50
    assert null_space(rows_of(50, "duplicates")).rank == 25
    assert null_space(rows_of(50, "near duplicates")).rank == 50
    assert null_space(rows_of(50, "scales")).rank == 50
    assert null_space(torch.cat([torch.zeros(3, D), rows_of(2, "random")])).rank == 2


@pytest.mark.parametrize("rows", [torch.zeros(3, D), torch.zeros(0, D)])
def test_no_protected_direction_leaves_everything_free(rows):
    free, v = null_space(rows), torch.randn(2, D)
    assert free.rank == 0 and torch.equal(free.project(v), v)


@pytest.mark.parametrize("n", [D - 1, D, D + 40])
def test_no_free_direction_is_refused(n):
    with pytest.raises(ConfigError, match=f"span {min(n, D)} of {D} dimensions") as caught:
        null_space(torch.randn(n, D, generator=torch.Generator().manual_seed(0)))
    assert caught.value.code == "no-null-space"
    null_space(torch.randn(D - 2, D, generator=torch.Generator().manual_seed(0)))


def test_the_ball_shortens_and_never_lengthens():
    free = null_space(rows_of(5, "random"))
    budgets = torch.tensor([0.0, 1e-3, 1.0, 1e6])
    v = torch.randn(4, D, generator=torch.Generator().manual_seed(4))
    out = project_ball(v, budgets, free)
    assert bool((out.norm(dim=1) <= budgets * (1 + 1e-6)).all()) and torch.equal(out[0], torch.zeros(D))
    torch.testing.assert_close(out[3], free.project(v)[3])


def test_random_directions_have_exactly_their_budget_and_are_free():
    rows = rows_of(50, "near duplicates")
    budgets = torch.tensor([0.0, 1e-3, 1.0, 50.0])
    out = random_feasible(budgets, null_space(rows), torch.Generator().manual_seed(4))
    torch.testing.assert_close(out.norm(dim=1), budgets)
    assert leak(rows, out[1:]) <= BOUND
