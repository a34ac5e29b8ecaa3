"""What counts as the same answer: the settings, and what is decided."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GradingConfig:
    """What counts as the same answer where people disagree. Some of it is a setting; the rest is decided:

    - An equation or inequality that is solved for a letter (x = 5) is no other one (2x = 10); its value alone is it.
      Equations of several letters, a line or a conic, are the same if one is the other times a constant.
    - 3,005 and 1,080 are numbers and never lists; 70,110 is either. `70,110` after `decimal_comma` is 70.11.
    - What stands next to a box belongs to the answer: `-\\boxed{4}` is -4, `\\boxed{4}` million is 4,000,000. Two
      different boxes, a number or doubt after the box, and words that change it ("half of", "at least", "in base
      five") are no answer.
    - A scale word multiplies (lakh, dozen, halves). "5 degrees below zero" is not read. \u00a35 and 5 pounds differ.
    - A sentence says what one of a few patterns finds in it ("she has 42 apples left"); any other says nothing.
    - What is left of the last "=" of an answer names what is asked (`f(3) = 42`, `\\gcd(a, b) = 42`); a false chain is
      nothing, and 2x = 10, x - 5 = 0 and x^2 = 25 are neither their right side nor their solution.
    - Of a gold, only a name may stand there (`x = 5`, `f(x) = 2x`): the gold x^2 + y^2 = 25 is not 25.
    - A gold may leave arithmetic undone (5!, 84/2), an answer may not (`unevaluated`). `\\frac{6}{3}` is a fraction.
    - f(2), x(0) are symbols; n(n + 1) is a product. C, c and K are one constant of integration.
    - A clause about letters ("for all x", "k in Z") may be left out; where both have one, it is the same.
    - "B)", "(b)" and B are one choice; "B) 42" is not read.
    """

    percent: str = "exact"
    """"exact": 42% is 0.42 and not 42. "optional": it is either."""
    units: str = "optional"
    """"optional": 64 square feet is 64, but 5 meters is not 5 feet. "required": 64 square feet is not 64."""
    decimal_comma: bool = False
    """Read 4,2 as 4.2, 0,125 as 0.125, 1.000,50 and 1 000,50 as 1000.5; 1,234 stays 1234.
    Off: 4,2 is the two numbers 4 and 2."""
    rounded: bool = False
    """Take a decimal for an exact value that it is rounded from: 2.67 for 8/3."""
    relative_tolerance: float = 1e-5
    """How far a decimal may be from the exact value it stands for, if that isn't an integer: 0.33333 is 1/3. It must
    be correctly rounded or cut off besides. Two decimals are compared digit by digit."""
    unevaluated: bool = False
    """Take 6 * 7 for the gold 42. Off: where the gold is a number, arithmetic that the answer leaves undone isn't it;
    a root or a power of a number is taken all the same."""
    sentences: bool = True
    """Take "The answer is 42." for 42, and prose with a single box for what is in the box."""
