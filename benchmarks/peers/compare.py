"""Training speed and fit of all competitors, in turns on the same rows; and the search for each one's learning rate."""

import json
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from common import machine, markdown, quotients, sentence, spread, write
from peers.competitors import COMPETITORS, US, Competitor
from peers.process import Worker

Rates = list[dict[str, Any]]


@dataclass(frozen=True)
class Comparison:
    """Where the libraries live and what all of them train.

    Attributes:
        python: interpreter of the peers' environment.
        shape: the fields of a job that do not depend on the competitor.
        logs: directory for what they print.
    """

    python: Path
    shape: dict[str, Any]
    logs: Path

    @property
    def n_tokens(self) -> int:
        return self.shape["n_steps"] * self.shape["batch_size"]

    @property
    def n_chunks(self) -> int:
        return -(-self.shape["n_steps"] // self.shape["chunk"])

    def require_same_torch(self) -> None:
        """End the program where the peers' environment is missing or has another torch."""
        if not self.python.exists():
            raise SystemExit(f"{self.python} does not exist; benchmarks/peers/README.md says how it is made")
        command = [str(self.python), "-c", "import torch; print(torch.__version__)"]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if found != torch.__version__:
            raise SystemExit(f"torch {torch.__version__} runs here and {found} at {self.python}; install the same one")

    def start(self, competitor: Competitor, lr: float | None) -> Worker:
        python = Path(sys.executable) if competitor.library == US else self.python
        log = self.logs / f"{competitor.name.replace(' ', '-')}.log"
        return Worker(python, "peers.worker", asdict(competitor.job(self.shape, lr)), log)

    def tune(self, path: Path) -> Rates:
        """Train every competitor with every rate; what each comes to is written at once, and not done again."""
        found: Rates = json.loads(path.read_text()) if path.exists() else []
        for competitor in COMPETITORS:
            for lr in competitor.rates:
                key = {"name": competitor.name, "lr": lr, "n_tokens": self.n_tokens}
                if any(key.items() <= row.items() for row in found):
                    continue
                with self.start(competitor, lr) as worker:
                    for _ in range(self.n_chunks):
                        worker.advance()
                    ended = worker.advance()
                found.append(key | {name: ended[name] for name in ("fvu", "l0", "version")})
                path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                print(f"{competitor.name:40s} lr {lr:<8g} FVU {ended['fvu']:.4f}", flush=True)
        return found

    def run(self, rates: Rates, json_path: Path | None) -> dict[str, Any]:
        """Train all competitors in turns and return the result, which is written after every round."""
        about = machine() | {name: value for name, value in self.shape.items() if name != "rows"}
        seconds: dict[str, list[float]] = {competitor.name: [] for competitor in COMPETITORS}
        with ExitStack() as stack:
            workers = {c.name: stack.enter_context(self.start(c, best_rate(rates, c))) for c in COMPETITORS}
            for _ in range(self.n_chunks):
                for name, worker in workers.items():
                    seconds[name].append(worker.advance()["seconds"])
                write(json_path, {"machine": about, "complete": False, "seconds": seconds})
            ends = {name: worker.advance() for name, worker in workers.items()}
        result = {"machine": about, "complete": True, **self._summary(seconds, ends)}
        result["load_after"] = machine()["load"]
        write(json_path, result)
        return result

    def _summary(self, seconds: dict[str, list[float]], ends: dict[str, dict[str, Any]]) -> dict[str, Any]:
        rows = []
        for competitor in COMPETITORS:
            end, counted = ends[competitor.name], seconds[competitor.name][1:-1]
            rates = [self.shape["chunk"] * self.shape["batch_size"] / t for t in counted]
            rows.append(
                {"name": competitor.name, "library": competitor.library, "kind": competitor.kind, **end}
                | {"tokens_per_s": statistics.median(rates), "tokens_per_s_rounds": rates, "n_tokens": self.n_tokens}
            )
        best = max((row for row in rows if row["library"] != US), key=lambda row: row["tokens_per_s"])
        ratios = {
            row["kind"]: quotients(row["tokens_per_s_rounds"], best["tokens_per_s_rounds"])
            for row in rows
            if row["library"] == US
        }
        return {
            "rows": rows,
            "best_peer": best["name"],
            "ratios_to_best_peer": ratios,
            "ratio_to_best_peer": min(statistics.median(values) for values in ratios.values()),
        }


def best_rate(rates: Rates, competitor: Competitor) -> float | None:
    """Return the rate with the lowest FVU in the longest runs; None, the library's own, where none was tried."""
    tried = [row for row in rates if row["name"] == competitor.name]
    return min(tried, key=lambda row: (-row["n_tokens"], row["fvu"]))["lr"] if tried else None


def report(result: dict[str, Any]) -> str:
    """Return machine, table and ratios as Markdown."""
    columns = ["library", "version", "lr", "tokens/s", "FVU", "L0"]
    rows = [
        (
            r["name"],
            r["version"],
            f"{r['lr']:.2g}",
            spread(r["tokens_per_s_rounds"], 0),
            f"{r['fvu']:.4f}",
            f"{r['l0']:.1f}",
        )
        for r in result["rows"]
    ]
    ratios = [(f"{US} {kind}", spread(values)) for kind, values in result["ratios_to_best_peer"].items()]
    n_rounds = len(result["rows"][0]["tokens_per_s_rounds"])
    return "\n".join(
        [
            sentence(result["machine"]),
            f"Median (min-max) of {n_rounds} rounds; FVU and L0 on held-out rows.\n",
            markdown(columns, rows),
            markdown(["tokens/s", f"ratio to {result['best_peer']}, aim >= 2"], ratios),
            f"load afterwards {result['load_after']}",
        ]
    )
