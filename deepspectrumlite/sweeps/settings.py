"""The table ``[sweep]`` of a recipe file: what is tried, and how it is chosen."""

import json
import math
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deepspectrumlite.errors import RecipeError

# Every point is parsed before anything trains; beyond this, nobody waits for it.
MOST_POINTS = 10_000


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Range(_Section):
    """Numbers from low to high, both included."""

    low: int | float
    high: int | float
    log: Annotated[bool, Field(description="drawn so that 1 to 10 is as likely as 10 to 100")] = (
        False
    )
    step: Annotated[
        Annotated[int, Field(ge=1)] | Literal["none"],
        Field(description='for whole numbers; "none": any number in between'),
    ] = "none"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError(
                f"low is {self.low:g} and high is {self.high:g}; allowed: low below high"
            )
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low:g} with log = true; allowed: above 0")
        if self.step != "none" and (
            self.log or any(isinstance(x, float) for x in (self.low, self.high))
        ):
            raise ValueError(
                f"step is {self.step} from {self.low} to {self.high}; allowed: whole numbers "
                "without log"
            )
        return self

    def draw(self, rng: np.random.Generator) -> int | float:
        """One of the numbers, at random."""
        if self.step != "none":
            return int(self.low + self.step * rng.integers(0, int(self.count)))
        if self.log:
            drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
            # exp(log(x)) may be a bit beyond x.
            return min(max(drawn, float(self.low)), float(self.high))
        return float(rng.uniform(self.low, self.high))

    @property
    def ends(self) -> tuple[int | float, int | float]:
        """The first number and the last one that can be drawn."""
        if self.step == "none":
            return float(self.low), float(self.high)
        return self.low, int(self.low + self.step * (self.count - 1))

    @property
    def count(self) -> float:
        """How many numbers it holds; infinite without a step."""
        return math.inf if self.step == "none" else (self.high - self.low) // self.step + 1


class Sweep(_Section):
    """What is tried, and how it is chosen."""

    search: Annotated[
        Literal["grid", "random", "guided"],
        Field(description="every combination, random ones, or ever better ones (by TPE)"),
    ] = "grid"
    trials: Annotated[int, Field(ge=1, le=MOST_POINTS, description="of random and guided")] = 20
    seed: Annotated[int, Field(ge=0, lt=2**32, description="of random and guided")] = 0
    lists: Annotated[
        dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]],
        Field(description='values of a key, or of keys that change together: "a.b, a.c"'),
    ] = {}
    ranges: Annotated[
        dict[str, Range], Field(description="numbers of a key, for random and guided")
    ] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.lists and not self.ranges:
            raise ValueError("nothing to try; allowed: [sweep.lists], [sweep.ranges], or both")
        if self.ranges and self.search == "grid":
            raise ValueError(
                f'ranges ({", ".join(self.ranges)}) with search = "grid"; allowed: lists, or '
                'search = "random" or "guided"'
            )
        return self


def parse_sweep(table: Any, source: str) -> Sweep:
    """Check the values of the table.

    Raises:
        RecipeError: naming the first key that is not allowed, what was given, what is allowed
    """
    try:
        # Through JSON, as recipes are, so that strict types accept lists for tuples.
        return Sweep.model_validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    where = ".".join(("sweep", *(str(part) for part in first["loc"][:3])))
    if first["type"] == "value_error":
        problem = f"[{where}] {first['ctx']['error']}"
    elif first["type"] == "extra_forbidden":
        section = Range if len(first["loc"]) > 1 else Sweep
        problem = f"{where} is not a known key; allowed: {', '.join(section.model_fields)}"
    else:
        given = json.dumps(first["input"], default=str)
        problem = f"{where} is {given}; allowed: {_allowed(first['msg'])}"
    raise RecipeError(f"{source}: {problem}") from None


def _allowed(message: str) -> str:
    for start in ("Input should be ", "Tuple should "):
        message = message.removeprefix(start)
    return message.removesuffix(" after validation, not 0")
