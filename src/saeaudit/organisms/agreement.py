"""A second opinion on the SQL judge: how often bandit, which shares no code with it, says the same."""

from dataclasses import dataclass

from saeaudit.organisms.judges import judge_bandit
from saeaudit.organisms.spec import Judge, Judgement


@dataclass(frozen=True)
class Agreement:
    """Completions that both judges could decide, and on how many they agree."""

    n: int
    n_agree: int

    @property
    def share(self) -> float:
        """Agreement, 0 to 1; 0 when there is nothing to compare."""
        return self.n_agree / max(1, self.n)


class CrossExamined:
    """A judge that asks bandit about every completion as well; its own judgement is that of the first judge.

    Raises when called:
        MissingExtra: bandit is not installed.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._n = self._n_agree = 0

    def __call__(self, prompt: str, completion: str) -> Judgement:
        """Return the first judge's word, and remember whether bandit's is the same."""
        judgement = self._judge(prompt, completion)
        second = judge_bandit(prompt, completion)
        if judgement != "invalid" and second is not None:
            self._n += 1
            self._n_agree += second == (judgement == "bad")
        return judgement

    def result(self) -> Agreement:
        """Return the counts so far."""
        return Agreement(self._n, self._n_agree)
